"""Record each job's progress: update its journal row and its budget reservation on every event."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, assert_never

import attrs

from modelslab_async.engine.changes import Changes
from modelslab_async.errors import JournalError
from modelslab_async.job.run import Ages, JobRun
from modelslab_async.journal.base import Journal
from modelslab_async.media import inputs
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.claims import Ask, Claim
from modelslab_async.protocol.effects import BudgetEffect, effects_of
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS
from modelslab_async.protocol.pricing import Budget, CallPrice, PriceList
from modelslab_async.protocol.record import JobRecord, after, key_of
from modelslab_async.protocol.request import Deployment, Request
from modelslab_async.protocol.secret import ApiKey

_log = logging.getLogger("modelslab_async")
_ATTEMPTS = 3
"""Attempts to write to a row that several clients may take."""
_WRITTEN_BEFORE = (lifecycle.Started, lifecycle.PutBack, wire.Accepted)
"""Events that are durable before they are reported: by a claim, a put-back or an append."""


def account_fingerprint(key: ApiKey, base_url: str, deployment: Deployment = Deployment.V6) -> str:
    """Return a name for an account that does not reveal its key.

    A dedicated server has other paths and limits, so its jobs are not those of the public API with the same key.
    """
    server = " enterprise" if deployment is Deployment.ENTERPRISE else ""
    return key.fingerprint(f"modelslab_async journal {base_url}{server}")


class Recorder:
    """The journal rows and the budget reservations of one account's jobs.

    shares_journal: the journal belongs to another client, which opens and closes it.
    """

    def __init__(
        self,
        key: ApiKey,
        base_url: str,
        journal: Journal | None,
        budget: Budget | None,
        prices: PriceList,
        *,
        deployment: Deployment = Deployment.V6,
        shares_journal: bool = False,
    ) -> None:
        self.key, self.journal, self.budget, self.prices = key, journal, budget, prices
        self.shares_journal = shares_journal
        self.clock: Callable[[], float] = time.time
        """Gives unix seconds, because other processes read the rows."""
        self.account = account_fingerprint(key, base_url, deployment)
        self.is_open = False
        self.changes = Changes(journal) if journal else None
        """The changes that other clients make to the journal. A client that shares the journal shares them."""
        self._last_created_at = 0.0
        """Unix seconds. No two jobs of a client have the same time, which distinguishes jobs with the same ref."""

    async def open(self) -> None:
        """Open the journal, and count what earlier clients spent. Raises JournalError."""
        if self.journal is None or self.is_open:
            return
        if not self.shares_journal:
            try:
                await self.journal.open()
            except BaseException:
                await self.journal.close()
                raise
        self.is_open = True
        if self.budget:
            now, known = self.clock(), self.budget.known(self.account)
            charges = await self.journal.charges(self.account, since=self.budget.since(now), apart_from=known)
            submitting = await self._submitting_elsewhere(self.journal)
            in_doubt = [charge for charge in charges.in_doubt if charge.key not in submitting]
            self.budget.spent_elsewhere(self.account, charges._replace(in_doubt=in_doubt), now)

    async def _submitting_elsewhere(self, journal: Journal) -> set[str]:
        """Return the keys of jobs that other live clients submit now: only they learn whether the jobs are charged."""
        unfinished = await journal.unfinished(self.account, ready=False)
        submitting = [row for row, is_alive in unfinished if row.state is JobState.SUBMITTING and is_alive]
        return {key_of(row.account, row.ref, row.created_at) for row in submitting}

    async def check_balance(self, balance: Callable[[], Awaitable[wire.Balance]]) -> None:
        """Raise BudgetExceededError if the budget asks for this check and the wallet holds less than the budget."""
        if self.budget and self.budget.check_balance:
            self.budget.compare((await balance()).amount, self.clock())

    async def close(self) -> None:
        """Write the queued records, and close the journal."""
        if self.journal and self.is_open:
            self.is_open = False
            if not self.shares_journal:
                if self.changes:
                    await self.changes.close()
                await asyncio.shield(self.journal.close())

    def price_of(self, request: Request | None, operation: str = DEFAULT_OPERATION) -> CallPrice:
        """Return the price of a request, or of a job of this operation whose request is unknown."""
        if request is None:
            return self.prices.price_of(operation)
        return self.prices.price_of(request.operation, request.model_id)

    def begin(self, run: JobRun) -> None:
        """Reserve the job's price, and note its row as WAITING.

        Raises BudgetExceededError; InvalidRequestError for a budget in USD if the price is unknown.
        """
        assert run.request is not None  # noqa: S101 - a job without a request was submitted elsewhere
        if not (self.budget or self.journal):
            return
        if run.record:  # a client that is gone created the job
            created_at = run.record.created_at
        else:
            created_at = self._last_created_at = max(self.clock(), math.nextafter(self._last_created_at, math.inf))
        key = key_of(self.account, run.ref, created_at)
        price = self.price_of(run.request)
        if self.budget:
            self.budget.reserve(key, price, self.clock())
        run.budget_key = key  # only now, so that a job which the budget refuses releases nothing
        if self.journal:
            assert run.media is not None  # noqa: S101 - the files are kept until they are sent
            request = attrs.evolve(run.request, webhook=None) if run.has_webhook else run.request
            picture = inputs.known_facts(run.media.picture) if run.media.picture else None
            run.record = JobRecord(
                account=self.account,
                ref=run.ref,
                owner=self.journal.owner,
                created_at=created_at,
                request=self.key.redact({**wire.stored_request(request, ref=run.ref), **inputs.stored(run.media)}),
                picture=self.key.redact(picture),
                price=price.usd or Decimal(0),
                operation=run.operation,
                is_unpriced=price.usd is None or None,
            )
            self.journal.note(run.record)

    async def claim(self, run: JobRun, ask: Ask) -> Claim:
        """Ask the journal for a slot for a job that waits. If it is claimed, the job's row says SUBMITTING.

        Raises BudgetExceededError if the budget, counted over all clients, does not allow the job; JournalError.
        """
        assert self.journal is not None  # noqa: S101 - without a journal the slots decide
        assert run.record is not None  # noqa: S101 - `begin` made the row
        price = self.price_of(run.request)
        spending = self.budget.shared_limit(price, self.clock()) if self.budget else None
        submitting = after(run.record, lifecycle.Started(), self.clock())
        return await self.journal.claim(submitting, ask._replace(spending=spending))

    def give_back(self, run: JobRun) -> None:
        """Write the job's row again, because a slot was claimed for it and the job is not sent."""
        if self.journal and run.record:
            self.journal.note(run.record)

    async def record_refusal(self, run: JobRun, event: lifecycle.PutBack, ask: Ask) -> None:
        """Write that the service has no free slot for a job. *ask* says what the other jobs of this client hold."""
        if self.journal and run.record:
            waiting = after(run.record, event, self.clock())
            try:
                await self.journal.put_back(waiting, ask, wait=event.wait, maximum=event.maximum)
            except JournalError as error:
                run.log(logging.ERROR, "waits for a slot, but that could not be written to the journal: %s", error)

    def may_send(self) -> bool:
        """Return whether no other client can regard this one as dead now."""
        return self.journal is None or self.journal.may_send()

    async def record_acceptance(self, run: JobRun, event: lifecycle.Event) -> bool:
        """Write an acceptance to disk right after the reply, before it is reported.

        Return False if another job of the account has the service's id already.
        """
        if self.journal and run.record and isinstance(event, wire.Accepted | wire.Ready):
            try:
                accepted = after(run.record, event, self.clock())
                return await self.journal.append(accepted) or await self._is_known(accepted)
            except JournalError as error:
                run.log(logging.ERROR, "accepted, but that could not be written to the journal: %s", error)
        return True

    async def _is_known(self, accepted: JobRecord) -> bool:
        """Return whether another client, which took the row over, knows this job by the same id already."""
        assert self.journal is not None  # noqa: S101 - it refused the acceptance
        row = await self.journal.find(self.account, ref=accepted.ref)
        known = row and (row.record.created_at, row.record.job_id)
        return known == (accepted.created_at, accepted.job_id)

    def is_kept(self, run: JobRun) -> bool:
        """Return whether the journal keeps the job for a later client."""
        return self.journal is not None and run.record is not None

    def postpone(self, run: JobRun) -> None:
        """Release the reservation of a job that a later client will submit."""
        if self.budget:
            self.budget.release(run.budget_key)

    def on_event(self, run: JobRun, event: lifecycle.Event) -> None:
        """Record an event that has just changed the job's state."""
        if self.budget:
            _update_budget(self.budget, run.budget_key, event, self.clock())
        if self.journal and run.record:
            run.record = after(run.record, event, self.clock())
            is_written = isinstance(event, _WRITTEN_BEFORE) and not run.submitted_elsewhere
            if not is_written:
                self.journal.note(run.record)

    async def record_saved(self, ref: str, path: str) -> None:
        """Write where a job's video was saved. A journal that cannot be written is logged."""
        try:
            await self._record_handed_over(ref, saved_path=path)
        except JournalError as error:
            _log.error("%s is saved, but that could not be written to the journal: %s", path, error)

    async def record_delivered(self, ref: str) -> None:
        """Write that the application has a job's video. Raises JournalError."""
        await self._record_handed_over(ref, delivered_at=self.clock())

    async def _record_handed_over(self, ref: str, **changes: Any) -> None:
        for _ in range(_ATTEMPTS if self.journal else 0):  # another client may take the row at the same time
            row = await self.journal.find(self.account, ref=ref) if self.journal else None
            if row is None or row.record.state is not JobState.READY or await self.take_over(row.record, **changes):
                return

    def record_resolved(self, record: JobRecord, *, accepted: bool) -> None:
        """Settle or release the reservation of an uncertain job that was resolved."""
        key = key_of(record.account, record.ref, record.created_at)
        if self.budget and accepted:
            self.budget.settle(key, record.submitted_at or self.clock())
        elif self.budget:
            self.budget.release(key)

    def ages(self, record: JobRecord) -> Ages:
        """Return how old a row's job is."""
        now = self.clock()
        accepted_at = record.accepted_at or record.submitted_at or record.created_at
        return Ages(max((record.ended_at or now) - record.created_at, 0.0), max(now - accepted_at, 0.0))

    async def take_over(self, record: JobRecord, **changes: Any) -> JobRecord | None:
        """Write the row with *changes* as this client's. Return None if its owner changed meanwhile."""
        assert self.journal is not None  # noqa: S101 - the row comes from it
        mine = record._replace(owner=self.journal.owner, **changes)
        return mine if await self.journal.append(mine, take_over=record.owner) else None


def _update_budget(budget: Budget, key: str, event: lifecycle.Event, now: float) -> None:
    match effect := effects_of(event).budget:
        case BudgetEffect.SETTLE:
            budget.settle(key, now)
        case BudgetEffect.RELEASE:
            budget.release(key)
        case BudgetEffect.HOLD:
            budget.hold(key)
        case BudgetEffect.KEEP:
            pass
        case _:
            assert_never(effect)


def request_from_record(record: JobRecord) -> Request | None:
    """Return the request of a journal row; None if there is none. A picture that was bytes is named by its digest.

    Return None too for an operation that this process does not know.
    """
    operation = OPERATIONS.get(record.operation)
    if record.request is None or operation is None:
        return None
    digest = f"sha256:{(record.picture or {}).get('sha256', 'unknown')}"
    picture = {operation.inline_input.name: digest} if operation.inline_input else {}
    return operation.request({**picture, **record.request})
