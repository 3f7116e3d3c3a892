"""The journal in a SQLite file, which several processes may share.

The file is in write-ahead mode, and each transaction is flushed to the disk (synchronous FULL).
"""

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import assert_never

from modelslab_async.errors import BudgetExceededError, JournalError
from modelslab_async.journal import sqlite_rows as rows
from modelslab_async.journal.base import Duration, Row
from modelslab_async.journal.group_commit import GroupCommitJournal
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.store import Change, ClaimSlot, Outcome, PutBack, UnwritableError, Write
from modelslab_async.protocol.claims import Account, Ask, Claimed, Follow
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import plural
from modelslab_async.protocol.record import Charges, JobRecord, belongs_to

APPLICATION_ID = 0x4D4C6A31
"""SQLite's mark of the program that a file belongs to: "MLj1"."""
BUSY_SECONDS = 5.0
"""How long another process may lock the file before that is an error."""
_RETRY_SECONDS = 0.02
_INCREMENTAL = 2
"""SQLite's number of that way to vacuum."""
_FREED_PAGES = 1000
"""Pages that are given back in one transaction."""
_DISK_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
"""SQLite's codes for a full disk, and for a quota that is used up."""
_HINTS = {
    "locked": "another program has locked it: close that program, or use another file",
    "full": "make room on the disk",
    "readonly": "make it writable, or choose another path",
    "unable to open": "check that the folder exists and is writable",
    "not a database": "the file is not a journal: choose another path",
    "is damaged": "restore a copy of the file",
    "malformed": "the file is damaged: restore a copy, or move it away and start a new one",
    "I/O": "check the disk",
}
"""What to do, by a part of SQLite's message."""
_inherited: list[sqlite3.Connection] = []
"""Connections of the parent process, in a forked child."""


class SqliteJournal(GroupCommitJournal):
    """A `Journal` in one SQLite file, which is created if it does not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = SqliteStore(path, LivenessLock(path))
        super().__init__(self.store)


class SqliteStore:
    """A `Store` in a SQLite file."""

    def __init__(self, path: Path, liveness: LivenessLock) -> None:
        self.path, self.liveness = path, liveness
        self.clock: Callable[[], float] = time.time
        """Gives unix seconds."""
        self._connection: sqlite3.Connection | None = None

    @property
    def name(self) -> str:
        """As in `Store`."""
        return f"journal {self.path}"

    @property
    def owner(self) -> str:
        """As in `Store`."""
        return self.liveness.owner

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the open connection. Raise JournalError if the store is closed."""
        if self._connection is None:
            raise JournalError(f"{self.name}: it is not open (hint: open it first)")
        return self._connection

    def open(self) -> None:
        """As in `Store`. Create or migrate the file if need be.

        In a forked child the parent's connections are closed first. While SQLite knows one of them, it takes no locks
        for another connection to the same file, and rows are lost: see "fork" in
        https://www.sqlite.org/howtocorrupt.html.

        SQLite says "locked" at once, whatever its timeout is, if another process is opening the file too, or recovers
        it after a crash. That passes, so opening is tried again for `BUSY_SECONDS`.
        """
        while _inherited:
            _inherited.pop().close()
        give_up_at = time.monotonic() + BUSY_SECONDS
        while True:
            connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException as error:
                connection.close()
                self._connection = None
                is_locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
                if not is_locked or time.monotonic() >= give_up_at:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                break
        try:
            self._require_all_transactions()
            self.liveness.acquire()
        except BaseException:
            self.close()
            raise

    def _require_all_transactions(self) -> None:
        """Raise JournalError if a client that was killed wrote transactions that the file does not have.

        They were in the write-ahead log, which is a separate file. SQLite does not notice if that file is removed.
        """
        for owner, counted in self.liveness.counts_of_dead():
            known = rows.transactions_of(self.connection, owner)
            if counted > known:
                log, mark = f"{self.path}-wal", self.liveness.path_of(owner)
                lost = plural(counted - known, "transaction")
                what = f"{lost} of a process that was killed are missing, because {log} was removed"
                hint = f"put that file back; if it is lost, delete {mark}, and search with recover(search=True)"
                raise JournalError(f"{self.name}: {what} (hint: {hint})")

    def close(self) -> None:
        """As in `Store`. The count goes first: without its row, the count of a dead client would look like damage."""
        try:
            if self._connection:
                self.liveness.write_count(0)
                with suppress(sqlite3.Error), self._connection as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    rows.remove_asks(connection, self.owner)
                    rows.remove_client(connection, self.owner)
                self._connection.close()
                self._connection = None
        finally:
            self.liveness.release()

    def reset_after_fork(self) -> None:
        """As in `Store`. The connection is kept unused, because closing it could harm the parent's transaction."""
        if self._connection:
            _inherited.append(self._connection)
            self._connection = None

    def write(self, batch: Sequence[Change], durations: Sequence[Duration] = ()) -> list[Outcome]:
        """As in `Store`, in one transaction.

        If the disk has no room for it, each write gets a separate transaction, because a small one may fit. The
        write-ahead log is copied into the file first, so that its pages can be used again.
        """
        try:
            return self._write_together(batch, durations)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DISK_FULL:
                raise
        with suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint")
        return [self._write_alone(change) for change in batch]

    def version(self) -> int:
        """As in `Store`. See https://www.sqlite.org/pragma.html#pragma_data_version."""
        return int(self.connection.execute("PRAGMA data_version").fetchone()[0])

    def unfinished(self, account: str, ready: bool) -> list[Row]:
        """As in `Store`."""
        return self._seen(rows.unfinished(self.connection, account, ready))

    def _seen(self, found: Sequence[JobRecord]) -> list[Row]:
        """Return the records, and whether their owners are alive."""
        alive = {owner: self.liveness.is_alive(owner) for owner in {record.owner for record in found}}
        return [Row(record, alive[record.owner]) for record in found]

    def orphaned(self, account: str) -> list[JobRecord]:
        """As in `Store`."""
        dead = [owner for owner in rows.owners(self.connection, account) if not self.liveness.is_alive(owner)]
        return rows.unfinished_of(self.connection, account, dead)

    def find(self, account: str, ref: str | None, job_id: str | None) -> Row | None:
        """As in `Store`."""
        record = rows.find(self.connection, account, ref, job_id)
        return Row(record, self.liveness.is_alive(record.owner)) if record else None

    def find_all(self, account: str, refs: Sequence[str]) -> list[Row]:
        """As in `Store`."""
        return self._seen(rows.find_all(self.connection, account, refs))

    def recent(self, account: str, limit: int) -> list[JobRecord]:
        """As in `Store`."""
        return rows.recent(self.connection, account, limit)

    def deliver(self, owner: str, account: str, ref: str, job_id: str | None) -> None:
        """As in `Store`."""
        rows.deliver(self.connection, owner, account, ref, job_id)

    def delivered(self, account: str) -> list[tuple[str, str | None]]:
        """As in `Store`."""
        owners = rows.owners_of_deliveries(self.connection, account)
        gone = [each for each in owners if each == self.owner or not self.liveness.is_alive(each)]
        return rows.take_deliveries(self.connection, account, gone)

    def charges(self, account: str, since: float, apart_from: Collection[str]) -> Charges:
        """As in `Store`."""
        return Charges(os.path.realpath(self.path), *rows.charges(self.connection, account, since, apart_from))

    def prunable(self, account: str, before: float, since: float, limit: int) -> list[JobRecord]:
        """As in `Store`."""
        return rows.prunable(self.connection, account, before, since, limit)

    def delete(self, records: Sequence[JobRecord], before: float) -> int:
        """As in `Store`."""
        with self.transaction() as connection:
            return rows.delete(connection, records, before)

    def shrink(self) -> None:
        """As in `Store`.

        A file of an earlier version is written anew, if this is the only client. Any other file gives its free pages
        back, some at a time.
        """
        connection = self.connection
        if connection.execute("PRAGMA auto_vacuum").fetchone()[0] == _INCREMENTAL:
            while connection.execute("PRAGMA freelist_count").fetchone()[0]:
                connection.execute(f"PRAGMA incremental_vacuum({_FREED_PAGES})").fetchall()
        elif not self.liveness.others_alive():
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def durations(self, service: str, operation: str) -> list[Duration]:
        """As in `Store`."""
        return rows.durations(self.connection, service, operation)

    def explain(self, error: Exception) -> JournalError:
        """As in `Store`."""
        reason = str(error) or repr(error)
        hint = next((hint for part, hint in _HINTS.items() if part in reason), "see the cause")
        return JournalError(f"{self.name}: {reason} (hint: {hint})")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's write lock; commit at the end, or roll back if the block raises."""
        connection, count = self.connection, 0
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            if self.owner:
                count = rows.count_transaction(connection, self.owner)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        if count:
            self.liveness.write_count(count)

    def _write_together(self, batch: Sequence[Change], durations: Sequence[Duration] = ()) -> list[Outcome]:
        with self.transaction() as connection:
            outcomes = [self._make(connection, change) for change in batch]
            if durations:
                _keep_durations(connection, durations)
            return outcomes

    def _write_alone(self, change: Change) -> Outcome:
        try:
            return self._write_together([change])[0]
        except JournalError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the outcome of this change alone
            explained = self.explain(error)
            explained.__cause__ = error
            return explained

    def _make(self, connection: sqlite3.Connection, change: Change) -> Outcome:
        try:
            match change:
                case Write(record=record, take_over=take_over):
                    if change.is_exclusive and rows.owner_of(connection, record) != take_over:
                        return False
                    return rows.write(connection, record, take_over)
                case ClaimSlot(record=record, ask=ask):
                    return self._claim(connection, record, ask)
                case PutBack(record=record):
                    return self._put_back(connection, change)
                case _:
                    assert_never(change)
        except rows.UNWRITABLE as error:
            hint = "remove from the request the values that a file cannot store"
            return UnwritableError(f"{self.name}: this job cannot be written: {error} (hint: {hint})")

    def _claim(self, connection: sqlite3.Connection, record: JobRecord, ask: Ask) -> Outcome:
        waiting = record._replace(state=JobState.WAITING, submitted_at=None, charged=False)
        there = rows.find(connection, record.account, record.ref, None)
        if there is not None and not belongs_to(there, record):
            return Follow(there, self.liveness.is_alive(there.owner))
        if ask.spending:
            try:
                ask.spending.require(rows.count_charges(connection, record.account, ask.spending.since))
            except BudgetExceededError as error:
                return error
        decision = self._account(connection, record.account).decide(self.owner, ask, self.clock())
        if decision.cap:
            rows.write_cap(connection, record.account, decision.cap)
        if decision.ask:
            rows.write_ask(connection, record.account, decision.ask)
        if isinstance(decision.answer, Claimed):
            rows.write(connection, record, None)
        elif there is None or there.state is not JobState.WAITING:
            rows.write(connection, waiting, None)
        return decision.answer

    def _put_back(self, connection: sqlite3.Connection, change: PutBack) -> bool:
        account, now = self._account(connection, change.record.account), self.clock()
        used = change.ask.held + account.used(now)
        cap = account.cap.after_refusal(used, now, wait=change.wait, maximum=change.maximum)
        rows.write_cap(connection, change.record.account, cap)
        return rows.write(connection, change.record, None)

    def _account(self, connection: sqlite3.Connection, account: str) -> Account:
        """Read what is known of an account. Forget what dead clients asked for."""
        asks, holding = rows.read_asks(connection, account), rows.holding(connection, account, self.owner)
        owners = {ask.owner for ask in asks} | {record.owner for record in holding}
        alive = {owner: self.liveness.is_alive(owner) for owner in owners}
        for ask in asks:
            if not alive[ask.owner]:
                rows.remove_asks(connection, ask.owner)
        return Account(
            rows.read_cap(connection, account),
            [ask for ask in asks if alive[ask.owner]],
            [(record, alive[record.owner]) for record in holding],
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = self._schema_version(connection)
        if not version:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before there are tables; later it has no effect
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise JournalError(f"{self.name}: no write-ahead log is possible there (hint: choose a local disk)")
        connection.execute("PRAGMA synchronous = FULL")
        self._connection = connection
        if version < len(rows.MIGRATIONS):
            self._migrate()

    def _schema_version(self, connection: sqlite3.Connection) -> int:
        """Return the file's schema version, 0 for a new file. Raise JournalError if the file is not a usable journal.

        All is read in one transaction, because another process may be creating the file.
        """
        connection.execute("BEGIN")
        queries = "PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master"
        application_id, version, tables = (connection.execute(query).fetchone()[0] for query in queries)
        connection.execute("COMMIT")
        if tables and application_id != APPLICATION_ID:
            raise JournalError(f"{self.name}: this database is another program's (hint: choose another path)")
        if version > len(rows.MIGRATIONS):
            what = f"a newer modelslab_async wrote it: its schema is {version}, this one knows {len(rows.MIGRATIONS)}"
            raise JournalError(f"{self.name}: {what} (hint: update modelslab_async)")
        return int(version)

    def _migrate(self) -> None:
        """Bring the schema up to date. The version is read again, because another process may just have done that."""
        with self.transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            for script in rows.MIGRATIONS[version:]:
                for statement in rows.statements(script):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(rows.MIGRATIONS)}")


def _keep_durations(connection: sqlite3.Connection, durations: Sequence[Duration]) -> None:
    """Write durations, or leave the table as it is. A table that is damaged harms no job."""
    connection.execute("SAVEPOINT durations")
    try:
        rows.write_durations(connection, durations)
    except (*rows.UNWRITABLE, sqlite3.DatabaseError):
        connection.execute("ROLLBACK TO durations")
    connection.execute("RELEASE durations")
