"""The tables of the SQLite journal: their schema, and the statements that read and write records."""

import json
import math
import sqlite3
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal
from typing import Any

from modelslab_async.journal.base import DURATIONS_OF_KIND, MAX_DURATIONS, Duration
from modelslab_async.journal.pruning import OVER
from modelslab_async.protocol.claims import AccountCap, ClientAsk
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.operations import DEFAULT_OPERATION
from modelslab_async.protocol.pricing import DAY
from modelslab_async.protocol.record import (
    HOLDING,
    SENT,
    UNFINISHED,
    UNSENT,
    Charge,
    JobRecord,
    key_of,
    ref_and_time_of,
)

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
    """
    DROP INDEX jobs_by_state;
    DROP INDEX jobs_by_charge;
    CREATE INDEX jobs_by_age ON jobs (account, created_at);
    CREATE INDEX jobs_active ON jobs (account, state)
        WHERE state IN ('processing', 'submitting', 'timed_out', 'uncertain', 'waiting');
    CREATE INDEX jobs_open ON jobs (account, owner)
        WHERE state IN ('processing', 'ready', 'submitting', 'timed_out', 'uncertain', 'waiting')
              AND saved_path IS NULL AND delivered_at IS NULL;
    CREATE INDEX jobs_in_doubt ON jobs (account, charged, coalesce(submitted_at, created_at), price)
        WHERE accepted_at IS NULL AND charged IS NOT 0;
    CREATE TABLE totals (
        account TEXT NOT NULL, day INTEGER NOT NULL, price TEXT NOT NULL, jobs INTEGER NOT NULL,
        PRIMARY KEY (account, day, price)
    ) WITHOUT ROWID;
    INSERT INTO totals
        SELECT account, CAST(accepted_at / 86400 AS INTEGER), price, count(*) FROM jobs
        WHERE accepted_at IS NOT NULL AND charged IS NOT 0 GROUP BY 1, 2, 3;
    CREATE TRIGGER count_new AFTER INSERT ON jobs WHEN NEW.accepted_at IS NOT NULL AND NEW.charged IS NOT 0
    BEGIN
        INSERT INTO totals
            VALUES (NEW.account, CAST(NEW.accepted_at / 86400 AS INTEGER), NEW.price, 1)
            ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    END;
    CREATE TRIGGER count_changed AFTER UPDATE ON jobs
    WHEN (OLD.charged IS NOT 0, OLD.accepted_at, OLD.price) IS NOT (NEW.charged IS NOT 0, NEW.accepted_at, NEW.price)
    BEGIN
        UPDATE totals SET jobs = jobs - 1
            WHERE account = OLD.account AND day = CAST(OLD.accepted_at / 86400 AS INTEGER) AND price = OLD.price
                  AND OLD.accepted_at IS NOT NULL AND OLD.charged IS NOT 0;
        INSERT INTO totals
            SELECT NEW.account, CAST(NEW.accepted_at / 86400 AS INTEGER), NEW.price, 1
            WHERE NEW.accepted_at IS NOT NULL AND NEW.charged IS NOT 0
            ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    END;
    CREATE TABLE durations (
        id INTEGER PRIMARY KEY, service TEXT NOT NULL, operation TEXT NOT NULL, kind TEXT NOT NULL, after REAL, by REAL,
        work REAL, eta REAL
    );
    CREATE INDEX durations_by_kind ON durations (service, operation, kind);
    CREATE TABLE clients (owner TEXT PRIMARY KEY, transactions INTEGER NOT NULL) WITHOUT ROWID;
    ALTER TABLE jobs ADD COLUMN checksum INTEGER;
    """,
)
"""Script n makes a file of schema version n one of version n + 1. SQLite's `user_version` holds the version.

The table `clients` counts the transactions of clients that are open, or were killed. The column `checksum` is NULL in
rows that earlier versions wrote.

The table `totals` counts the accepted jobs that were, or may have been, charged. Triggers keep it. It has no trigger
for a row that is deleted, so that a budget still counts the job.
"""
UNWRITABLE = (
    TypeError, ValueError, OverflowError, RecursionError,
    sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError, sqlite3.IntegrityError,
)  # fmt: skip
"""What `write` raises for values that no row can hold."""

_COLUMNS = (
    "account", "ref", "owner", "created_at", "state", "job_id", "price", "charged",
    "submitted_at", "accepted_at", "ended_at", "delivered_at", "saved_path", "details", "checksum",
)  # fmt: skip
_TIMES = ("created_at", "submitted_at", "accepted_at", "ended_at", "delivered_at")
_DETAILS = (
    "request", "picture", "eta", "seed", "links", "video", "error", "error_kind", "target", "operation", "is_unpriced",
)  # fmt: skip
"""Fields without a column: JSON in the column `details`, without those that are empty or usual."""
_EMPTY: tuple[object, ...] = (None, (), {}, DEFAULT_OPERATION)
_STATES = {state.value: state for state in JobState}
_decode: Callable[[str], dict[str, Any]] = json.JSONDecoder().decode


def _placeholders(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _listed(states: Collection[JobState]) -> str:
    return ", ".join(repr(state.value) for state in sorted(states, key=str))


def statements(script: str) -> Iterator[str]:
    """Yield the statements of a migration. A trigger contains semicolons, so that a split at each would break it."""
    statement = ""
    for line in script.strip().splitlines():
        statement += f"{line}\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement:
        yield statement


# S608 is about SQL made from strings: all names in these are ours.
_MAY_BE_SENT = _listed(SENT)
_WAITING = repr(JobState.WAITING.value)
_ENDED_UNSENT = _listed(UNSENT)
_IN_DOUBT = _listed((JobState.SUBMITTING, JobState.UNCERTAIN))
_NOT_SENT = _listed((JobState.WAITING, JobState.REFUSED))
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
# SQLite uses a partial index only for a query that repeats the index's condition. Without statistics it prefers the
# rows of the whole account to any index, so each query names its index.
_NOT_TAKEN = "saved_path IS NULL AND delivered_at IS NULL"
_IS_OPEN = f"state IN ({_listed(UNFINISHED)}) AND {_NOT_TAKEN}"
_IS_ACTIVE = f"state IN ({_listed([state for state in UNFINISHED if state is not JobState.READY])})"
_OPEN, _ACTIVE = "INDEXED BY jobs_open", "INDEXED BY jobs_active"
_OWNERS = f"""
    WITH RECURSIVE found (owner) AS (
        SELECT min(owner) FROM jobs {_OPEN} WHERE account = :account AND {_IS_OPEN}
        UNION ALL
        SELECT (SELECT min(owner) FROM jobs {_OPEN} WHERE account = :account AND {_IS_OPEN} AND owner > found.owner)
        FROM found WHERE owner IS NOT NULL
    )
    SELECT owner FROM found WHERE owner IS NOT NULL
"""  # noqa: S608
"""One search for each owner, however many jobs an owner has."""
_HOLDING = f"""
    WITH holding (state) AS (VALUES {", ".join(f"({state.value!r})" for state in HOLDING)})
    SELECT {", ".join(f"jobs.{name}" for name in _COLUMNS)}
    FROM holding CROSS JOIN jobs {_ACTIVE} ON jobs.state = holding.state
    WHERE account = ? AND jobs.{_IS_ACTIVE} AND (owner != ? OR jobs.state = {JobState.UNCERTAIN.value!r})
"""  # noqa: S608
_IS_ACCEPTED_CHARGE = "accepted_at IS NOT NULL AND charged IS NOT 0"
_IN_DOUBT_CHARGES = "FROM jobs INDEXED BY jobs_in_doubt WHERE account = ? AND accepted_at IS NULL AND charged IS NOT 0"
_AT_OF_DOUBT = "coalesce(submitted_at, created_at)"
_IS_PRUNABLE = f"""
    (state IN ({_listed(OVER)}) OR (state = 'ready' AND (saved_path IS NOT NULL OR delivered_at IS NOT NULL)))
    AND NOT (accepted_at IS NULL AND charged IS NOT 0) AND coalesce(ended_at, created_at) < ?
"""
_COUNT_TRANSACTION = """
    INSERT INTO clients VALUES (?, 1) ON CONFLICT DO UPDATE SET transactions = transactions + 1 RETURNING transactions
"""
_OLD_DURATIONS = """
    DELETE FROM durations WHERE id IN (
        SELECT id FROM durations WHERE service = ? AND operation = ? AND kind = ? ORDER BY id DESC LIMIT -1 OFFSET ?
    )
"""
_MAX_REFS = 500
"""The most refs in one query. SQLite allows 999 parameters or more."""
REFS_WITH_ID = "SELECT ref FROM jobs INDEXED BY jobs_by_id WHERE account = ? AND job_id = ?"
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
    return [_record_from(row) for row in connection.execute(_HOLDING, (account, owner))]


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
    """Return how many jobs were accepted since then, or are in doubt since any time, by price.

    since: the beginning of a UTC day, unix seconds; -infinity for all days.
    """
    accepted = "SELECT price, sum(jobs) FROM totals WHERE account = ? AND day >= ? GROUP BY price"
    doubted = f"SELECT price, count(*) {_IN_DOUBT_CHARGES} AND (charged IS NULL OR {_AT_OF_DOUBT} >= ?) GROUP BY price"
    counts = _counted(connection, accepted, (account, _day(since)))
    counts.update(_counted(connection, doubted, (account, since)))
    return counts


def charges(
    connection: sqlite3.Connection, account: str, since: float, apart_from: Collection[str]
) -> tuple[Counter[Decimal], list[Charge]]:
    """As in `Journal`: the counts by price, and the charges that are in doubt."""
    sql = "SELECT price, sum(jobs) FROM totals WHERE account = ? AND day >= ? GROUP BY price"
    counts = _counted(connection, sql, (account, _day(since)))
    own = f"""
        SELECT price FROM jobs
        WHERE account = ? AND ref = ? AND created_at = ? AND {_IS_ACCEPTED_CHARGE} AND accepted_at >= ?
    """  # noqa: S608
    for key in apart_from:
        for (price,) in connection.execute(own, (account, *ref_and_time_of(account, key), since)):
            counts[Decimal(price)] -= 1
    doubted = f"SELECT ref, created_at, {_AT_OF_DOUBT}, price {_IN_DOUBT_CHARGES}"
    return counts, [
        Charge(key_of(account, *job), at, Decimal(price), is_certain=False)
        for *job, at, price in connection.execute(doubted, (account,))
    ]


def _counted(connection: sqlite3.Connection, sql: str, values: Sequence[Any]) -> Counter[Decimal]:
    counts = Counter[Decimal]()
    for price, count in connection.execute(sql, values):
        counts[Decimal(price)] += count
    return counts


def _day(since: float) -> float:
    """Return the number of the UTC day in which *since* is; -infinity for all days."""
    return since // DAY if math.isfinite(since) else since


def unfinished(connection: sqlite3.Connection, account: str, ready: bool) -> list[JobRecord]:
    """As in `Journal`."""
    where = f"{_OPEN} WHERE {_IS_OPEN}" if ready else f"{_ACTIVE} WHERE {_IS_ACTIVE} AND {_NOT_TAKEN}"
    rows = connection.execute(f"{_SELECT} {where} AND account = ? ORDER BY created_at", (account,))
    return [_record_from(row) for row in rows]


def owners(connection: sqlite3.Connection, account: str) -> list[str]:
    """Return the owners of unfinished jobs."""
    return [owner for (owner,) in connection.execute(_OWNERS, {"account": account})]


def unfinished_of(connection: sqlite3.Connection, account: str, owners: Sequence[str]) -> list[JobRecord]:
    """Return the unfinished jobs of these owners, the oldest first."""
    if not owners:
        return []
    is_theirs = f"account = ? AND owner IN ({_placeholders(owners)})"
    sql = f"{_SELECT} {_OPEN} WHERE {_IS_OPEN} AND {is_theirs} ORDER BY created_at"
    return [_record_from(row) for row in connection.execute(sql, (account, *owners))]


def find(connection: sqlite3.Connection, account: str, ref: str | None, job_id: str | None) -> JobRecord | None:
    """As in `Journal`."""
    row = connection.execute(f"{_SELECT} WHERE account = ? AND ref = ?", (account, ref)).fetchone()
    if row is None and job_id is not None:
        sql = f"{_SELECT} INDEXED BY jobs_by_id WHERE account = ? AND job_id = ? LIMIT 1"
        row = connection.execute(sql, (account, job_id)).fetchone()
    return _record_from(row) if row else None


def find_all(connection: sqlite3.Connection, account: str, refs: Sequence[str]) -> list[JobRecord]:
    """As in `Journal`."""
    found = list[JobRecord]()
    for begin in range(0, len(refs), _MAX_REFS):
        some = refs[begin : begin + _MAX_REFS]
        sql = f"{_SELECT} WHERE account = ? AND ref IN ({_placeholders(some)})"
        found += [_record_from(row) for row in connection.execute(sql, (account, *some))]
    return found


def recent(connection: sqlite3.Connection, account: str, limit: int) -> list[JobRecord]:
    """As in `Journal`."""
    sql = f"{_SELECT} INDEXED BY jobs_by_age WHERE account = ? ORDER BY created_at DESC LIMIT ?"
    return [_record_from(row) for row in connection.execute(sql, (account, limit))]


def prunable(connection: sqlite3.Connection, account: str, before: float, since: float, limit: int) -> list[JobRecord]:
    """Return jobs that are over, the oldest first: those that were created at *since* or later."""
    sql = f"""
        {_SELECT} INDEXED BY jobs_by_age WHERE account = ? AND created_at >= ? AND created_at < ? AND {_IS_PRUNABLE}
        ORDER BY created_at LIMIT ?
    """
    rows = connection.execute(sql, (account, since, before, before, limit))
    return [_record_from(row) for row in rows]


def delete(connection: sqlite3.Connection, records: Sequence[JobRecord], before: float) -> int:
    """Delete jobs that are still over. Return how many they were."""
    sql = f"DELETE FROM jobs WHERE account = ? AND ref = ? AND created_at = ? AND {_IS_PRUNABLE}"  # noqa: S608
    values = [(record.account, record.ref, record.created_at, before) for record in records]
    return connection.executemany(sql, values).rowcount


def write_durations(connection: sqlite3.Connection, durations: Sequence[Duration]) -> None:
    """Add durations, and delete old ones."""
    names = ", ".join(Duration._fields)
    sql = f"INSERT INTO durations ({names}) VALUES ({_placeholders(Duration._fields)})"  # noqa: S608
    connection.executemany(sql, durations)
    for kind in {duration[:3] for duration in durations}:
        connection.execute(_OLD_DURATIONS, (*kind, DURATIONS_OF_KIND))
    connection.execute("DELETE FROM durations WHERE id <= (SELECT max(id) FROM durations) - ?", (MAX_DURATIONS,))


def durations(connection: sqlite3.Connection, service: str, operation: str) -> list[Duration]:
    """As in `Journal`."""
    sql = f"SELECT {', '.join(Duration._fields)} FROM durations WHERE service = ? AND operation = ? ORDER BY id"  # noqa: S608
    return [Duration(*row) for row in connection.execute(sql, (service, operation))]


def count_transaction(connection: sqlite3.Connection, owner: str) -> int:
    """Count a transaction of a client. Return how many there were."""
    [count] = connection.execute(_COUNT_TRANSACTION, (owner,)).fetchone()
    return int(count)


def transactions_of(connection: sqlite3.Connection, owner: str) -> int:
    """Return how many transactions of a client the file has."""
    row = connection.execute("SELECT transactions FROM clients WHERE owner = ?", (owner,)).fetchone()
    return int(row[0]) if row else 0


def remove_client(connection: sqlite3.Connection, owner: str) -> None:
    """Forget the transactions of a client that is gone."""
    connection.execute("DELETE FROM clients WHERE owner = ?", (owner,))


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
    """Return a record's row. Raise ValueError for a number that would not be read as it was written."""
    details = {name: value for name in _DETAILS if (value := getattr(record, name)) not in _EMPTY}
    times = {name: getattr(record, name) for name in _TIMES}
    times = {name: None if value is None else float(value) + 0.0 for name, value in times.items()}  # SQLite has no -0.0
    if any(value is not None and math.isnan(value) for value in times.values()):
        raise ValueError("a time must be a number")
    charged = None if record.charged is None else int(record.charged)
    encoded = {"state": record.state.value, "price": str(record.price), "details": json.dumps(details)}
    known: dict[str, Any] = {**times, **encoded, "charged": charged}
    row = tuple([known[name] if name in known else getattr(record, name) for name in _COLUMNS[:-1]])
    return (*row, _checksum(row))


def _checksum(row: tuple[Any, ...]) -> int:
    return zlib.crc32(json.dumps(row).encode())


def _record_from(row: tuple[Any, ...]) -> JobRecord:
    account, ref, owner, created_at, state, job_id, price, charged, *times, saved_path, encoded, checksum = row
    if checksum is not None and checksum != _checksum(row[:-1]):
        raise sqlite3.DatabaseError(f"the row of the job {ref!r} is damaged: its checksum is wrong")
    submitted_at, accepted_at, ended_at, delivered_at = times
    details = _decode(encoded)
    details["links"] = tuple(details.get("links", ()))
    return JobRecord(
        account,
        ref,
        owner,
        created_at,
        _STATES[state],
        job_id,
        price=Decimal(price),
        charged=None if charged is None else bool(charged),
        submitted_at=submitted_at,
        accepted_at=accepted_at,
        ended_at=ended_at,
        delivered_at=delivered_at,
        saved_path=saved_path,
        **details,
    )
