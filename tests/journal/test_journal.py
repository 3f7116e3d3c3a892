"""Jobs on disk: what a journal keeps, who may write what, and how it says that it cannot."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from modelslab_async import (
    AuthenticationError,
    JobDetachedError,
    JobFailedError,
    JobState,
    JournalError,
    ReplyLostError,
)
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.journal.sqlite_file import _HOLDERS, APPLICATION_ID, MIGRATIONS, Database, Write
from modelslab_async.protocol import lifecycle
from modelslab_async.protocol.record import SENT, Charge, JobRecord, after, key_of

S = JobState
FULL = JobRecord(
    account="a",
    ref="r1",
    owner="o",
    created_at=1.5,
    state=S.READY,
    job_id="77",
    request={"prompt": "zoom in", "num_frames": 81},
    picture={"source": "path", "where": "/pictures/a.png", "length_bytes": 5, "sha256": "ab"},
    price=Decimal("0.20"),
    charged=True,
    eta=40.5,
    links=("https://files.invalid/a.mp4",),
    video={"url": "https://files.invalid/a.mp4", "seed": 7, "meta": {}, "generation_time": None},
    error="why",
    submitted_at=2.0,
    accepted_at=3.0,
    ended_at=4.0,
)


def a_record(journal: SqliteJournal, ref: str = "r1", state: JobState = S.WAITING, **changes: Any) -> JobRecord:
    return JobRecord(account="a", ref=ref, owner=journal.owner, created_at=1.0, state=state)._replace(**changes)


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    journal = SqliteJournal(tmp_path / "jobs.db")
    await journal.open()
    yield journal
    await journal.close()


async def test_a_row_is_read_as_it_was_written(journal: SqliteJournal) -> None:
    """Every field comes back, whatever it holds."""
    bare = JobRecord(account="a", ref="r2", owner="o", created_at=0.1, charged=None)
    assert all(await asyncio.gather(journal.append(FULL), journal.append(bare)))
    assert await journal.find("a", ref="r1") == FULL
    assert await journal.find("a", job_id="77") == FULL
    assert await journal.find("a", ref="r2") == bare
    assert await journal.find("b", ref="r1") is None


async def test_what_fails_while_it_closes_is_tried_once_more(tmp_path: Path, journal: SqliteJournal) -> None:
    """Another program holds the file for a moment: the acceptance that was being written then is not lost."""
    write, attempts, is_closing = journal._database.write, list[int](), threading.Event()

    def at_second(batch: Sequence[Write]) -> list[bool | JournalError]:
        attempts.append(len(batch))
        if len(attempts) == 1:
            is_closing.wait(10)
            raise sqlite3.OperationalError("database is locked")
        return write(batch)

    journal._database.write = at_second  # type: ignore[method-assign]
    written = journal.append(a_record(journal, state=S.PROCESSING, job_id="77"))
    close = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    is_closing.set()
    await close
    with pytest.raises(JournalError, match="locked"):
        await written
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
        assert other.execute("SELECT ref, job_id FROM jobs").fetchall() == [("r1", "77")]


async def test_who_reads_does_not_wait_for_writes_that_come_later(journal: SqliteJournal) -> None:
    """A look into the journal comes to its end while others go on writing, and sees what was written before it."""
    is_found = asyncio.Event()

    async def write_on() -> None:
        while not is_found.is_set():
            journal.note(a_record(journal, "later"))
            await asyncio.sleep(0)

    journal.note(a_record(journal, "before"))
    writer = asyncio.create_task(write_on())
    try:
        async with asyncio.timeout(5):
            assert await journal.find("a", ref="before")
    finally:
        is_found.set()
        await writer


async def test_what_is_awaited_survives_the_process(tmp_path: Path, journal: SqliteJournal) -> None:
    """Another connection reads a row as soon as its write was awaited."""
    await journal.append(FULL)
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        assert other.execute("SELECT ref, state FROM jobs").fetchall() == [("r1", "ready")]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    other.close()


async def test_a_note_that_is_overtaken_is_not_written(journal: SqliteJournal) -> None:
    """A row is a job as it now is: of what waits together only the last note of a job is written, and all that somebody
    waits for; the row ends as if each had been.
    """
    batches: list[list[tuple[str, JobState]]] = []
    write = journal._database.write

    def seen(batch: Sequence[Write]) -> list[bool | JournalError]:
        batches.append([(each.record.ref, each.record.state) for each in batch])
        return write(batch)

    journal._database.write = seen  # type: ignore[method-assign]
    for state in (S.WAITING, S.SUBMITTING):
        journal.note(a_record(journal, "noted", state))
    journal.note(a_record(journal, "awaited", S.WAITING))
    assert await asyncio.gather(
        *(journal.append(a_record(journal, "awaited", s)) for s in (S.SUBMITTING, S.PROCESSING))
    )
    assert batches == [[("noted", S.SUBMITTING), ("awaited", S.SUBMITTING), ("awaited", S.PROCESSING)]]
    assert [record.state for record in await journal.unfinished("a")] == [S.PROCESSING, S.SUBMITTING]


async def test_a_ref_that_was_refused_is_free_at_once(journal: SqliteJournal) -> None:
    """The end of a job is written though another with its ref comes right after it: that one may be sent."""
    assert await journal.append(a_record(journal, state=S.SUBMITTING))
    journal.note(a_record(journal, state=S.REFUSED))
    assert await journal.append(a_record(journal, state=S.SUBMITTING, created_at=2.0))


async def test_unfinished_are_those_to_look_after(journal: SqliteJournal) -> None:
    """Waiting, sent, running, uncertain, no longer watched, and videos that are not saved; the oldest first."""
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
async def test_a_ref_is_sent_once(journal: SqliteJournal, state: JobState, intruder: dict[str, Any]) -> None:
    """A ref that was or may have been sent belongs to its job; one that surely was not is free."""
    mine, theirs = a_record(journal, state=state), a_record(journal, state=S.SUBMITTING, **intruder)
    await journal.append(mine)
    assert await journal.append(theirs) is (state not in SENT)
    assert await journal.find("a", ref="r1") == (mine if state in SENT else theirs)


async def test_a_row_is_taken_over_once(journal: SqliteJournal) -> None:
    """Of two clients that take up the job of a dead one, one gets it."""
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
async def test_an_acceptance_is_written_though_another_client_took_the_row(
    journal: SqliteJournal, doubted: JobState, late: str
) -> None:
    """Its owner was taken for dead while its submit was under way. The reply counts, and the row is the owner's again:
    what the other client writes of a lost reply counts no more.
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


async def test_an_acceptance_is_not_lost_to_a_take_over_that_comes_after_it(journal: SqliteJournal) -> None:
    """The other client read the row before the reply came, and writes after it."""
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
async def test_only_an_acceptance_of_this_job_is_written_over_the_row_of_another_client(
    journal: SqliteJournal, changes: dict[str, Any], there: dict[str, Any]
) -> None:
    """Else a row belongs to its owner."""
    row = a_record(journal, owner="other", state=S.UNCERTAIN)._replace(**there)
    assert await journal.append(row)
    assert not await journal.append(a_record(journal)._replace(**{**LATE, **changes}))
    assert await journal.find("a", ref="r1") == row


@pytest.mark.parametrize("state", [None, S.WAITING, S.SUBMITTING, S.UNCERTAIN, S.PROCESSING], ids=str)
@pytest.mark.parametrize("take_over", [None, "dead"])
async def test_two_jobs_of_an_account_never_share_an_id(
    journal: SqliteJournal, state: JobState | None, take_over: str | None
) -> None:
    """An id that another row has is not written, be the row new or known, owned or taken over."""
    first = a_record(journal, "first", S.PROCESSING, job_id="77")
    assert await journal.append(first)
    before = state and a_record(journal, "second", state, owner=take_over or journal.owner)
    if before:
        assert await journal.append(before)
    second = a_record(journal, "second", S.PROCESSING, job_id="77")
    assert not await journal.append(second, take_over=take_over)
    assert await journal.find("a", ref="second") == before
    assert await journal.find("a", job_id="77") == first
    assert await journal.append(second._replace(job_id="78"), take_over=take_over)


async def test_an_id_is_shared_neither_within_a_transaction(journal: SqliteJournal) -> None:
    """Of two acceptances with one id, in whatever order they are written, one counts."""
    both = [a_record(journal, ref, S.PROCESSING, job_id="77") for ref in ("one", "two")]
    assert sorted(await asyncio.gather(*map(journal.append, both))) == [False, True]


async def test_an_id_belongs_to_its_row_and_its_account(journal: SqliteJournal) -> None:
    """A row goes on with its id, other accounts have ids of their own, and no id is no id."""
    for state in (S.PROCESSING, S.READY):
        assert await journal.append(a_record(journal, state=state, job_id="77"))
    assert await journal.append(a_record(journal, state=S.PROCESSING, job_id="77")._replace(account="b"))
    assert all([await journal.append(a_record(journal, f"none {number}", S.UNCERTAIN)) for number in range(2)])


async def test_rows_that_shared_an_id_before_go_on(journal: SqliteJournal) -> None:
    """A file of an earlier version may hold such rows: each is still written by its owner."""
    for number in range(2):
        assert await journal.append(a_record(journal, f"r{number}", S.PROCESSING))
    assert journal._database._connection is not None
    journal._database._connection.execute("UPDATE jobs SET job_id = '77'")
    for number in range(2):
        assert await journal.append(a_record(journal, f"r{number}", S.READY, job_id="77"))


async def test_the_search_for_an_id_uses_the_index(journal: SqliteJournal) -> None:
    """A write costs the same with a million rows."""
    assert journal._database._connection is not None
    plan = journal._database._connection.execute(f"EXPLAIN QUERY PLAN {_HOLDERS}", ("a", "77")).fetchall()
    assert [step for *_, step in plan] == ["SEARCH jobs USING COVERING INDEX jobs_by_id (account=? AND job_id=?)"]


async def test_charges_are_what_was_or_may_have_been_paid(journal: SqliteJournal) -> None:
    """Accepted and uncertain jobs with their price, not what was refused or never sent."""
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


async def test_many_writes_share_a_transaction(journal: SqliteJournal, tmp_path: Path) -> None:
    """A thousand writes at once are far fewer commits, and all are there."""
    await asyncio.gather(*(journal.append(a_record(journal, str(number))) for number in range(1000)))
    assert len(await journal.unfinished("a")) == 1000
    pages = (tmp_path / "jobs.db-wal").stat().st_size / 4096
    assert pages < 1000


@pytest.mark.looptime
async def test_writes_that_come_one_by_one_share_transactions_too(journal: SqliteJournal) -> None:
    """The first is written at once; those that come in the next 20 ms wait for each other."""
    loop, write, begun = asyncio.get_running_loop(), journal._database.write, list[float]()

    def seen(batch: Sequence[Write]) -> list[bool | JournalError]:
        begun.append(journal._began)  # not the loop's time: threads begin when the machine has time for them
        return write(batch)

    journal._database.write = seen  # type: ignore[method-assign]
    first = loop.time()
    written = list[asyncio.Future[bool]]()
    for number in range(100):
        written.append(journal.append(a_record(journal, str(number))))
        await asyncio.sleep(0.002)
    assert all(await asyncio.gather(*written))
    assert begun[0] == pytest.approx(first, abs=0.001)
    assert min(b - a for a, b in pairwise(begun)) >= 0.0199
    assert len(begun) <= 12


# --- where it cannot ---


async def refused(path: Path) -> str:
    """What opening says."""
    journal = SqliteJournal(path)
    try:
        with pytest.raises(JournalError) as caught:
            await journal.open()
    finally:
        await journal.close()
    assert caught.value.charged is False
    assert str(path) in str(caught.value)
    return str(caught.value)


async def test_a_newer_version(tmp_path: Path, journal: SqliteJournal) -> None:
    """It is left alone, and the way out is told."""
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        other.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    other.close()
    assert "newer version" in await refused(tmp_path / "jobs.db")


async def test_a_foreign_database(tmp_path: Path) -> None:
    """Another program's file is not written to."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    before = path.read_bytes()
    assert "another program" in await refused(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """A picture is not overwritten."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000))
    assert "not a database" in await refused(path)
    assert path.stat().st_size == 5008


async def test_a_damaged_database(tmp_path: Path) -> None:
    """A page of rubbish is told as damage."""
    path = tmp_path / "jobs.db"
    journal = SqliteJournal(path)
    await journal.open()
    await asyncio.gather(*(journal.append(a_record(journal, str(number))) for number in range(500)))
    await journal.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    damaged = SqliteJournal(path)
    with pytest.raises(JournalError, match="malformed"):
        await _used(damaged)
    await damaged.close()


async def _used(journal: SqliteJournal) -> None:
    await journal.open()
    await journal.append(a_record(journal, state=S.SUBMITTING))
    await journal.unfinished("a")


@pytest.mark.parametrize("path", ["/proc/jobs.db", "/nowhere/at/all/jobs.db"])
async def test_a_folder_that_cannot_be_written(path: str) -> None:
    """Read-only, or not there."""
    assert "folder" in await refused(Path(path))


async def test_a_locked_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that keeps the file to itself is told, and the intent is not recorded."""
    monkeypatch.setattr("modelslab_async.journal.sqlite_file.BUSY_SECONDS", 0.05)
    journal = SqliteJournal(tmp_path / "jobs.db")
    await journal.open()
    other = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked"):
        await journal.append(a_record(journal, state=S.SUBMITTING))
    other.execute("ROLLBACK")
    other.close()
    assert await journal.find("a", ref="r1") is None
    await journal.close()


async def test_a_full_disk(journal: SqliteJournal) -> None:
    """An intent that finds no room is refused and forgotten; an acceptance is written once there is room."""
    connection = journal._database._connection
    assert connection is not None
    accepted = a_record(journal, "taken", S.PROCESSING, request={"prompt": "x" * 9000})
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    for record in (a_record(journal, "intent", S.SUBMITTING, request={"prompt": "x" * 9000}), accepted):
        with pytest.raises(JournalError, match="make room"):
            await journal.append(record)
    connection.execute("PRAGMA max_page_count = 100000")
    await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert [await journal.find("a", ref=ref) is None for ref in ("intent", "taken", "next")] == [True, False, False]


def leave_no_room(journal: SqliteJournal, pages: int = 0) -> sqlite3.Connection:
    """Let the file have so many pages more."""
    connection = journal._database._connection
    assert connection is not None
    there = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {there + pages}")
    return connection


BIG = {"prompt": "x" * 9000}


async def test_an_intent_that_fits_is_written_though_the_backlog_does_not(journal: SqliteJournal) -> None:
    """On a full disk an acceptance waits for room; small rows go on meanwhile, and it is written once there is room."""
    connection = leave_no_room(journal)
    taken = a_record(journal, "taken", S.PROCESSING, request=BIG, job_id="77")
    with pytest.raises(JournalError, match="make room"):
        await journal.append(taken)
    for number in range(3):
        small = a_record(journal, f"small {number}", S.SUBMITTING)
        assert await journal.append(small)
        assert await journal.find("a", ref=small.ref) == small
        assert await journal.find("a", ref="taken") is None
    connection.execute("PRAGMA max_page_count = 100000")
    assert await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert await journal.find("a", ref="taken") == taken


async def test_a_row_that_does_not_fit_fails_alone(journal: SqliteJournal) -> None:
    """Of what shares a transaction, and of what waits for room, each is written that fits."""
    leave_no_room(journal)
    big = [a_record(journal, f"big {number}", S.PROCESSING, request=BIG) for number in range(2)]
    small = [a_record(journal, f"small {number}", S.PROCESSING) for number in range(2)]
    noted = a_record(journal, "noted", S.PROCESSING)
    journal.note(big[0]._replace(ref="big note"))
    journal.note(noted)
    written = await asyncio.gather(*map(journal.append, [big[0], *small, big[1]]), return_exceptions=True)
    assert [isinstance(each, JournalError) for each in written] == [True, False, False, True]
    assert {record.ref for record in await journal.unfinished("a")} == {"small 0", "small 1", "noted"}


async def test_a_backlog_that_fits_in_parts_is_written_in_parts(journal: SqliteJournal) -> None:
    """One row that is too big keeps no other from the disk."""
    connection = leave_no_room(journal)
    connection.execute("PRAGMA query_only = 1")
    for name, request in (("big", BIG), ("small", {})):
        with pytest.raises(JournalError):
            await journal.append(a_record(journal, name, S.PROCESSING, request=request))
    connection.execute("PRAGMA query_only = 0")
    assert await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert {record.ref for record in await journal.unfinished("a")} == {"small", "next"}


async def test_a_quota_that_is_used_up_is_a_full_disk(journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite calls it an I/O error, of the whole transaction: small rows go on."""
    write, error = Database._written, sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE

    def with_quota(database: Database, connection: sqlite3.Connection, each: Write) -> bool | JournalError:
        if each.record.request:
            raise error
        return write(database, connection, each)

    monkeypatch.setattr(Database, "_written", with_quota)
    rows = [a_record(journal, "big", S.SUBMITTING, request=BIG), a_record(journal, "small", S.SUBMITTING)]
    big, small = await asyncio.gather(*map(journal.append, rows), return_exceptions=True)
    assert isinstance(big, JournalError)
    assert "I/O" in str(big)
    assert small is True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits no file's size")
def test_a_log_that_cannot_grow_is_used_again(tmp_path: Path) -> None:
    """The disk became full while the log was far larger than the file: rows find room in the log's own pages."""
    script = """
import asyncio, resource, sys
from pathlib import Path
from modelslab_async import JobRecord
from modelslab_async.journal.sqlite import SqliteJournal

async def main(path):
    journal = SqliteJournal(path)
    await journal.open()
    for number in range(50):
        record = JobRecord("a", f"early {number}", journal.owner, 1.0, request={"prompt": "x" * 2000})
        assert await journal.append(record)
    limit = path.with_name(path.name + "-wal").stat().st_size
    assert limit > 5 * path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    for number in range(50):
        assert await journal.append(JobRecord("a", f"late {number}", journal.owner, 1.0))
    await journal.close()

asyncio.run(main(Path(sys.argv[1])))
"""
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "jobs.db")], cwd=root, check=True)
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as file:
        assert file.execute("SELECT count(*) FROM jobs").fetchone() == (100,)


async def test_a_backlog_puts_no_older_state_over_a_newer_one(journal: SqliteJournal) -> None:
    """What a later write of the job overtook is not written; and what it was to take over is taken over by that."""
    assert await journal.append(a_record(journal, state=S.PROCESSING, owner="dead"))
    connection = leave_no_room(journal)
    with pytest.raises(JournalError):
        await journal.append(a_record(journal, state=S.PROCESSING, request=BIG), take_over="dead")
    with pytest.raises(JournalError):
        await journal.append(a_record(journal, state=S.READY, request=BIG))
    journal.note(a_record(journal, state=S.READY, links=("https://files.invalid/a.mp4",)))
    connection.execute("PRAGMA max_page_count = 100000")
    for _ in range(2):
        assert await journal.append(a_record(journal, "next", S.SUBMITTING))
        found = await journal.find("a", ref="r1")
        assert found is not None
        assert (found.state, found.owner, len(found.links)) == (S.READY, journal.owner, 1)


async def test_a_backlog_that_no_file_can_hold_fails_no_other(journal: SqliteJournal) -> None:
    """It is given up once that is known."""
    connection = leave_no_room(journal)
    connection.execute("PRAGMA query_only = 1")
    with pytest.raises(JournalError):
        await journal.append(a_record(journal, "odd", S.PROCESSING, created_at=float("nan")))
    connection.execute("PRAGMA query_only = 0")
    assert await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert await journal.find("a", ref="odd") is None
    assert journal._unwritten == {}


async def test_a_new_file_is_marked(tmp_path: Path, journal: SqliteJournal) -> None:
    """Whose it is, and of which version, is told by the file itself."""
    assert journal.is_alive(journal.owner)
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        assert other.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert other.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    other.close()


def test_presence_ends_with_its_holder(tmp_path: Path) -> None:
    """A client is alive for others while it holds its lock, and what a dead one left is cleared away."""
    one, other = LivenessLock(tmp_path / "jobs.db"), LivenessLock(tmp_path / "jobs.db")
    one.enter()
    assert other.is_alive(one.owner)
    one.leave()
    assert not other.is_alive(one.owner)
    (tmp_path / f"jobs.db-{'0' * 16}.alive").touch()
    assert not other.is_alive("0" * 16)
    assert not list(tmp_path.glob("*.alive"))
    assert json.dumps(other.owner) != json.dumps(one.owner)


async def test_a_journal_is_open_once_and_may_be_opened_again(tmp_path: Path, journal: SqliteJournal) -> None:
    """Its owner lives until it is closed, and is another one when it is opened again."""
    before, other = journal.owner, LivenessLock(journal.path)
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
    assert {r.ref: r.owner == before for r in await journal.unfinished("a")} == {"before": True, "after": False}


async def test_a_journal_that_could_not_be_opened_may_be_opened_later(tmp_path: Path) -> None:
    """Nothing of the attempt is left."""
    path = tmp_path / "later" / "jobs.db"
    journal = SqliteJournal(path)
    with pytest.raises(JournalError, match="folder"):
        await journal.open()
    path.parent.mkdir()
    await journal.open()
    assert await journal.append(a_record(journal))
    await journal.close()
    assert not list(tmp_path.rglob("*.alive"))


async def test_many_may_make_the_file_at_once(tmp_path: Path) -> None:
    """Twenty clients open a new journal in the same moment: all of them can, and it is made once."""
    for turn in range(5):
        journals = [SqliteJournal(tmp_path / f"jobs-{turn}.db") for _ in range(20)]
        await asyncio.gather(*(journal.open() for journal in journals))
        assert all(await asyncio.gather(*(j.append(a_record(j, j.owner)) for j in journals)))
        assert len(await journals[0].unfinished("a")) == 20
        await asyncio.gather(*(journal.close() for journal in journals))


async def test_a_row_that_cannot_be_written_fails_alone(journal: SqliteJournal) -> None:
    """What no database can hold is told to who asked for it; the others of the same transaction are there."""
    odd = [a_record(journal, "\ud800"), a_record(journal, "odd", request={"extra": object()})]
    good = [a_record(journal, str(number), S.SUBMITTING) for number in range(3)]
    results = await asyncio.gather(*map(journal.append, [odd[0], *good, odd[1]]), return_exceptions=True)
    assert [isinstance(result, JournalError) for result in results] == [True, False, False, False, True]
    assert {record.ref for record in await journal.unfinished("a")} == {"0", "1", "2"}


async def test_what_found_no_room_is_written_at_the_end(tmp_path: Path) -> None:
    """An acceptance that could not be written is, when the journal is closed and there is room again."""
    journal = SqliteJournal(tmp_path / "jobs.db")
    await journal.open()
    connection = journal._database._connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match="make room"):
        await journal.append(a_record(journal, "taken", S.PROCESSING, request={"prompt": "x" * 9000}))
    connection.execute("PRAGMA max_page_count = 100000")
    await journal.close()
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        assert other.execute("SELECT ref, state FROM jobs").fetchall() == [("taken", "processing")]
    other.close()


async def test_a_cancelled_writer_loses_nothing(tmp_path: Path) -> None:
    """Who cancels every task at a signal also meets the journal's: what it was about to write is written by `close`."""
    journal = SqliteJournal(tmp_path / "jobs.db")
    await journal.open()
    busy, goes_on = threading.Event(), threading.Event()

    def work() -> None:
        busy.set()
        goes_on.wait()

    assert journal._thread is not None
    journal._thread.submit(work)
    busy.wait()
    journal.append(a_record(journal, "taken", S.PROCESSING))
    for _ in range(50):
        await asyncio.sleep(0)  # until it waits for the thread
    assert journal._thread._work_queue.qsize() == 1
    assert journal._writer is not None
    journal._writer.cancel()
    goes_on.set()
    await journal.close()
    with sqlite3.connect(tmp_path / "jobs.db") as other:
        assert other.execute("SELECT ref, state FROM jobs").fetchall() == [("taken", "processing")]
    other.close()


async def test_any_error_of_the_journals_thread_is_told(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for a write, whatever ended it."""

    def without_memory(_: Database, batch: Sequence[Write]) -> list[bool | JournalError]:
        raise MemoryError(len(batch))

    with monkeypatch.context() as patch, pytest.raises(JournalError, match="see the cause"):
        patch.setattr(Database, "write", without_memory)
        await journal.append(a_record(journal))
    assert await journal.append(a_record(journal))


async def test_a_word_without_an_id_takes_none_away(journal: SqliteJournal) -> None:
    """A delivery that comes twice, the second time without the service's id, still names it; a newer one counts."""
    record = a_record(journal)
    for told, left in ((("j-1", None), "j-1"), ((None, "j-1"), "j-1"), (("j-1", "j-2"), "j-2")):
        for job_id in told:
            await journal.deliver(record, job_id)
        assert await journal.delivered("a") == [(record.ref, left)]


async def test_the_newest_come_first(journal: SqliteJournal) -> None:
    """`recent` gives the last jobs, and no more than asked for."""
    for number, created_at in enumerate((3.0, 1.0, 2.0)):
        await journal.append(a_record(journal, f"r{number}", created_at=created_at))
    assert [record.ref for record in await journal.recent("a", 2)] == ["r0", "r2"]


async def test_each_transaction_is_on_disk_before_it_counts(journal: SqliteJournal) -> None:
    """SQLite flushes at each commit (FULL is 2): a machine that loses its power has the rows of all that was sent."""
    assert journal._database._connection is not None
    assert journal._database._connection.execute("PRAGMA synchronous").fetchone() == (2,)


@pytest.mark.parametrize(
    ("state", "submitted_at", "accepted_at"),
    [(S.PROCESSING, 900.0, 1000.0), (S.SUBMITTING, 1000.0, None), (S.UNCERTAIN, 1000.0, None)],
)
def test_a_job_of_which_nothing_is_heard_fills_its_place_for_two_minutes(
    state: JobState, submitted_at: float, accepted_at: float | None
) -> None:
    """Whoever died held it: another client does not wait for ever."""
    record = FULL._replace(state=state, submitted_at=submitted_at, accepted_at=accepted_at)
    assert [record.holds_slot(at) for at in (1000.0, 1119.0, 1121.0)] == [True, True, False]
    assert not record.holds_slot(-86_400.0)  # the clock was a day ahead, and is right again


@pytest.mark.parametrize(
    ("state", "event", "charged"),
    [
        (S.WAITING, lifecycle.Rejected(JobDetachedError("why")), False),
        (S.PROCESSING, lifecycle.Abandoned(AuthenticationError("why")), True),
        (S.PROCESSING, lifecycle.Failed(JobFailedError("why")), None),
        (S.SUBMITTING, lifecycle.ReplyLost(ReplyLostError("why")), None),
    ],
)
def test_a_row_tells_of_money_once(state: JobState, event: lifecycle.Event, charged: bool | None) -> None:
    """An error has words of its own on that, which need not be true of this job: they are left out."""
    record = after(FULL._replace(state=state, charged=state is S.PROCESSING, error=None), event, 5.0)
    assert (record.error, record.charged) == ("why", charged)


def test_an_error_without_words_is_written_down_too() -> None:
    """As a journal of somebody's own may raise it: the job gets its end all the same."""
    record = after(FULL._replace(state=S.SUBMITTING), lifecycle.Rejected(JournalError()), 5.0)
    assert (record.state, record.charged, record.error) == (S.REFUSED, False, "")
