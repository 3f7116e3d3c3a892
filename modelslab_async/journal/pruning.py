"""Delete jobs that are over from a journal, and write them to an archive first."""

import asyncio
import errno
import gzip
import json
import math
import os
import time
import zlib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import IO

from modelslab_async.errors import InvalidRequestError
from modelslab_async.journal.base import Archive
from modelslab_async.journal.liveness import try_lock
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.record import JobRecord

BATCH = 500
"""Jobs that are deleted in one transaction, so that no other client waits long."""
_RETRY_SECONDS = 0.05
_LOCKED_SECONDS = 30.0
"""How long another process may lock the archive before that is an error."""
_CHUNK_BYTES = 2**20
_GZIP = 31
"""The number by which zlib reads gzip members."""
OVER = (JobState.CANCELLED, JobState.FAILED, JobState.REFUSED)
"""States of jobs that are over. A READY job is over once its video was saved or acknowledged."""


def is_prunable(record: JobRecord, before: float) -> bool:
    """Return whether `Journal.prune` deletes the job. A job without a known acceptance that may be charged is kept."""
    is_taken = record.saved_path is not None or record.delivered_at is not None
    is_over = record.state in OVER or (record.state is JobState.READY and is_taken)
    is_in_doubt = record.accepted_at is None and record.charged is not False
    ended_at = record.created_at if record.ended_at is None else record.ended_at
    return is_over and not is_in_doubt and ended_at < before


async def prune(
    find: Callable[[float], Awaitable[Sequence[JobRecord]]],
    delete: Callable[[Sequence[JobRecord]], Awaitable[int]],
    archive: Archive | None,
) -> int:
    """Archive and delete jobs, batch by batch. Return how many were deleted.

    find: returns the next jobs that were created at a time or later, the oldest first. delete: deletes jobs that are
    still prunable, and returns their number.
    """
    count, since = 0, -math.inf
    while records := await find(since):
        if archive:
            await asyncio.to_thread(archive, records)
        deleted = await delete(records)
        count += deleted
        since = records[-1].created_at if deleted else math.nextafter(records[-1].created_at, math.inf)
    return count


def archive_to(path: Path) -> Archive:
    """Return an archive that appends records to a file: JSON Lines, compressed by gzip.

    Each call appends one gzip member as a whole. If a crash left a part of one at the end, it is cut off: its records
    were not deleted. The archive raises InvalidRequestError if the file is damaged or contains something else, and
    OSError.
    """
    known_end = -1

    def append(records: Sequence[JobRecord]) -> None:
        nonlocal known_end
        member = gzip.compress("".join(map(_line, records)).encode())
        with path.open("a+b") as file:
            give_up_at = time.monotonic() + _LOCKED_SECONDS
            while not try_lock(file):  # another process appends just now
                if time.monotonic() > give_up_at:
                    raise TimeoutError(errno.ETIMEDOUT, "another process has locked the archive", str(path))
                time.sleep(_RETRY_SECONDS)
            end = file.seek(0, os.SEEK_END)
            if end != known_end:
                end = _end_of_members(file, path)
                file.truncate(end)
            try:
                file.write(member)
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
            known_end = end + len(member)

    return append


def _not_an_archive(path: Path) -> InvalidRequestError:
    return refusal("archive", str(path), "must be a whole gzip file, or a new one", "choose another path")


def _line(record: JobRecord) -> str:
    values = {**record._asdict(), "price": str(record.price)}
    return json.dumps({name: value for name, value in values.items() if value is not None}) + "\n"


def _end_of_members(file: IO[bytes], path: Path) -> int:
    """Return where the last whole gzip member ends. Raise InvalidRequestError if there is none, or one is damaged."""
    file.seek(0)
    end, read, data = 0, 0, b""
    while True:
        member = zlib.decompressobj(wbits=_GZIP)
        try:
            while not member.eof:
                if not data and not (data := file.read(_CHUNK_BYTES)):
                    if read and not end:
                        raise _not_an_archive(path)
                    return end
                read += len(data)
                member.decompress(data)
                data = b""
        except zlib.error:
            raise _not_an_archive(path) from None
        read -= len(member.unused_data)
        end, data = read, member.unused_data
