"""Group commit: which writes share a transaction, and what happens to a write that fails. The store is in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from helpers.journals import MemoryStore, S, a_record, opened

from modelslab_async import JournalError
from modelslab_async.journal.base import Duration
from modelslab_async.journal.group_commit import TRANSACTION_INTERVAL, GroupCommitJournal
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.journal.store import Change, Outcome, UnwritableError


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(LivenessLock(tmp_path / "jobs"))


@pytest.fixture
async def journal(store: MemoryStore) -> AsyncIterator[GroupCommitJournal]:
    async with opened(GroupCommitJournal(store)) as journal:
        yield journal


async def test_a_write_that_fails_during_close_is_tried_once_more(
    journal: GroupCommitJournal, store: MemoryStore
) -> None:
    """Another program locks the store for a moment: the acceptance that was being written is not lost."""
    store.may_go_on.clear()
    store.errors.append(OSError("locked"))
    written = asyncio.create_task(journal.append(a_record(journal, state=S.PROCESSING, job_id="77")))
    close = asyncio.create_task(journal.close())
    for _ in range(50):
        await asyncio.sleep(0)
    store.may_go_on.set()
    await close
    with pytest.raises(JournalError, match="locked"):
        await written
    assert [record.job_id for record in store.rows.values()] == ["77"]
    assert len(store.batches) == 2


async def test_a_read_does_not_wait_for_writes_that_come_later(journal: GroupCommitJournal) -> None:
    """A read ends while other jobs keep writing, and it sees what was queued before it."""
    is_found = asyncio.Event()

    async def keep_writing() -> None:
        while not is_found.is_set():
            journal.note(a_record(journal, "later"))
            await asyncio.sleep(0)

    journal.note(a_record(journal, "before"))
    writer = asyncio.create_task(keep_writing())
    try:
        async with asyncio.timeout(5):
            assert await journal.find("a", ref="before")
    finally:
        is_found.set()
        await writer


async def test_a_noted_record_is_not_written_if_a_later_one_replaces_it(
    journal: GroupCommitJournal, store: MemoryStore
) -> None:
    """Of the writes that share a transaction, the last noted record of a job is written, and every awaited one."""
    for state in (S.WAITING, S.SUBMITTING):
        journal.note(a_record(journal, "noted", state))
    journal.note(a_record(journal, "awaited", S.WAITING))
    awaited = [a_record(journal, "awaited", state) for state in (S.SUBMITTING, S.PROCESSING)]
    assert all(await asyncio.gather(*map(journal.append, awaited)))
    assert store.batches == [[("noted", S.SUBMITTING), ("awaited", S.SUBMITTING), ("awaited", S.PROCESSING)]]
    assert {ref: record.state for ref, record in store.rows.items()} == {"noted": S.SUBMITTING, "awaited": S.PROCESSING}


async def test_a_take_over_that_is_refused_replaces_no_note(tmp_path: Path) -> None:
    """A note is written although a take-over of the same job comes right after it."""
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        assert await journal.append(a_record(journal, "mine", S.PROCESSING))
        journal.note(a_record(journal, "mine", S.READY))
        assert await journal.take_over([a_record(journal, "mine", S.PROCESSING)], ["a dead client"]) == [False]
        row = await journal.find("a", ref="mine")
        assert row is not None
        assert row.record.state is S.READY


async def test_many_writes_share_a_transaction(journal: GroupCommitJournal, store: MemoryStore) -> None:
    """A thousand writes at once take a few transactions, and all are written."""
    await asyncio.gather(*(journal.append(a_record(journal, str(number))) for number in range(1000)))
    assert len(store.rows) == 1000
    assert len(store.batches) <= 3


@pytest.mark.looptime
async def test_writes_that_come_one_by_one_share_transactions_too(
    journal: GroupCommitJournal, store: MemoryStore
) -> None:
    """The first write is committed at once; writes of the next 20 ms wait for each other."""
    loop, write, begun = asyncio.get_running_loop(), store.write, list[float]()

    def record_begin(batch: Sequence[Change], durations: Sequence[Duration] = ()) -> Sequence[Outcome]:
        begun.append(journal.last_transaction_at)  # not the loop's time, which goes on until the thread runs
        return write(batch, durations)

    store.write = record_begin  # type: ignore[method-assign]
    first = loop.time()
    written = list[asyncio.Task[bool]]()
    for number in range(100):
        written.append(asyncio.create_task(journal.append(a_record(journal, str(number)))))
        await asyncio.sleep(0.002)
    assert all(await asyncio.gather(*written))
    assert begun[0] == pytest.approx(first, abs=0.001)
    assert min(b - a for a, b in pairwise(begun)) >= TRANSACTION_INTERVAL - 0.0001
    assert len(begun) <= 12


async def test_a_write_that_can_never_succeed_is_given_up(journal: GroupCommitJournal, store: MemoryStore) -> None:
    """A failed write is tried again with each transaction, until the store says that no attempt can succeed."""
    store.errors.append(OSError("down"))
    with pytest.raises(JournalError, match="down"):
        await journal.append(a_record(journal, "odd", S.PROCESSING))
    store.outcomes["odd"] = UnwritableError("never")
    for ref in ("one", "two"):
        assert await journal.append(a_record(journal, ref, S.SUBMITTING))
    assert [[ref for ref, _ in batch] for batch in store.batches] == [["odd"], ["one"], ["odd"], ["two"]]


async def test_a_failed_intent_is_not_tried_again(journal: GroupCommitJournal, store: MemoryStore) -> None:
    """A job whose intent was not written is not submitted, so its row would say something wrong."""
    store.errors.append(OSError("down"))
    with pytest.raises(JournalError, match="down"):
        await journal.append(a_record(journal, "intent", S.SUBMITTING))
    for ref in ("one", "two"):
        assert await journal.append(a_record(journal, ref, S.SUBMITTING))
    assert store.rows.keys() == {"one", "two"}


async def test_a_caller_that_is_cancelled_does_not_take_its_write_away(
    journal: GroupCommitJournal, store: MemoryStore
) -> None:
    """The record was queued when `append` began, and is written like any other."""
    store.may_go_on.clear()
    append = asyncio.create_task(journal.append(a_record(journal, state=S.PROCESSING)))
    await asyncio.sleep(0)
    append.cancel()
    store.may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await append
    assert await journal.find("a", ref="r1")


async def test_a_cancelled_writer_loses_nothing(journal: GroupCommitJournal, store: MemoryStore) -> None:
    """An application that cancels every task cancels the journal's too: `close` writes what that was about to write."""
    store.may_go_on.clear()
    delivery = asyncio.create_task(journal.deliver(a_record(journal), None))
    await asyncio.get_running_loop().run_in_executor(None, store.is_busy.wait)
    written = asyncio.create_task(journal.append(a_record(journal, "accepted", S.PROCESSING)))
    for _ in range(50):
        await asyncio.sleep(0)  # until the writer waits for the journal's thread
    (writer,) = [task for task in asyncio.all_tasks() if task.get_name() == "modelslab_async journal"]
    writer.cancel()
    await asyncio.wait([writer])
    store.may_go_on.set()
    await delivery
    assert store.batches == []
    await journal.close()
    assert await written
    assert store.rows.keys() == {"accepted"}


async def test_any_error_of_the_store_becomes_a_journal_error(journal: GroupCommitJournal, store: MemoryStore) -> None:
    """No caller waits for ever for a write, whatever ended it; and the next write succeeds."""
    store.errors.append(MemoryError("no room"))
    with pytest.raises(JournalError, match="no room"):
        await journal.append(a_record(journal))
    assert await journal.append(a_record(journal))


async def test_a_journal_is_opened_once_and_may_be_opened_again(journal: GroupCommitJournal, tmp_path: Path) -> None:
    """The owner lives until the journal is closed. Opened again, the journal has another owner."""
    before, other = journal.owner, LivenessLock(tmp_path / "jobs")
    with pytest.raises(JournalError, match="open already"):
        await journal.open()
    assert journal.owner == before
    assert await journal.append(a_record(journal, "before", S.PROCESSING))
    await journal.close()
    assert not other.is_alive(before)
    with pytest.raises(JournalError, match="not open"):
        await journal.append(a_record(journal, "closed"))
    await journal.open()
    assert journal.owner != before
    assert other.is_alive(journal.owner)
    assert await journal.append(a_record(journal, "after", S.PROCESSING))
    rows = [await journal.find("a", ref=ref) for ref in ("before", "after")]
    assert [row and row.record.owner for row in rows] == [before, journal.owner]


async def test_a_row_of_a_job_that_was_put_back_is_written_later(
    journal: GroupCommitJournal, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """The note that a job waits again is kept when the store fails, so that no later run takes it for uncertain."""
    assert await journal.append(a_record(journal, "put back", S.SUBMITTING))
    store.errors.append(OSError("full"))
    journal.note(a_record(journal, "put back", S.WAITING))
    assert await journal.find("a", ref="other") is None
    assert "a write failed" in caplog.text
    assert await journal.append(a_record(journal, "next", S.SUBMITTING))
    row = await journal.find("a", ref="put back")
    assert row is not None
    assert row.record.state is S.WAITING


async def test_rows_that_are_lost_at_the_close_are_logged(
    journal: GroupCommitJournal, store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    """If the store fails to the end, the log says how many rows could not be written."""
    store.errors += [OSError("full")] * 5
    journal.note(a_record(journal, "noted", S.PROCESSING, job_id="1"))
    await journal.close()
    assert "closed with 1 row that could not be written" in caplog.text


@pytest.mark.looptime
async def test_all_that_wait_for_a_change_see_it(journal: GroupCommitJournal, store: MemoryStore) -> None:
    """One caller does not take the change away from another, whichever of them asks the store first."""
    await journal.wait_for_change(1.0)
    waits = [asyncio.create_task(journal.wait_for_change(60.0)) for _ in range(3)]
    await asyncio.sleep(1)
    store.changes += 1
    done, _ = await asyncio.wait(waits, timeout=5)
    assert len(done) == 3


async def test_durations_share_the_transaction_of_a_record() -> None:
    """A noted duration causes no transaction of its own: it is written with the next record, or by `close`."""
    store = MemoryStore()
    first, second = (Duration("service", "video", "[]", float(number), 9.0, 1.0, None) for number in range(2))
    async with opened(GroupCommitJournal(store)) as journal:
        journal.note_duration(first)
        await asyncio.sleep(0.2)  # more than a note waits
        assert (store.batches, store.durations_written) == ([], [])
        await journal.append(a_record(journal))
        assert (len(store.batches), store.durations_written) == (1, [first])
        journal.note_duration(second)
    assert store.durations_written == [first, second]
