"""Save a finished video: stream it, verify it, and move it to its path, where only whole files ever appear."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from modelslab_async.errors import InvalidVideoError, TransportError
from modelslab_async.media.containers import CONTAINERS, Parser
from modelslab_async.media.disk import flush_folder
from modelslab_async.media.saved import Progress, SavedVideo
from modelslab_async.protocol.coding import GZIP_MAGIC, Gunzip
from modelslab_async.protocol.operations import Container
from modelslab_async.protocol.problems import refusal
from modelslab_async.transport.api import ServiceApi
from modelslab_async.transport.base import Incoming

RESUMES_PER_LINK = 5
"""Failures in a row without a new byte, after which a link is given up."""
_BLOCK_BYTES = 2**20
_PARSED_BYTES = 2**14
"""Bytes that are parsed before other tasks have their turn. A file of tiny blocks takes 0.7 µs a byte."""
_DEAD_LINK_CODES = (400, 401, 404, 410)
_FILE_HINT = "pass the path of a file"


class PartialDownload:
    """The part of one link's file that has arrived.

    A thread writes and digests each block of chunks while the next block arrives. It must be a single one, which keeps
    the blocks in order.
    """

    def __init__(
        self,
        file: BinaryIO,
        thread: ThreadPoolExecutor,
        progress: Progress | None,
        max_bytes: int,
        allowed: Collection[Container] = CONTAINERS,
    ) -> None:
        self.file, self.thread, self.progress, self.max_bytes = file, thread, progress, max_bytes
        self.allowed = allowed
        self.total: int | None = None
        """The length that the server announced, bytes."""
        self.validator: str | None = None
        """ETag or Last-Modified: proves that the rest of a file belongs to this part."""
        self.parser, self.digest = Parser(allowed), hashlib.sha256()
        self.received = self._block_bytes = 0
        self._block = list[bytes]()
        self._writes = list[asyncio.Future[None]]()
        self._failure: Exception | None = None

    def start_over(self, total: int | None, validator: str | None) -> None:
        """Forget what arrived: the file begins anew."""
        self.parser, self.digest, self.received = Parser(self.allowed), hashlib.sha256(), 0
        self.total, self.validator = total, validator

    async def write(self, chunk: bytes) -> None:
        """Append a chunk. Raise the error of this write, or of an earlier one, such as OSError."""
        self.received += len(chunk)
        self._block.append(chunk)
        self._block_bytes += len(chunk)
        if self._block_bytes >= _BLOCK_BYTES:
            await self.flush(unwritten_blocks=1)

    async def flush(self, *, unwritten_blocks: int = 0) -> None:
        """Wait until at most *unwritten_blocks* are not yet in the file and the digest. Raise as `write` does.

        With one unwritten block allowed, the thread always has work.
        """
        block, self._block, self._block_bytes = self._block, [], 0
        self._writes.append(asyncio.get_running_loop().run_in_executor(self.thread, self._write_block, block))
        while len(self._writes) > unwritten_blocks:
            await asyncio.wait(self._writes[:1])  # if this is cancelled, the thread still finishes the block
            self._writes.pop(0)
        if self._failure:
            raise self._failure

    def _write_block(self, block: list[bytes]) -> None:
        try:
            start = self.file.tell()
            for chunk in () if self._failure else block:
                self.file.write(chunk)
                self.digest.update(chunk)  # at once, while the chunk is in the processor's cache
            _start_writeback(self.file, start)
        except Exception as error:  # noqa: BLE001 - raised in `flush`
            self._failure = error


def _start_writeback(file: BinaryIO, start: int) -> None:
    """Make Linux begin to write to the disk, so that the flush at the end has less to do."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(file.fileno(), start, 0, os.POSIX_FADV_DONTNEED)


async def save(
    api: ServiceApi,
    links: Sequence[str],
    path: str | os.PathLike[str],
    *,
    overwrite: bool,
    progress: Progress | None,
    max_bytes: int,
    allowed: Collection[Container] = CONTAINERS,
) -> SavedVideo:
    """Stream the first link with a whole video to *path*, in constant memory. An existing file is replaced only then.

    allowed: the containers that the video may have.

    Raise as `Client.download` does. The paid video stays at its links in each case.
    """
    target = Path(path)
    loop = asyncio.get_running_loop()
    if not target.name or "\0" in str(target):
        raise refusal("path", str(path), "must name a file", _FILE_HINT)
    part = target.with_name(f"{target.name[:50]}.{secrets.token_hex(4)}.part")
    opening = loop.run_in_executor(None, _open_part, target, part, overwrite)
    try:
        file = await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda opened: None if opened.exception() else _remove_part(opened.result(), part))
        raise
    try:
        download = await _download_first_whole(api, links, file, progress, max_bytes, allowed)
        await loop.run_in_executor(None, _move_into_place, file, part, target, overwrite)
    finally:
        await asyncio.shield(loop.run_in_executor(None, _remove_part, file, part))
    return SavedVideo(target, download.received, download.digest.hexdigest(), *download.parser.facts())


def _open_part(target: Path, part: Path, overwrite: bool) -> BinaryIO:
    if not overwrite and target.exists():
        raise _file_exists(target)
    if target.is_dir():
        raise refusal("path", str(target), "must be a file, and is a folder", _FILE_HINT)
    target.parent.mkdir(parents=True, exist_ok=True)
    return part.open("xb")


def _remove_part(file: BinaryIO, part: Path) -> None:
    """Remove the partial file. If the file system refuses, the file stays, and the result is not affected."""
    with suppress(OSError):
        file.close()
    with suppress(OSError):
        part.unlink(missing_ok=True)


def _move_into_place(file: BinaryIO, part: Path, target: Path, overwrite: bool) -> None:
    """Flush the file to the disk, then rename it. After a crash there is either the old file or the whole new one."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    if overwrite:
        part.replace(target)
    else:
        _move_without_replacing(part, target)
    flush_folder(target.parent)


def _move_without_replacing(part: Path, target: Path) -> None:
    """Rename by a hard link, which cannot replace a file. Without hard links, check first that there is no file."""
    try:
        target.hardlink_to(part)
    except FileExistsError:
        raise
    except OSError:
        if target.exists():
            raise _file_exists(target) from None
        part.replace(target)


def _file_exists(target: Path) -> FileExistsError:
    return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


class _DeadLinkError(Exception):
    """A link does not lead to a whole video, and trying again would not help."""


async def _download_first_whole(
    api: ServiceApi,
    links: Sequence[str],
    file: BinaryIO,
    progress: Progress | None,
    max_bytes: int,
    allowed: Collection[Container],
) -> PartialDownload:
    reasons, thread = [], ThreadPoolExecutor(1)
    try:
        for link in links:
            download = PartialDownload(file, thread, progress, max_bytes, allowed)
            try:
                await _download(api, link, download)
            except _DeadLinkError as error:
                reasons.append(f"{link}: {error}")
            else:
                return download
    finally:
        thread.shutdown(wait=False)
    wanted = " or ".join(allowed)
    raise InvalidVideoError(f"no link leads to a whole {wanted}: {'; '.join(reasons) or 'there are no links'}")


async def _download(api: ServiceApi, link: str, download: PartialDownload) -> None:
    """Download one link's file, with as many requests as it takes. Raise _DeadLinkError."""
    delays, failures, most_received = api.backoff(), 0, 0
    while True:
        try:
            await _request(api, link, download)
            if not (reason := _why_incomplete(download)):
                return
        except TransportError as error:
            reason = str(error.args[0])
        if download.received > most_received:
            delays, failures, most_received = api.backoff(), 0, download.received
        failures += 1
        if failures > RESUMES_PER_LINK:
            raise _DeadLinkError(reason)
        await asyncio.sleep(next(delays))


def _why_incomplete(download: PartialDownload) -> str:
    """Return why the file is not whole yet, or "" if it is. Raise _DeadLinkError if more bytes would not help."""
    if download.total is not None and download.received < download.total:
        return f"broke off after {download.received} of {download.total} bytes"
    if not download.parser.is_whole:
        raise _DeadLinkError(f"{download.parser.verdict().value}: {download.received} bytes")
    return ""


async def _request(api: ServiceApi, link: str, download: PartialDownload) -> None:
    """Request the whole file, or its rest if the server can prove that it is the same file."""
    headers = {}
    if download.received and download.validator:
        headers = {"Range": f"bytes={download.received}-", "If-Range": download.validator}
    async with api.get(link, headers=headers) as incoming:
        if incoming.status == 416 and incoming.headers.get("Content-Range") == f"bytes */{download.received}":
            download.total = download.received  # the file is whole: only the end of the body was not received
            return
        await _check_head(incoming, download)
        try:
            await _read_body(incoming.chunks, download)
        finally:
            await download.flush()


async def _check_head(incoming: Incoming, download: PartialDownload) -> None:
    """Check status and headers. Start over, unless the reply is the rest of the file."""
    if incoming.status in _DEAD_LINK_CODES:
        raise _DeadLinkError(f"HTTP {incoming.status}")
    if incoming.status not in (200, 206):
        if incoming.status == 416:
            download.validator = None  # the file has become shorter: request the whole
        raise TransportError(f"HTTP {incoming.status}")
    length, coding = (incoming.headers.get(name, "") for name in ("Content-Length", "Content-Encoding"))
    is_plain = coding.lower() in ("", "identity")  # else lengths and ranges count encoded bytes
    announced = int(length) if re.fullmatch(r"[0-9]{1,18}", length) and is_plain else None
    if announced is not None and announced > download.max_bytes:
        raise _DeadLinkError(f"{announced} bytes long, which is more than max_bytes={download.max_bytes}")
    if incoming.status == 206 and download.received:
        if _is_the_rest(incoming, download):
            return
        download.validator = None  # the parts would not fit: request the whole
        raise TransportError("the server sent a range that was not requested, or the range of another file")
    await asyncio.get_running_loop().run_in_executor(None, _truncate, download.file)
    download.start_over(announced, _validator(incoming) if is_plain else None)


async def _read_body(chunks: AsyncIterable[bytes], download: PartialDownload) -> None:
    """Write the body's chunks. A gzip stream is decoded, whether the headers announce it or not."""
    gunzip: Gunzip | None = None
    async for chunk in chunks:
        if (
            download.received == 0 and gunzip is None and chunk.startswith(GZIP_MAGIC)
        ):  # no video begins with these bytes
            gunzip, download.total, download.validator = Gunzip(), None, None
        if gunzip is None:
            await _check_and_write(chunk, download)
            continue
        try:
            for piece in gunzip.feed(chunk):
                await _check_and_write(piece, download)
                await asyncio.sleep(0)  # a few encoded bytes may hold megabytes
        except ValueError as error:
            raise TransportError(f"no file: {error}") from None
    if gunzip and not gunzip.is_whole:
        raise TransportError("no file: the gzip stream broke off")


async def _check_and_write(chunk: bytes, download: PartialDownload) -> None:
    if download.received + len(chunk) > download.max_bytes:
        raise _DeadLinkError(f"longer than max_bytes={download.max_bytes}")
    for start in range(0, len(chunk), _PARSED_BYTES):
        download.parser.feed(chunk[start : start + _PARSED_BYTES])
        if start:
            await asyncio.sleep(0)
    if download.parser.is_wrong:
        raise _DeadLinkError(download.parser.verdict().value)
    await download.write(chunk)
    if download.progress:
        download.progress(download.received, download.total)


def _is_the_rest(incoming: Incoming, download: PartialDownload) -> bool:
    """Return whether a 206 continues the same file at the right byte. Some servers ignore If-Range."""
    validator = _validator(incoming)
    total = r"\d+" if download.total is None else download.total
    wanted = rf"bytes {download.received}-\d+/(\*|{total})"
    is_same = validator is None or validator == download.validator
    return is_same and re.fullmatch(wanted, incoming.headers.get("Content-Range", "")) is not None


def _validator(incoming: Incoming) -> str | None:
    """Return the ETag, or Last-Modified if there is no ETag, or a weak one, which proves nothing."""
    etag = incoming.headers.get("ETag") or "W/"
    return incoming.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _truncate(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
