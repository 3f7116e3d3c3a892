"""Damage to a journal's files is noticed: bits that flipped, and a write-ahead log that is gone."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from helpers.journals import FULL, S, a_record, opened

from modelslab_async import JournalError
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal, SqliteStore

COLUMNS = (
    "ref",
    "owner",
    "created_at",
    "state",
    "job_id",
    "price",
    "charged",
    "submitted_at",
    "accepted_at",
    "details",
)
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal, SqliteStore
from modelslab_async.protocol.record import JobRecord
async def main():
    journal = SqliteJournal(Path(sys.argv[1]))
    await journal.open()
    for number in range(3):
        await journal.append(JobRecord("a", f"r{number}", journal.owner, 1.0))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.mark.parametrize("column", COLUMNS)
async def test_a_flipped_bit_is_an_error(tmp_path: Path, column: str) -> None:
    """A row that was changed in the file is not read as another row. The error names the file and what to do."""
    path = tmp_path / "jobs.db"
    async with opened(SqliteJournal(path)) as journal:
        await journal.append(FULL)
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        [(value, kind)] = file.execute(f"SELECT {column}, typeof({column}) FROM jobs").fetchall()  # noqa: S608
        flipped = value[:-2] + chr(ord(value[-2]) ^ 1) + value[-1] if kind == "text" and len(value) > 1 else value
        changed = f"{value}x" if flipped == value and kind == "text" else flipped if kind == "text" else 0
        file.execute("DROP TRIGGER count_changed")
        file.execute(f"UPDATE jobs SET {column} = ?", [changed])  # noqa: S608
    async with opened(SqliteJournal(path)) as journal:
        with pytest.raises(JournalError, match=rf"{path}.*is damaged.*hint"):
            await journal.recent("a", 5)


async def test_a_row_of_an_earlier_version_has_no_checksum(tmp_path: Path) -> None:
    """It is read as it is. The next write adds the checksum."""
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        await journal.append(a_record(journal, state=S.PROCESSING))
        connection = journal.store.connection
        connection.execute("UPDATE jobs SET checksum = NULL, job_id = '77'")
        assert (await journal.recent("a", 1))[0].job_id == "77"
        await journal.append(a_record(journal, state=S.READY, job_id="77"))
        assert connection.execute("SELECT checksum IS NULL FROM jobs").fetchall() == [(0,)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("lost", ["log", "log and shared memory", "nothing"])
async def test_a_lost_write_ahead_log_is_noticed(tmp_path: Path, lost: str) -> None:
    """A process is killed, and its log is removed: the rows in it are missing, so the file is not used as it is.

    Once the log is back, nothing is missing. If it is lost for good, the user says so by removing the lock's file.
    """
    path, log = tmp_path / "jobs.db", tmp_path / "jobs.db-wal"
    done = subprocess.run([sys.executable, "-c", KILLED, path], env={**os.environ}, check=False)  # noqa: ASYNC221
    assert done.returncode == -signal.SIGKILL
    if lost != "nothing":
        content = log.read_bytes()
        log.unlink()
        if lost == "log and shared memory":
            (tmp_path / "jobs.db-shm").unlink()
        with pytest.raises(JournalError, match=r"3 transactions .* missing.*jobs.db-wal.*hint"):
            await SqliteJournal(path).open()
        log.write_bytes(content)
    if lost == "log":
        log.unlink()
        for mark in tmp_path.glob("*.alive"):
            mark.unlink()
    async with opened(SqliteJournal(path)) as journal:
        assert len(await journal.recent("a", 5)) == (0 if lost == "log" else 3)
        await journal.orphaned("a")
    async with opened(SqliteJournal(path)):
        pass


async def test_a_client_that_closes_leaves_no_count(tmp_path: Path) -> None:
    """Its transactions need not be counted any more, because its log is in the file."""
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        await journal.append(a_record(journal))
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as file:
        assert file.execute("SELECT count(*) FROM clients").fetchone() == (0,)
    assert not list(tmp_path.glob("*.alive"))


async def test_a_client_that_is_killed_while_it_closes_leaves_no_count(tmp_path: Path) -> None:
    """Its file stays. The next client finds no lack of transactions, because all were written."""

    class KilledAtTheEnd(LivenessLock):
        def release(self) -> None:
            assert self._file is not None
            self._file.close()  # as the system does; nobody removes the file

    path = tmp_path / "jobs.db"
    store = SqliteStore(path, KilledAtTheEnd(path))
    store.open()
    with store.transaction():
        pass
    store.close()
    assert list(tmp_path.glob("*.alive"))
    async with opened(SqliteJournal(path)) as journal:
        assert await journal.recent("a", 5) == []
