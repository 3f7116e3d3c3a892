"""Closing a client, however often the close is interrupted: nothing paid is lost, and no task is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import anyio
import pytest
from helpers.left_behind import row_of
from helpers.world import KEY, PNG, MakeWorld, a_request

from modelslab_async import Client, Job, JobDetachedError, JobState, SubmitUncertainError, Timeouts
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton

S = JobState
SLOW = Rule(Fault.SLOW, seconds=20.0)
"""Each reply to a submit takes 20 s."""


def other_tasks() -> set[asyncio.Task[object]]:
    """Return all tasks of the loop but the current one."""
    return asyncio.all_tasks() - {asyncio.current_task()}


async def cancel_repeatedly(task: asyncio.Task[None], times: int) -> None:
    """Cancel a task every half second, *times* times, and wait for its end."""
    for _ in range(times):
        await asyncio.sleep(0.5)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.looptime
@pytest.mark.parametrize("times", [1, 2, 30])
@pytest.mark.parametrize("drain", [False, True])
async def test_a_cancelled_close_still_waits_for_replies(
    make_world: MakeWorld, tmp_path: Path, times: int, drain: bool
) -> None:
    """The id of what is paid for is in the journal, the job has an end, and no task is left."""
    world, before = make_world(faults=[SLOW]), other_tasks()
    client = world.client(journal=tmp_path / "jobs.db")
    await client.__aenter__()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await cancel_repeatedly(asyncio.create_task(client.aclose(drain=drain)), times)
    assert (job.state, type(job.exception())) == (S.PROCESSING, JobDetachedError)
    assert other_tasks() == before
    async with world.client(journal=tmp_path / "jobs.db") as later:
        record = await row_of(later, job.ref)
        assert (record.job_id, record.charged) == (job.id, True)
        await later.aclose(drain=False)


@pytest.mark.looptime
async def test_a_block_that_is_cancelled_repeatedly_waits_for_replies(make_world: MakeWorld, tmp_path: Path) -> None:
    """A task may be cancelled inside `async with`, and again while the client closes: the reply still counts."""
    world, jobs = make_world(faults=[SLOW]), list[Job]()

    async def work() -> None:
        async with world.client(journal=tmp_path / "jobs.db") as client:
            jobs.append(client.submit(a_request()))
            await jobs[0]

    task = asyncio.create_task(work())
    await asyncio.sleep(1.0)
    await cancel_repeatedly(task, 5)
    assert jobs[0].id is not None
    assert isinstance(jobs[0].exception(), JobDetachedError)


@pytest.mark.looptime
async def test_a_close_waits_no_longer_than_the_timeout_of_submits(make_world: MakeWorld, tmp_path: Path) -> None:
    """If a reply never comes, the close is over after `Timeouts.submit`, and the job is UNCERTAIN."""
    world, before = make_world(faults=[Rule(Fault.STALL)]), other_tasks()
    client = world.client(journal=tmp_path / "jobs.db", timeouts=Timeouts(submit=60))
    await client.__aenter__()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await cancel_repeatedly(asyncio.create_task(client.aclose(drain=False)), 3)
    assert asyncio.get_running_loop().time() == pytest.approx(60, abs=2)
    assert isinstance(job.exception(), SubmitUncertainError)
    assert other_tasks() == before


@pytest.mark.looptime
async def test_a_submit_whose_tasks_are_cancelled_is_uncertain(make_world: MakeWorld, tmp_path: Path) -> None:
    """If a program cancels all tasks of its loop, the job may be charged, and the journal says so."""
    world, before = make_world(faults=[SLOW]), other_tasks()
    client = world.client(journal=tmp_path / "jobs.db")
    await client.__aenter__()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    for _ in range(3):
        for task in other_tasks() - before:
            task.cancel()
        await asyncio.sleep(0)
    await client.aclose(drain=False)
    assert (job.state, len(world.service.ledger.charges)) == (S.UNCERTAIN, 1)
    assert other_tasks() == before
    async with world.client(journal=tmp_path / "jobs.db") as later:
        assert [record.ref for record in (await later.recover()).uncertain] == [job.ref]


async def test_a_cancelled_scope_of_anyio_loses_no_reply(tmp_path: Path) -> None:
    """Although anyio cancels every await again until the task ends, the reply is awaited and its id kept."""
    async with Emulator(speed=100, render=skeleton, faults=[Rule(Fault.SLOW, seconds=30.0)]) as emulator:
        journal, jobs = tmp_path / "jobs.db", list[Job]()
        async with anyio.create_task_group() as group, Client(KEY, base_url=emulator.url, journal=journal) as client:
            jobs.append(client.submit(a_request(init_image=PNG)))
            while not emulator.ledger.charges:  # noqa: ASYNC110 - the emulator has no event for a charge
                await asyncio.sleep(0.01)
            group.cancel_scope.cancel()
            await jobs[0]
        job = jobs[0]
        assert (job.state, len(emulator.ledger.charges)) == (S.PROCESSING, 1)
        assert job.id == str(emulator.ledger.charges[0].job_id)
        assert not [task for task in other_tasks() if task.get_name().startswith("modelslab_async")]


@pytest.mark.looptime
@pytest.mark.parametrize("same_id", [True, False])
async def test_a_reply_after_another_client_resolved_the_job(
    make_world: MakeWorld, tmp_path: Path, same_id: bool
) -> None:
    """The job goes on if the other client recorded the same id, and is UNCERTAIN if it recorded another."""
    world = make_world(faults=[SLOW])
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await asyncio.sleep(1.0)
        async with world.client(journal=tmp_path / "jobs.db") as other:
            record, journal = await row_of(other, job.ref), other.journal
            assert journal is not None
            job_id = world.charged_id() if same_id else "another"
            known = record._replace(
                owner=journal.owner, state=S.PROCESSING, job_id=job_id, accepted_at=record.submitted_at
            )
            assert await journal.append(known, take_over=record.owner)
            await job.wait()
            assert job.state is (S.READY if same_id else S.UNCERTAIN)
            await other.aclose(drain=False)
    assert len(world.service.ledger.charges) == 1
