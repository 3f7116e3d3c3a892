"""Delete jobs that are over from a journal, and write them to an archive first."""

import asyncio
import gzip
import json
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from modelslab_async.journal.base import Archive
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import JobRecord

BATCH = 500
"""Jobs that are deleted in one transaction, so that no other client waits long."""
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
    """Return an archive that appends records to a file: JSON Lines, compressed by gzip."""

    def append(records: Sequence[JobRecord]) -> None:
        with path.open("ab") as file:
            with gzip.open(file, "wt", encoding="utf-8") as text:
                for record in records:
                    values = {**record._asdict(), "price": str(record.price)}
                    text.write(json.dumps({name: value for name, value in values.items() if value is not None}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    return append
