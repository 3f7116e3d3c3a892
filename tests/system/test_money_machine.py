"""A state machine of client, journal, budget, emulator and crashes: nothing is ever paid twice or forgotten."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from decimal import Decimal
from typing import Any

import attrs
import hypothesis.strategies as st
import looptime
from helpers.inside import engine_of
from helpers.world import KEY, a_request
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from modelslab_async import Budget, BudgetExceededError, Client, JobRecord, JournalError, PriceList
from modelslab_async.emulator import Fault, InProcess, Rule, Service
from modelslab_async.errors import ReplyLostError
from modelslab_async.journal.base import Row
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage
from modelslab_async.protocol.claims import Ask, Claim
from modelslab_async.protocol.record import SENT
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.transport.base import Incoming

LIMIT = Decimal("0.8")
"""USD: enough for four of the six jobs."""
REFS = [f"job-{number}" for number in range(6)]
FAULTS = [
    Rule(fault, rate=0.12, seconds=5.0)
    for fault in (Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.HTML_502, Fault.RATE_LIMIT, Fault.JOB_FAILS)
]


class Disk(MemoryStorage):
    """What survives a crash: the journal's rows, and the history of rows and charges in their order."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.history: list[Mapping[tuple[str, str], JobRecord] | str] = []


class CrashableJournal(MemoryJournal):
    """A journal on the disk. A noted record is lost in a crash, unless an awaited call came after it."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.disk, self.has_crashed = disk, False
        self.notes: list[JobRecord] = []

    async def append(self, record: JobRecord, *, take_over: str | None = None) -> bool:
        with self.writing():
            await asyncio.sleep(0.01)
            self.require_life()
            return await super().append(record, take_over=take_over)

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        with self.writing():
            return await super().take_over(records, owners)

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        with self.writing():
            await asyncio.sleep(0.01)
            self.require_life()
            return await super().claim(record, ask)

    async def put_back(self, record: JobRecord, ask: Ask, *, wait: float | None, maximum: int | None) -> None:
        with self.writing():
            await super().put_back(record, ask, wait=wait, maximum=maximum)

    def note(self, record: JobRecord) -> None:
        self.notes.append(record)

    async def unfinished(self, account: str, *, ready: bool = True) -> list[Row]:
        with self.writing():
            return await super().unfinished(account, ready=ready)

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        with self.writing():
            return await super().find(account, ref=ref, job_id=job_id)

    async def close(self) -> None:
        if self.has_crashed:
            self.notes.clear()
            self.disk.alive.pop(self.owner, None)
        else:
            with self.writing():
                await super().close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write what was noted before, and keep what the disk holds afterwards."""
        self.require_life()
        notes, self.notes = self.notes, []
        for record in notes:
            super().note(record)
        self.disk.history.append(dict(self.disk.rows))
        yield
        self.disk.history.append(dict(self.disk.rows))

    def require_life(self) -> None:
        if self.has_crashed:
            raise JournalError("the process has died")


@attrs.define
class CrashableTransport:
    """The emulator's transport, which adds charges to the history, until a crash cuts it."""

    inner: InProcess
    disk: Disk
    is_cut: bool = False

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        if self.is_cut:
            raise ReplyLostError("the process has died")
        charged = len(self.inner.service.ledger.charges)
        try:
            return await self.inner.post(url, body, timeout=timeout, own_connection=own_connection)
        finally:
            self.disk.history += [str(ref) for ref in self.inner.service.ledger.track_ids()[charged:]]

    def get(
        self, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[Incoming]:
        return self.inner.get(url, headers=headers, timeout=timeout)

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        return await self.inner.head(url, length=length, timeout=timeout)

    async def aclose(self) -> None:
        pass


class Money(RuleBasedStateMachine):
    """Submit, wait, recover, close and crash in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = looptime.new_event_loop()
        self.disk = Disk(self.loop.time)
        self.clients = 0
        self.service = Service(faults=FAULTS, eta={"good": 1})
        self.inner = InProcess(self.service)
        self.run(self.start())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def start(self) -> None:
        self.clients += 1
        self.transport = CrashableTransport(self.inner, self.disk)
        self.journal = CrashableJournal(self.disk)
        self.budget = Budget(usd=LIMIT, per="ever")
        self.client = Client(
            KEY, transport=self.transport, journal=self.journal, budget=self.budget, rng=random.Random(self.clients)
        )
        await self.client.__aenter__()
        await self.client.recover()

    async def crash(self) -> None:
        """Let the process die: it writes and sends nothing more, and its owner is dead."""
        self.journal.has_crashed = self.transport.is_cut = True
        self.disk.alive.pop(self.journal.owner, None)
        await self.client.aclose(drain=False)

    @rule(ref=st.sampled_from(REFS))
    def submit(self, ref: str) -> None:
        async def submit() -> None:
            engine = engine_of(self.client)
            if ref not in {*engine.dispatcher.jobs, *engine.follower.runs}:
                job = self.client.submit(a_request(track_id=ref))
                if isinstance(job.error, BudgetExceededError):
                    assert self.counted() + PriceList().usd > LIMIT

        self.run(submit())

    @rule(seconds=st.sampled_from([0.0, 0.005, 0.02, 1.0, 10.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @rule()
    def crash_and_start_again(self) -> None:
        self.run(self.crash())
        self.run(self.start())

    @rule()
    def close_and_start_again(self) -> None:
        self.run(self.client.aclose(drain=False))
        self.run(self.start())

    def counted(self) -> Decimal:
        """Return what the budget counts as reserved, held or spent, in USD."""
        return self.budget.reserved + self.budget.held + self.budget.spent(time.time())

    @invariant()
    def nothing_is_paid_twice(self) -> None:
        """No ref is charged twice."""
        assert not [ref for ref, times in Counter(self.service.ledger.track_ids()).items() if times > 1]

    @invariant()
    def nothing_that_was_sent_is_forgotten(self) -> None:
        """After every prefix of the history, each charged job has a row that says it was, or may have been, sent."""
        rows: Mapping[tuple[str, str], JobRecord] = {}
        charged: set[str] = set()
        for event in self.disk.history:
            if isinstance(event, str):
                charged.add(event)
            else:
                rows = event
            assert charged <= {record.ref for record in rows.values() if record.state in SENT}

    @invariant()
    def the_budget_holds(self) -> None:
        """Neither the budget's count nor the charges exceed the limit."""
        assert self.counted() <= LIMIT
        assert PriceList().usd * len(self.service.ledger.charges) <= LIMIT

    def teardown(self) -> None:
        self.run(self.crash())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


Money.TestCase.settings = settings(max_examples=100, stateful_step_count=25, deadline=None)
TestMoney = Money.TestCase
