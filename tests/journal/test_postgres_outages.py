"""The journal in PostgreSQL while its database, or the way to it, fails. Real time, a lease of 3 s, a beat of 0.5 s."""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import nullcontext, suppress
from decimal import Decimal
from functools import partial
from pathlib import Path

import pytest
from helpers.databases import LEASE, Proxy, Server, journal_on, proxied, until
from helpers.journals import S, a_record, opened
from helpers.sockets import deaf_port

from modelslab_async import BudgetExceededError, JobRecord, JournalError
from modelslab_async.journal.base import Row
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.protocol.claims import Ask, Claimed, Follow
from modelslab_async.protocol.pricing import SpendingLimit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def proxy(postgres: Server, database: str) -> AsyncIterator[Proxy]:
    async with proxied(postgres, database) as proxy:
        yield proxy


@pytest.fixture
async def journal(proxy: Proxy) -> AsyncIterator[PostgresJournal]:
    """A client that reaches the database through the proxy."""
    async with opened(journal_on(proxy.url)) as journal:
        yield journal


@pytest.fixture
async def other(postgres: Server, database: str) -> AsyncIterator[PostgresJournal]:
    """A client that always reaches the database."""
    async with opened(journal_on(postgres.url_of(database))) as journal:
        yield journal


def an_intent(journal: PostgresJournal, ref: str) -> JobRecord:
    return a_record(journal, ref, S.SUBMITTING, submitted_at=time.time(), charged=None)


async def state_of(journal: PostgresJournal, ref: str) -> S | None:
    row = await journal.find("a", ref=ref)
    return row.record.state if row else None


async def until_state(journal: PostgresJournal, ref: str, state: S) -> None:
    """Wait until the row is in that state."""

    async def is_in_state() -> bool:
        return await state_of(journal, ref) is state

    await until(is_in_state)


async def is_dead(journal: PostgresJournal, ref: str) -> bool:
    """Return whether the journal sees the owner of the row as dead."""
    row = await journal.find("a", ref=ref)
    return row is not None and not row.is_alive


def wait_in(postgres: Server, database: str, kind: str) -> Awaitable[None]:
    """Let each transaction that inserts the ref "slow" take 1 s more, at the insert or at its commit."""
    return postgres.run(
        "CREATE OR REPLACE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(1.0); RETURN NULL; END $$",
        "CREATE CONSTRAINT TRIGGER wait AFTER INSERT ON modelslab_async.jobs"
        f" DEFERRABLE INITIALLY {kind} FOR EACH ROW WHEN (NEW.ref = 'slow') EXECUTE FUNCTION wait()",
        database=database,
    )


def sleeping(postgres: Server, database: str) -> Callable[[], Awaitable[object]]:
    """Return a condition: a transaction of this database waits in the function above."""
    there = f"wait_event = 'PgSleep' AND datname = '{database}'"
    return partial(postgres.fetch, f"SELECT 1 FROM pg_stat_activity WHERE {there}")  # noqa: S608 - names of ours


async def test_writes_are_made_in_order_once_the_database_is_back(
    proxy: Proxy, journal: PostgresJournal, other: PostgresJournal
) -> None:
    """An acceptance raises an error at once and is written later, as are notes. An intent is not written later."""
    sent = an_intent(journal, "sent")
    assert await journal.append(sent)
    await proxy.stop()
    accepted = sent._replace(state=S.PROCESSING, job_id="77", accepted_at=1.0)
    with pytest.raises(JournalError, match="hint: check that the server runs"):
        await journal.append(accepted)
    with pytest.raises(JournalError):
        await journal.append(an_intent(journal, "intent"))
    with pytest.raises(JournalError):
        await journal.find("a", ref="sent")
    journal.note(accepted._replace(state=S.READY))
    for state in (S.WAITING, S.CANCELLED):
        journal.note(a_record(journal, "noted", state))
    assert await state_of(other, "sent") is S.SUBMITTING
    await proxy.start()
    await until_state(other, "noted", S.CANCELLED)
    assert await state_of(other, "sent") is S.READY
    assert await state_of(journal, "intent") is None
    assert await journal.append(an_intent(journal, "next"))


async def test_a_claim_waits_for_the_database(proxy: Proxy, journal: PostgresJournal, other: PostgresJournal) -> None:
    """It is given when the database is back, and it comes after the notes that were queued before."""
    await proxy.stop()
    journal.note(a_record(journal, "r"))
    claim = asyncio.create_task(journal.claim(an_intent(journal, "r"), Ask(slots=1)))
    await asyncio.sleep(1)
    assert not claim.done()
    await proxy.start()
    assert await claim == Claimed(usable=1)
    assert await state_of(other, "r") is S.SUBMITTING


@pytest.mark.parametrize("instant", ["away", "unanswered", "committing", "committed"])
async def test_a_cancelled_claim_leaves_no_intent(
    instant: str, proxy: Proxy, journal: PostgresJournal, other: PostgresJournal, postgres: Server, database: str
) -> None:
    """Whether the claim waits for the database, or was given and its caller does not know that: the job waits again."""
    await wait_in(postgres, database, "DEFERRED")
    journal.note(a_record(journal, "before"))
    await journal.find("a", ref="before")
    match instant:
        case "away":
            await proxy.stop()
        case "unanswered":
            proxy.hold_answers()
    claim = asyncio.create_task(journal.claim(an_intent(journal, "slow"), Ask(slots=1)))
    if instant in ("away", "unanswered"):
        await asyncio.sleep(0.3)
    else:
        await until(sleeping(postgres, database))
    if instant == "committed":
        proxy.hold_answers()
        await until_state(other, "slow", S.SUBMITTING)
    claim.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claim
    proxy.resume()
    if instant == "away":
        await proxy.start()
    journal.note(a_record(journal, "after"))
    await until_state(other, "after", S.WAITING)
    assert await state_of(other, "slow") is (S.WAITING if instant == "committed" else None)
    assert await other.claim(an_intent(other, "r"), Ask(slots=1)) == Claimed(usable=1)


async def test_a_cancelled_claim_does_not_undo_what_comes_after_it(
    journal: PostgresJournal, other: PostgresJournal
) -> None:
    """The caller is cancelled at each of many instants, and notes that the job was cancelled. That stays."""
    for number in range(25):
        ref = f"r{number}"
        claim = asyncio.create_task(journal.claim(an_intent(journal, ref), Ask(slots=99)))
        await asyncio.sleep(number * 0.0004)
        claim.cancel()
        await asyncio.wait([claim])
        if claim.cancelled():
            journal.note(a_record(journal, ref, S.CANCELLED))
    states = [await state_of(journal, f"r{number}") for number in range(25)]
    assert {*states} <= {S.CANCELLED, S.SUBMITTING}
    assert S.CANCELLED in states
    await asyncio.sleep(0.2)
    assert [await state_of(other, f"r{number}") for number in range(25)] == states


@pytest.mark.parametrize("doubted", [S.SUBMITTING, S.UNCERTAIN], ids=str)
async def test_a_claim_whose_row_was_taken_over_meanwhile_is_given(
    doubted: S, proxy: Proxy, journal: PostgresJournal, other: PostgresJournal, postgres: Server, database: str
) -> None:
    """The reply to the claim is lost, and another client takes the row for the job of a dead one. Nothing was sent."""
    await wait_in(postgres, database, "DEFERRED")
    intent = an_intent(journal, "slow")
    claim = asyncio.create_task(journal.claim(intent, Ask(slots=1)))
    await until(sleeping(postgres, database))
    proxy.hold_answers()
    await until_state(other, "slow", S.SUBMITTING)
    await proxy.stop()
    taken = intent._replace(owner=other.owner, state=doubted)
    assert await other.append(taken, take_over=journal.owner)
    await proxy.start()
    assert await claim == Claimed(usable=1)
    assert await other.find("a", ref="slow") == Row(intent, is_alive=True)


async def test_a_claim_that_the_budget_refuses_after_its_reply_was_lost_leaves_no_intent(
    proxy: Proxy, journal: PostgresJournal, other: PostgresJournal, postgres: Server, database: str
) -> None:
    """Meanwhile another client spent what was left. The job waits again, and is not counted as charged."""
    await wait_in(postgres, database, "DEFERRED")
    ask = Ask(slots=9, spending=SpendingLimit(None, 1, None, Decimal("0.2"), 0, -math.inf))
    claim = asyncio.create_task(journal.claim(an_intent(journal, "slow"), ask))
    await until(sleeping(postgres, database))
    proxy.hold_answers()
    await until_state(other, "slow", S.SUBMITTING)
    await proxy.stop()
    assert await other.append(a_record(other, "theirs", S.UNCERTAIN, submitted_at=1.0, charged=None))
    await proxy.start()
    with pytest.raises(BudgetExceededError):
        await claim
    await until_state(other, "slow", S.WAITING)
    assert [charge.key.partition("@")[0] for charge in (await other.charges("a")).in_doubt] == ["a/theirs"]


async def test_a_job_that_another_client_claimed_meanwhile_is_followed(
    proxy: Proxy, journal: PostgresJournal, other: PostgresJournal
) -> None:
    """A claim that waited for the database does not take the slot of a client that claimed the same waiting job."""
    waiting = a_record(journal, "r")
    assert await journal.append(waiting)
    await proxy.stop()
    claim = asyncio.create_task(journal.claim(an_intent(journal, "r"), Ask(slots=9)))
    await asyncio.sleep(0.2)
    theirs = an_intent(other, "r")
    assert isinstance(await other.claim(theirs, Ask(slots=9)), Claimed)
    await proxy.start()
    assert await claim == Follow(theirs, is_alive=True)
    assert await state_of(other, "r") is S.SUBMITTING


async def test_a_claim_whose_reply_is_lost_is_given_once(
    proxy: Proxy, journal: PostgresJournal, postgres: Server, database: str
) -> None:
    """The database has the claim, and the connection breaks before the client knows. The job keeps its one slot."""
    await wait_in(postgres, database, "DEFERRED")
    claim = asyncio.create_task(journal.claim(an_intent(journal, "slow"), Ask(slots=1)))
    await until(sleeping(postgres, database))
    proxy.hold_answers()
    await until(partial(postgres.fetch, "SELECT 1 FROM modelslab_async.jobs", database=database))
    await proxy.cut()
    proxy.resume()
    assert await claim == Claimed(usable=1)
    assert await state_of(journal, "slow") is S.SUBMITTING


async def test_nothing_is_lost_while_connections_are_cut(
    proxy: Proxy, journal: PostgresJournal, other: PostgresJournal
) -> None:
    """Twenty jobs are claimed, accepted and ended while all connections break again and again."""

    async def cut() -> None:
        for _ in range(15):
            await asyncio.sleep(0.15)
            await proxy.cut()

    async def make(number: int) -> None:
        intent = an_intent(journal, f"r{number}")
        journal.note(intent._replace(state=S.WAITING, submitted_at=None, charged=False))
        assert isinstance(await journal.claim(intent, Ask(slots=99, held=number)), Claimed)
        accepted = intent._replace(state=S.PROCESSING, job_id=str(number), accepted_at=time.time(), charged=True)
        with suppress(JournalError):  # it is written later
            assert await journal.append(accepted)
        await asyncio.sleep(0.05)
        journal.note(accepted._replace(state=S.READY))

    await asyncio.gather(cut(), *map(make, range(20)))
    for number in range(20):
        await until_state(other, f"r{number}", S.READY)


async def test_a_client_sends_only_while_the_others_take_it_for_alive(
    proxy: Proxy, journal: PostgresJournal, other: PostgresJournal, postgres: Server, database: str
) -> None:
    """If its beats do not arrive, it stops sending after half a lease, and is dead after a lease, not before."""
    await journal.append(an_intent(journal, "r"))
    query = "SELECT extract(epoch FROM clock_timestamp() - seen_at) FROM modelslab_async.owners WHERE owner = $1"
    age = partial(postgres.fetch, query, journal.owner, database=database)
    assert journal.may_send()
    proxy.pause()
    before, silent_at = 0.0, math.nan
    while not await is_dead(other, "r"):
        assert before < LEASE
        ((before,),) = await age()
        if math.isnan(silent_at) and not journal.may_send():
            ((silent_at,),) = await age()
    assert not journal.may_send()
    ((after,),) = await age()
    assert after > LEASE
    assert silent_at > LEASE / 2 - 0.1
    proxy.resume()

    async def may_send() -> bool:
        return journal.may_send()

    await until(may_send)
    assert not await is_dead(other, "r")


async def test_a_client_that_hangs_blocks_the_account_for_some_seconds(
    proxy: Proxy, journal: PostgresJournal, other: PostgresJournal, postgres: Server, database: str
) -> None:
    """The database ends the transaction of a client that is cut off in the middle of a claim. Others may claim then."""
    await wait_in(postgres, database, "IMMEDIATE")
    hung = asyncio.create_task(journal.claim(an_intent(journal, "slow"), Ask(slots=1)))
    await until(sleeping(postgres, database))
    proxy.pause()
    began_at = time.monotonic()
    assert await other.claim(an_intent(other, "r"), Ask(slots=1)) == Claimed(usable=1)
    assert time.monotonic() - began_at > 3
    hung.cancel()
    await asyncio.wait([hung])
    proxy.resume()


async def test_a_notification_that_is_lost_ends_the_wait_anyway(
    proxy: Proxy, journal: PostgresJournal, other: PostgresJournal
) -> None:
    """A connection that breaks may have lost a notification, so the wait ends when there is a new connection."""
    await journal.wait_for_change(1)
    await proxy.stop()
    await other.append(an_intent(other, "r"))
    waiting = asyncio.create_task(journal.wait_for_change(60))
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    await proxy.start()
    done, _ = await asyncio.wait([waiting], timeout=10)
    assert done == {waiting}


@pytest.mark.parametrize("port", ["refuses", "deaf"])
async def test_opening_a_database_that_is_away_ends_in_an_error(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One error in time, with a hint. The journal may be opened later."""
    monkeypatch.setattr("modelslab_async.journal.postgres_store.OPEN_SECONDS", 1.0)
    with deaf_port() if port == "deaf" else nullcontext(1) as number:
        journal = journal_on(f"postgresql://u@127.0.0.1:{number}/d")
        began_at = time.monotonic()
        for _ in range(2):
            with pytest.raises(JournalError, match=r"(refused|Connect call failed|not answer).*hint: check that the"):
                await journal.open()
        assert time.monotonic() - began_at < 4


async def test_closing_while_the_database_is_away_says_what_is_lost(
    proxy: Proxy, journal: PostgresJournal, caplog: pytest.LogCaptureFixture
) -> None:
    """`close` ends in time, and the log names the number of rows."""
    await proxy.stop()
    for ref in ("one", "two"):
        journal.note(a_record(journal, ref))
    async with asyncio.timeout(10):
        await journal.close()
    assert "closed with 2 rows that could not be written" in caplog.text
    assert "Work that fails now is tried again" in caplog.text


async def test_callers_do_not_wait_for_a_journal_that_was_closed(proxy: Proxy, journal: PostgresJournal) -> None:
    """A claim that waits for the database raises JournalError when the journal is closed, as does any other call."""

    async def keep_waiting() -> None:
        while True:
            await journal.wait_for_change(60)

    await proxy.stop()
    claim = asyncio.create_task(journal.claim(an_intent(journal, "r"), Ask(slots=1)))
    wait = asyncio.create_task(keep_waiting())
    await asyncio.sleep(0.2)
    async with asyncio.timeout(10):
        await journal.close()
        for task in (claim, wait):
            with pytest.raises(JournalError, match="closed"):
                await task


async def test_a_restart_of_the_server_loses_nothing() -> None:
    """Its machine loses power: what was committed is there, and what came meanwhile is written later."""
    server = Server.of_its_own()
    try:
        async with opened(journal_on(server.url)) as journal:
            intent = an_intent(journal, "r")
            assert isinstance(await journal.claim(intent, Ask(slots=2)), Claimed)
            await server.stop()
            journal.note(intent._replace(state=S.PROCESSING, job_id="77", accepted_at=1.0))
            claim = asyncio.create_task(journal.claim(an_intent(journal, "next"), Ask(slots=2, held=1)))
            await asyncio.sleep(LEASE / 2)
            assert not journal.may_send()
            await server.start()
            assert isinstance(await claim, Claimed)
            assert journal.may_send()
            assert await state_of(journal, "r") is S.PROCESSING
    finally:
        server.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows pauses no process")
async def test_a_process_that_was_paused_sends_nothing_when_it_wakes_up(postgres: Server, database: str) -> None:
    """It was taken for dead, and knows that. Its acceptance is written, although its row was taken over."""
    script = """
import asyncio, os, signal, sys, time
from modelslab_async import JobRecord, JobState
from modelslab_async.journal.base import Row
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.protocol.claims import Ask

async def main(url):
    journal = PostgresJournal(url, lease=3.0, beat=0.5)
    await journal.open()
    intent = JobRecord("a", "r", journal.owner, 1.0, JobState.SUBMITTING, submitted_at=time.time(), charged=None)
    print(type(await journal.claim(intent, Ask(slots=1))).__name__, journal.may_send(), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    print(journal.may_send(), flush=True)
    accepted = intent._replace(state=JobState.PROCESSING, job_id="77", accepted_at=time.time(), charged=True)
    print(await journal.append(accepted), flush=True)
    await journal.close()

asyncio.run(main(sys.argv[1]))
"""
    url = postgres.url_of(database)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, url, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await process.stdout.readline()).split() == [b"Claimed", b"True"]
    async with opened(journal_on(url)) as other:
        await until(partial(is_dead, other, "r"))
        row = await other.find("a", ref="r")
        assert row is not None
        doubted = row.record._replace(owner=other.owner, state=S.UNCERTAIN)
        assert await other.append(doubted, take_over=row.record.owner)
        process.send_signal(signal.SIGCONT)
        lines, _ = await process.communicate()
        assert lines.split() == [b"False", b"True"]
        assert await state_of(other, "r") is S.PROCESSING
