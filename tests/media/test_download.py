"""Videos on disk: whole or not at all, in constant memory, over real HTTP."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from aiohttp import web
from helpers.world import KEY

from modelslab_async import Client, InvalidRequestError, InvalidVideoError, Timeouts
from modelslab_async.engine.saver import MAX_SAVES
from modelslab_async.media.download import _Arriving
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.wire import QUEUE_DEPTH_PATH

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def an_mp4(size_bytes: int) -> bytes:
    content = random.Random(size_bytes).randbytes(size_bytes)
    boxes = ((b"ftyp", b"isom\0\0\2\0isom"), (b"moov", b""), (b"mdat", content))
    return b"".join((8 + len(data)).to_bytes(4) + kind + data for kind, data in boxes)


MOVIE = an_mp4(3_000_000)


@attrs.define
class Files:
    """A server whose files misbehave as told; notes the requests."""

    breaks: int = 0
    """So many requests break off in the middle."""
    validator: Mapping[str, str] = attrs.field(factory=lambda: {"ETag": '"one"'})
    dead: tuple[str, ...] = ()
    changes: bool = False
    """The file is another one after each break."""
    spliced: bool = False
    """A range is answered with the end of another file, whatever If-Range says."""
    movie: bytes = MOVIE
    seen: list[tuple[str, str | None]] = attrs.field(factory=list[tuple[str, str | None]])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name, wanted = request.match_info["name"], request.headers.get("Range")
        self.seen.append((name, wanted))
        if name in self.dead:
            return web.Response(status=404)
        if name == "page":
            return web.Response(text="<html>not found</html>", content_type="video/mp4")
        if name == "cut":
            return web.Response(body=self.movie[:-5], content_type="video/mp4")
        first = int(wanted[6:-1]) if wanted and not self.changes else 0
        body = self.movie[first:]
        headers = {**self.validator, "Content-Length": str(len(body))}
        if first and self.spliced:
            body, headers = bytes(len(body)), {**headers, "ETag": '"two"'}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(self.movie) - 1}/{len(self.movie)}"
        response = web.StreamResponse(status=206 if first else 200, headers=headers)
        await response.prepare(request)
        if self.breaks:
            self.breaks -= 1
            await response.write(body[: len(body) // 2])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(body)
        return response


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def served(files: Files) -> AsyncIterator[tuple[Client, str]]:
    app = web.Application()
    app.router.add_get("/{name}", files.answer)
    async with serving(app) as url, Client(api_key="any", base_url=url) as client:
        yield client, url


async def test_a_file_is_streamed_to_its_path(tmp_path: Path) -> None:
    """Folders are made, the bytes are the server's, progress grows to the total, no .part is left."""
    told: list[tuple[int, int | None]] = []
    path = tmp_path / "new" / "folder" / "video.mp4"
    async with served(Files()) as (client, url):
        saved = await client.download(f"{url}/a", path, progress=lambda *figures: told.append(figures))
    assert path.read_bytes() == MOVIE
    assert (saved.path, saved.size_bytes, saved.sha256) == (path, len(MOVIE), hashlib.sha256(MOVIE).hexdigest())
    assert told == sorted(told)
    assert told[-1] == (len(MOVIE), len(MOVIE))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("validator", [{"ETag": '"one"'}, {"Last-Modified": "Mon, 23 Nov 2026 00:00:00 GMT"}])
async def test_a_break_is_resumed_where_it_was(tmp_path: Path, validator: dict[str, str]) -> None:
    """With a validator, only the rest is asked for after a break."""
    files = Files(breaks=2, validator=validator)
    async with served(files) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE
    assert saved.sha256 == hashlib.sha256(MOVIE).hexdigest()
    ranges = [int(wanted[6:-1]) if wanted else 0 for _, wanted in files.seen]
    assert ranges[0] == 0
    assert ranges == sorted(set(ranges))


@pytest.mark.parametrize("files", [Files(breaks=2, validator={}), Files(breaks=2, changes=True)])
async def test_without_proof_that_it_is_the_same_file_it_starts_over(tmp_path: Path, files: Files) -> None:
    """No validator, or a server that sends the whole file again: the pieces are never mixed."""
    async with served(files) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_two_files_are_never_spliced(tmp_path: Path) -> None:
    """A 206 with another ETag is the end of another file, and is not taken."""
    files = Files(breaks=1, spliced=True)
    async with served(files) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE


async def two_thirds(request: web.Request) -> web.StreamResponse:
    """The file breaks off after 2,000,000 bytes."""
    response = web.StreamResponse(headers={"ETag": '"one"', "Content-Length": str(len(MOVIE))})
    await response.prepare(request)
    await response.write(MOVIE[:2_000_000])
    assert request.transport is not None
    request.transport.close()
    return response


async def test_a_rest_of_another_length_is_not_taken(tmp_path: Path) -> None:
    """A 206 without any tag, of a file that is longer than the one that was begun: the pieces would not fit."""
    longer, asked = an_mp4(4_000_000), list[str | None]()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(wanted := request.headers.get("Range"))
        if wanted:
            first = int(wanted[6:-1])
            told = {"Content-Range": f"bytes {first}-{len(longer) - 1}/{len(longer)}"}
            return web.Response(status=206, body=longer[first:], headers=told)
        if len(asked) > 1:
            return web.Response(body=longer)
        return await two_thirds(request)

    async with answering(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == longer
    assert asked == [None, "bytes=2000000-", None]


async def test_files_that_arrive_hold_up_nothing_else(tmp_path: Path) -> None:
    """However many are to be saved, and however slowly they come: a call has its connection, and few files are open."""
    arriving, may_end, all_that_may = list[str](), asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        arriving.append(request.path)
        if len(arriving) == MAX_SAVES:
            all_that_may.set()
        await may_end.wait()
        return web.Response(body=MOVIE, content_type="video/mp4")

    async def depth(_: web.Request) -> web.Response:
        return web.json_response({"status": "success", "processing_count": len(arriving)})

    app = web.Application()
    app.router.add_get("/{name}", slow)
    app.router.add_post(QUEUE_DEPTH_PATH, depth)
    async with serving(app) as url, Client("any", base_url=url, timeouts=Timeouts(connect=0.5)) as client:
        saves = [
            asyncio.create_task(client.download(f"{url}/{n}", tmp_path / f"{n}.mp4")) for n in range(3 * MAX_SAVES)
        ]
        await all_that_may.wait()
        assert await client.queue_depth() == MAX_SAVES
        assert len(list(tmp_path.iterdir())) == MAX_SAVES
        may_end.set()
        assert [saved.size_bytes for saved in await asyncio.gather(*saves)] == [len(MOVIE)] * len(saves)


async def test_links_that_are_dead_hold_up_no_other_video(tmp_path: Path) -> None:
    """While they are waited for, others have their turn."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/good":
            return web.Response(body=MOVIE, content_type="video/mp4")
        raise web.HTTPNotFound

    app = web.Application()
    app.router.add_get("/{name}", answer)
    async with serving(app) as url, Client("any", base_url=url) as client:
        dead = Video(id=None, ref="dead", url=f"{url}/dead", links=())
        lost = [asyncio.create_task(client.download(dead, tmp_path / f"{n}.mp4")) for n in range(MAX_SAVES)]
        good = asyncio.create_task(client.download(f"{url}/good", tmp_path / "good.mp4"))
        done, _ = await asyncio.wait([*lost, good], return_when=asyncio.FIRST_COMPLETED)
        assert done == {good}
        assert all(isinstance(e, InvalidVideoError) for e in await asyncio.gather(*lost, return_exceptions=True))


async def test_a_cancelled_save_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled at whatever moment of its beginning, a save leaves no .part."""
    async with served(Files()) as (client, url):
        for turns in range(12):
            saving = asyncio.create_task(client.download(f"{url}/a", tmp_path / "video.mp4"))
            for _ in range(turns):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.wait([saving])
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []


async def test_the_next_link_is_used_when_one_is_dead(tmp_path: Path) -> None:
    """404, a page that calls itself an mp4, and a cut file are each passed over."""
    async with served(Files(dead=("gone",))) as (client, url):
        links = tuple(f"{url}/{name}" for name in ("gone", "page", "cut", "good"))
        saved = await client.download(Video(id="1", ref="r", url=links[0], links=links), tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_a_file_that_is_there_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A failed download leaves the old file as it was, names what was wrong with each link, and that it is paid."""
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    async with served(Files(dead=("gone",))) as (client, url):
        links = tuple(f"{url}/{name}" for name in ("gone", "page", "cut"))
        with pytest.raises(InvalidVideoError) as caught:
            await client.download(Video(id="1", ref="r", url=links[0], links=links), path)
        assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
        await client.download(f"{url}/good", path)
    assert path.read_bytes() == MOVIE
    assert all(word in str(caught.value) for word in ("HTTP 404", "not an mp4", "cut short", "charged", "ref=r"))


async def test_a_folder_is_no_path_for_a_file(tmp_path: Path) -> None:
    """Refused before any request."""
    files = Files()
    async with served(files) as (client, url):
        with pytest.raises(InvalidRequestError, match="a folder"):
            await client.download(f"{url}/a", tmp_path)
    assert files.seen == []


async def test_a_disk_that_does_not_play_along_is_told(tmp_path: Path) -> None:
    """A path below a file cannot be made: the system's own error, and nothing left behind."""
    (tmp_path / "file").write_bytes(b"")
    async with served(Files()) as (client, url):
        with pytest.raises(OSError, match="file"):
            await client.download(f"{url}/a", tmp_path / "file" / "video.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("movie", [MOVIE, an_mp4(5000)], ids=["in the middle", "at the end"])
async def test_a_disk_that_fails_is_told(tmp_path: Path, movie: bytes) -> None:
    """What cannot be written ends the save with the system's own error; the old file stays, nothing else."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with served(Files(movie=movie)) as (client, url):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(movie) // 2, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                await client.download(f"{url}/a", path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])


class _StuckDisk(io.BytesIO):
    """Writes nothing until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = threading.Event()

    def write(self, data: ReadableBuffer) -> int:
        self.goes_on.wait()
        return super().write(data)


async def test_a_disk_that_is_slower_than_the_network_holds_it_up() -> None:
    """Two blocks are on the way to the disk at most; all arrive, in their order, in the digest as in the file."""
    disk, blocks = _StuckDisk(), [bytes([number]) * 2**20 for number in range(5)]
    with ThreadPoolExecutor(1) as thread:
        arriving = _Arriving(disk, thread, None, 2**31)
        await arriving.take(blocks[0])
        taking = asyncio.create_task(arriving.take(blocks[1]))
        for _ in range(50):
            await asyncio.sleep(0)
        held_up = not taking.done()
        disk.goes_on.set()
        await taking
        for block in blocks[2:]:
            await arriving.take(block)
        await arriving.settle()
    assert held_up
    assert disk.getvalue() == b"".join(blocks)
    assert arriving.digest.digest() == hashlib.sha256(b"".join(blocks)).digest()


class _TornDisk(io.BytesIO):
    """Fails once, and not as disks do."""

    fails = True

    def write(self, data: ReadableBuffer) -> int:
        if self.fails:
            self.fails = False
            raise MemoryError
        return super().write(data)


async def test_no_failure_to_write_is_passed_over() -> None:
    """A block that is lost for whatever reason ends the download, though the next ones could be written."""
    with ThreadPoolExecutor(1) as thread:
        arriving = _Arriving(_TornDisk(), thread, None, 2**31)
        with pytest.raises(MemoryError):
            for _ in range(3):
                await arriving.take(bytes(2**20))
        with pytest.raises(MemoryError):
            await arriving.settle()


WEAK = {"ETag": 'W/"one"', "Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT"}


async def test_a_weak_tag_leaves_the_proof_to_the_time(tmp_path: Path) -> None:
    """Where the ETag proves nothing, Last-Modified does, in the reply to a range as in the first."""
    files = Files(breaks=1, validator=WEAK)
    async with served(files) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE
    assert [wanted is None for _, wanted in files.seen] == [True, False]


@asynccontextmanager
async def answering(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[tuple[Client, str]]:
    """A server that answers just so."""

    class Odd(Files):
        async def answer(self, request: web.Request) -> web.StreamResponse:
            return await answer(request)

    async with served(Odd()) as here:
        yield here


async def test_lengths_of_a_coded_body_are_not_the_files(tmp_path: Path) -> None:
    """A server that compresses whatever it is asked announces the length of other bytes."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=gzip.compress(MOVIE), headers={"Content-Encoding": "gzip", "ETag": '"one"'})

    async with answering(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE


@pytest.mark.parametrize("coding", ["", "gzip", "br"])
async def test_a_body_that_is_gzip_is_decoded_whatever_its_headers_say(tmp_path: Path, coding: str) -> None:
    """Object storage serves what was uploaded; its metadata may lack the coding, or name another."""

    async def answer(_: web.Request) -> web.StreamResponse:
        named = {"Content-Encoding": coding} if coding else {}
        return web.Response(body=gzip.compress(MOVIE), headers={**named, "ETag": '"one"'})

    async with answering(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_a_plain_file_under_the_name_of_a_coding_is_saved(tmp_path: Path) -> None:
    """The metadata of a file says gzip, and the file is a plain mp4."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=MOVIE, headers={"Content-Encoding": "gzip"})

    async with answering(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_a_file_without_a_track_is_not_saved(tmp_path: Path) -> None:
    """Its boxes are whole, and nothing in it can be played."""
    header = bytes(12) + (600).to_bytes(4) + bytes(84)
    empty = b"".join(
        (8 + len(data)).to_bytes(4) + kind + data
        for kind, data in (
            (b"ftyp", b"isom\0\0\2\0isom"),
            (b"moov", (8 + len(header)).to_bytes(4) + b"mvhd" + header),
            (b"mdat", bytes(100)),
        )
    )

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=empty)

    async with answering(answer) as (client, url):
        with pytest.raises(InvalidVideoError, match="track"):
            await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_file_that_is_too_long_is_not_saved(tmp_path: Path, is_announced: bool) -> None:
    """An endless file must not fill the disk: it ends at `max_bytes`, and nothing is left of it."""
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Length": str(10**12)} if is_announced else {})
        await response.prepare(request)
        with suppress(ConnectionError):
            await response.write(MOVIE[:-9])
            while sent < 10**8:
                sent += 2**16
                await response.write(bytes(2**16))
        return response

    async with answering(answer) as (client, url):
        with pytest.raises(InvalidVideoError, match="max_bytes"):
            await client.download(f"{url}/a", tmp_path / "a.mp4", max_bytes=len(MOVIE))
    assert list(tmp_path.iterdir()) == []
    assert sent < 10**8


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True, "1"])
async def test_a_limit_that_is_none_is_refused(tmp_path: Path, max_bytes: Any) -> None:
    """It is told at once, before any network."""
    async with Client(KEY) as client:
        with pytest.raises(InvalidRequestError, match="max_bytes"):
            await client.download("https://a.invalid/x", tmp_path / "a.mp4", max_bytes=max_bytes)


async def test_a_file_that_became_shorter_is_begun_anew(tmp_path: Path) -> None:
    """No range of it is left (416), and the whole of it is there."""
    short, asked = an_mp4(1000), list[str | None]()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        if asked[-1]:
            return web.Response(status=416)
        if len(asked) > 1:
            return web.Response(body=short)
        return await two_thirds(request)

    async with answering(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == short
    assert asked == [None, "bytes=2000000-", None]


async def test_a_file_that_lacks_only_the_mark_of_its_end_is_whole(tmp_path: Path) -> None:
    """It came in chunks, without a length, and the last and empty one never: the server knows that nothing is left."""
    asked = list[str | None]()

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        if asked[-1]:
            return web.Response(status=416, text="no such range", headers={"Content-Range": f"bytes */{len(MOVIE)}"})
        response = web.StreamResponse(headers={"ETag": '"one"'})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(MOVIE)
        assert request.transport is not None
        request.transport.close()
        return response

    async with answering(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE
    assert saved.sha256 == hashlib.sha256(MOVIE).hexdigest()
    assert asked == [None, f"bytes={len(MOVIE)}-"]


@pytest.mark.parametrize("path", ["", "/", "a\0b.mp4", "a\0b/c.mp4"])
async def test_a_path_without_a_name_is_refused(path: str) -> None:
    """Before any network."""
    files = Files()
    async with served(files) as (client, url):
        with pytest.raises(InvalidRequestError, match="no name of a file"):
            await client.download(f"{url}/a", path)
    assert files.seen == []


async def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    """What is put beside it while it arrives has a shorter one."""
    path = tmp_path / ("x" * 251 + ".mp4")
    async with served(Files()) as (client, url):
        assert (await client.download(f"{url}/a", path)).path.read_bytes() == MOVIE
