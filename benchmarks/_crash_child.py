"""The program that the benchmark `crash` kills: `python -m benchmarks._crash_child URL JOURNAL FOLDER JOBS SEED`.

It is written as a user would write a batch that can be restarted. It recovers what an earlier run left, then submits
all jobs under fixed refs; the journal refuses those that were sent before, so none is paid for twice. It exits when no
job is left.
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
    """Save the job's video when it is ready."""
    with suppress(ModelsLabError):
        await job.save(folder / f"{job.ref}.mp4")


async def main(url: str, journal: str, folder: Path, jobs: int, seed: int) -> None:
    """Run all jobs, or those that an earlier run left."""
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
    record.SLOT_HOLD /= 200  # the emulator runs 200 times as fast
    logging.disable()  # jobs that were sent before are refused, as intended
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
