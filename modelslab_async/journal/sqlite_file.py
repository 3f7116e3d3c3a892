"""The journal's file: SQLite, in write-ahead mode, each transaction on disk before it counts (synchronous FULL).

Everything in here blocks, and is called in the journal's thread.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from modelslab_async.errors import JournalError
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import SENT, UNFINISHED, Charge, JobRecord, key_of

APPLICATION_ID = 0x4D4C6A31
"""SQLite's mark of who a file belongs to: "MLj1"."""
BUSY_SECONDS = 5.0
"""How long another process may hold the file before that is an error."""
_RETRY_SECONDS = 0.02
_COLUMNS = (
    "account", "ref", "owner", "created_at", "state", "job_id", "price", "charged",
    "submitted_at", "accepted_at", "ended_at", "saved_path", "details",
)  # fmt: skip
_DETAILS = ("request", "picture", "eta", "seed", "links", "video", "error")
_NOTHING: tuple[object, ...] = (None, (), {})
MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE jobs (
        account TEXT NOT NULL, ref TEXT NOT NULL, owner TEXT NOT NULL, created_at REAL NOT NULL, state TEXT NOT NULL,
        job_id TEXT, price TEXT NOT NULL, charged INTEGER, submitted_at REAL, accepted_at REAL, ended_at REAL,
        saved_path TEXT, details TEXT NOT NULL, PRIMARY KEY (account, ref)
    ) WITHOUT ROWID;
    CREATE INDEX jobs_by_state ON jobs (account, state);
    """,
    """
    CREATE INDEX jobs_by_id ON jobs (account, job_id);
    CREATE TABLE deliveries (
        owner TEXT NOT NULL, account TEXT NOT NULL, ref TEXT NOT NULL, job_id TEXT, PRIMARY KEY (owner, account, ref)
    ) WITHOUT ROWID;
    """,
)
"""What makes a file of version n into one of version n + 1; `user_version` says which it is."""


_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
"""SQLite's codes for a full disk, and for a quota that is used up."""
_inherited: list[sqlite3.Connection] = []
"""Connections of the parent process, in a forked child."""


class UnwritableError(JournalError):
    """The values of one row cannot be written, and trying again cannot help."""


class Write(NamedTuple):
    """A job as it now is; `take_over` is the owner it may be taken from."""

    record: JobRecord
    take_over: str | None


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Any error as one of ours, with what to do."""
    try:
        yield
    except JournalError:
        raise
    except Exception as error:
        words = str(error) or repr(error)
        hint = next((out for part, out in _WAYS_OUT.items() if part in words), "see the cause")
        raise JournalError(f"journal {path}: {words}; {hint}") from error


_WAYS_OUT = {
    "locked": "another program holds it: close that, or use a file of its own",
    "full": "make room on the disk",
    "readonly": "make it writable, or choose another path",
    "unable to open": "check that the folder exists and is writable",
    "not a database": "that file is something else: choose another path",
    "malformed": "the file is damaged: restore a copy, or move it away and start a new one",
    "I/O": "check the disk",
}


class Database:
    """The file, seen from the journal's thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Make it ours, or say why that cannot be.

        In a forked child the parent's connections are closed first: while SQLite knows of one, it takes no locks for
        another to the same file, and rows are lost. See "fork" in https://www.sqlite.org/howtocorrupt.html.

        Where another process is about to do the same, or mends what a third left when it died, SQLite says "locked" at
        once, whatever its timeout is: that passes.
        """
        while _inherited:
            _inherited.pop().close()
        patience = time.monotonic() + BUSY_SECONDS
        while True:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare(connection)
            except BaseException as error:
                connection.close()
                self._connection = None
                is_locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
                if not is_locked or time.monotonic() >= patience:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                return

    def close(self) -> None:
        """Let go of the file."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def leave_to_parent(self) -> None:
        """Forget the connection in a forked child: using it there could harm the parent's transactions."""
        if self._connection:
            _inherited.append(self._connection)
            self._connection = None

    def write(self, batch: Sequence[Write]) -> list[bool | JournalError]:
        """Write a batch in one transaction. Return for each whether it was applied, or why it cannot be written.

        If the disk has no room for the transaction, each write gets one of its own, because a small one may fit. The
        log is emptied into the file first, so that they may use its pages again.
        """
        try:
            return self._together(batch)
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF not in _NO_ROOM:
                raise
        with suppress(sqlite3.Error):
            self._opened.execute("PRAGMA wal_checkpoint")
        return [self._alone(write) for write in batch]

    def unfinished(self, account: str, ready: bool) -> list[JobRecord]:
        """Those that are, or may be, at the service, or wait for it; and, with `ready`, videos that were not saved."""
        states = [state.value for state in UNFINISHED if ready or state is not JobState.READY]
        sql = f"{_SELECT} WHERE account = ? AND state IN ({_marks(states)}) AND saved_path IS NULL"
        return [_record(row) for row in self._rows(f"{sql} ORDER BY created_at", account, *states)]

    def find(self, account: str, ref: str | None, job_id: str | None) -> JobRecord | None:
        """The job with this ref, or this id of the service."""
        sql = f"{_SELECT} WHERE account = ? AND (ref = ? OR job_id = ?) ORDER BY ref = ? DESC LIMIT 1"
        rows = self._rows(sql, account, ref, job_id, ref)
        return _record(rows[0]) if rows else None

    def recent(self, account: str, limit: int) -> list[JobRecord]:
        """The last jobs, the newest first."""
        rows = self._rows(f"{_SELECT} WHERE account = ? ORDER BY created_at DESC LIMIT ?", account, limit)
        return [_record(row) for row in rows]

    def deliver(self, owner: str, account: str, ref: str, job_id: str | None) -> None:
        """Leave word for a client."""
        self._opened.execute(_DELIVER, (owner, account, ref, job_id))

    def delivered(self, account: str, owner: str, is_alive: Callable[[str], bool]) -> list[tuple[str, str | None]]:
        """Take what was left, but for others that are alive."""
        left = self._rows("SELECT DISTINCT owner FROM deliveries WHERE account = ?", account)
        owners = [each for (each,) in left if each == owner or not is_alive(each)]
        sql = f"DELETE FROM deliveries WHERE account = ? AND owner IN ({_marks(owners)}) RETURNING ref, job_id"  # noqa: S608
        return self._rows(sql, account, *owners) if owners else []

    def charges(self, account: str) -> list[Charge]:
        """The jobs that the service took, or may have."""
        when = "coalesce(accepted_at, submitted_at, created_at)"
        columns = f"account, ref, created_at, {when}, price, accepted_at IS NOT NULL"
        rows = self._rows(f"SELECT {columns} FROM jobs WHERE account = ? AND charged IS NOT 0", account)  # noqa: S608
        return [Charge(key_of(*job), at, Decimal(price), bool(is_certain)) for *job, at, price, is_certain in rows]

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        return self._opened.execute(sql, values).fetchall()

    @property
    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise JournalError(f"journal {self._path}: it is not open")
        return self._connection

    def _together(self, batch: Sequence[Write]) -> list[bool | JournalError]:
        with self._transaction() as connection:
            return [self._written(connection, write) for write in batch]

    def _alone(self, write: Write) -> bool | JournalError:
        try:
            with told(self._path):
                return self._together([write])[0]
        except JournalError as error:
            return error

    def _written(self, connection: sqlite3.Connection, write: Write) -> bool | JournalError:
        record, take_over = write
        try:
            if record.job_id is not None:
                holders = [ref for (ref,) in connection.execute(_HOLDERS, (record.account, record.job_id))]
                if holders and record.ref not in holders:
                    return False
            return connection.execute(_APPEND, (*_row(record), take_over)).rowcount > 0
        except _UNWRITABLE as error:
            return UnwritableError(f"journal {self._path}: this job cannot be written: {error}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._opened
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = self._version(connection)
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise JournalError(f"journal {self._path}: no write-ahead log can be kept there; choose a local disk")
        connection.execute("PRAGMA synchronous = FULL")
        self._connection = connection
        if version < len(MIGRATIONS):
            self._migrate()

    def _version(self, connection: sqlite3.Connection) -> int:
        """The schema's. Read in one transaction: another process may be making the file just now."""
        connection.execute("BEGIN")
        asked = "PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master"
        mark, version, tables = (connection.execute(each).fetchone()[0] for each in asked)
        connection.execute("COMMIT")
        if tables and mark != APPLICATION_ID:
            raise JournalError(f"journal {self._path}: a database of another program; choose another path")
        if version > len(MIGRATIONS):
            words = f"written by a newer version (schema {version}, this one knows {len(MIGRATIONS)})"
            raise JournalError(f"journal {self._path}: {words}; update modelslab_async")
        return int(version)

    def _migrate(self) -> None:
        """Under the lock, since another process may be about to do the same."""
        with self._transaction() as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            for script in MIGRATIONS[version:]:
                for statement in script.split(";"):
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM jobs"  # noqa: S608 - names of ours
_SENT = ", ".join(repr(state.value) for state in sorted(SENT, key=str))
_IN_DOUBT = f"{JobState.SUBMITTING.value!r}, {JobState.UNCERTAIN.value!r}"
_APPEND = f"""
    INSERT INTO jobs ({", ".join(_COLUMNS)}) VALUES ({_marks(_COLUMNS)})
    ON CONFLICT (account, ref) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])}
    WHERE (owner = excluded.owner AND created_at = excluded.created_at) OR state NOT IN ({_SENT})
       OR (owner = ? AND ifnull(ended_at, 0) IN (0, excluded.ended_at)
           AND (job_id IS NULL OR job_id IS excluded.job_id))
       OR (created_at = excluded.created_at AND state IN ({_IN_DOUBT}) AND job_id IS NULL
           AND coalesce(excluded.job_id, excluded.accepted_at) IS NOT NULL)
"""  # noqa: S608 - names of ours
_HOLDERS = "SELECT ref FROM jobs WHERE account = ? AND job_id = ?"


_DELIVER = """
    INSERT INTO deliveries VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET job_id = ifnull(excluded.job_id, job_id)
"""
_UNWRITABLE = (
    TypeError, ValueError, OverflowError, RecursionError,
    sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError,
)  # fmt: skip
"""What the values of one row raise, and no other row can help."""


def _row(record: JobRecord) -> tuple[Any, ...]:
    details = {name: value for name in _DETAILS if (value := getattr(record, name)) not in _NOTHING}
    made = {"state": record.state.value, "price": str(record.price), "details": json.dumps(details)}
    return tuple([made[name] if name in made else getattr(record, name) for name in _COLUMNS])


def _record(row: tuple[Any, ...]) -> JobRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    details = json.loads(values.pop("details"))
    charged = None if values["charged"] is None else bool(values["charged"])
    known = {"state": JobState(values["state"]), "price": Decimal(values["price"]), "charged": charged}
    return JobRecord(**{**values, **details, **known, "links": tuple(details.get("links", ()))})
