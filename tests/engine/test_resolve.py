"""`Client.resolve`: the user's decision on a job whose submit's reply was lost."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.interfering_journals import FailingJournal
from helpers.left_behind import row_of
from helpers.world import MakeWorld, a_request

from modelslab_async import Budget, InvalidRequestError, JobState, JournalError, SubmitUncertainError
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState
LOST_REPLY = Rule(Fault.RESET_AFTER, times=1)


async def test_an_uncertain_job_is_listed_and_never_sent_again(make_world: MakeWorld, tmp_path: Path) -> None:
    """`recover` lists the job with its time, ref and request. A submit with its ref is uncertain too, and not sent."""
    world = make_world(faults=[LOST_REPLY])
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(track_id="mine"))
        with pytest.raises(SubmitUncertainError):
            await job
    async with world.client(journal=tmp_path / "jobs.db") as client:
        (record,) = (await client.recover()).uncertain
        assert (record.ref, record.state, record.charged) == ("mine", S.UNCERTAIN, None)
        assert record.submitted_at is not None
        assert record.request is not None
        again = client.submit(a_request(track_id="mine"))
        with pytest.raises(SubmitUncertainError):
            await again
    assert len(world.service.ledger.charges) == 1


async def test_an_uncertain_job_is_resolved_with_a_candidate(make_world: MakeWorld, tmp_path: Path) -> None:
    """Videos of the account that no row knows are candidates. With the id of one, the job goes on to its video."""
    world = make_world(faults=[LOST_REPLY])
    async with world.client(journal=tmp_path / "jobs.db") as client:
        known = client.submit(a_request())
        await known.wait()
        other = await client.generate(a_request())
        await asyncio.sleep(100)
        (candidate,) = (await client.recover(search=True)).candidates
        assert candidate.id != other.id
        job = await client.resolve(known.ref, id=candidate.id)
        assert job is not None
        assert (await job).id == candidate.id
        assert (await row_of(client, known.ref)).charged is True
    assert len(world.service.ledger.charges) == 2


async def test_the_id_of_another_job_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    """An id that another row has cannot be the uncertain job's, which stays UNCERTAIN and can still be resolved."""
    world = make_world(faults=[LOST_REPLY])
    async with world.client(journal=tmp_path / "jobs.db") as client:
        lost = client.submit(a_request())
        await lost.wait()
        other = client.submit(a_request())
        await other
        with pytest.raises(InvalidRequestError, match=other.ref):
            await client.resolve(lost.ref, id=other.id)
        assert (await row_of(client, lost.ref)).state is S.UNCERTAIN
        job = await client.resolve(lost.ref, id=world.charged_id())
        assert job is not None
        await job


async def test_a_job_that_was_lost_may_be_sent_again(make_world: MakeWorld, tmp_path: Path) -> None:
    """Resolved as lost, it counts as not charged, and its ref may be submitted again."""
    world = make_world(faults=[Rule(Fault.RESET_BEFORE, times=1)])
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(track_id="mine"))
        await job.wait()
        assert job.state is S.UNCERTAIN
        assert await client.resolve("mine", lost=True) is None
        await client.submit(a_request(track_id="mine"))
    assert world.service.ledger.track_ids() == ["mine"]


async def test_what_cannot_be_resolved_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    """An unknown ref, a job that is not uncertain, and a call without a decision are refused."""
    async with make_world().client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await job
        with pytest.raises(InvalidRequestError, match="is not in the journal"):
            await client.resolve("unknown", lost=True)
        with pytest.raises(InvalidRequestError, match="ready"):
            await client.resolve(job.ref, lost=True)
        with pytest.raises(InvalidRequestError, match="exactly one"):
            await client.resolve(job.ref)


async def test_a_resolved_job_counts_on_the_day_of_its_submit(make_world: MakeWorld, tmp_path: Path) -> None:
    """The budget of the client that resolves it counts it then, and so does that of a client of that day."""
    world, now, spent = make_world(faults=[LOST_REPLY]), 20_000 * 86_400.0, list[Decimal]()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        engine_of(client).recorder.clock = lambda: now
        job = client.submit(a_request(track_id="mine"))
        await job.wait()
    for opened_at in (now + 86_400, now):
        budget = Budget(usd=1, per="day")
        client = world.client(journal=tmp_path / "jobs.db", budget=budget)
        engine_of(client).recorder.clock = partial(float, opened_at)
        async with client:
            if job.state is S.UNCERTAIN and not spent:
                await client.resolve("mine", id=world.charged_id())
            spent += [budget.spent(now), budget.spent(now + 86_400)]
    assert spent == [Decimal("0.2"), 0] * 2


async def test_the_budget_is_released_only_once_the_journal_is_written(make_world: MakeWorld, tmp_path: Path) -> None:
    """If the journal cannot record the decision, the price stays held. A call without a decision is refused."""
    world, budget, journal = make_world(faults=[LOST_REPLY]), Budget(usd=5), FailingJournal(tmp_path / "jobs.db")
    async with world.client(journal=journal, budget=budget) as client:
        job = client.submit(a_request())
        await job.wait()
        with pytest.raises(InvalidRequestError, match="exactly one"):
            await client.resolve(job.ref, id=" ")
        journal.is_full = True
        with pytest.raises(JournalError):
            await client.resolve(job.ref, lost=True)
        journal.is_full = False
        assert budget.held == Decimal("0.2")
        await client.resolve(job.ref, lost=True)
        assert budget.held == 0
