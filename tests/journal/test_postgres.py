"""The journal in PostgreSQL: its schema, its roles, and what it cannot hold."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.databases import LEASE, Server, journal_on, until
from helpers.journals import S, a_record, opened

from modelslab_async import InvalidRequestError, JournalError
from modelslab_async.journal.base import Row
from modelslab_async.journal.choose import journal_of
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.journal.postgres_rows import MIGRATIONS
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.journal.store import UnwritableError
from modelslab_async.protocol.claims import Ask, Claimed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def journal(postgres: Server, database: str) -> AsyncIterator[PostgresJournal]:
    async with opened(journal_on(postgres.url_of(database))) as journal:
        yield journal


# --- the schema, and the roles that may use it ---


async def test_many_clients_may_create_the_schema_at_once(postgres: Server, database: str) -> None:
    """Five clients open an empty database in the same moment. All of them can, and the schema is created once."""
    journals = [journal_on(postgres.url_of(database)) for _ in range(5)]
    await asyncio.gather(*(journal.open() for journal in journals))
    assert all(await asyncio.gather(*(each.append(a_record(each, each.owner)) for each in journals)))
    assert len(await journals[0].unfinished("a")) == 5
    assert await postgres.fetch("SELECT version FROM modelslab_async.version", database=database) == [
        (len(MIGRATIONS),)
    ]
    await asyncio.gather(*(journal.close() for journal in journals))


async def test_a_schema_of_a_newer_version_is_refused(
    postgres: Server, journal: PostgresJournal, database: str
) -> None:
    """It is left alone, and the error says what to do."""
    await postgres.run("UPDATE modelslab_async.version SET version = 99", database=database)
    with pytest.raises(JournalError, match=r"a newer modelslab_async wrote it.*hint: update modelslab_async"):
        await journal_on(postgres.url_of(database)).open()
    assert await journal.append(a_record(journal))


async def test_a_role_needs_no_superuser(postgres: Server, database: str) -> None:
    """A role that may create schemas creates it. Then a role with rights on its tables can use it."""
    owner, user = f"owner_{database}", f"user_{database}"
    await postgres.run(f"CREATE ROLE {owner} LOGIN", f"CREATE ROLE {user} LOGIN")
    urls = [postgres.url_of(database).replace("postgres:@", f"{role}@") for role in (owner, user)]
    for url in urls:
        with pytest.raises(JournalError, match="hint: GRANT this role CREATE on the database"):
            await journal_on(url).open()
    await postgres.run(f"GRANT CREATE ON DATABASE {database} TO {owner}")
    async with opened(journal_on(urls[0])) as journal:
        await _use(journal)
    with pytest.raises(JournalError, match="hint: GRANT"):
        await journal_on(urls[1]).open()
    await postgres.run(
        f"GRANT USAGE ON SCHEMA modelslab_async TO {user}",
        f"GRANT ALL ON ALL TABLES IN SCHEMA modelslab_async TO {user}",
        database=database,
    )
    async with opened(journal_on(urls[1])) as journal:
        await _use(journal)


async def _use(journal: PostgresJournal) -> None:
    """Make each kind of change once."""
    account = journal.owner
    intent = a_record(journal, "r", S.SUBMITTING, account=account, submitted_at=time.time(), charged=None)
    await journal.keep_picture(intent, b"picture")
    assert isinstance(await journal.claim(intent, Ask(slots=9)), Claimed)
    waiting = intent._replace(state=S.WAITING, submitted_at=None, charged=False)
    await journal.put_back(waiting, Ask(slots=9), wait=1.0, maximum=None)
    await journal.deliver(intent, "77")
    assert await journal.delivered(account) == [("r", "77")]
    assert await journal.picture(intent) == b"picture"


async def test_a_database_with_other_defaults_is_used_alike(postgres: Server) -> None:
    """Its isolation, its durability and its search path do not matter."""
    database = await postgres.make_database()
    for setting in (
        "default_transaction_isolation = serializable",
        "default_transaction_read_only = on",
        "synchronous_commit = off",
        "search_path = nowhere",
        "timezone = 'Asia/Kathmandu'",
    ):
        await postgres.run(f"ALTER DATABASE {database} SET {setting}")
    async with opened(journal_on(postgres.url_of(database))) as journal:
        written = [journal.append(a_record(journal, str(number))) for number in range(20)]
        assert await asyncio.gather(*written) == [True] * 20
        assert len(await journal.recent("a", 100)) == 20
        await _use(journal)


@pytest.mark.parametrize(
    ("dsn", "hint"),
    [
        ("postgresql://nobody@{host}/postgres", "check the user"),
        ("postgresql://postgres@{host}/no_such_database", "create the database"),
        ("postgresql://postgres@{host}/postgres&sslmode=nonsense", "correct the URL"),
    ],
)
async def test_what_is_wrong_with_the_url_is_said(postgres: Server, dsn: str, hint: str) -> None:
    """The error names the database, and what to do."""
    _, _, host = postgres.url.partition("?")
    path, _, option = dsn.replace("{host}", "").partition("&")
    with pytest.raises(JournalError, match=f"hint: {hint}") as caught:
        await journal_on(f"{path}?{host}&{option}" if option else f"{path}?{host}").open()
    assert "postgresql://" in str(caught.value)


@pytest.mark.parametrize(
    ("dsn", "options", "field"),
    [
        ("mysql://host/db", {}, "dsn"),
        ("jobs.db", {}, "dsn"),
        ("postgresql://[host/db", {}, "dsn"),
        (None, {}, "dsn"),
        ("postgresql://host/db", {"lease": 0}, "lease"),
        ("postgresql://host/db", {"beat": float("nan")}, "beat"),
        ("postgresql://host/db", {"lease": 10, "beat": 5}, "beat"),
    ],
)
def test_arguments_that_cannot_be_right_are_refused(dsn: Any, options: dict[str, Any], field: str) -> None:
    """Before anything is connected."""
    with pytest.raises(InvalidRequestError) as caught:
        PostgresJournal(dsn, **options)
    assert [problem.field for problem in caught.value.problems] == [field]


def test_the_journal_is_chosen_by_the_value() -> None:
    """A URL of PostgreSQL names a database, and anything else is a path."""
    for url in ("postgresql://host/db", "postgres://host/db"):
        assert isinstance(journal_of(url), PostgresJournal)
    for path in ("jobs.db", Path("postgresql:/host"), "file.postgresql://x"):
        journal = journal_of(path)
        assert isinstance(journal, SqliteJournal)
        assert journal.path == Path(path)


async def test_a_missing_asyncpg_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening says how to install it."""
    for module in [name for name in sys.modules if name.startswith("modelslab_async.journal.postgres_")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(JournalError, match=r"pip install 'modelslab_async\[postgres\]'"):
        await journal_on("postgresql://host/db").open()


# --- rows, times and pictures ---


async def test_a_value_that_no_row_can_hold_is_given_up(journal: PostgresJournal) -> None:
    """It raises UnwritableError, also within a batch of notes, and what was queued with it is written."""
    odd: tuple[dict[str, Any], ...] = (
        {"saved_path": "a null \0"},
        {"job_id": "a lone surrogate \ud800"},
        {"submitted_at": float("nan")},
        {"request": {"guidance_scale": float("inf")}},
        {"request": {"extra": object()}},
        {"job_id": random.Random(1).randbytes(50_000).hex()},
    )
    for number, changes in enumerate(odd):
        with pytest.raises(UnwritableError, match="hint: "):
            await journal.append(a_record(journal, f"odd {number}", **changes))
        for each in ({}, changes, {}):
            journal.note(a_record(journal, f"{number} {len(each)}", created_at=float(number), **each))
        assert await journal.find("a", ref=f"{number} 0") is not None
        assert await journal.find("a", ref=f"{number} 1") is None
    assert await journal.append(a_record(journal))


async def test_notes_share_transactions(journal: PostgresJournal, postgres: Server, database: str) -> None:
    """A thousand notes at once take a few transactions, so that a large batch can claim soon."""
    for number in range(1000):
        journal.note(a_record(journal, str(number)))
    assert await journal.find("a", ref="999") is not None
    count = "SELECT count(DISTINCT xmin::text), count(*) FROM modelslab_async.jobs"
    ((transactions, written),) = await postgres.fetch(count, database=database)
    assert written == 1000
    assert transactions <= 10


async def test_an_id_that_is_taken_fails_alone(journal: PostgresJournal) -> None:
    """Among notes that share a transaction, only the one whose id belongs to another row is not written."""
    assert await journal.append(a_record(journal, "first", S.PROCESSING, job_id="77"))
    for ref, job_id in (("one", "78"), ("two", "77"), ("three", "79")):
        journal.note(a_record(journal, ref, S.PROCESSING, job_id=job_id))
    found = [await journal.find("a", ref=ref) for ref in ("one", "two", "three")]
    assert [row is not None for row in found] == [True, False, True]


async def test_a_client_whose_clock_is_wrong_holds_its_slots_as_long_as_others(
    postgres: Server, journal: PostgresJournal, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How long a dead client's job holds its slot is measured by the database's clock."""

    class Clock:
        monotonic = staticmethod(time.monotonic)

        @staticmethod
        def time() -> float:
            return time.time() + 3600

    with monkeypatch.context() as patch:
        patch.setattr("modelslab_async.journal.postgres_store.time", Clock)
        ahead = journal_on(postgres.url_of(database))
        await ahead.open()
        intent = a_record(ahead, "ahead", S.SUBMITTING, submitted_at=Clock.time(), charged=None)
        assert isinstance(await ahead.claim(intent, Ask(slots=1)), Claimed)
        await ahead.close()
    mine = a_record(journal, "r", S.SUBMITTING, submitted_at=time.time(), charged=None)
    assert not isinstance(await journal.claim(mine, Ask(slots=1)), Claimed)
    assert await journal.find("a", ref="ahead") == Row(intent, is_alive=False)


async def test_equal_pictures_are_kept_once_and_dropped_when_no_job_needs_them(
    journal: PostgresJournal, postgres: Server, database: str
) -> None:
    """Within about a lease after the last of their jobs was sent."""
    jobs = [a_record(journal, ref) for ref in ("one", "two")]
    for job in jobs:
        journal.note(job)
        await journal.keep_picture(job, b"picture")
    query = partial(postgres.fetch, "SELECT picture FROM modelslab_async.pictures", database=database)
    assert await query() == [(b"picture",)]
    assert await journal.append(jobs[0]._replace(state=S.CANCELLED))
    await asyncio.sleep(LEASE + 0.5)
    assert await journal.picture(jobs[1]) == b"picture"
    assert await query() == [(b"picture",)]
    assert await journal.append(jobs[1]._replace(state=S.CANCELLED))

    async def is_dropped() -> bool:
        return len(await query()) == 0

    await until(is_dropped)


async def test_a_picture_that_is_too_large_is_refused(journal: PostgresJournal) -> None:
    """The service takes pictures of at most 5 MB."""
    with pytest.raises(JournalError, match="hint: make it smaller, or pass its URL"):
        await journal.keep_picture(a_record(journal), bytes(5_000_001))


async def test_an_owner_is_named_after_its_host(journal: PostgresJournal) -> None:
    """So that a person sees where a job runs."""
    import socket  # noqa: PLC0415

    assert journal.owner.startswith(f"{socket.gethostname()[:40]}-")


# --- forks ---

FORK = """
import asyncio, os, sys
from modelslab_async import JobRecord, JournalError
from modelslab_async.journal.postgres import PostgresJournal

def row(journal, ref):
    return JobRecord("a", ref, journal.owner, 1.0)

async def child(journal):
    owner = journal.owner
    try:
        async with asyncio.timeout(10):
            await journal.append(row(journal, "closed"))
    except JournalError as error:
        print("not open" in str(error), flush=True)
    await journal.open()
    assert await journal.append(row(journal, "child"))
    print(journal.owner != owner, (await journal.find("a", ref="parent 0")).is_alive, flush=True)
    await journal.close()

async def parent():
    journal = PostgresJournal(sys.argv[1], lease=3.0, beat=0.5)
    await journal.open()
    await journal.append(row(journal, "parent 0"))
    appends = [asyncio.create_task(journal.append(row(journal, f"parent {number}"))) for number in range(1, 50)]
    await asyncio.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        {}
    assert all(await asyncio.gather(*appends))
    await asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)
    assert await journal.append(row(journal, "parent 50"))
    await journal.close()

asyncio.run(parent())
"""
ENDS = {
    "uses the journal": ("asyncio.set_event_loop(None); asyncio._set_running_loop(None);"
                         " asyncio.run(child(journal)); os._exit(0)"),
    "os._exit": "os._exit(0)",
}  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
@pytest.mark.parametrize("end", ENDS)
async def test_a_forked_child_leaves_its_parents_connections_alone(postgres: Server, database: str, end: str) -> None:
    """The journal is closed in the child, which may open it again. The parent's writes are made, each once."""
    script = FORK.replace("{}", ENDS[end], 1)
    command = [sys.executable, "-W", "ignore", "-c", script, postgres.url_of(database)]
    run = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stderr == ""
    assert run.stdout.split() == (["True", "True", "True"] if "uses" in end else [])
    rows = await postgres.fetch("SELECT ref FROM modelslab_async.jobs", database=database)
    child = {"child"} if "uses" in end else set[str]()
    assert {ref for (ref,) in rows} == {f"parent {number}" for number in range(51)} | child
