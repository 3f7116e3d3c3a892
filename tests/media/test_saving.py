"""Videos on disk: a file appears whole or not at all, in constant memory, and a failing disk is reported."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web
from helpers.files import MOVIE, Files, an_mp4, serving
from helpers.world import KEY

from modelslab_async import Client, InvalidRequestError, InvalidVideoError
from modelslab_async.media.download import PartialDownload
from modelslab_async.protocol.lifecycle import Video

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


async def test_an_existing_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    """A failed download keeps the old file. Its error says what each link gave, and that the video is paid for."""
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    async with serving(Files(dead=("gone",)).answer) as (client, url):
        links = tuple(f"{url}/{name}" for name in ("gone", "page", "cut"))
        with pytest.raises(InvalidVideoError) as caught:
            await client.download(Video(id="1", ref="r", url=links[0], links=links), path)
        assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
        await client.download(f"{url}/good", path)
    assert path.read_bytes() == MOVIE
    assert all(words in str(caught.value) for words in ("HTTP 404", "not an mp4", "truncated", "charged", "ref=r"))


async def test_a_cancelled_save_leaves_nothing(tmp_path: Path) -> None:
    """Cancelled at any moment of its beginning, a save leaves no .part."""
    async with serving(Files().answer) as (client, url):
        for turns in range(12):
            saving = asyncio.create_task(client.download(f"{url}/a", tmp_path / "video.mp4"))
            for _ in range(turns):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.wait([saving])
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []


async def test_the_path_of_a_folder_is_refused(tmp_path: Path) -> None:
    """It is refused before any request."""
    files = Files()
    async with serving(files.answer) as (client, url):
        with pytest.raises(InvalidRequestError, match="a folder"):
            await client.download(f"{url}/a", tmp_path)
    assert files.requests == []


@pytest.mark.parametrize("path", ["", "/", "a\0b.mp4", "a\0b/c.mp4"])
async def test_a_path_without_a_file_name_is_refused(path: str) -> None:
    """It is refused before any request."""
    files = Files()
    async with serving(files.answer) as (client, url):
        with pytest.raises(InvalidRequestError, match="must name a file"):
            await client.download(f"{url}/a", path)
    assert files.requests == []


async def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    """The partial file beside it has a shorter name."""
    path = tmp_path / ("x" * 251 + ".mp4")
    async with serving(Files().answer) as (client, url):
        assert (await client.download(f"{url}/a", path)).path.read_bytes() == MOVIE


async def test_a_folder_that_cannot_be_created_is_reported(tmp_path: Path) -> None:
    """A path below a file raises the operating system's error, and nothing is left behind."""
    (tmp_path / "file").write_bytes(b"")
    async with serving(Files().answer) as (client, url):
        with pytest.raises(OSError, match="file"):
            await client.download(f"{url}/a", tmp_path / "file" / "video.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("movie", [MOVIE, an_mp4(5000)], ids=["in the middle", "at the end"])
async def test_a_disk_that_fails_is_reported(tmp_path: Path, movie: bytes) -> None:
    """A write that fails raises the operating system's error. The old file stays, and nothing else is left."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "video.mp4"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with serving(Files(movie=movie).answer) as (client, url):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(movie) // 2, before[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                await client.download(f"{url}/a", path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])


class StuckDisk(io.BytesIO):
    """A file that writes nothing until `may_write` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.may_write = threading.Event()

    def write(self, data: ReadableBuffer) -> int:
        self.may_write.wait()
        return super().write(data)


async def test_a_disk_slower_than_the_network_holds_the_download_up() -> None:
    """At most two blocks wait for the disk. All blocks reach the file and the digest in their order."""
    disk, blocks = StuckDisk(), [bytes([number]) * 2**20 for number in range(5)]
    with ThreadPoolExecutor(1) as thread:
        download = PartialDownload(disk, thread, None, 2**31)
        await download.write(blocks[0])
        writing = asyncio.create_task(download.write(blocks[1]))
        for _ in range(50):
            await asyncio.sleep(0)
        is_held_up = not writing.done()
        disk.may_write.set()
        await writing
        for block in blocks[2:]:
            await download.write(block)
        await download.flush()
    assert is_held_up
    assert disk.getvalue() == b"".join(blocks)
    assert download.digest.digest() == hashlib.sha256(b"".join(blocks)).digest()


class FailingOnceDisk(io.BytesIO):
    """A file whose first write fails, with an error that is not the disk's."""

    fails = True

    def write(self, data: ReadableBuffer) -> int:
        if self.fails:
            self.fails = False
            raise MemoryError
        return super().write(data)


async def test_a_block_that_was_not_written_ends_the_download() -> None:
    """The error is raised, whatever it is, even though later blocks could be written."""
    with ThreadPoolExecutor(1) as thread:
        download = PartialDownload(FailingOnceDisk(), thread, None, 2**31)
        with pytest.raises(MemoryError):
            for _ in range(3):
                await download.write(bytes(2**20))
        with pytest.raises(MemoryError):
            await download.flush()


async def test_a_file_without_a_track_is_not_saved(tmp_path: Path) -> None:
    """Its boxes are whole, but there is nothing to play."""
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

    async with serving(answer) as (client, url):
        with pytest.raises(InvalidVideoError, match="track"):
            await client.download(f"{url}/a", tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_file_that_is_too_long_is_not_saved(tmp_path: Path, is_announced: bool) -> None:
    """An endless file must not fill the disk: the download ends at `max_bytes`, and leaves nothing."""
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

    async with serving(answer) as (client, url):
        with pytest.raises(InvalidVideoError, match="max_bytes"):
            await client.download(f"{url}/a", tmp_path / "a.mp4", max_bytes=len(MOVIE))
    assert list(tmp_path.iterdir()) == []
    assert sent < 10**8


@pytest.mark.parametrize("max_bytes", [0, -1, 1.5, True, "1"])
async def test_an_impossible_limit_is_refused(tmp_path: Path, max_bytes: Any) -> None:
    """It is refused at once, before any request."""
    async with Client(KEY) as client:
        with pytest.raises(InvalidRequestError, match="max_bytes"):
            await client.download("https://a.invalid/x", tmp_path / "a.mp4", max_bytes=max_bytes)
