"""Files of videos: what is there, and a video under the first name that is free. Nothing is overwritten."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from modelslab_async.batch.naming import stem_of
from modelslab_async.job.future import Job
from modelslab_async.media import mp4
from modelslab_async.media.saved import SavedVideo

_BLOCK_BYTES = 2**20


def values_of(job: Job, line: int) -> dict[str, str | int]:
    """What the fields of a pattern of names mean for a job whose video is there."""
    record, seed = job.record, job.result().seed
    where = (record.picture or {}).get("where") if record else None
    return {
        "stem": stem_of(where),
        "seed": "x" if seed is None else str(seed),
        "line": line,
        "ref": job.ref,
        "item": job.ref,
        "id": job.id or "x",
        "prompt": job.redact(job.request.prompt) if job.request else "x",
    }


def examine(path: Path) -> SavedVideo | None:
    """What a file on disk is; None for one that is not there, or is no whole mp4. Reads it: call it in a thread."""
    parser, digest, size = mp4.Parser(), hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                parser.feed(block)
                digest.update(block)
                size += len(block)
    except OSError:
        return None
    is_whole = parser.verdict() is mp4.Verdict.WHOLE
    return SavedVideo(path, size, digest.hexdigest(), *parser.facts()) if is_whole else None


async def save_as(
    job: Job, folder: Path, names: Iterable[str], claim: Callable[[str], bool] = lambda _: True
) -> tuple[str, SavedVideo]:
    """Save a job's video under the first name that can be claimed; gives the name, relative to the folder.

    A file that is there already, byte for byte, is taken for the video: a process that was killed had put it there.
    Raises as `Job.save` does.
    """
    there: list[tuple[str, SavedVideo]] = []
    for name in names:
        target = folder / name
        if not claim(name):
            continue
        try:
            saved = await job.save(target, overwrite=False)
        except FileExistsError:
            if not target.is_file():  # a folder of that name, or a file in a folder's place
                raise
            if found := await asyncio.get_running_loop().run_in_executor(None, examine, target):
                there.append((name, found))
            continue
        for known, other in there:
            if other.sha256 == saved.sha256:
                saved.path.unlink()
                return known, other
        return name, saved
    raise AssertionError("names do not end")
