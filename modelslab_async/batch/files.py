"""Save videos under free names, and examine video files. No file is overwritten."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from modelslab_async.batch.naming import stem_of
from modelslab_async.job.future import Job
from modelslab_async.media.containers import Parser
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.operations import OPERATIONS

_BLOCK_BYTES = 2**20


def values_of(job: Job, line: int) -> dict[str, str | int]:
    """Return the values of a name pattern's fields for a job with a video.

    The prompt is that of the journal row, which never holds the key.
    """
    record, seed = job.record, job.result().seed
    request = (record and record.request) or {}
    return {
        "stem": _stem(job),
        "seed": "x" if seed is None else str(seed),
        "line": line,
        "ref": job.ref,
        "item": job.ref,
        "id": job.id or "x",
        "prompt": str(request.get("prompt", "x")),
    }


def _stem(job: Job) -> str:
    """Return the name of the job's first file, without its suffix. Without files, return the operation's name."""
    record, row = job.record, OPERATIONS.get(job.operation)
    if row and not row.inputs:
        return job.operation
    where: object = ((record and record.picture) or {}).get("where")
    request = (record and record.request) or {}
    for each in row.inputs if row and where is None else ():
        value = request.get(each.name)
        where = where or (value[0] if isinstance(value, list) and value else value)
    return stem_of(where if isinstance(where, str) and not where.startswith("sha256:") else None)


def examine(path: Path) -> SavedVideo | None:
    """Return the facts of a video file, or None if it is missing or no whole video.

    It reads the whole file: call it in a thread.
    """
    walk, digest, size = Parser(), hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                walk.feed(block)
                digest.update(block)
                size += len(block)
    except OSError:
        return None
    return SavedVideo(path, size, digest.hexdigest(), *walk.facts()) if walk.is_whole else None


def modified_at(path: Path) -> int | None:
    """Return when a file was modified, nanoseconds since 1970; None if the file is gone."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


async def save_as(
    job: Job, folder: Path, names: Iterable[str], claim: Callable[[str], bool] = lambda _: True
) -> tuple[str, SavedVideo]:
    """Save a job's video under the first name that is free and that *claim* grants.

    Return the name, relative to the folder, and the file's facts. A file that holds the same bytes already is taken
    for the video: a process that was killed had saved it. Raises as `Job.save` does.
    """
    existing: list[tuple[str, SavedVideo]] = []
    for name in names:
        target = folder / name
        if not claim(name):
            continue
        try:
            saved = await job.save(target, overwrite=False)
        except FileExistsError:
            if not target.is_file():  # it is a folder, or a file stands where a parent folder should be
                raise
            if found := await asyncio.get_running_loop().run_in_executor(None, examine, target):
                existing.append((name, found))
            continue
        for other_name, other in existing:
            if other.sha256 == saved.sha256:
                saved.path.unlink()
                return other_name, other
        return name, saved
    raise AssertionError("names do not end")
