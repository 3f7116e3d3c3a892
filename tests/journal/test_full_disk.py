"""A journal on a full disk: what fits is written, and what does not fit waits for room."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.journals import S, a_record, opened

from modelslab_async import JournalError
from modelslab_async.journal import sqlite_rows
from modelslab_async.journal.base import Row
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.protocol.record import JobRecord

BIG = {"prompt": "x" * 9000}
"""A request that needs more than a page of the file."""


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        yield journal


def leave_no_room(journal: SqliteJournal) -> None:
    """Do not let the file grow."""
    connection = journal.store.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")


def make_room(journal: SqliteJournal) -> None:
    journal.store.connection.execute("PRAGMA max_page_count = 100000")


async def test_an_acceptance_is_written_once_there_is_room(journal: SqliteJournal) -> None:
    """An intent that does not fit is refused and forgotten; an acceptance that does not fit is written later."""
    leave_no_room(journal)
    for ref, state in (("intent", S.SUBMITTING), ("taken", S.PROCESSING)):
        with pytest.raises(JournalError, match="make room"):
            await journal.append(a_record(journal, ref, state, request=BIG))
    make_room(journal)
    await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert [await journal.find("a", ref=ref) is None for ref in ("intent", "taken", "next")] == [True, False, False]


async def test_an_intent_that_fits_is_written_while_the_backlog_does_not_fit(journal: SqliteJournal) -> None:
    """Small rows are written while an acceptance waits for room. The acceptance is written once there is room."""
    leave_no_room(journal)
    taken = a_record(journal, "taken", S.PROCESSING, request=BIG, job_id="77")
    with pytest.raises(JournalError, match="make room"):
        await journal.append(taken)
    for number in range(3):
        small = a_record(journal, f"small {number}", S.SUBMITTING)
        assert await journal.append(small)
        assert await journal.find("a", ref=small.ref) == Row(small, is_alive=True)
        assert await journal.find("a", ref="taken") is None
    make_room(journal)
    assert await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert await journal.find("a", ref="taken") == Row(taken, is_alive=True)


async def test_a_row_that_does_not_fit_fails_alone(journal: SqliteJournal) -> None:
    """Of the writes that share a transaction, and of those that wait for room, each one that fits is written."""
    leave_no_room(journal)
    big = [a_record(journal, f"big {number}", S.PROCESSING, request=BIG) for number in range(2)]
    small = [a_record(journal, f"small {number}", S.PROCESSING) for number in range(2)]
    noted = a_record(journal, "noted", S.PROCESSING)
    journal.note(big[0]._replace(ref="big note"))
    journal.note(noted)
    written = await asyncio.gather(*map(journal.append, [big[0], *small, big[1]]), return_exceptions=True)
    assert [isinstance(each, JournalError) for each in written] == [True, False, False, True]
    assert {row.record.ref for row in await journal.unfinished("a")} == {"small 0", "small 1", "noted"}


async def test_a_backlog_that_fits_in_parts_is_written_in_parts(journal: SqliteJournal) -> None:
    """One row that is too big keeps no other row from the disk."""
    leave_no_room(journal)
    journal.store.connection.execute("PRAGMA query_only = 1")
    for name, request in (("big", BIG), ("small", {})):
        with pytest.raises(JournalError):
            await journal.append(a_record(journal, name, S.PROCESSING, request=request))
    journal.store.connection.execute("PRAGMA query_only = 0")
    assert await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert {row.record.ref for row in await journal.unfinished("a")} == {"small", "next"}


async def test_an_exhausted_quota_counts_as_a_full_disk(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite reports it as an I/O error of the whole transaction: small rows are written all the same."""
    write, error = sqlite_rows.write, sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE

    def write_within_quota(connection: sqlite3.Connection, record: JobRecord, take_over: str | None) -> bool:
        if record.request:
            raise error
        return write(connection, record, take_over)

    monkeypatch.setattr(sqlite_rows, "write", write_within_quota)
    rows = [a_record(journal, "big", S.SUBMITTING, request=BIG), a_record(journal, "small", S.SUBMITTING)]
    big, small = await asyncio.gather(*map(journal.append, rows), return_exceptions=True)
    assert isinstance(big, JournalError)
    assert "I/O" in str(big)
    assert small is True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not limit the size of files")
def test_a_log_that_cannot_grow_is_used_again(tmp_path: Path) -> None:
    """If the disk fills up while the log is far larger than the file, new rows use the log's own pages."""
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
    """A failed write is dropped once a later write of the job replaces it, which then takes the row over instead."""
    assert await journal.append(a_record(journal, state=S.PROCESSING, owner="dead"))
    leave_no_room(journal)
    with pytest.raises(JournalError):
        await journal.append(a_record(journal, state=S.PROCESSING, request=BIG), take_over="dead")
    with pytest.raises(JournalError):
        await journal.append(a_record(journal, state=S.READY, request=BIG))
    journal.note(a_record(journal, state=S.READY, links=("https://files.invalid/a.mp4",)))
    make_room(journal)
    for _ in range(2):
        assert await journal.append(a_record(journal, "next", S.SUBMITTING))
        found = await journal.find("a", ref="r1")
        assert found is not None
        assert (found.record.state, found.record.owner, len(found.record.links)) == (S.READY, journal.owner, 1)


async def test_a_write_that_no_file_can_hold_keeps_no_other_back(journal: SqliteJournal) -> None:
    """It fails, and later writes succeed."""
    leave_no_room(journal)
    journal.store.connection.execute("PRAGMA query_only = 1")
    with pytest.raises(JournalError):
        await journal.append(a_record(journal, "odd", S.PROCESSING, created_at=float("nan")))
    journal.store.connection.execute("PRAGMA query_only = 0")
    assert await journal.append(a_record(journal, "next", S.SUBMITTING))
    assert await journal.find("a", ref="odd") is None


async def test_a_write_that_did_not_fit_is_written_by_close(tmp_path: Path) -> None:
    """`close` writes an acceptance that did not fit before, if there is room again."""
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        leave_no_room(journal)
        with pytest.raises(JournalError, match="make room"):
            await journal.append(a_record(journal, "taken", S.PROCESSING, request=BIG))
        make_room(journal)
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
        assert other.execute("SELECT ref, state FROM jobs").fetchall() == [("taken", "processing")]
