"""A client that closes, however often it is interrupted: nothing that is paid for is lost, and no task is left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from helpers.world import KEY, PNG, World, a_request

from modelslab_async import (
    Budget,
    Client,
    InvalidRequestError,
    Job,
    JobDetachedError,
    JobState,
    SubmitUncertainError,
    Timeouts,
)
from modelslab_async.emulator import Emulator, Fault, Rule
from modelslab_async.webhook import Webhook

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
        journal, jobs = tmp_path / "jobs.db", list[Job]()
        async with anyio.create_task_group() as group, Client(KEY, base_url=emulator.url, journal=journal) as client:
            jobs.append(client.submit(a_request(init_image=PNG)))
            while not emulator.ledger.charges:  # noqa: ASYNC110 - the emulator gives no event for it
                await asyncio.sleep(0.01)
            group.cancel_scope.cancel()
            await jobs[0]
        job = jobs[0]
        assert (job.state, len(emulator.ledger.charges)) == (S.PROCESSING, 1)
        assert job.id == str(emulator.ledger.charges[0].job_id)
        assert not [task for task in others() if task.get_name().startswith("modelslab_async")]


async def by_an_exception(client: Client) -> None:
    with pytest.raises(ArithmeticError):
        async with client:
            raise ArithmeticError


WAYS_TO_STOP: dict[str, Callable[[Client], Awaitable[None]]] = {
    "aclose(drain=False)": lambda client: client.aclose(drain=False),
    "aclose(timeout=0)": lambda client: client.aclose(timeout=0),
    "aclose(timeout=200)": lambda client: client.aclose(timeout=200),
    "an exception": by_an_exception,
}


@pytest.mark.looptime
@pytest.mark.parametrize("stop", WAYS_TO_STOP.values(), ids=WAYS_TO_STOP.keys())
async def test_a_graceful_stop_loses_no_more_than_a_kill(
    world: MakeWorld, tmp_path: Path, stop: Callable[[Client], Awaitable[None]]
) -> None:
    """No job is begun after it; those that wait stay in the journal, and the next client submits each once."""
    here, budget = world(queue_limit=5), Budget(jobs=7)
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=2, budget=budget) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(7)]
        await jobs[1].submitted()
        begun = len(here.service.ledger.charges)
        await stop(client)
        assert len(here.service.ledger.charges) == begun == 2
    assert [job.state for job in jobs[2:]] == [S.WAITING] * 5
    assert {type(job.exception()) for job in jobs[2:]} == {JobDetachedError}
    assert {getattr(job.exception(), "charged", None) for job in jobs[2:]} == {False}
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=5, budget=budget) as later:
        found = await later.recover()
        assert [record.ref for record in found.unsent] == [job.ref for job in jobs[2:]]
        again = await later.resubmit(found.unsent)
        assert [job.ref for job in again] == [job.ref for job in jobs[2:]]
        await asyncio.gather(*again, *found.jobs)
    assert sorted(map(str, here.service.ledger.track_ids())) == sorted(job.ref for job in jobs)
    with pytest.raises(InvalidRequestError, match="ready"):
        async with here.client(journal=tmp_path / "jobs.db") as third:
            await third.resubmit(found.unsent)


@pytest.mark.looptime
async def test_a_job_whose_turn_came_as_the_client_closed_is_not_lost(world: MakeWorld, tmp_path: Path) -> None:
    """Its intent is written, and nothing was sent: it is unsent, not refused."""
    here = world(faults=[Rule(Fault.UNAVAILABLE_503)])
    async with here.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await asyncio.sleep(1.0)
        assert job.state is S.SUBMITTING
        await client.aclose(drain=False)
    assert (job.state, here.service.ledger.charges) == (S.WAITING, [])
    async with here.client(journal=tmp_path / "jobs.db") as later:
        assert [record.ref for record in (await later.recover()).unsent] == [job.ref]


@pytest.mark.looptime
async def test_a_job_of_a_client_that_is_alive_is_not_resubmitted(world: MakeWorld, tmp_path: Path) -> None:
    """That client will send it; nothing is sent here, and nothing of the others that were asked for."""
    here = world(queue_limit=5)
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(2)]
        await jobs[0].submitted()
        async with here.client(journal=tmp_path / "jobs.db") as other:
            record = await other.find(jobs[1].ref)
            assert record is not None
            with pytest.raises(InvalidRequestError, match="live owner"):
                await other.resubmit([record])
            with pytest.raises(InvalidRequestError, match="is not in the journal"):
                await other.resubmit([record._replace(ref="unknown")])
    assert len(here.service.ledger.charges) == 2


@pytest.mark.looptime
async def test_a_job_whose_picture_is_gone_is_refused_when_it_is_resubmitted(world: MakeWorld, tmp_path: Path) -> None:
    """Bytes are not kept, and a file may be gone: that job is REFUSED, not charged, and the others are sent."""
    here, picture, other = world(queue_limit=5), tmp_path / "a.png", tmp_path / "b.png"
    picture.write_bytes(PNG)
    other.write_bytes(PNG)
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        jobs = [client.submit(a_request(init_image=image)) for image in (PNG, PNG, picture, other)]
        await jobs[0].submitted()
        await client.aclose(drain=False)
    picture.unlink()
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=5) as later:
        again = await later.resubmit((await later.recover()).unsent)
        await again[2]
    assert [job.state for job in again] == [S.REFUSED, S.REFUSED, S.READY]
    assert "bytes" in str(again[0].exception())
    assert "cannot be read" in str(again[1].exception())
    assert len(here.service.ledger.charges) == 2


@pytest.mark.looptime
async def test_a_resubmitted_job_gets_a_webhook_of_its_own_client(world: MakeWorld, tmp_path: Path) -> None:
    """The URL that the first client made is made anew, so that deliveries wake the job here."""
    here, webhook = world(queue_limit=5), Webhook(public_url="https://example.com/hooks", secret="s" * 32)
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook, max_in_flight=1) as client:
        job = [client.submit(a_request()) for _ in range(2)][1]
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as later:
        (again, _) = await later.resubmit((await later.recover()).unsent)
        await asyncio.sleep(1)
        path = webhook.url(again.ref, later.account_id).removeprefix("https://example.com")
        fetches = here.count("fetch")
        await webhook.handle(path, b"{}")
        assert here.count("fetch") == fetches + 1
        await later.aclose(drain=False)
    assert job.ref in {each.ref for each in (again, _)}


@pytest.mark.looptime
@pytest.mark.parametrize("same_id", [True, False])
async def test_a_reply_after_another_client_resolved_the_job(world: MakeWorld, tmp_path: Path, same_id: bool) -> None:
    """The id that the other client wrote down is this job's: it goes on here. Any other id stays in doubt."""
    here = world(faults=[SLOW])
    async with here.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await asyncio.sleep(1.0)
        async with here.client(journal=tmp_path / "jobs.db") as other:
            row, journal = await other.find(job.ref), other.journal
            assert row is not None
            assert journal is not None
            charged = str(here.service.ledger.charges[0].job_id) if same_id else "another"
            known = row._replace(owner=journal.owner, state=S.PROCESSING, job_id=charged, accepted_at=row.submitted_at)
            assert await journal.append(known, take_over=row.owner)
            await job.wait()
            assert job.state is (S.READY if same_id else S.UNCERTAIN)
            await other.aclose(drain=False)
    assert len(here.service.ledger.charges) == 1
