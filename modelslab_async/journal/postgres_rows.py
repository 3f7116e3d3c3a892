"""The tables of the PostgreSQL journal: their schema, and the statements that read and write records.

The statements name the schema, so that they do not depend on the connection's search_path. Each runs within a
transaction of the caller.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from modelslab_async.journal.base import DURATIONS_OF_KIND, MAX_DURATIONS, Duration, Row
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

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    AnyConnection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]

SCHEMA = "modelslab_async"
CHANNEL = "modelslab_async"
"""Each transaction that changes a row notifies this channel. The payload is the owner that made the change."""
MIGRATIONS: Sequence[str] = (
    f"""
    CREATE TABLE {SCHEMA}.jobs (
        account text NOT NULL, ref text NOT NULL, owner text NOT NULL, created_at double precision NOT NULL,
        state text NOT NULL, job_id text, price numeric NOT NULL, charged boolean, submitted_at double precision,
        accepted_at double precision, ended_at double precision, saved_path text, details json NOT NULL,
        submitted_here double precision, accepted_here double precision, PRIMARY KEY (account, ref)
    );
    COMMENT ON TABLE {SCHEMA}.jobs IS 'Times are unix seconds of the client; those named "here" are of the database.';
    CREATE UNIQUE INDEX jobs_by_id ON {SCHEMA}.jobs (account, job_id) WHERE job_id IS NOT NULL;
    CREATE INDEX jobs_by_state ON {SCHEMA}.jobs (account, state);
    CREATE INDEX jobs_by_age ON {SCHEMA}.jobs (account, created_at);
    CREATE INDEX jobs_by_charge ON {SCHEMA}.jobs (account, charged, coalesce(accepted_at, submitted_at, created_at));
    CREATE TABLE {SCHEMA}.owners (
        owner text PRIMARY KEY, seen_at timestamptz NOT NULL, lease interval NOT NULL
    );
    CREATE TABLE {SCHEMA}.accounts (
        account text PRIMARY KEY, maximum integer, cap integer, retry_at double precision, refused_at double precision
    );
    CREATE TABLE {SCHEMA}.asks (
        account text NOT NULL, owner text NOT NULL, slots integer NOT NULL, since double precision,
        asked_at double precision NOT NULL, PRIMARY KEY (account, owner)
    );
    CREATE TABLE {SCHEMA}.deliveries (
        owner text NOT NULL, account text NOT NULL, ref text NOT NULL, job_id text, PRIMARY KEY (owner, account, ref)
    );
    CREATE TABLE {SCHEMA}.pictures (digest text PRIMARY KEY, picture bytea NOT NULL);
    CREATE TABLE {SCHEMA}.picture_uses (
        account text NOT NULL, ref text NOT NULL, created_at double precision NOT NULL,
        kept_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        digest text NOT NULL REFERENCES {SCHEMA}.pictures, PRIMARY KEY (account, ref, created_at)
    );
    CREATE INDEX picture_uses_by_digest ON {SCHEMA}.picture_uses (digest);
    """,
    f"ALTER TABLE {SCHEMA}.jobs ADD COLUMN delivered_at double precision",
    f"""
    DROP INDEX {SCHEMA}.jobs_by_state, {SCHEMA}.jobs_by_charge;
    CREATE INDEX jobs_active ON {SCHEMA}.jobs (account, state)
        WHERE state IN ('processing', 'submitting', 'timed_out', 'uncertain', 'waiting');
    CREATE INDEX jobs_open ON {SCHEMA}.jobs (account, created_at)
        WHERE state IN ('processing', 'ready', 'submitting', 'timed_out', 'uncertain', 'waiting')
              AND saved_path IS NULL AND delivered_at IS NULL;
    CREATE INDEX jobs_in_doubt ON {SCHEMA}.jobs (account) WHERE accepted_at IS NULL AND charged IS NOT false;
    CREATE TABLE {SCHEMA}.totals (
        account text NOT NULL, day bigint NOT NULL, price numeric NOT NULL, jobs bigint NOT NULL
    );
    CREATE INDEX totals_by_day ON {SCHEMA}.totals (account, day);
    INSERT INTO {SCHEMA}.totals
        SELECT account, floor(accepted_at / 86400), price, count(*) FROM {SCHEMA}.jobs
        WHERE accepted_at IS NOT NULL AND charged IS NOT false GROUP BY 1, 2, 3;
    CREATE FUNCTION {SCHEMA}.count_charge() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND OLD.accepted_at IS NOT NULL AND OLD.charged IS NOT false THEN
            INSERT INTO {SCHEMA}.totals
                VALUES (OLD.account, floor(OLD.accepted_at / 86400), OLD.price, -1);
        END IF;
        IF NEW.accepted_at IS NOT NULL AND NEW.charged IS NOT false THEN
            INSERT INTO {SCHEMA}.totals
                VALUES (NEW.account, floor(NEW.accepted_at / 86400), NEW.price, 1);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER count_new AFTER INSERT ON {SCHEMA}.jobs FOR EACH ROW
        WHEN (NEW.accepted_at IS NOT NULL AND NEW.charged IS NOT false) EXECUTE FUNCTION {SCHEMA}.count_charge();
    CREATE TRIGGER count_changed AFTER UPDATE ON {SCHEMA}.jobs FOR EACH ROW
        WHEN ((OLD.charged IS NOT false, OLD.accepted_at, OLD.price)
              IS DISTINCT FROM (NEW.charged IS NOT false, NEW.accepted_at, NEW.price))
        EXECUTE FUNCTION {SCHEMA}.count_charge();
    CREATE TABLE {SCHEMA}.durations (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, service text NOT NULL, operation text NOT NULL,
        kind text NOT NULL, after double precision, by double precision, work double precision, eta double precision
    );
    CREATE INDEX durations_by_kind ON {SCHEMA}.durations (service, operation, kind, id);
    """,
)
"""Script n makes a schema of version n one of version n + 1. The table `version` holds the version.

The table `totals` counts the accepted jobs that were, or may have been, charged. Triggers add a row for each change, so
that clients do not wait for each other, and `clean` adds the rows up. No trigger fires for a row that is deleted, so
that a budget still counts the job.
"""

_COLUMNS = (
    "account", "ref", "owner", "created_at", "state", "job_id", "price", "charged",
    "submitted_at", "accepted_at", "ended_at", "delivered_at", "saved_path", "details",
)  # fmt: skip
_TYPES = ("text",) * 3 + ("float8", "text", "text", "numeric", "bool") + ("float8",) * 4 + ("text", "json")
_TAKE_OVER = len(_COLUMNS)
"""Where the values of `WRITE` name the owner whose row may be taken."""
_DETAILS = (
    "request", "picture", "eta", "seed", "links", "video", "error", "error_kind", "target", "operation", "is_unpriced",
)  # fmt: skip
"""Fields without a column: JSON in the column `details`, without those that are empty or usual."""
_EMPTY: tuple[object, ...] = (None, (), {}, DEFAULT_OPERATION)


def _listed(states: Collection[JobState]) -> str:
    return ", ".join(repr(state.value) for state in sorted(states, key=str))


_IN_DOUBT = _listed((JobState.SUBMITTING, JobState.UNCERTAIN))
_NEEDS_PICTURE = _listed((JobState.WAITING, JobState.SUBMITTING))
_VALUES = ", ".join(f"${number}::{kind}" for number, kind in enumerate(_TYPES, 1))
_IS_SAME_JOB = "jobs.created_at = excluded.created_at"
WRITE = f"""
    WITH written AS (
        INSERT INTO {SCHEMA}.jobs AS jobs ({", ".join(_COLUMNS)}, submitted_here, accepted_here)
        VALUES ({_VALUES}, $9::float8 + $16::float8, $10::float8 + $16::float8)
        ON CONFLICT (account, ref) DO UPDATE SET
            {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[2:])},
            submitted_here = CASE WHEN {_IS_SAME_JOB} AND jobs.submitted_at = excluded.submitted_at
                THEN jobs.submitted_here ELSE excluded.submitted_here END,
            accepted_here = CASE WHEN {_IS_SAME_JOB} AND jobs.accepted_at = excluded.accepted_at
                THEN jobs.accepted_here ELSE excluded.accepted_here END
        WHERE -- the row is this job's, and this client's own
              (jobs.owner = excluded.owner AND {_IS_SAME_JOB})
              -- the ref is free: the row's job was certainly not sent; but the end of a job ends no other that waits
           OR (jobs.state NOT IN ({_listed(SENT)})
               AND NOT (jobs.state = {JobState.WAITING.value!r} AND excluded.state IN ({_listed(UNSENT)})))
              -- a take-over from this owner, unless the job ended meanwhile or the row would lose its id
           OR (jobs.owner = $15 AND (jobs.ended_at IS NULL OR jobs.ended_at = excluded.ended_at)
               AND (jobs.job_id IS NULL OR jobs.job_id = excluded.job_id))
              -- the outcome of the row's submit, whoever owns the row
           OR ({_IS_SAME_JOB} AND jobs.state IN ({_IN_DOUBT}) AND jobs.job_id IS NULL
               AND (coalesce(excluded.job_id, excluded.accepted_at::text) IS NOT NULL
                    OR excluded.state IN ({_listed((JobState.WAITING, JobState.REFUSED))})))
        RETURNING ref
    )
    SELECT ref, pg_notify('{CHANNEL}', $17) FROM written
"""
"""Write a record, and notify the other clients. Return the ref, or no row if the rules of `Journal.append` forbid it.

$15 is the owner whose row may be taken. $16 are the seconds by which the database's clock is ahead of the client's.
$17 is this client.
"""
_PUT_BACK_CLAIM = f"""
    WITH written AS (
        UPDATE {SCHEMA}.jobs AS jobs
        SET state = 'waiting', submitted_at = NULL, submitted_here = NULL, charged = false
        WHERE account = $1 AND ref = $2 AND created_at = $3 AND state IN ({_IN_DOUBT})
              AND job_id IS NULL AND accepted_at IS NULL
              AND (submitted_at = $4 OR (submitted_at IS NULL AND $4::float8 IS NULL AND owner = $5))
        RETURNING owner
    )
    SELECT pg_notify('{CHANNEL}', $5) FROM written
"""
_IS_ALIVE = "owners.owner IS NOT NULL"
_WITH_OWNERS = f"""
    LEFT JOIN {SCHEMA}.owners AS owners
    ON owners.owner = jobs.owner AND owners.seen_at + owners.lease > clock_timestamp()
"""
_SELECT = f"""
    SELECT {", ".join(f"jobs.{name}" for name in _COLUMNS)}, jobs.submitted_here, jobs.accepted_here,
           {_IS_ALIVE} AS is_alive
    FROM {SCHEMA}.jobs AS jobs {_WITH_OWNERS}
"""
# PostgreSQL uses a partial index only for a query that implies the index's condition.
_NOT_TAKEN = "jobs.saved_path IS NULL AND jobs.delivered_at IS NULL"
_IS_OPEN = f"jobs.state IN ({_listed(UNFINISHED)}) AND {_NOT_TAKEN}"
_IS_ACTIVE = f"jobs.state IN ({_listed([state for state in UNFINISHED if state is not JobState.READY])})"
_IS_IN_DOUBT = "accepted_at IS NULL AND charged IS NOT false"
_AT_OF_DOUBT = "coalesce(submitted_at, created_at)"
_COUNT_CHARGES = f"""
    SELECT price, sum(jobs)::bigint AS count FROM {SCHEMA}.totals
    WHERE account = $1 AND day >= $2 GROUP BY price
    UNION ALL
    SELECT price, count(*) FROM {SCHEMA}.jobs
    WHERE account = $1 AND {_IS_IN_DOUBT} AND (charged IS NULL OR {_AT_OF_DOUBT} >= $2 * {DAY}::float8) GROUP BY price
"""
_ADD_UP = f"""
    WITH single AS (
        DELETE FROM {SCHEMA}.totals WHERE (account, day, price) IN (
            SELECT account, day, price FROM {SCHEMA}.totals GROUP BY 1, 2, 3 HAVING count(*) > 1
        ) RETURNING *
    )
    INSERT INTO {SCHEMA}.totals SELECT account, day, price, sum(jobs) FROM single GROUP BY 1, 2, 3
"""
_IS_PRUNABLE = f"""
    (jobs.state IN ({_listed(OVER)})
     OR (jobs.state = 'ready' AND (jobs.saved_path IS NOT NULL OR jobs.delivered_at IS NOT NULL)))
    AND NOT ({_IS_IN_DOUBT}) AND coalesce(ended_at, created_at) < $2
"""
_DELETE = f"""
    DELETE FROM {SCHEMA}.jobs AS jobs USING unnest($3::text[], $4::float8[]) AS wanted (ref, created_at)
    WHERE jobs.account = $1 AND jobs.ref = wanted.ref AND jobs.created_at = wanted.created_at
          AND {_IS_PRUNABLE.replace("created_at)", "jobs.created_at)")}
    RETURNING jobs.ref
"""
_OLD_DURATIONS = f"""
    DELETE FROM {SCHEMA}.durations WHERE id IN (
        SELECT id FROM {SCHEMA}.durations WHERE service = $1 AND operation = $2 AND kind = $3
        ORDER BY id DESC OFFSET {DURATIONS_OF_KIND}
    ) OR id <= (SELECT max(id) FROM {SCHEMA}.durations) - {MAX_DURATIONS}
"""
_ADD_UP_LOCK = 0x4D4C6A32
"""The key of the advisory lock under which one client at a time adds up: "MLj2"."""
_DELIVER = f"""
    INSERT INTO {SCHEMA}.deliveries AS deliveries VALUES ($1, $2, $3, $4)
    ON CONFLICT (owner, account, ref) DO UPDATE SET job_id = coalesce(excluded.job_id, deliveries.job_id)
"""
_TAKE_DELIVERIES = f"""
    DELETE FROM {SCHEMA}.deliveries AS deliveries
    WHERE account = $1 AND (owner = $2 OR NOT EXISTS (
        SELECT FROM {SCHEMA}.owners AS owners
        WHERE owners.owner = deliveries.owner AND owners.seen_at + owners.lease > clock_timestamp()
    ))
    RETURNING ref, job_id
"""
_BEAT = f"""
    INSERT INTO {SCHEMA}.owners (owner, seen_at, lease) VALUES ($1, clock_timestamp(), make_interval(secs => $2))
    ON CONFLICT (owner) DO UPDATE SET seen_at = excluded.seen_at
    RETURNING extract(epoch FROM clock_timestamp())::float8
"""
_IS_PICTURE_NEEDED = f"""
    EXISTS (
        SELECT FROM {SCHEMA}.jobs AS jobs
        WHERE jobs.account = uses.account AND jobs.ref = uses.ref AND jobs.created_at = uses.created_at
              AND jobs.state IN ({_NEEDS_PICTURE})
    )
"""
_DROP_USES = f"""
    DELETE FROM {SCHEMA}.picture_uses AS uses
    WHERE NOT {_IS_PICTURE_NEEDED} AND (kept_at < clock_timestamp() - interval '1 minute' OR EXISTS (
        SELECT FROM {SCHEMA}.jobs AS jobs
        WHERE jobs.account = uses.account AND jobs.ref = uses.ref AND jobs.created_at = uses.created_at
    ))
"""
_DROP_PICTURES = f"""
    DELETE FROM {SCHEMA}.pictures AS pictures
    WHERE NOT EXISTS (SELECT FROM {SCHEMA}.picture_uses AS uses WHERE uses.digest = pictures.digest)
"""


def write_values(record: JobRecord, take_over: str | None, owner: str, clock_offset: float) -> tuple[Any, ...]:
    """Return the parameters of `WRITE`. Raise ValueError, TypeError or RecursionError for what no row can hold.

    owner: this client. clock_offset: the seconds by which the database's clock is ahead of the client's.
    """
    details = {name: value for name in _DETAILS if (value := getattr(record, name)) not in _EMPTY}
    encoded = {"state": record.state.value, "details": json.dumps(details, allow_nan=False)}
    row = [encoded[name] if name in encoded else getattr(record, name) for name in _COLUMNS]
    for name, value in zip(_COLUMNS, row, strict=True):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}={value}: must be a finite number")
        if isinstance(value, str):
            value.encode()  # raises UnicodeEncodeError, which is a ValueError, for a lone surrogate
    return (*row, take_over, clock_offset, owner)


async def write(connection: "AnyConnection", values: Sequence[Any]) -> bool:
    """Write a record by the rules of `Journal.append`, and return whether it was written.

    Raise UniqueViolationError if another row of the account has its id. *values* are those of `write_values`.
    """
    return await connection.fetchrow(WRITE, *values) is not None


async def take_over(connection: "AnyConnection", account: str, values: Mapping[str, Sequence[Any]]) -> set[str]:
    """Write records as `write` does, by ref, if their rows still belong to the owners that may be taken over.

    Return the refs of those that were written.
    """
    sql = f"SELECT ref, owner FROM {SCHEMA}.jobs WHERE account = $1 AND ref = ANY($2) ORDER BY ref FOR UPDATE"
    owners = {row["ref"]: row["owner"] for row in await connection.fetch(sql, account, list(values))}
    usable = [values[ref] for ref, owner in owners.items() if values[ref][_TAKE_OVER] == owner]
    return {row["ref"] for row in await connection.fetchmany(WRITE, usable)} if usable else set()


async def put_back_claim(connection: "AnyConnection", record: JobRecord, owner: str) -> None:
    """Make the row of a job WAITING again if it says what this claim wrote: the job was certainly not sent.

    The row may be UNCERTAIN now, because another client took it over. The time of the submit distinguishes this claim
    from a claim of another client.
    """
    values = record.account, record.ref, record.created_at, record.submitted_at, owner
    await connection.fetchrow(_PUT_BACK_CLAIM, *values)


async def is_submitting(connection: "AnyConnection", record: JobRecord) -> bool:
    """Return whether the job's row waits for the reply to its submit."""
    sql = f"SELECT state FROM {SCHEMA}.jobs WHERE account = $1 AND ref = $2 AND created_at = $3"
    state = await connection.fetchval(sql, record.account, record.ref, record.created_at)
    return bool(state == JobState.SUBMITTING.value)


async def holding(connection: "AnyConnection", account: str, owner: str) -> list[Row]:
    """Return the jobs that may hold a slot: those of all clients but *owner*, and all that are UNCERTAIN.

    Their times are the database's.
    """
    whose = f"(jobs.owner <> $2 OR jobs.state = {JobState.UNCERTAIN.value!r})"
    sql = f"{_SELECT} WHERE jobs.account = $1 AND {_IS_ACTIVE} AND jobs.state IN ({_listed(HOLDING)}) AND {whose}"
    return [
        Row(
            _record_from(row)._replace(submitted_at=row["submitted_here"], accepted_at=row["accepted_here"]),
            row["is_alive"],
        )
        for row in await connection.fetch(sql, account, owner)
    ]


async def lock(connection: "AnyConnection", account: str) -> tuple[AccountCap, float]:
    """Lock the account's row until the transaction ends. Return its cap, and the database's time after that."""
    sql = f"SELECT maximum, cap, retry_at, refused_at FROM {SCHEMA}.accounts WHERE account = $1 FOR UPDATE"
    row = await connection.fetchrow(sql, account)
    if row is None:
        insert = f"INSERT INTO {SCHEMA}.accounts (account) VALUES ($1) ON CONFLICT DO NOTHING"
        await connection.execute(insert, account)
        row = await connection.fetchrow(sql, account)
    now = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return AccountCap(*(row or ())), now


async def has_cap(connection: "AnyConnection", account: str) -> bool:
    """Return whether a refusal taught a cap, which an acceptance may raise."""
    sql = f"SELECT cap IS NOT NULL AND retry_at IS NULL FROM {SCHEMA}.accounts WHERE account = $1"
    return bool(await connection.fetchval(sql, account))


async def write_cap(connection: "AnyConnection", account: str, cap: AccountCap) -> None:
    """Keep what refusals taught about the account."""
    sql = f"UPDATE {SCHEMA}.accounts SET maximum = $2, cap = $3, retry_at = $4, refused_at = $5 WHERE account = $1"
    await connection.execute(sql, account, *cap)


async def read_asks(connection: "AnyConnection", account: str, owner: str) -> list[ClientAsk]:
    """Return what *owner* asks for, and what the clients that beat within half a lease ask for.

    A client whose last beat is older does not send a job, so a slot is not left for it.
    """
    sql = f"""
        SELECT asks.owner, slots, since, asked_at FROM {SCHEMA}.asks AS asks
        LEFT JOIN {SCHEMA}.owners AS owners
        ON owners.owner = asks.owner AND owners.seen_at + owners.lease / 2 > clock_timestamp()
        WHERE account = $1 AND (owners.owner IS NOT NULL OR asks.owner = $2)
    """
    return [ClientAsk(*row) for row in await connection.fetch(sql, account, owner)]


async def write_ask(connection: "AnyConnection", account: str, ask: ClientAsk) -> None:
    """Keep what a client asked for."""
    sql = f"""
        INSERT INTO {SCHEMA}.asks (account, owner, slots, since, asked_at) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (account, owner)
        DO UPDATE SET slots = excluded.slots, since = excluded.since, asked_at = excluded.asked_at
    """
    await connection.execute(sql, account, *ask)


async def count_charges(connection: "AnyConnection", account: str, since: float) -> Counter[Decimal]:
    """Return how many jobs were accepted since then, or are in doubt since any time, by price.

    since: the beginning of a UTC day, unix seconds; -infinity for all days.
    """
    return _counted(await connection.fetch(_COUNT_CHARGES, account, _day(since)))


def _counted(found: Sequence["asyncpg.Record"]) -> Counter[Decimal]:
    counts = Counter[Decimal]()
    for row in found:
        counts[row["price"]] += row["count"]
    return counts


def _day(since: float) -> int:
    """Return the number of the UTC day in which *since* is; a day before all jobs for -infinity."""
    return int(since // DAY) if math.isfinite(since) else -(2**31)


async def beat(connection: "AnyConnection", owner: str, lease: float) -> float:
    """Write that a client is alive, and return the database's time."""
    now: float = await connection.fetchval(_BEAT, owner, lease)
    return now


async def leave(connection: "AnyConnection", owner: str) -> None:
    """Remove a client that closes, and what it asked for. Wake the others."""
    for table in ("asks", "owners"):
        await connection.execute(f"DELETE FROM {SCHEMA}.{table} WHERE owner = $1", owner)
    await notify(connection, owner)


async def notify(connection: "AnyConnection", owner: str) -> None:
    """Wake the other clients when the transaction commits."""
    await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, owner)


async def clean(connection: "AnyConnection") -> None:
    """Remove what dead clients left: their asks, their names after a day, and pictures that no job needs."""
    await connection.execute(
        f"DELETE FROM {SCHEMA}.owners WHERE seen_at + lease < clock_timestamp() - interval '1 day'"
    )
    await connection.execute(
        f"DELETE FROM {SCHEMA}.asks AS asks WHERE NOT EXISTS (SELECT FROM {SCHEMA}.owners AS owners"
        " WHERE owners.owner = asks.owner AND owners.seen_at + owners.lease > clock_timestamp())"
    )
    await connection.execute(_DROP_USES)
    await connection.execute(_DROP_PICTURES)
    if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _ADD_UP_LOCK):
        await connection.execute(_ADD_UP)


async def unfinished(connection: "AnyConnection", account: str, ready: bool) -> list[Row]:
    """As in `Journal`."""
    condition = _IS_OPEN if ready else f"{_IS_ACTIVE} AND {_NOT_TAKEN}"
    sql = f"{_SELECT} WHERE jobs.account = $1 AND {condition} ORDER BY created_at"
    return [_row_from(row) for row in await connection.fetch(sql, account)]


async def orphaned(connection: "AnyConnection", account: str) -> list[JobRecord]:
    """As in `Journal`."""
    sql = f"{_SELECT} WHERE jobs.account = $1 AND {_IS_OPEN} AND NOT ({_IS_ALIVE}) ORDER BY created_at"
    return [_record_from(row) for row in await connection.fetch(sql, account)]


async def find(connection: "AnyConnection", account: str, ref: str | None, job_id: str | None) -> Row | None:
    """As in `Journal`."""
    by_ref = f"SELECT ref FROM {SCHEMA}.jobs WHERE account = $1 AND ref = $2"
    by_id = f"SELECT ref FROM {SCHEMA}.jobs WHERE account = $1 AND job_id = $3"
    sql = f"{_SELECT} WHERE jobs.account = $1 AND jobs.ref = coalesce(({by_ref}), ({by_id}))"
    row = await connection.fetchrow(sql, account, ref, job_id)
    return _row_from(row) if row else None


async def find_all(connection: "AnyConnection", account: str, refs: Collection[str]) -> list[Row]:
    """As in `Journal`."""
    sql = f"{_SELECT} WHERE jobs.account = $1 AND jobs.ref = ANY ($2)"
    return [_row_from(row) for row in await connection.fetch(sql, account, list(refs))]


async def recent(connection: "AnyConnection", account: str, limit: int) -> list[JobRecord]:
    """As in `Journal`."""
    sql = f"{_SELECT} WHERE jobs.account = $1 ORDER BY created_at DESC LIMIT $2"
    return [_record_from(row) for row in await connection.fetch(sql, account, limit)]


async def charges(
    connection: "AnyConnection", account: str, since: float, apart_from: Collection[str]
) -> tuple[Counter[Decimal], list[Charge]]:
    """As in `Journal`: the counts by price, and the charges that are in doubt."""
    sql = f"""
        SELECT price, sum(jobs)::bigint AS count FROM {SCHEMA}.totals WHERE account = $1 AND day >= $2 GROUP BY price
    """
    counts = _counted(await connection.fetch(sql, account, _day(since)))
    own = f"""
        SELECT price, count(*) AS count FROM unnest($2::text[], $3::float8[]) AS own (ref, created_at)
        JOIN {SCHEMA}.jobs AS jobs USING (ref, created_at)
        WHERE account = $1 AND accepted_at IS NOT NULL AND charged IS NOT false AND accepted_at >= $4 GROUP BY price
    """
    if apart_from:
        refs, times = zip(*(ref_and_time_of(account, key) for key in apart_from), strict=True)
        counts.subtract(_counted(await connection.fetch(own, account, refs, times, since)))
    doubted = f"""
        SELECT ref, created_at, {_AT_OF_DOUBT} AS at, price FROM {SCHEMA}.jobs WHERE account = $1 AND {_IS_IN_DOUBT}
    """
    return counts, [
        Charge(key_of(account, row["ref"], row["created_at"]), row["at"], row["price"], is_certain=False)
        for row in await connection.fetch(doubted, account)
    ]


async def prunable(
    connection: "AnyConnection", account: str, before: float, since: float, limit: int
) -> list[JobRecord]:
    """Return jobs that are over, the oldest first: those that were created at *since* or later."""
    sql = f"""
        {_SELECT} WHERE jobs.account = $1 AND created_at >= $3 AND created_at < $2 AND {_IS_PRUNABLE}
        ORDER BY created_at LIMIT $4
    """
    return [_record_from(row) for row in await connection.fetch(sql, account, before, since, limit)]


async def delete(connection: "AnyConnection", records: Sequence[JobRecord], before: float) -> int:
    """Delete jobs of one account that are still over. Return how many they were."""
    refs, times = [record.ref for record in records], [record.created_at for record in records]
    return len(await connection.fetch(_DELETE, records[0].account, before, refs, times))


async def write_durations(connection: "AnyConnection", durations: Sequence[Duration]) -> None:
    """Add durations, and delete old ones."""
    names = ", ".join(Duration._fields)
    sql = f"INSERT INTO {SCHEMA}.durations ({names}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
    await connection.executemany(sql, durations)
    for kind in sorted({duration[:3] for duration in durations}):
        await connection.execute(_OLD_DURATIONS, *kind)


async def durations(connection: "AnyConnection", service: str, operation: str) -> list[Duration]:
    """As in `Journal`."""
    names = ", ".join(Duration._fields)
    sql = f"SELECT {names} FROM {SCHEMA}.durations WHERE service = $1 AND operation = $2 ORDER BY id"
    return [Duration(*row) for row in await connection.fetch(sql, service, operation)]


async def deliver(connection: "AnyConnection", record: JobRecord, job_id: str | None) -> None:
    """Add a notification. An earlier one for the same job keeps its id if this one has none."""
    await connection.execute(_DELIVER, record.owner, record.account, record.ref, job_id)


async def take_deliveries(connection: "AnyConnection", account: str, owner: str) -> list[tuple[str, str | None]]:
    """Remove the notifications for *owner* and for dead clients, and return them as (ref, id or None)."""
    return [(row["ref"], row["job_id"]) for row in await connection.fetch(_TAKE_DELIVERIES, account, owner)]


async def keep_picture(connection: "AnyConnection", record: JobRecord, digest: str, picture: bytes) -> None:
    """Keep a job's picture. Equal pictures are kept once."""
    pictures = f"""
        INSERT INTO {SCHEMA}.pictures (digest, picture) VALUES ($1, $2)
        ON CONFLICT (digest) DO UPDATE SET digest = excluded.digest
    """
    await connection.execute(pictures, digest, picture)
    uses = f"""
        INSERT INTO {SCHEMA}.picture_uses (account, ref, created_at, digest) VALUES ($1, $2, $3, $4)
        ON CONFLICT (account, ref, created_at) DO UPDATE SET digest = excluded.digest, kept_at = excluded.kept_at
    """
    await connection.execute(uses, record.account, record.ref, record.created_at, digest)


async def picture(connection: "AnyConnection", record: JobRecord) -> bytes | None:
    """Return the picture of a job that was not sent; None if it was not kept."""
    sql = f"""
        SELECT picture FROM {SCHEMA}.picture_uses AS uses JOIN {SCHEMA}.pictures AS pictures USING (digest)
        WHERE uses.account = $1 AND uses.ref = $2 AND uses.created_at = $3 AND {_IS_PICTURE_NEEDED}
    """
    found: bytes | None = await connection.fetchval(sql, record.account, record.ref, record.created_at)
    return found


def _row_from(row: "asyncpg.Record") -> Row:
    return Row(_record_from(row), row["is_alive"])


def _record_from(row: "asyncpg.Record") -> JobRecord:
    values = {name: row[name] for name in _COLUMNS}
    details = json.loads(values.pop("details"))
    decoded = {"state": JobState(values["state"]), "links": tuple(details.get("links", ()))}
    return JobRecord(**{**values, **details, **decoded})
