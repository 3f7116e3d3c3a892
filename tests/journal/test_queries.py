"""What a query costs: no query of a journal reads the jobs of an account that have ended."""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.databases import PostgresHarness, Server
from helpers.journals import S, a_record, opened

from modelslab_async.journal import postgres_rows
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal, SqliteStore
from modelslab_async.journal.store import ClaimSlot, PutBack, Write
from modelslab_async.protocol.claims import Ask
from modelslab_async.protocol.pricing import DAY, SpendingLimit
from modelslab_async.protocol.record import JobRecord, key_of

LIMIT = SpendingLimit(None, 10**9, None, Decimal("0.2"), 0, -math.inf)
ASK = Ask(slots=9, spending=LIMIT)
BOUNDED = re.compile(
    r"PRIMARY KEY \(account=\? AND ref=\?\)|jobs_by_id \(account=\? AND job_id=\?\)|jobs_(open|active|in_doubt) "
)
"""Ways to search jobs that find single rows, or rows that have not ended."""


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[SqliteJournal]:
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal:
        yield journal


def fill(store: SqliteStore, count: int) -> None:
    """Add jobs of the account "a" that ended and were saved, two in three of them charged."""
    columns = "account, ref, owner, created_at, state, job_id, price, charged, accepted_at, saved_path, details"
    rows = (
        ("a", f"old {n}", f"o{n % 7}", n, "ready", f"id {n}", "0.2", n % 3 > 0, n * 1.0, f"/videos/{n}.mp4", "{}")
        for n in range(count)
    )
    with store.transaction() as connection:
        connection.executemany(f"INSERT INTO jobs ({columns}) VALUES ({', '.join('?' * 11)})", rows)  # noqa: S608


def calls(store: SqliteStore) -> Sequence[Callable[[], object]]:
    """Return everything that a client asks of a store while it runs jobs."""
    job = JobRecord(account="a", ref="new", owner=store.owner, created_at=5.0, state=S.SUBMITTING, submitted_at=6.0)
    accepted = job._replace(state=S.PROCESSING, job_id="new id", accepted_at=7.0, charged=True)
    key = key_of("a", "old 5", 5.0)
    return [
        lambda: store.write([Write(job._replace(state=S.WAITING))]),
        lambda: store.write([ClaimSlot(job, ASK)]),
        lambda: store.write([PutBack(job._replace(state=S.WAITING), ASK, 1.0, 3)]),
        lambda: store.write([ClaimSlot(job._replace(ref="second"), ASK)]),
        lambda: store.write([Write(accepted), Write(accepted._replace(owner="taker"), store.owner)]),
        lambda: store.unfinished("a", ready=True),
        lambda: store.unfinished("a", ready=False),
        lambda: store.orphaned("a"),
        lambda: store.find("a", "old 5", "old 5"),
        lambda: store.find("a", "id 5", "id 5"),
        lambda: store.find_all("a", ["old 5", "new", "none"]),
        lambda: store.recent("a", 5),
        lambda: store.charges("a", 0.0, [key]),
        lambda: store.charges("a", 3.0 * DAY, ()),
        lambda: store.deliver(store.owner, "a", "new", "77"),
        lambda: store.delivered("a"),
    ]


def test_each_search_finds_single_rows_or_open_ones(tmp_path: Path) -> None:
    """SQLite's plan for each statement searches jobs by ref, by id, or in an index of jobs that have not ended.

    Only the newest jobs are read by their age, up to a limit.
    """
    store = SqliteStore(tmp_path / "jobs.db", LivenessLock(tmp_path / "jobs.db"))
    store.open()
    asked = set[str]()
    store.connection.set_trace_callback(asked.add)
    for call in calls(store):
        call()
    store.connection.set_trace_callback(None)
    searches = set[str]()
    for sql in (each.replace("-Inf", "-9e999") for each in asked):  # SQLite shows infinity as it cannot read it
        if not re.match(r"\s*(BEGIN|COMMIT|PRAGMA|--)", sql):
            steps = [step for *_, step in store.connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
            of_jobs = [step for step in steps if re.search(r"\bjobs\b", step)]
            is_limited = "jobs_by_age" in sql and sql.rstrip().endswith("LIMIT 5")
            assert all(BOUNDED.search(step) or is_limited for step in of_jobs), (sql, steps)
            searches.update(of_jobs)
    store.close()
    assert len(searches) >= 6


def test_no_call_costs_more_beside_many_ended_jobs(tmp_path: Path) -> None:
    """Beside 20,000 jobs that ended, each call takes as many steps of SQLite's machine as beside 200."""
    costs = list[list[int]]()
    for count in (200, 20_000):
        path = tmp_path / f"{count}.db"
        store = SqliteStore(path, LivenessLock(path))
        store.open()
        fill(store, count)
        costs.append([_steps(store.connection, call) for call in calls(store)])
        store.close()
    for number, (few, many) in enumerate(zip(*costs, strict=True)):
        assert many <= 1.2 * few + 20, number


def _steps(connection: sqlite3.Connection, call: Callable[[], object]) -> int:
    """Return how many instructions of its virtual machine SQLite executes for a call."""
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 1)
    call()
    connection.set_progress_handler(None, 0)
    return steps


async def test_a_migrated_file_has_the_totals_of_its_rows(tmp_path: Path, journal: SqliteJournal) -> None:
    """The totals of charges equal what the rows say, however often they changed."""
    states = (S.SUBMITTING, S.PROCESSING, S.FAILED, S.READY)
    for number in range(60):
        known = {"accepted_at": number * 9000.0, "charged": True, "job_id": f"{number}"}
        for step, state in enumerate(states[: number % 4 + 1]):
            changes: dict[str, Any] = known if step else {"charged": None}
            await journal.append(a_record(journal, f"r{number}", state, created_at=number * 1.0, **changes))
    sql = "SELECT count(*) FROM jobs WHERE accepted_at >= ? AND charged IS NOT 0"
    for day in range(7):
        [expected] = journal.store.connection.execute(sql, (day * DAY,)).fetchone()
        found = await journal.charges("a", since=float(day * DAY))
        assert sum(found.counts.values()) == expected


# --- PostgreSQL ---


class Explaining:
    """A connection that explains each query instead of running it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.plans = list[str]()

    async def fetch(self, sql: str, *values: object) -> list[Any]:
        rows = await self.connection.fetch(f"EXPLAIN {sql}", *values)
        self.plans.append("\n".join(row[0] for row in rows))
        return []

    async def fetchrow(self, sql: str, *values: object) -> None:
        await self.fetch(sql, *values)


async def test_postgresql_reads_no_ended_jobs(postgres: Server) -> None:
    """Beside 20,000 jobs that ended, PostgreSQL plans each query with an index, and no query reads a whole table."""
    import asyncpg  # noqa: PLC0415 - optional

    database = await postgres.make_database()
    async with PostgresHarness(postgres, database) as harness:
        await harness.open()
    connection = await asyncpg.connect(postgres.url_of(database))
    try:
        columns = "account, ref, owner, created_at, state, job_id, price, charged, accepted_at, saved_path, details"
        values = "'a', 'r' || n, 'o', n, 'ready', 'j' || n, 0.2, true, n, '/videos/' || n, '{}'"
        rows = f"SELECT {values} FROM generate_series(1, 20000) AS n"  # noqa: S608
        await connection.execute(f"INSERT INTO modelslab_async.jobs ({columns}) {rows}")
        await postgres_rows.clean(connection)
        for table in ("jobs", "totals"):
            await connection.execute(f"VACUUM ANALYZE modelslab_async.{table}")
        explaining: Any = Explaining(connection)
        for query in (
            partial(postgres_rows.unfinished, account="a", ready=True),
            partial(postgres_rows.unfinished, account="a", ready=False),
            partial(postgres_rows.orphaned, account="a"),
            partial(postgres_rows.holding, account="a", owner="o"),
            partial(postgres_rows.find, account="a", ref="r7", job_id="j7"),
            partial(postgres_rows.find_all, account="a", refs=["r7", "r8"]),
            partial(postgres_rows.recent, account="a", limit=50),
            partial(postgres_rows.charges, account="a", since=-math.inf, apart_from=[key_of("a", "r7", 7.0)]),
            partial(postgres_rows.count_charges, account="a", since=0.0),
        ):
            await query(explaining)
        assert len(explaining.plans) == 11
        for plan in explaining.plans:
            assert "Seq Scan on jobs" not in plan
            cost = float(re.findall(r"cost=[\d.]+\.\.([\d.]+)", plan)[0])
            assert cost < 60, plan
    finally:
        await connection.close()
