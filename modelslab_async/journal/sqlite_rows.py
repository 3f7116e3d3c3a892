"""The tables of the SQLite journal: their schema, and the statements that read and write records."""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from modelslab_async.protocol.claims import AccountCap, ClientAsk
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.operations import DEFAULT_OPERATION
from modelslab_async.protocol.record import HOLDING, SENT, UNFINISHED, UNSENT, Charge, JobRecord, key_of

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
    """
    CREATE INDEX jobs_by_charge ON jobs (account, charged, coalesce(accepted_at, submitted_at, created_at), price);
    CREATE TABLE accounts (
        account TEXT PRIMARY KEY, maximum INTEGER, cap INTEGER, retry_at REAL, refused_at REAL
    ) WITHOUT ROWID;
    CREATE TABLE asks (
        account TEXT NOT NULL, owner TEXT NOT NULL, slots INTEGER NOT NULL, since REAL, asked_at REAL NOT NULL,
        PRIMARY KEY (account, owner)
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE jobs ADD COLUMN delivered_at REAL",
)
"""Script n makes a file of schema version n one of version n + 1. SQLite's `user_version` holds the version."""
UNWRITABLE = (
    TypeError, ValueError, OverflowError, RecursionError,
    sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError,
)  # fmt: skip
"""What `write` raises for values that no row can hold."""

_COLUMNS = (
    "account", "ref", "owner", "created_at", "state", "job_id", "price", "charged",
    "submitted_at", "accepted_at", "ended_at", "delivered_at", "saved_path", "details",
)  # fmt: skip
_DETAILS = (
    "request", "picture", "eta", "seed", "links", "video", "error", "error_kind", "target", "operation", "is_unpriced",
)  # fmt: skip
"""Fields without a column: JSON in the column `details`, without those that are empty or usual."""
_EMPTY: tuple[object, ...] = (None, (), {}, DEFAULT_OPERATION)


def _placeholders(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


# S608 is about SQL made from strings: all names in these are ours.
_MAY_BE_SENT = ", ".join(repr(state.value) for state in sorted(SENT, key=str))
_WAITING = repr(JobState.WAITING.value)
_ENDED_UNSENT = ", ".join(repr(state.value) for state in sorted(UNSENT, key=str))
_IN_DOUBT = f"{JobState.SUBMITTING.value!r}, {JobState.UNCERTAIN.value!r}"
_NOT_SENT = f"{JobState.WAITING.value!r}, {JobState.REFUSED.value!r}"
_WRITE = f"""
    INSERT INTO jobs ({", ".join(_COLUMNS)}) VALUES ({_placeholders(_COLUMNS)})
    ON CONFLICT (account, ref) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])}
    WHERE -- the row is this job's, and this client's own
          (owner = excluded.owner AND created_at = excluded.created_at)
          -- the ref is free: the row's job was certainly not sent; but the end of a job ends no other that waits
       OR (state NOT IN ({_MAY_BE_SENT}) AND NOT (state = {_WAITING} AND excluded.state IN ({_ENDED_UNSENT})))
          -- a take-over from this owner, unless the job ended meanwhile or the row would lose its id
       OR (owner = ? AND ifnull(ended_at, 0) IN (0, excluded.ended_at)
           AND (job_id IS NULL OR job_id IS excluded.job_id))
          -- the outcome of the row's submit, whoever owns the row
       OR (created_at = excluded.created_at AND state IN ({_IN_DOUBT}) AND job_id IS NULL
           AND (coalesce(excluded.job_id, excluded.accepted_at) IS NOT NULL OR excluded.state IN ({_NOT_SENT})))
"""  # noqa: S608
_SELECT = f"SELECT {', '.join(_COLUMNS)} FROM jobs"  # noqa: S608
_NOT_TAKEN = "saved_path IS NULL AND delivered_at IS NULL"
REFS_WITH_ID = "SELECT ref FROM jobs WHERE account = ? AND job_id = ?"
_DELIVER = """
    INSERT INTO deliveries VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET job_id = ifnull(excluded.job_id, job_id)
"""


def write(connection: sqlite3.Connection, record: JobRecord, take_over: str | None) -> bool:
    """Write a record by the rules of `Journal.append`, and return whether it was written.

    An acceptance raises the account's cap.
    """
    if record.job_id is not None:
        refs = [ref for (ref,) in connection.execute(REFS_WITH_ID, (record.account, record.job_id))]
        if refs and record.ref not in refs:
            return False
    cap = read_cap(connection, record.account) if record.accepted_at else None
    is_acceptance = cap is not None and cap.cap is not None and _is_submitting(connection, record)
    is_written = connection.execute(_WRITE, (*_row_from(record), take_over)).rowcount > 0
    if cap and is_written and is_acceptance:
        write_cap(connection, record.account, cap.after_acceptance())
    return is_written


def owner_of(connection: sqlite3.Connection, record: JobRecord) -> str | None:
    """Return the owner of the record's row; None if there is no row."""
    found = connection.execute("SELECT owner FROM jobs WHERE account = ? AND ref = ?", (record.account, record.ref))
    owner: tuple[str] | None = found.fetchone()
    return owner and owner[0]


def _is_submitting(connection: sqlite3.Connection, record: JobRecord) -> bool:
    sql = "SELECT count(*) FROM jobs WHERE account = ? AND ref = ? AND created_at = ? AND state = ?"
    values = record.account, record.ref, record.created_at, JobState.SUBMITTING.value
    return bool(connection.execute(sql, values).fetchone()[0])


def holding(connection: sqlite3.Connection, account: str, owner: str) -> list[JobRecord]:
    """Return the jobs that may hold a slot: those of all clients but *owner*, and all that are UNCERTAIN."""
    states = [state.value for state in HOLDING]
    sql = f"{_SELECT} WHERE account = ? AND state IN ({_placeholders(states)}) AND (owner != ? OR state = ?)"
    values = account, *states, owner, JobState.UNCERTAIN.value
    return [_record_from(row) for row in connection.execute(sql, values)]


def read_cap(connection: sqlite3.Connection, account: str) -> AccountCap:
    """Return what refusals taught about the account."""
    sql = "SELECT maximum, cap, retry_at, refused_at FROM accounts WHERE account = ?"
    return AccountCap(*(connection.execute(sql, (account,)).fetchone() or ()))


def write_cap(connection: sqlite3.Connection, account: str, cap: AccountCap) -> None:
    """Keep what refusals taught about the account."""
    connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?, ?)", (account, *cap))


def read_asks(connection: sqlite3.Connection, account: str) -> list[ClientAsk]:
    """Return the clients that claimed slots of the account."""
    rows = connection.execute("SELECT owner, slots, since, asked_at FROM asks WHERE account = ?", (account,))
    return [ClientAsk(*row) for row in rows]


def write_ask(connection: sqlite3.Connection, account: str, ask: ClientAsk) -> None:
    """Keep what a client asked for."""
    connection.execute("INSERT OR REPLACE INTO asks VALUES (?, ?, ?, ?, ?)", (account, *ask))


def remove_asks(connection: sqlite3.Connection, owner: str) -> None:
    """Remove what a client asked for, because it does not ask any more."""
    connection.execute("DELETE FROM asks WHERE owner = ?", (owner,))


def count_charges(connection: sqlite3.Connection, account: str, since: float) -> Counter[Decimal]:
    """Return how many jobs were charged since then, or may have been charged at any time, by price."""
    at = "coalesce(accepted_at, submitted_at, created_at)"
    certain = f"SELECT price, count(*) FROM jobs WHERE account = ? AND charged = 1 AND {at} >= ? GROUP BY price"  # noqa: S608
    doubted = "SELECT price, count(*) FROM jobs WHERE account = ? AND charged IS NULL GROUP BY price"
    counts = Counter[Decimal]()
    for sql, values in ((certain, (account, since)), (doubted, (account,))):
        for price, count in connection.execute(sql, values):
            counts[Decimal(price)] += count
    return counts


def unfinished(connection: sqlite3.Connection, account: str, ready: bool) -> list[JobRecord]:
    """As in `Journal`."""
    states = [state.value for state in UNFINISHED if ready or state is not JobState.READY]
    sql = f"{_SELECT} WHERE account = ? AND state IN ({_placeholders(states)}) AND {_NOT_TAKEN} ORDER BY created_at"
    return [_record_from(row) for row in connection.execute(sql, (account, *states))]


def owners(connection: sqlite3.Connection, account: str) -> list[str]:
    """Return the owners of unfinished jobs."""
    states = [state.value for state in UNFINISHED]
    sql = f"SELECT DISTINCT owner FROM jobs WHERE account = ? AND state IN ({_placeholders(states)}) AND {_NOT_TAKEN}"  # noqa: S608
    return [owner for (owner,) in connection.execute(sql, (account, *states))]


def unfinished_of(connection: sqlite3.Connection, account: str, owners: Sequence[str]) -> list[JobRecord]:
    """Return the unfinished jobs of these owners, the oldest first."""
    states = [state.value for state in UNFINISHED]
    is_open = f"state IN ({_placeholders(states)}) AND {_NOT_TAKEN}"
    sql = f"{_SELECT} WHERE account = ? AND {is_open} AND owner IN ({_placeholders(owners)}) ORDER BY created_at"
    return [_record_from(row) for row in connection.execute(sql, (account, *states, *owners))] if owners else []


def find(connection: sqlite3.Connection, account: str, ref: str | None, job_id: str | None) -> JobRecord | None:
    """As in `Journal`."""
    sql = f"{_SELECT} WHERE account = ? AND (ref = ? OR job_id = ?) ORDER BY ref = ? DESC LIMIT 1"
    row = connection.execute(sql, (account, ref, job_id, ref)).fetchone()
    return _record_from(row) if row else None


def recent(connection: sqlite3.Connection, account: str, limit: int) -> list[JobRecord]:
    """As in `Journal`."""
    rows = connection.execute(f"{_SELECT} WHERE account = ? ORDER BY created_at DESC LIMIT ?", (account, limit))
    return [_record_from(row) for row in rows]


def charges(connection: sqlite3.Connection, account: str) -> list[Charge]:
    """As in `Journal`."""
    at = "coalesce(accepted_at, submitted_at, created_at)"
    columns = f"account, ref, created_at, {at}, price, accepted_at IS NOT NULL"
    rows = connection.execute(f"SELECT {columns} FROM jobs WHERE account = ? AND charged IS NOT 0", (account,))  # noqa: S608
    return [Charge(key_of(*job), at, Decimal(price), bool(is_certain)) for *job, at, price, is_certain in rows]


def deliver(connection: sqlite3.Connection, owner: str, account: str, ref: str, job_id: str | None) -> None:
    """Add a notification. An earlier one for the same job keeps its id if this one has none."""
    connection.execute(_DELIVER, (owner, account, ref, job_id))


def owners_of_deliveries(connection: sqlite3.Connection, account: str) -> list[str]:
    """Return the owners that have notifications."""
    rows = connection.execute("SELECT DISTINCT owner FROM deliveries WHERE account = ?", (account,))
    return [owner for (owner,) in rows]


def take_deliveries(
    connection: sqlite3.Connection, account: str, owners: Sequence[str]
) -> list[tuple[str, str | None]]:
    """Remove the notifications of these owners, and return them as (ref, id or None)."""
    sql = f"DELETE FROM deliveries WHERE account = ? AND owner IN ({_placeholders(owners)}) RETURNING ref, job_id"  # noqa: S608
    return connection.execute(sql, (account, *owners)).fetchall() if owners else []


def _row_from(record: JobRecord) -> tuple[Any, ...]:
    details = {name: value for name in _DETAILS if (value := getattr(record, name)) not in _EMPTY}
    encoded = {"state": record.state.value, "price": str(record.price), "details": json.dumps(details)}
    return tuple([encoded[name] if name in encoded else getattr(record, name) for name in _COLUMNS])


def _record_from(row: tuple[Any, ...]) -> JobRecord:
    values = dict(zip(_COLUMNS, row, strict=True))
    details = json.loads(values.pop("details"))
    charged = None if values["charged"] is None else bool(values["charged"])
    decoded = {"state": JobState(values["state"]), "price": Decimal(values["price"]), "charged": charged}
    return JobRecord(**{**values, **details, **decoded, "links": tuple(details.get("links", ()))})
