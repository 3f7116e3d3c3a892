"""A finished video on disk: streamed, verified, placed. A file appears at its path only when it is whole."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from modelslab_async.errors import InvalidVideoError, TransportError
from modelslab_async.media import mp4
from modelslab_async.media.disk import flush_folder
from modelslab_async.media.saved import Progress, SavedVideo
from modelslab_async.protocol.coding import GZIP_MAGIC, Gunzip
from modelslab_async.protocol.problems import refusal
from modelslab_async.transport.api import ServiceApi
from modelslab_async.transport.base import Incoming

RESUMES_PER_LINK = 5
"""Breaks in a row that bring no new byte, after which a link counts as dead."""
_BLOCK_BYTES = 2**20
_DEAD_CODES = (400, 401, 404, 410)


class _Arriving:
    """What has come of one link's file. One thread, for the order, writes and digests a block while the next comes."""

    def __init__(self, file: BinaryIO, thread: ThreadPoolExecutor, progress: Progress | None, max_bytes: int) -> None:
        self.file, self.thread, self.progress, self.max_bytes = file, thread, progress, max_bytes
        self.walk, self.digest = mp4.Walk(), hashlib.sha256()
        self.received = self._gathered = 0
        self.total: int | None = None
        self.validator: str | None = None
        """ETag or Last-Modified: proves that the rest belongs to what is here."""
        self._block = list[bytes]()
        self._writing = list[asyncio.Future[None]]()
        self._failure: Exception | None = None

    async def take(self, chunk: bytes) -> None:
        """One more chunk, to be written in time. Raises OSError, of this one or of one before."""
        self.received += len(chunk)
        self._block.append(chunk)
        self._gathered += len(chunk)
        if self._gathered >= _BLOCK_BYTES:
            await self.settle(behind=1)

    async def settle(self, behind: int = 0) -> None:
        """All is in the file and in the digest, but for so many blocks: with one, the thread never waits for more."""
        block, self._block, self._gathered = self._block, [], 0
        self._writing.append(asyncio.get_running_loop().run_in_executor(self.thread, self._write, block))
        while len(self._writing) > behind:
            await asyncio.wait(self._writing[:1])  # who is cancelled here leaves the thread alone
            self._writing.pop(0)
        if self._failure:
            raise self._failure

    def _write(self, block: list[bytes]) -> None:
        try:
            begun = self.file.tell()
            for chunk in () if self._failure else block:
                self.file.write(chunk)
                self.digest.update(chunk)  # while the processor has it at hand
            _advise(self.file, begun)
        except Exception as error:  # noqa: BLE001 - raised in `settle`
            self._failure = error


def _advise(file: BinaryIO, begun: int) -> None:
    """At this, Linux begins to write to the disk: less is left to wait for at the end."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), begun, 0, os.POSIX_FADV_DONTNEED)


async def save(
    api: ServiceApi,
    links: Sequence[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    progress: Progress | None,
    max_bytes: int,
) -> SavedVideo:
    """Stream the first link that gives a whole mp4 to `path`, in constant memory; an existing file is replaced then.

    Raises as `Client.download` does. The paid video stays at its links in each case.
    """
    target = Path(path)
    loop = asyncio.get_running_loop()
    if not target.name or "\0" in str(target):
        raise refusal("path", str(path), "no name of a file", "pass the path of a file")
    part = target.with_name(f"{target.name[:50]}.{secrets.token_hex(4)}.part")
    opening = loop.run_in_executor(None, _open_part, target, part, overwrite)
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda opened: None if opened.exception() else _clear(opened.result(), part))
        raise
    try:
        arrived = await _first_whole(api, links, file, progress, max_bytes)
        await loop.run_in_executor(None, _place, file, part, target, overwrite)
    finally:
        await asyncio.shield(loop.run_in_executor(None, _clear, file, part))
    return SavedVideo(target, arrived.received, arrived.digest.hexdigest(), *arrived.walk.facts())


def _open_part(target: Path, part: Path, overwrite: bool) -> BinaryIO:
    if not overwrite and target.exists():
        raise _exists(target)
    if target.is_dir():
        raise refusal("path", str(target), "a folder", "pass the path of a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    return part.open("xb")


def _clear(file: BinaryIO, part: Path) -> None:
    """Remove the partial file. A file system that does not let it go costs a leftover, not the result."""
    with suppress(OSError):
        file.close()
    with suppress(OSError):
        part.unlink(missing_ok=True)


def _place(file: BinaryIO, part: Path, target: Path, overwrite: bool) -> None:
    """Flush the file to the disk, then give it its name: after a crash there is the old file or the whole new one."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    if overwrite:
        part.replace(target)
    else:
        _place_anew(part, target)
    flush_folder(target.parent)


def _place_anew(part: Path, target: Path) -> None:
    """Only where nothing is: a link cannot replace. A file system without links is asked first."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:
        if target.exists():
            raise _exists(target) from None
        part.replace(target)


def _exists(target: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


class _DeadLinkError(Exception):
    """This link gives no whole mp4."""


async def _first_whole(
    api: ServiceApi, links: Sequence[str], file: BinaryIO, progress: Progress | None, max_bytes: int
) -> _Arriving:
    reasons, thread = [], ThreadPoolExecutor(1)
    try:
        for link in links:
            arriving = _Arriving(file, thread, progress, max_bytes)
            try:
                await _arrive(api, link, arriving)
            except _DeadLinkError as error:
                reasons.append(f"{link}: {error}")
            else:
                return arriving
    finally:
        thread.shutdown(wait=False)
    raise InvalidVideoError(f"no link gives a whole mp4: {'; '.join(reasons) or 'there are no links'}")


async def _arrive(api: ServiceApi, link: str, arriving: _Arriving) -> None:
    """All of one link's file, over as many requests as it takes. Raises _DeadLinkError."""
    delays, failures, most = api.backoff(), 0, 0
    while True:
        try:
            await _receive(api, link, arriving)
            if not (reason := _incomplete(arriving)):
                return
        except TransportError as error:
            reason = str(error.args[0])
        if arriving.received > most:
            delays, failures, most = api.backoff(), 0, arriving.received
        failures += 1
        if failures > RESUMES_PER_LINK:
            raise _DeadLinkError(reason)
        await asyncio.sleep(next(delays))


def _incomplete(arriving: _Arriving) -> str:
    """Why the file is not whole, or "". Raises _DeadLinkError where more bytes would not help."""
    if arriving.total is not None and arriving.received < arriving.total:
        return f"broke off after {arriving.received} of {arriving.total} bytes"
    verdict = arriving.walk.verdict()
    if verdict is not mp4.Verdict.WHOLE:
        raise _DeadLinkError(f"{verdict.value}: {arriving.received} bytes")
    return ""


async def _receive(api: ServiceApi, link: str, arriving: _Arriving) -> None:
    """One request: the whole file, or the rest of it where the server can prove that it is the same file."""
    headers = {}
    if arriving.received and arriving.validator:
        headers = {"Range": f"bytes={arriving.received}-", "If-Range": arriving.validator}
    async with api.get(link, headers=headers) as incoming:
        if incoming.status == 416 and incoming.headers.get("Content-Range") == f"bytes */{arriving.received}":
            arriving.total = arriving.received  # nothing is left: only the mark of its end did not come
            return
        await _begin(incoming, arriving)
        try:
            await _take_all(arriving, incoming.chunks)
        finally:
            await arriving.settle()


async def _take_all(arriving: _Arriving, chunks: AsyncIterable[bytes]) -> None:
    """Take the body's chunks, decoded if they are gzip, whatever the headers say of that."""
    gunzip: Gunzip | None = None
    async for chunk in chunks:
        if arriving.received == 0 and gunzip is None and chunk.startswith(GZIP_MAGIC):  # no mp4 begins with these bytes
            gunzip, arriving.total, arriving.validator = Gunzip(), None, None
        if gunzip is None:
            await _take(arriving, chunk)
            continue
        try:
            for piece in gunzip.feed(chunk):
                await _take(arriving, piece)
                await asyncio.sleep(0)  # a few bytes may hold megabytes
        except ValueError as error:
            raise TransportError(f"no file: {error}") from None
    if gunzip and not gunzip.is_whole:
        raise TransportError("no file: the gzip stream broke off")


async def _take(arriving: _Arriving, chunk: bytes) -> None:
    if arriving.received + len(chunk) > arriving.max_bytes:
        raise _DeadLinkError(f"longer than max_bytes={arriving.max_bytes}")
    arriving.walk.feed(chunk)
    if arriving.walk.verdict() is mp4.Verdict.NOT_MP4:
        raise _DeadLinkError(mp4.Verdict.NOT_MP4.value)
    await arriving.take(chunk)
    if arriving.progress:
        arriving.progress(arriving.received, arriving.total)


async def _begin(incoming: Incoming, arriving: _Arriving) -> None:
    """Take the headers; start over unless this is the rest of what is here."""
    if incoming.status in _DEAD_CODES:
        raise _DeadLinkError(f"HTTP {incoming.status}")
    if incoming.status not in (200, 206):
        if incoming.status == 416:
            arriving.validator = None  # start over: it is shorter than it was
        raise TransportError(f"HTTP {incoming.status}")
    length, coding = (incoming.headers.get(name, "") for name in ("Content-Length", "Content-Encoding"))
    is_plain = coding.lower() in ("", "identity")  # else lengths and ranges are those of other bytes
    announced = int(length) if re.fullmatch(r"[0-9]{1,18}", length) and is_plain else None
    if announced is not None and announced > arriving.max_bytes:
        raise _DeadLinkError(f"{announced} bytes long, which is more than max_bytes={arriving.max_bytes}")
    if incoming.status == 206 and arriving.received:
        if _is_the_rest(incoming, arriving):
            return
        arriving.validator = None  # start over: the pieces would not fit
        raise TransportError("the server sent another range, or of another file, than was asked for")
    await asyncio.get_running_loop().run_in_executor(None, _rewind, arriving.file)
    arriving.walk, arriving.digest, arriving.received, arriving.total = mp4.Walk(), hashlib.sha256(), 0, announced
    arriving.validator = _validator(incoming) if is_plain else None


def _is_the_rest(incoming: Incoming, arriving: _Arriving) -> bool:
    """Whether a 206 goes on where we are, in the same file: some servers do not look at If-Range."""
    validator = _validator(incoming)
    total = r"\d+" if arriving.total is None else arriving.total
    wanted = rf"bytes {arriving.received}-\d+/(\*|{total})"
    same = validator is None or validator == arriving.validator
    return same and re.fullmatch(wanted, incoming.headers.get("Content-Range", "")) is not None


def _validator(incoming: Incoming) -> str | None:
    etag = incoming.headers.get("ETag") or "W/"  # a weak one proves nothing
    return incoming.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _rewind(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
