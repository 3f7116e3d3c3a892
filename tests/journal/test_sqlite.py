"""The journal's SQLite file: how it is made and opened, what is durable, and how it says that it cannot be used."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from helpers.journals import FULL, S, a_record, opened

from modelslab_async import JournalError
from modelslab_async.journal.sqlite import APPLICATION_ID, SqliteJournal
from modelslab_async.journal.sqlite_rows import MIGRATIONS, REFS_WITH_ID, statements


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        yield journal


async def test_an_awaited_write_survives_the_process(tmp_path: Path, journal: SqliteJournal) -> None:
    """Another connection reads a row as soon as `append` returned."""
    await journal.append(FULL)
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
        assert other.execute("SELECT ref, state FROM jobs").fetchall() == [("r1", "ready")]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_each_transaction_is_flushed_to_the_disk(journal: SqliteJournal) -> None:
    """SQLite flushes at each commit (FULL is 2), so a machine that loses its power still has all rows."""
    assert journal.store.connection.execute("PRAGMA synchronous").fetchone() == (2,)


async def test_many_writes_take_few_pages(journal: SqliteJournal, tmp_path: Path) -> None:
    """A thousand writes at once share transactions, so the write-ahead log has fewer pages than rows."""
    await asyncio.gather(*(journal.append(a_record(journal, str(number))) for number in range(1000)))
    assert len(await journal.unfinished("a")) == 1000
    pages = (tmp_path / "jobs.db-wal").stat().st_size / 4096
    assert pages < 1000


async def test_rows_that_shared_an_id_before_can_still_be_written(journal: SqliteJournal) -> None:
    """A file of an earlier version may hold two rows with the same id: each can be written by its owner."""
    for number in range(2):
        assert await journal.append(a_record(journal, f"r{number}", S.PROCESSING))
    journal.store.connection.execute("UPDATE jobs SET job_id = '77'")
    for number in range(2):
        assert await journal.append(a_record(journal, f"r{number}", S.READY, job_id="77"))


async def test_the_search_for_an_id_uses_the_index(journal: SqliteJournal) -> None:
    """A write costs the same in a file with a million rows."""
    plan = journal.store.connection.execute(f"EXPLAIN QUERY PLAN {REFS_WITH_ID}", ("a", "77")).fetchall()
    assert [step for *_, step in plan] == ["SEARCH jobs USING COVERING INDEX jobs_by_id (account=? AND job_id=?)"]


async def test_a_row_that_cannot_be_written_fails_alone(journal: SqliteJournal) -> None:
    """The caller of a write that no database can hold gets the error; the rest of the transaction is written."""
    odd = [a_record(journal, "\ud800"), a_record(journal, "odd", request={"extra": object()})]
    good = [a_record(journal, str(number), S.SUBMITTING) for number in range(3)]
    results = await asyncio.gather(*map(journal.append, [odd[0], *good, odd[1]]), return_exceptions=True)
    assert [isinstance(result, JournalError) for result in results] == [True, False, False, False, True]
    assert {row.record.ref for row in await journal.unfinished("a")} == {"0", "1", "2"}


@pytest.mark.usefixtures("journal")
async def test_a_new_file_is_marked(tmp_path: Path) -> None:
    """The file itself says which program it belongs to, and the version of its schema."""
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
        assert other.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert other.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_a_file_of_an_earlier_version_is_migrated(tmp_path: Path, version: int) -> None:
    """Opening it brings the schema up to date, and keeps its rows."""
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as old:
        for script in MIGRATIONS[:version]:
            for statement in statements(script):
                old.execute(statement)
        old.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        old.execute(f"PRAGMA user_version = {version}")
        old.execute(
            "INSERT INTO jobs (account, ref, owner, created_at, state, price, details)"
            " VALUES ('a', 'old', 'o', 1.0, 'processing', '0.2', '{}')"
        )
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        assert [row.record.ref for row in await journal.unfinished("a")] == ["old"]
        await journal.deliver(a_record(journal), None)
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)


async def test_many_clients_may_create_the_file_at_once(tmp_path: Path) -> None:
    """Twenty clients open a new journal in the same moment: all of them can, and the file is created once."""
    for turn in range(5):
        journals = [SqliteJournal(tmp_path / f"jobs-{turn}.db") for _ in range(20)]
        await asyncio.gather(*(journal.open() for journal in journals))
        assert all(await asyncio.gather(*(j.append(a_record(j, j.owner)) for j in journals)))
        assert len(await journals[0].unfinished("a")) == 20
        await asyncio.gather(*(journal.close() for journal in journals))


async def test_a_journal_that_could_not_be_opened_may_be_opened_later(tmp_path: Path) -> None:
    """A failed attempt leaves nothing behind."""
    path = tmp_path / "later" / "jobs.db"
    journal = SqliteJournal(path)
    with pytest.raises(JournalError, match="folder"):
        await journal.open()
    path.parent.mkdir()
    await journal.open()
    assert await journal.append(a_record(journal))
    await journal.close()
    assert not list(tmp_path.rglob("*.alive"))


async def error_of_open(path: Path) -> str:
    """Return the message of the error that opening the file raises. It names the file."""
    journal = SqliteJournal(path)
    try:
        with pytest.raises(JournalError) as caught:
            await journal.open()
    finally:
        await journal.close()
    assert caught.value.charged is False
    assert str(path) in str(caught.value)
    assert "(hint: " in str(caught.value)
    return str(caught.value)


async def test_a_file_of_a_newer_version_is_refused(tmp_path: Path, journal: SqliteJournal) -> None:
    """The file is left alone, and the error says what to do."""
    journal.store.connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    assert "a newer modelslab_async" in await error_of_open(tmp_path / "jobs.db")


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """It is not written to."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE mine (x)")
    other.close()
    before = path.read_bytes()
    assert "another program" in await error_of_open(path)
    assert path.read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """A picture is not overwritten."""
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000))
    assert "not a database" in await error_of_open(path)
    assert path.stat().st_size == 5008


async def test_a_damaged_file_is_reported_as_damaged(tmp_path: Path) -> None:
    """Pages of rubbish raise JournalError at the latest when they are read."""
    path = tmp_path / "jobs.db"
    async with opened(SqliteJournal(path)) as journal:
        await asyncio.gather(*(journal.append(a_record(journal, str(number))) for number in range(500)))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xa5" * (len(data) - 4096)
    path.write_bytes(data)
    damaged = SqliteJournal(path)
    with pytest.raises(JournalError, match="malformed"):
        await _use(damaged)
    await damaged.close()


async def _use(journal: SqliteJournal) -> None:
    await journal.open()
    await journal.append(a_record(journal, state=S.SUBMITTING))
    await journal.unfinished("a")


@pytest.mark.parametrize("path", ["/proc/jobs.db", "/nowhere/at/all/jobs.db"])
async def test_a_folder_that_cannot_be_written_is_named(path: str) -> None:
    """The error says so for a read-only folder, and for a missing one."""
    assert "folder" in await error_of_open(Path(path))


async def test_a_file_that_another_program_has_locked_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An intent that cannot be written raises JournalError, and is not written later."""
    monkeypatch.setattr("modelslab_async.journal.sqlite.BUSY_SECONDS", 0.05)
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(JournalError, match="locked"):
                await journal.append(a_record(journal, state=S.SUBMITTING))
            other.execute("ROLLBACK")
        assert await journal.find("a", ref="r1") is None


async def test_an_unforeseen_error_is_reported_with_its_cause(
    journal: SqliteJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a write raises, the caller gets JournalError, and its cause says the rest."""
    error = MemoryError()
    with monkeypatch.context() as patch, pytest.raises(JournalError, match="see the cause") as caught:
        patch.setattr("modelslab_async.journal.sqlite_rows.write", _raises(error))
        await journal.append(a_record(journal))
    assert caught.value.__cause__ is error
    assert await journal.append(a_record(journal))


def _raises(error: Exception) -> object:
    def write(*_: object) -> bool:
        raise error

    return write
