"""A state machine of client, journal, budget, emulator and crashes: nothing is ever paid twice or forgotten."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
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
from modelslab_async.protocol.record import SENT, Charge, key_of
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.transport.base import Incoming

LIMIT = Decimal("0.8")
"""USD: enough for four of the six jobs."""
REFS = [f"job-{number}" for number in range(6)]
FAULTS = [
    Rule(fault, rate=0.12, seconds=5.0)
    for fault in (Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.HTML_502, Fault.RATE_LIMIT, Fault.JOB_FAILS)
]


@attrs.define
class Disk:
    """What survives a crash: the journal's rows, and the history of writes and charges in their order."""

    rows: dict[str, JobRecord] = attrs.field(factory=dict[str, JobRecord])
    history: list[JobRecord | str] = attrs.field(factory=list[JobRecord | str])
    alive: set[str] = attrs.field(factory=set[str])


@attrs.define
class MemoryJournal:
    """A `Journal` in memory. A noted record is lost in a crash, unless an awaited call came after it."""

    disk: Disk
    owner: str
    has_crashed: bool = False
    _notes: list[JobRecord] = attrs.field(factory=list[JobRecord])

    async def open(self) -> None:
        self.disk.alive.add(self.owner)

    async def append(self, record: JobRecord, *, take_over: str | None = None) -> bool:
        self._flush()
        await asyncio.sleep(0.01)
        return self._write(record, take_over)

    def note(self, record: JobRecord) -> None:
        self._notes.append(record)

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        self._flush()
        rows = [record for record in self.disk.rows.values() if record.account == account]
        ended = ("refused", "cancelled", "failed", *([] if ready else ["ready"]))
        return [record for record in rows if record.state.value not in ended and record.saved_path is None]

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> JobRecord | None:
        self._flush()
        rows = (record for record in self.disk.rows.values() if record.account == account)
        return next((r for r in rows if r.ref == ref or (job_id and r.job_id == job_id)), None)

    async def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        rows = [record for record in self.disk.rows.values() if record.account == account]
        return sorted(rows, key=lambda record: -record.created_at)[:limit]

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        raise NotImplementedError

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        raise NotImplementedError

    async def charges(self, account: str) -> Sequence[Charge]:
        rows = [record for record in self.disk.rows.values() if record.account == account]
        paid = [record for record in rows if record.charged is not False]
        keys = (key_of(r.account, r.ref, r.created_at) for r in paid)
        return [
            Charge(key, r.created_at, r.price, r.accepted_at is not None) for key, r in zip(keys, paid, strict=True)
        ]

    def is_alive(self, owner: str) -> bool:
        return owner in self.disk.alive

    async def close(self) -> None:
        if not self.has_crashed:
            self._flush()
            self.disk.alive.discard(self.owner)

    def _flush(self) -> None:
        notes, self._notes = self._notes, []
        for record in notes:
            self._write(record, None)

    def _write(self, record: JobRecord, take_over: str | None) -> bool:
        if self.has_crashed:
            raise JournalError("the process has died")
        row = self.disk.rows.get(record.ref)
        is_free = row is None or row.state not in SENT or row.owner == take_over
        if not is_free and (row is None or (row.owner, row.created_at) != (record.owner, record.created_at)):
            return False
        self.disk.rows[record.ref] = record
        self.disk.history.append(record)
        return True


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
        self.disk = Disk()
        self.clients = 0
        self.service = Service(faults=FAULTS, eta={"good": 1})
        self.inner = InProcess(self.service)
        self.run(self.start())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    async def start(self) -> None:
        self.clients += 1
        self.transport = CrashableTransport(self.inner, self.disk)
        self.journal = MemoryJournal(self.disk, f"client {self.clients}")
        self.budget = Budget(usd=LIMIT, per="ever")
        self.client = Client(
            KEY, transport=self.transport, journal=self.journal, budget=self.budget, rng=random.Random(self.clients)
        )
        await self.client.__aenter__()
        await self.client.recover()

    async def crash(self) -> None:
        """Let the process die: it writes and sends nothing more, and its owner is dead."""
        self.journal.has_crashed = self.transport.is_cut = True
        self.disk.alive.discard(self.journal.owner)
        await self.client.aclose(drain=False)

    @rule(ref=st.sampled_from(REFS))
    def submit(self, ref: str) -> None:
        async def submit() -> None:
            if ref not in engine_of(self.client).dispatcher.jobs:
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
        rows: dict[str, JobRecord] = {}
        charged: set[str] = set()
        for event in self.disk.history:
            if isinstance(event, str):
                charged.add(event)
            else:
                rows[event.ref] = event
            assert all(ref in rows and rows[ref].state in SENT for ref in charged)

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
