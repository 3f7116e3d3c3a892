"""Videos over real HTTP: a download is whole, resumed, begun anew or refused, whatever servers do."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from pathlib import Path

import pytest
from aiohttp import web
from helpers.files import MOVIE, Files, an_mp4, answer_two_thirds, disconnect, running, serving

from modelslab_async import Client, InvalidVideoError, Timeouts
from modelslab_async.engine.saver import MAX_SAVES
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.wire import QUEUE_DEPTH_PATH


async def test_a_file_is_streamed_to_its_path(tmp_path: Path) -> None:
    """Missing folders are created, the bytes are the server's, progress grows to the total, and no .part is left."""
    progress: list[tuple[int, int | None]] = []
    path = tmp_path / "new" / "folder" / "video.mp4"
    async with serving(Files().answer) as (client, url):
        saved = await client.download(f"{url}/a", path, progress=lambda *figures: progress.append(figures))
    assert path.read_bytes() == MOVIE
    assert (saved.path, saved.size_bytes, saved.sha256) == (path, len(MOVIE), hashlib.sha256(MOVIE).hexdigest())
    assert progress == sorted(progress)
    assert progress[-1] == (len(MOVIE), len(MOVIE))
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("validator", [{"ETag": '"one"'}, {"Last-Modified": "Mon, 23 Nov 2026 00:00:00 GMT"}])
async def test_a_download_that_breaks_off_is_resumed(tmp_path: Path, validator: dict[str, str]) -> None:
    """If the server gave a validator, only the rest of the file is requested."""
    files = Files(breaks=2, validator=validator)
    async with serving(files.answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE
    assert saved.sha256 == hashlib.sha256(MOVIE).hexdigest()
    starts = [int(wanted[6:-1]) if wanted else 0 for _, wanted in files.requests]
    assert starts[0] == 0
    assert starts == sorted(set(starts))


@pytest.mark.parametrize("files", [Files(breaks=2, validator={}), Files(breaks=2, ignores_ranges=True)])
async def test_without_proof_that_the_file_is_the_same_it_is_begun_anew(tmp_path: Path, files: Files) -> None:
    """If there is no validator, or the server sends the whole file again, parts are never mixed."""
    async with serving(files.answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_two_files_are_never_spliced(tmp_path: Path) -> None:
    """A 206 with another ETag is the end of another file, and is discarded."""
    async with serving(Files(breaks=1, splices=True).answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_the_rest_of_a_file_of_another_length_is_discarded(tmp_path: Path) -> None:
    """A 206 without a validator comes from a file that is longer than the first one: the parts would not fit."""
    longer, ranges = an_mp4(4_000_000), list[str | None]()

    async def answer(request: web.Request) -> web.StreamResponse:
        ranges.append(wanted := request.headers.get("Range"))
        if wanted:
            first = int(wanted[6:-1])
            headers = {"Content-Range": f"bytes {first}-{len(longer) - 1}/{len(longer)}"}
            return web.Response(status=206, body=longer[first:], headers=headers)
        if len(ranges) > 1:
            return web.Response(body=longer)
        return await answer_two_thirds(request)

    async with serving(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == longer
    assert ranges == [None, "bytes=2000000-", None]


WEAK = {"ETag": 'W/"one"', "Last-Modified": "Tue, 01 Jan 2030 00:00:00 GMT"}


async def test_last_modified_counts_if_the_etag_is_weak(tmp_path: Path) -> None:
    """A weak ETag proves nothing, neither in the first reply nor in the reply to a range."""
    files = Files(breaks=1, validator=WEAK)
    async with serving(files.answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE
    assert [wanted is None for _, wanted in files.requests] == [True, False]


async def test_a_file_that_became_shorter_is_begun_anew(tmp_path: Path) -> None:
    """The server has no such range any more (416), so the whole file is requested."""
    short, ranges = an_mp4(1000), list[str | None]()

    async def answer(request: web.Request) -> web.StreamResponse:
        ranges.append(request.headers.get("Range"))
        if ranges[-1]:
            return web.Response(status=416)
        if len(ranges) > 1:
            return web.Response(body=short)
        return await answer_two_thirds(request)

    async with serving(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == short
    assert ranges == [None, "bytes=2000000-", None]


async def test_a_file_without_its_last_chunk_is_whole_if_the_server_has_no_more(tmp_path: Path) -> None:
    """A chunked body lacks its last, empty chunk. The request for the rest shows that no byte is missing (416)."""
    ranges = list[str | None]()

    async def answer(request: web.Request) -> web.StreamResponse:
        ranges.append(request.headers.get("Range"))
        if ranges[-1]:
            return web.Response(status=416, text="no such range", headers={"Content-Range": f"bytes */{len(MOVIE)}"})
        response = web.StreamResponse(headers={"ETag": '"one"'})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(MOVIE)
        disconnect(request)
        return response

    async with serving(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE
    assert saved.sha256 == hashlib.sha256(MOVIE).hexdigest()
    assert ranges == [None, f"bytes={len(MOVIE)}-"]


async def test_the_next_link_is_used_if_one_is_dead(tmp_path: Path) -> None:
    """A 404, a page that claims to be an mp4, and a cut file are each skipped."""
    async with serving(Files(dead=("gone",)).answer) as (client, url):
        links = tuple(f"{url}/{name}" for name in ("gone", "page", "cut", "good"))
        saved = await client.download(Video(id="1", ref="r", url=links[0], links=links), tmp_path / "video.mp4")
    assert saved.path.read_bytes() == MOVIE


@pytest.mark.parametrize("coding", ["", "gzip", "br"])
async def test_a_gzip_body_is_decoded_whatever_its_headers_say(tmp_path: Path, coding: str) -> None:
    """Object storage serves what was uploaded, and its metadata may name no encoding, or another.

    The announced length is that of the encoded bytes, not the file's.
    """

    async def answer(_: web.Request) -> web.StreamResponse:
        headers = {"Content-Encoding": coding} if coding else {}
        return web.Response(body=gzip.compress(MOVIE), headers={**headers, "ETag": '"one"'})

    async with serving(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_a_plain_file_whose_metadata_says_gzip_is_saved(tmp_path: Path) -> None:
    """The file is an mp4, although the header names an encoding."""

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=MOVIE, headers={"Content-Encoding": "gzip"})

    async with serving(answer) as (client, url):
        saved = await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert saved.path.read_bytes() == MOVIE


async def test_slow_downloads_hold_up_nothing_else(tmp_path: Path) -> None:
    """However many videos are saved, and however slowly, other calls get a connection, and few files are open."""
    paths, may_end, all_have_begun = list[str](), asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        paths.append(request.path)
        if len(paths) == MAX_SAVES:
            all_have_begun.set()
        await may_end.wait()
        return web.Response(body=MOVIE, content_type="video/mp4")

    async def depth(_: web.Request) -> web.Response:
        return web.json_response({"status": "success", "processing_count": len(paths)})

    app = web.Application()
    app.router.add_get("/{name}", slow)
    app.router.add_post(QUEUE_DEPTH_PATH, depth)
    async with running(app) as url, Client("any", base_url=url, timeouts=Timeouts(connect=0.5)) as client:
        saves = [
            asyncio.create_task(client.download(f"{url}/{n}", tmp_path / f"{n}.mp4")) for n in range(3 * MAX_SAVES)
        ]
        await all_have_begun.wait()
        assert await client.queue_depth() == MAX_SAVES
        assert len(list(tmp_path.iterdir())) == MAX_SAVES
        may_end.set()
        assert [saved.size_bytes for saved in await asyncio.gather(*saves)] == [len(MOVIE)] * len(saves)


async def test_dead_links_hold_up_no_other_video(tmp_path: Path) -> None:
    """While a video's dead links wait for their next attempt, other videos are saved."""
    files = Files(dead=("dead",))
    async with serving(files.answer) as (client, url):
        dead = Video(id=None, ref="dead", url=f"{url}/dead", links=())
        lost = [asyncio.create_task(client.download(dead, tmp_path / f"{n}.mp4")) for n in range(MAX_SAVES)]
        good = asyncio.create_task(client.download(f"{url}/good", tmp_path / "good.mp4"))
        done, _ = await asyncio.wait([*lost, good], return_when=asyncio.FIRST_COMPLETED)
        assert done == {good}
        assert all(isinstance(e, InvalidVideoError) for e in await asyncio.gather(*lost, return_exceptions=True))
