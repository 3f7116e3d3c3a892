"""The journal in a SQLite file, which several processes may share.

The file is in write-ahead mode, and each transaction is flushed to the disk (synchronous FULL).
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from modelslab_async.errors import JournalError
from modelslab_async.journal import sqlite_rows as rows
from modelslab_async.journal.group_commit import GroupCommitJournal
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.store import UnwritableError, Write
from modelslab_async.protocol.record import Charge, JobRecord

APPLICATION_ID = 0x4D4C6A31
"""SQLite's mark of the program that a file belongs to: "MLj1"."""
BUSY_SECONDS = 5.0
"""How long another process may lock the file before that is an error."""
_RETRY_SECONDS = 0.02
_DISK_FULL = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
"""SQLite's codes for a full disk, and for a quota that is used up."""
_HINTS = {
    "locked": "another program has locked it: close that program, or use another file",
    "full": "make room on the disk",
    "readonly": "make it writable, or choose another path",
    "unable to open": "check that the folder exists and is writable",
    "not a database": "the file is something else: choose another path",
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
        self.store = SqliteStore(path)
        super().__init__(self.store, LivenessLock(path))


class SqliteStore:
    """A `Store` in a SQLite file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None

    @property
    def name(self) -> str:
        """As in `Store`."""
        return f"journal {self.path}"

    @property
    def connection(self) -> sqlite3.Connection:
        """Return the open connection. Raise JournalError if the store is closed."""
        if self._connection is None:
            raise JournalError(f"{self.name}: it is not open")
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
                return

    def close(self) -> None:
        """As in `Store`."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def reset_after_fork(self) -> None:
        """As in `Store`. The connection is kept unused, because closing it could harm the parent's transaction."""
        if self._connection:
            _inherited.append(self._connection)
            self._connection = None

    def write(self, batch: Sequence[Write]) -> list[bool | JournalError]:
        """As in `Store`, in one transaction.

        If the disk has no room for it, each write gets a transaction of its own, because a small one may fit. The
        write-ahead log is copied into the file first, so that its pages can be used again.
        """
        try:
            return self._write_together(batch)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _DISK_FULL:
                raise
        with suppress(sqlite3.Error):
            self.connection.execute("PRAGMA wal_checkpoint")
        return [self._write_alone(write) for write in batch]

    def unfinished(self, account: str, ready: bool) -> list[JobRecord]:
        """As in `Store`."""
        return rows.unfinished(self.connection, account, ready)

    def find(self, account: str, ref: str | None, job_id: str | None) -> JobRecord | None:
        """As in `Store`."""
        return rows.find(self.connection, account, ref, job_id)

    def recent(self, account: str, limit: int) -> list[JobRecord]:
        """As in `Store`."""
        return rows.recent(self.connection, account, limit)

    def deliver(self, owner: str, account: str, ref: str, job_id: str | None) -> None:
        """As in `Store`."""
        rows.deliver(self.connection, owner, account, ref, job_id)

    def delivered(self, account: str, owner: str, is_alive: Callable[[str], bool]) -> list[tuple[str, str | None]]:
        """As in `Store`."""
        owners = rows.owners_of_deliveries(self.connection, account)
        return rows.take_deliveries(
            self.connection, account, [each for each in owners if each == owner or not is_alive(each)]
        )

    def charges(self, account: str) -> list[Charge]:
        """As in `Store`."""
        return rows.charges(self.connection, account)

    def explain(self, error: Exception) -> JournalError:
        """As in `Store`."""
        reason = str(error) or repr(error)
        hint = next((hint for part, hint in _HINTS.items() if part in reason), "see the cause")
        return JournalError(f"{self.name}: {reason} (hint: {hint})")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the file's write lock; commit at the end, or roll back if the block raises."""
        connection = self.connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _write_together(self, batch: Sequence[Write]) -> list[bool | JournalError]:
        with self.transaction() as connection:
            return [self._write_one(connection, write) for write in batch]

    def _write_alone(self, write: Write) -> bool | JournalError:
        try:
            return self._write_together([write])[0]
        except JournalError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the outcome of this write alone
            explained = self.explain(error)
            explained.__cause__ = error
            return explained

    def _write_one(self, connection: sqlite3.Connection, write: Write) -> bool | JournalError:
        try:
            return rows.write(connection, write.record, write.take_over)
        except rows.UNWRITABLE as error:
            return UnwritableError(f"{self.name}: this job cannot be written: {error}")

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = self._schema_version(connection)
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
                for statement in script.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(rows.MIGRATIONS)}")
