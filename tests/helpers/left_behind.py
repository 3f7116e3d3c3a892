"""Jobs and journal rows that an earlier client left behind."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from helpers.world import World, a_request
from modelslab_async import Client, Job, JobRecord, JobState
from modelslab_async.webhook import Webhook


async def row_of(client: Client, ref: str) -> JobRecord:
    """Return the journal's row of a job."""
    record = await client.find(ref)
    assert record is not None
    return record


async def until_known(client: Client, ref: str) -> None:
    """Wait until the journal has a row of the job."""
    while await client.find(ref) is None:  # noqa: ASYNC110 - the journal has no event for it
        await asyncio.sleep(0.01)


async def jobs_left_running(
    world: World, journal: Path, count: int = 1, *, webhook: Webhook | None = None
) -> list[Job]:
    """Return jobs that the service accepted from a client that is closed."""
    async with world.client(journal=journal, webhook=webhook) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(count)]
        for job in jobs:
            await job.submitted()
        await client.aclose(drain=False)
    return jobs


async def job_left_running(world: World, journal: Path, *, webhook: Webhook | None = None) -> Job:
    """Return a job that the service accepted from a client that is closed."""
    (job,) = await jobs_left_running(world, journal, webhook=webhook)
    return job


async def uncertain_job(world: World, client: Client, **changes: Any) -> Job:
    """Submit a job whose reply is lost, and whose delivery may still arrive. The emulator sends none from now on."""
    world.transport.deliver = None
    job = client.submit(a_request(**changes))
    await asyncio.sleep(60.0)
    assert job.state is JobState.UNCERTAIN
    return job
