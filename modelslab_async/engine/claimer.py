"""Claim slots in the journal, for the first job of this client's queue, one after the other."""

import asyncio
from collections.abc import Callable

from modelslab_async.aio import uninterrupted
from modelslab_async.engine.changes import Changes
from modelslab_async.engine.submitter import Submitter
from modelslab_async.errors import BudgetExceededError, JournalError, ModelsLabError
from modelslab_async.job.run import JobRun, internal_error
from modelslab_async.protocol import lifecycle
from modelslab_async.protocol.claims import ASK_EVERY, Claim, Claimed, Follow, NoSlot
from modelslab_async.protocol.slots import Slots

_LEAST_WAIT = 0.05
"""Seconds between two claims in vain."""


class Claimer:
    """Ask for a slot while a job waits and this client may use one more.

    on_claimed: called with a job that got a slot. on_taken: called with a job whose ref belongs to another job.
    """

    def __init__(
        self,
        submitter: Submitter,
        slots: Slots[JobRun],
        *,
        on_claimed: Callable[[JobRun], None],
        on_taken: Callable[[JobRun, Follow], None],
    ) -> None:
        self.submitter, self.recorder, self.slots = submitter, submitter.recorder, slots
        self._on_claimed, self._on_taken = on_claimed, on_taken
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._claiming: asyncio.Future[Claim] | None = None
        """The claim under way. Only `close` cancels it: a claim that is given must be used."""
        self._is_stopped = False

    def wake(self) -> None:
        """Ask now: a job came, or a slot of this client became free."""
        self._changed.set()
        if self._task is None and self._may_ask():
            self._task = asyncio.create_task(self._run(), name="modelslab_async claims")

    def stop(self) -> None:
        """Claim nothing more."""
        self._is_stopped = True
        self._changed.set()

    async def close(self, timeout: float | None) -> None:
        """Stop, and wait for the claim under way, for at most *timeout* seconds. Its job is not sent any more."""
        self.stop()
        if task := self._task:
            await asyncio.wait([task], timeout=timeout)
            if self._claiming:
                self._claiming.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _may_ask(self) -> bool:
        return bool(self.slots.waiting) and not self.slots.is_full and not self._is_stopped

    async def _run(self) -> None:
        try:
            while self._may_ask():
                self._changed.clear()
                seen = self._changes.count
                run = self.slots.head
                assert run is not None  # noqa: S101 - a job waits
                if run.body is None and not await self.submitter.encode(run):
                    continue
                answer = await self._claim(run)
                if isinstance(answer, NoSlot):
                    await self._wait(seen, ASK_EVERY if answer.retry_in is None else min(answer.retry_in, ASK_EVERY))
        finally:
            self._task = None

    async def _claim(self, run: JobRun) -> Claim | None:
        """Claim a slot for a job, and act on the answer. Return None if the job is not to be sent."""
        if run is not self.slots.head or run.future.done():
            return None
        answer = await self._answer_for(run)
        is_wanted = run is self.slots.head and not run.future.done()
        if isinstance(answer, Claimed) and (self._is_stopped or not is_wanted):
            self.recorder.give_back(run)  # the client closes, or the job was cancelled
            return None
        if not is_wanted:
            return None
        match answer:
            case Claimed():
                self.slots.note(answer)
                self._on_claimed(self.slots.take())
            case NoSlot():
                self.slots.note(answer)
            case Follow():
                self.slots.withdraw(run)
                self._on_taken(run, answer)
            case ModelsLabError():
                run.advance(lifecycle.Rejected(answer))
                return None
        return answer

    async def _answer_for(self, run: JobRun) -> Claim | ModelsLabError:
        """Claim a slot for a job. Return the answer, or the error of a job that must not be sent."""
        self._claiming = asyncio.ensure_future(self.recorder.claim(run, self.slots.ask()))
        try:
            return await uninterrupted(self._claiming)
        except (BudgetExceededError, JournalError) as error:
            return error
        except asyncio.CancelledError:
            self.recorder.give_back(run)  # the claim may have been given
            raise
        except Exception as error:  # noqa: BLE001 - a bug of a journal must not leave the job without an end
            self.recorder.give_back(run)
            return internal_error(run, error)
        finally:
            self._claiming = None

    @property
    def _changes(self) -> Changes:
        assert self.recorder.changes is not None  # noqa: S101 - there is a journal
        return self.recorder.changes

    async def _wait(self, seen: int, seconds: float) -> None:
        """Wait until another client changed the journal, a slot of this client is free, or *seconds* have passed.

        *seen* is the count of changes before the claim that was in vain.
        """
        waits = [
            asyncio.ensure_future(self._changes.wait(seen, max(seconds, _LEAST_WAIT))),
            asyncio.ensure_future(self._changed.wait()),
        ]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
