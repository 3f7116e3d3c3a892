"""A client that closes, however often it is interrupted: nothing that is paid for is lost, and no task is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from conftest import KEY, PNG, World, a_request

from modelslab_async import Client, Job, JobDetachedError, JobState, SubmitUncertainError, Timeouts
from modelslab_async.emulator import Emulator, Fault, Rule

MakeWorld = Callable[..., World]
S = JobState
SLOW = Rule(Fault.SLOW, seconds=20.0)


def others() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def cancelled(task: asyncio.Task[None], times: int) -> None:
    """Cancel a task again and again, as soon as it waits again."""
    for _ in range(times):
        await asyncio.sleep(0.5)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.looptime
@pytest.mark.parametrize("times", [1, 2, 30])
@pytest.mark.parametrize("drain", [False, True])
async def test_a_close_that_is_cancelled_still_waits_for_replies(
    world: MakeWorld, tmp_path: Path, times: int, drain: bool
) -> None:
    """The id of what is paid for is in the journal, the job has an end, and no task is left."""
    here, before = world(faults=[SLOW]), others()
    client = here.client(journal=tmp_path / "jobs.db")
    await client.__aenter__()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await cancelled(asyncio.create_task(client.aclose(drain=drain)), times)
    assert (job.state, type(job.exception())) == (S.PROCESSING, JobDetachedError)
    assert others() == before
    async with here.client(journal=tmp_path / "jobs.db") as later:
        record = await later.find(job.ref)
        assert record is not None
        assert (record.job_id, record.charged) == (job.id, True)
        await later.aclose(drain=False)


@pytest.mark.looptime
async def test_a_block_that_is_cancelled_twice_waits_for_replies(world: MakeWorld, tmp_path: Path) -> None:
    """A task that is cancelled inside `async with`, and again while the client closes."""
    here, jobs = world(faults=[SLOW]), list[Job]()

    async def work() -> None:
        async with here.client(journal=tmp_path / "jobs.db") as client:
            jobs.append(client.submit(a_request()))
            await jobs[0]

    task = asyncio.create_task(work())
    await asyncio.sleep(1.0)
    await cancelled(task, 5)
    assert jobs[0].id is not None
    assert isinstance(jobs[0].exception(), JobDetachedError)


@pytest.mark.looptime
async def test_a_reply_that_never_comes_is_waited_for_within_its_bound(world: MakeWorld, tmp_path: Path) -> None:
    """After `Timeouts.submit` the close is over, and the job is uncertain."""
    here, before = world(faults=[Rule(Fault.STALL)]), others()
    client = here.client(journal=tmp_path / "jobs.db", timeouts=Timeouts(submit=60))
    await client.__aenter__()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await cancelled(asyncio.create_task(client.aclose(drain=False)), 3)
    assert asyncio.get_running_loop().time() == pytest.approx(60, abs=2)
    assert isinstance(job.exception(), SubmitUncertainError)
    assert others() == before


@pytest.mark.looptime
async def test_every_task_is_cancelled_under_a_submit(world: MakeWorld, tmp_path: Path) -> None:
    """A program that cancels all tasks of its loop leaves a job that may be charged, and says so in the journal."""
    here, before = world(faults=[SLOW]), others()
    client = here.client(journal=tmp_path / "jobs.db")
    await client.__aenter__()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    for _ in range(3):
        for task in others() - before:
            task.cancel()
        await asyncio.sleep(0)
    await client.aclose(drain=False)
    assert (job.state, len(here.service.ledger.charges)) == (S.UNCERTAIN, 1)
    assert others() == before
    async with here.client(journal=tmp_path / "jobs.db") as later:
        assert [record.ref for record in (await later.recover()).uncertain] == [job.ref]


async def test_a_scope_of_anyio_loses_no_reply(tmp_path: Path) -> None:
    """Anyio cancels every await again until the task ends: the reply is waited for, and its id is kept."""
    async with Emulator(speed=100, faults=[Rule(Fault.SLOW, seconds=30.0)]) as emulator:
        journal = tmp_path / "jobs.db"
        async with anyio.create_task_group() as group, Client(KEY, base_url=emulator.url, journal=journal) as client:
            job = client.submit(a_request(init_image=PNG))
            while not emulator.ledger.charges:  # noqa: ASYNC110 - the emulator gives no event for it
                await asyncio.sleep(0.01)
            group.cancel_scope.cancel()
            await job
        assert (job.state, len(emulator.ledger.charges)) == (S.PROCESSING, 1)
        assert job.id == str(emulator.ledger.charges[0].job_id)
        assert not [task for task in others() if task.get_name().startswith("modelslab_async")]
