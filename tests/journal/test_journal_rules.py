"""What a journal promises, through the `Journal` protocol alone: which writes are applied, and what is read back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers.journals import FULL, S, a_record, opened

from modelslab_async import JobState, Journal
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.protocol.record import SENT, Charge, JobRecord, key_of


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        yield journal


async def test_a_row_is_read_as_it_was_written(journal: Journal) -> None:
    """Every field comes back with its value."""
    bare = JobRecord(account="a", ref="r2", owner="o", created_at=0.1, charged=None)
    assert all(await asyncio.gather(journal.append(FULL), journal.append(bare)))
    assert await journal.find("a", ref="r1") == FULL
    assert await journal.find("a", job_id="77") == FULL
    assert await journal.find("a", ref="r2") == bare
    assert await journal.find("b", ref="r1") is None


async def test_a_ref_is_free_as_soon_as_its_job_was_refused(journal: Journal) -> None:
    """The end of a job is written even if another job with its ref comes right after, and that job may be sent."""
    assert await journal.append(a_record(journal, state=S.SUBMITTING))
    journal.note(a_record(journal, state=S.REFUSED))
    assert await journal.append(a_record(journal, state=S.SUBMITTING, created_at=2.0))


async def test_unfinished_jobs_are_those_that_need_a_client(journal: Journal) -> None:
    """Waiting, submitted, running, uncertain and timed-out jobs, and videos not saved; the oldest first."""
    for number, state in enumerate(S):
        await journal.append(a_record(journal, state.value, state, created_at=-float(number)))
    await journal.append(a_record(journal, "saved", S.READY, saved_path="/videos/a.mp4"))
    found = [record.state for record in await journal.unfinished("a")]
    assert set(found) == {S.WAITING, S.SUBMITTING, S.PROCESSING, S.READY, S.UNCERTAIN, S.TIMED_OUT}
    assert found == [state for state in reversed(S) if state in found]
    assert S.READY not in [record.state for record in await journal.unfinished("a", ready=False)]
    assert await journal.unfinished("b") == []


@pytest.mark.parametrize("state", S)
@pytest.mark.parametrize("intruder", [{"created_at": 2.0}, {"owner": "other"}], ids=["another job", "another owner"])
async def test_a_ref_is_sent_once(journal: Journal, state: JobState, intruder: dict[str, Any]) -> None:
    """A ref that was, or may have been, sent belongs to its job; a ref that was certainly not sent is free."""
    mine, theirs = a_record(journal, state=state), a_record(journal, state=S.SUBMITTING, **intruder)
    await journal.append(mine)
    assert await journal.append(theirs) is (state not in SENT)
    assert await journal.find("a", ref="r1") == (mine if state in SENT else theirs)


async def test_a_row_is_taken_over_once(journal: Journal) -> None:
    """If two clients take over the job of a dead one, one of them gets it."""
    await journal.append(a_record(journal, state=S.PROCESSING, owner="dead"))
    results = [
        await journal.append(a_record(journal, state=S.PROCESSING, owner=owner), take_over="dead")
        for owner in ("first", "second")
    ]
    assert results == [True, False]


LATE: dict[str, Any] = {"state": S.PROCESSING, "job_id": "77", "accepted_at": 5.0}
"""What the owner writes once the service's reply came."""
LATE_EVENTS: dict[str, dict[str, Any]] = {
    "accepted": LATE,
    "ready at once, without an id": {"state": S.READY, "accepted_at": 5.0, "links": ("https://files.invalid/a.mp4",)},
    "failed at once": {"state": S.FAILED, "job_id": "77", "accepted_at": 5.0, "ended_at": 5.0},
    "an id is enough": {"state": S.PROCESSING, "job_id": "77"},
}


@pytest.mark.parametrize("late", LATE_EVENTS)
@pytest.mark.parametrize("doubted", [S.SUBMITTING, S.UNCERTAIN], ids=str)
async def test_an_acceptance_is_written_after_another_client_took_the_row(
    journal: Journal, doubted: JobState, late: str
) -> None:
    """The reply counts, and the row is its first owner's again: later writes of the other client are refused.

    That client took the owner for dead while the owner's submit was under way.
    """
    sent = a_record(journal, state=S.SUBMITTING, submitted_at=2.0)
    taken = sent._replace(owner="other", state=doubted)
    accepted = sent._replace(**LATE_EVENTS[late])
    assert await journal.append(sent)
    assert await journal.append(taken, take_over=sent.owner)
    assert await journal.append(accepted)
    assert await journal.find("a", ref="r1") == accepted
    assert not await journal.append(taken._replace(state=S.REFUSED, ended_at=9.0), take_over="other")
    assert await journal.find("a", ref="r1") == accepted
    assert await journal.append(accepted._replace(error="a later note"))


async def test_an_acceptance_is_not_lost_to_a_take_over_that_comes_after_it(journal: Journal) -> None:
    """A client that read the row before the acceptance cannot write over the acceptance."""
    sent = a_record(journal, state=S.SUBMITTING, submitted_at=2.0)
    accepted = sent._replace(**LATE)
    for record in (sent, accepted):
        assert await journal.append(record)
    assert not await journal.append(sent._replace(owner="other", state=S.UNCERTAIN), take_over=sent.owner)
    assert await journal.find("a", ref="r1") == accepted
    assert await journal.append(accepted._replace(owner="other"), take_over=sent.owner)


@pytest.mark.parametrize(
    ("changes", "there"),
    [
        ({"created_at": 7.0}, {}),
        ({"job_id": "78"}, {"state": S.PROCESSING, "job_id": "77"}),
        ({"job_id": "77"}, {"state": S.TIMED_OUT}),
        ({"job_id": None, "accepted_at": None}, {}),
    ],
    ids=["another job", "the row has an id", "the row ended", "no acceptance"],
)
async def test_only_an_acceptance_of_the_same_job_is_written_over_another_clients_row(
    journal: Journal, changes: dict[str, Any], there: dict[str, Any]
) -> None:
    """In all other cases a row belongs to its owner."""
    row = a_record(journal, owner="other", state=S.UNCERTAIN)._replace(**there)
    assert await journal.append(row)
    assert not await journal.append(a_record(journal)._replace(**{**LATE, **changes}))
    assert await journal.find("a", ref="r1") == row


@pytest.mark.parametrize("state", [None, S.WAITING, S.SUBMITTING, S.UNCERTAIN, S.PROCESSING], ids=str)
@pytest.mark.parametrize("take_over", [None, "dead"])
async def test_two_jobs_of_an_account_never_share_an_id(
    journal: Journal, state: JobState | None, take_over: str | None
) -> None:
    """An id that another row has is not written, whether the row is new or known, owned or taken over."""
    first = a_record(journal, "first", S.PROCESSING, job_id="77")
    assert await journal.append(first)
    before = a_record(journal, "second", state, owner=take_over or journal.owner) if state else None
    if before:
        assert await journal.append(before)
    second = a_record(journal, "second", S.PROCESSING, job_id="77")
    assert not await journal.append(second, take_over=take_over)
    assert await journal.find("a", ref="second") == before
    assert await journal.find("a", job_id="77") == first
    assert await journal.append(second._replace(job_id="78"), take_over=take_over)


async def test_two_jobs_do_not_share_an_id_within_a_transaction(journal: Journal) -> None:
    """Of two acceptances with the same id, one is written, whatever their order."""
    both = [a_record(journal, ref, S.PROCESSING, job_id="77") for ref in ("one", "two")]
    assert sorted(await asyncio.gather(*map(journal.append, both))) == [False, True]


async def test_an_id_belongs_to_its_row_and_its_account(journal: Journal) -> None:
    """A row keeps its id, another account may have the same id, and any number of rows may have no id."""
    for state in (S.PROCESSING, S.READY):
        assert await journal.append(a_record(journal, state=state, job_id="77"))
    assert await journal.append(a_record(journal, state=S.PROCESSING, job_id="77")._replace(account="b"))
    assert all([await journal.append(a_record(journal, f"none {number}", S.UNCERTAIN)) for number in range(2)])


async def test_charges_are_what_was_or_may_have_been_paid(journal: Journal) -> None:
    """Accepted and uncertain jobs with their prices; neither refused jobs nor jobs that were never sent."""
    rows = [
        a_record(journal, "taken", S.READY, charged=True, submitted_at=90.0, accepted_at=100.0, price=Decimal("0.3")),
        a_record(journal, "doubt", S.UNCERTAIN, charged=None, submitted_at=110.0, price=Decimal("0.2")),
        a_record(journal, "no", S.REFUSED, charged=False, submitted_at=120.0, price=Decimal("0.2")),
        a_record(journal, "waits", S.WAITING, price=Decimal("0.2")),
    ]
    await asyncio.gather(*map(journal.append, rows))
    doubt, taken = sorted(await journal.charges("a"), key=lambda charge: charge.key)
    assert doubt == Charge(key_of("a", "doubt", 1.0), 110.0, Decimal("0.2"), is_certain=False)
    assert taken == Charge(key_of("a", "taken", 1.0), 100.0, Decimal("0.3"), is_certain=True)


async def test_a_notification_without_an_id_takes_no_id_away(journal: Journal) -> None:
    """If a webhook is called twice, the notification has the last id that was named. It is returned once."""
    record = a_record(journal)
    for job_ids, delivered in ((("j-1", None), "j-1"), ((None, "j-1"), "j-1"), (("j-1", "j-2"), "j-2")):
        for job_id in job_ids:
            await journal.deliver(record, job_id)
        assert await journal.delivered("a") == [(record.ref, delivered)]
        assert await journal.delivered("a") == []


async def test_the_newest_jobs_come_first(journal: Journal) -> None:
    """`recent` returns the last jobs, and no more than were asked for."""
    for number, created_at in enumerate((3.0, 1.0, 2.0)):
        await journal.append(a_record(journal, f"r{number}", created_at=created_at))
    assert [record.ref for record in await journal.recent("a", 2)] == ["r0", "r2"]


async def test_the_owner_of_an_open_journal_is_alive(journal: Journal) -> None:
    """A client counts itself among the living."""
    assert journal.is_alive(journal.owner)
