"""The program that is killed: `python -m benchmarks._crash_child URL JOURNAL FOLDER JOBS SEED`.

Written as a user would write a batch that can be started again: take up what an earlier run left, then submit
everything under refs of its own; what was sent before is refused by the journal, and so not paid twice. Ends by itself
once nothing is left to do.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from contextlib import suppress
from pathlib import Path

from modelslab_async import Client, Job, ModelsLabError, Timeouts
from modelslab_async.protocol import record

KEY = "any"
PICTURE = "https://picture.invalid/a.png"


async def collect(job: Job, folder: Path) -> None:
    """On disk, once it is there."""
    with suppress(ModelsLabError):
        await job.save(folder / f"{job.ref}.mp4")


async def main(url: str, journal: str, folder: Path, jobs: int, seed: int) -> None:
    """All jobs, or what is left of them."""
    refs = [f"job-{number}" for number in range(jobs)]
    random.Random(seed).shuffle(refs)
    options = {"poll_cost": 0.002, "max_in_flight": 10, "timeouts": Timeouts(submit=5.0, link=5.0, job=20.0)}
    async with Client(KEY, base_url=url, journal=journal, **options) as client:  # type: ignore[arg-type]
        found = await client.recover()
        begun = [
            client.submit(prompt="zoom in", init_image=PICTURE, track_id=ref)
            for ref in refs
            if ref not in {job.ref for job in found.jobs}
        ]
        await asyncio.gather(*(collect(job, folder) for job in (*found.jobs, *begun)))


if __name__ == "__main__":
    record.SLOT_HOLD /= 200  # time runs so much faster at the emulator
    logging.disable()  # refusals of what was sent before are its way, and no news
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
