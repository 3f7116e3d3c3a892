"""The writes of one client that wait for the database: made in their order, and tried again until they succeed."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

import attrs

from modelslab_async.aio import wait_for_event
from modelslab_async.errors import JournalError, ModelsLabError
from modelslab_async.journal.store import Outcome, PutBack, Write
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import plural
from modelslab_async.protocol.record import JobRecord, key_of

RETRY_SECONDS = 0.5
"""Seconds between two attempts while the database is away."""
_MAX_BATCH = 200
_log = logging.getLogger("modelslab_async")


class PutBackClaim(NamedTuple):
    """A claim that was cancelled. The row is WAITING again if it says what the claim wrote."""

    record: JobRecord


Change = Write | PutBack | PutBackClaim


@attrs.define(eq=False)
class Queued:
    """A change in the queue, and the future of the caller that awaits it (None: no caller does).

    change: None for a caller that only waits until all earlier changes are written.
    """

    change: Change | None
    outcome: "Future[Outcome] | None" = None

    @property
    def key(self) -> str:
        """Return the name of the job."""
        record = self.change.record if self.change else None
        return key_of(record.account, record.ref, record.created_at) if record else ""

    @property
    def is_note(self) -> bool:
        """Whether the change may share a transaction: no caller awaits it, and it does not raise the account's cap."""
        return isinstance(self.change, Write) and self.outcome is None and self.change.record.accepted_at is None

    @property
    def is_kept(self) -> bool:
        """Whether the change is tried again if it failed. An intent is not, because that job is not sent."""
        match self.change:
            case None:
                return False
            case Write(record=record):
                return record.state is not JobState.SUBMITTING
            case _:
                return True

    def resolve(self, outcome: Outcome) -> None:
        """Hand the outcome to the caller, unless the caller was cancelled or has the error of an earlier attempt."""
        future, self.outcome = self.outcome, None
        if future and future.set_running_or_notify_cancel():
            if isinstance(outcome, ModelsLabError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


class WriteQueue:
    """Make changes in their order.

    name: what error messages call the journal. commit: makes the changes of a batch, each final once it returns. It
    raises JournalError if the database cannot make any of them now.
    """

    def __init__(self, name: str, commit: Callable[[Sequence[Change]], Awaitable[Sequence[Outcome]]]) -> None:
        self._name, self._commit = name, commit
        self._queue = deque[Queued]()
        self._has_work, self._is_closing = asyncio.Event(), asyncio.Event()
        self._ended: JournalError | None = None

    def put(self, queued: Queued) -> None:
        """Add a change."""
        if self._ended:
            queued.resolve(self._ended)
            return
        self._queue.append(queued)
        self._has_work.set()

    async def flush(self) -> None:
        """Return when everything that is queued now is written. Raise JournalError if the database does not take it."""
        written = Future[Outcome]()
        self.put(Queued(None, written))
        await asyncio.wrap_future(written)

    async def run(self) -> None:
        """Write what is queued, until the task is cancelled."""
        while True:
            await self._has_work.wait()
            batch = self._next_batch()
            try:
                outcomes = await self._commit([queued.change for queued in batch if queued.change]) or [True]
            except JournalError as error:
                self._fail(error)
                await wait_for_event(self._is_closing, RETRY_SECONDS)
                self._is_closing.clear()
                continue
            for queued, outcome in zip(batch, outcomes, strict=True):
                self._queue.popleft()
                queued.resolve(outcome)
            if not self._queue:
                self._has_work.clear()

    async def close(self) -> None:
        """Try once more to write what is queued. What cannot be written is lost, and is logged."""
        self._is_closing.set()
        try:
            await self.flush()
        except JournalError as error:
            lost = sum(queued.change is not None for queued in self._queue)
            if lost:
                _log.error("%s: closed with %s that could not be written: %s", self._name, plural(lost, "row"), error)

    def end(self, error: JournalError) -> None:
        """Hand an error to all callers that wait, and to all that come later."""
        self._ended = error
        self._fail(error)

    def _next_batch(self) -> list[Queued]:
        """Return the first change, or the notes that come first."""
        batch = list[Queued]()
        for queued in self._queue:
            if batch and not (queued.is_note and batch[0].is_note and len(batch) < _MAX_BATCH):
                break
            batch.append(queued)
        return batch

    def _fail(self, error: JournalError) -> None:
        """Hand an error to all callers that wait, and keep the changes that are tried again."""
        for queued in self._queue:
            queued.resolve(error)
        self._queue = deque(queued for queued in self._queue if queued.is_kept)
        if not self._queue:
            self._has_work.clear()
