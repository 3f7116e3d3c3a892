"""What is kept of each job while it moves: its row in the journal, and what it takes from the budget."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, assert_never

import attrs

from modelslab_async.errors import JournalError
from modelslab_async.job.future import Job
from modelslab_async.journal.base import Journal
from modelslab_async.media import images
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import BudgetEffect, effects_of
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.record import JobRecord, after, key_of
from modelslab_async.protocol.request import ImageToVideoUltra
from modelslab_async.protocol.secret import ApiKey

_log = logging.getLogger("modelslab_async")


def account_fingerprint(key: ApiKey, base_url: str) -> str:
    """A fingerprint that tells accounts apart and does not tell the key."""
    return key.fingerprint(f"modelslab_async journal {base_url}")


class Recorder:
    """The journal's rows, and the budget's numbers. One for each Client.

    A guest's journal is another client's, which opens and closes it. The clock gives unix seconds, for other processes.
    """

    def __init__(
        self,
        key: ApiKey,
        base_url: str,
        journal: Journal | None,
        budget: Budget | None,
        prices: PriceList,
        *,
        shares_journal: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.key, self.journal, self.budget, self.prices = key, journal, budget, prices
        self.shares_journal, self.clock = shares_journal, clock
        self.account = account_fingerprint(key, base_url)
        self.is_open = False
        self.left = dict[str, JobRecord]()
        """What ran, or was uncertain, when this client was opened, by ref."""

    async def open(self) -> None:
        """Raises JournalError. What earlier runs spent counts from here on."""
        if self.journal and not self.is_open:
            if not self.shares_journal:
                try:
                    await self.journal.open()
                except BaseException:
                    await self.journal.close()
                    raise
            self.is_open = True
            unfinished = await self.journal.unfinished(self.account, ready=False)
            self.left = {record.ref: record for record in unfinished}
            if self.budget:
                charges = await self.journal.charges(self.account)
                under_way = self._under_way(self.journal)
                self.budget.spent_before(charge for charge in charges if charge.key not in under_way)

    def _under_way(self, journal: Journal) -> set[str]:
        """Keys of what other clients are submitting: they will know whether it is charged, and this one will not."""
        is_alive, rows = journal.is_alive, self.left.values()
        submitting = [row for row in rows if row.state is JobState.SUBMITTING and is_alive(row.owner)]
        return {key_of(row.account, row.ref, row.created_at) for row in submitting}

    async def check_balance(self, balance: Callable[[], Awaitable[wire.Balance]]) -> None:
        """Where the budget asks for it: that the wallet can pay for it. Raises BudgetExceededError."""
        if self.budget and self.budget.check_balance:
            self.budget.compare((await balance()).amount, self.clock())

    async def close(self) -> None:
        """Write what is left."""
        if self.journal and self.is_open:
            self.is_open = False
            if not self.shares_journal:
                await asyncio.shield(self.journal.close())

    def begin(self, job: Job) -> None:
        """A job is to be submitted. Raises BudgetExceededError."""
        if not (self.budget or self.journal):
            return
        created_at = self.clock()
        job._key = key_of(self.account, job.ref, created_at)
        if self.budget:
            self.budget.reserve(job._key, self.prices, created_at)
        if self.journal:
            assert job.request is not None  # noqa: S101 - it is to be submitted
            assert job._image is not None  # noqa: S101 - so it has a picture
            request = self.key.redact(wire.encode_request(job.request, ref=job.ref))
            job._record = JobRecord(
                account=self.account,
                ref=job.ref,
                owner=self.journal.owner,
                created_at=created_at,
                request=request,
                picture=self.key.redact(images.origin(job._image)),
                price=self.prices.usd,
            )
            self.journal.note(job._record)

    async def intend(self, job: Job, picture: Mapping[str, Any]) -> None:
        """On disk before the POST. Raises JournalError, or InvalidRequestError for a ref that was sent before."""
        if self.journal is None or job._record is None:
            return
        job._record = job._record._replace(picture=self.key.redact(picture))
        if not await self.journal.append(job._record):
            requirement = "a job with this track_id was sent before, and may be paid for"
            hint = "collect it with Client.recover or attach, or choose another track_id to pay for a new one"
            raise refusal("track_id", job.ref, requirement, hint)

    async def answered(self, job: Job, event: lifecycle.Event) -> bool:
        """Write an acceptance right after the reply, before it is announced.

        Return False if another job of the account has the service's id already.
        """
        if self.journal and job._record and isinstance(event, wire.Accepted | wire.Ready):
            try:
                accepted = after(job._record, event, self.clock())
                return await self.journal.append(accepted) or await self._is_known(accepted)
            except JournalError as error:
                _log.error("%r was accepted, and that could not be written to the journal: %s", job, error)
        return True

    async def _is_known(self, accepted: JobRecord) -> bool:
        """Return whether another client, which took the row over, knows this job by the same id already."""
        assert self.journal is not None  # noqa: S101 - the acceptance was refused by it
        row = await self.journal.find(self.account, ref=accepted.ref)
        return row is not None and (row.created_at, row.job_id) == (accepted.created_at, accepted.job_id)

    def is_kept(self, job: Job) -> bool:
        """Return whether the journal keeps the job for a later client."""
        return self.journal is not None and job._record is not None

    def postpone(self, job: Job) -> None:
        """Release the budget of a job that is left to a later client."""
        if self.budget:
            self.budget.release(job._key)

    def moved(self, job: Job, event: lifecycle.Event) -> None:
        """Every event comes here."""
        if self.budget:
            _settle(self.budget, job, event, self.clock())
        if self.journal and job._record:
            job._record = after(job._record, event, self.clock())
            if job._is_found or not isinstance(event, lifecycle.Started | wire.Accepted):  # those are waited for
                self.journal.note(job._record)

    async def saved(self, ref: str, path: str) -> None:
        """The video of a job is on disk."""
        if self.journal:
            try:
                record = await self.journal.find(self.account, ref=ref)
                if record and record.state is JobState.READY:
                    await self.take_over(record, saved_path=path)
            except JournalError as error:
                _log.error("%s is saved, and that could not be written down: %s", path, error)

    def resolved(self, record: JobRecord, *, taken: bool) -> None:
        """A person knows what became of an uncertain job."""
        key = key_of(record.account, record.ref, record.created_at)
        if self.budget and taken:
            self.budget.settle(key, record.submitted_at or self.clock())
        elif self.budget:
            self.budget.release(key)

    async def slots_used_elsewhere(self) -> int:
        """How many places jobs of other clients are taken to fill."""
        if self.journal is None or not self.is_open:
            return 0
        now, mine = self.clock(), self.journal.owner
        unfinished = await self.journal.unfinished(self.account, ready=False)  # of READY ones there may be very many
        return sum(record.owner != mine and record.holds_slot(now) for record in unfinished)

    async def take_over(self, record: JobRecord, **changes: Any) -> JobRecord | None:
        """Have the row of a client that is gone, changed; None where another was quicker."""
        assert self.journal is not None  # noqa: S101 - rows come from it
        mine = record._replace(owner=self.journal.owner, **changes)
        return mine if await self.journal.append(mine, take_over=record.owner) else None


def _settle(budget: Budget, job: Job, event: lifecycle.Event, now: float) -> None:
    match effect := effects_of(event).budget:
        case BudgetEffect.SETTLE:
            budget.settle(job._key, now)
        case BudgetEffect.RELEASE:
            budget.release(job._key)
        case BudgetEffect.HOLD:
            budget.hold(job._key)
        case BudgetEffect.KEEP:
            pass
        case _:
            assert_never(effect)


def request_from_record(record: JobRecord) -> ImageToVideoUltra | None:
    """What was asked for; its picture as where it came from."""
    if record.request is None:
        return None
    picture = record.picture or {}
    extra = dict(record.request)
    known = {name: extra.pop(name) for name in _FIELDS & extra.keys()}
    where = picture.get("where") or f"sha256:{picture.get('sha256', 'unknown')}"
    return ImageToVideoUltra(**{**known, "init_image": where, "extra": extra})


_FIELDS = {field.name for field in attrs.fields(ImageToVideoUltra)} - {"extra", "init_image"}
