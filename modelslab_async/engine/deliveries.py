"""Handle webhook deliveries: wake the job, here or in the process that owns it."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from modelslab_async.aio import wait_for_event
from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.recorder import Recorder
from modelslab_async.engine.recovery import Recoverer
from modelslab_async.engine.webhook_health import WebhookHealth
from modelslab_async.errors import JournalError
from modelslab_async.job.run import JobRun
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import JobState

READ_EVERY = 0.5
"""Seconds between two reads of the deliveries that other processes received for jobs of this client."""
WAKE_GAP = 1.0
"""Seconds between two wake-ups of a job."""
_MOST_TASKS = 1000
_MOST_OVER = 10_000
_log = logging.getLogger("modelslab_async")


class DeliveryHandler:
    """Handle the deliveries for one account's jobs. A delivery decides nothing: it leads to a poll, which does."""

    def __init__(
        self, dispatcher: Dispatcher, recorder: Recorder, recoverer: Recoverer, webhook_health: WebhookHealth
    ) -> None:
        self.dispatcher, self.recorder, self.recoverer = dispatcher, recorder, recoverer
        self.webhook_health = webhook_health
        self._tasks = set[asyncio.Task[None]]()
        self._closing = asyncio.Event()
        self._passing_on = set[tuple[str, str | None]]()
        """Received deliveries that are being passed on."""
        self._over = dict[str, None]()
        """The latest refs without a job that waits for a delivery. The journal is not asked about them again."""
        self._resting = dict[JobRun, bool]()
        """Jobs that were woken less than `WAKE_GAP` ago, and whether each is to be woken again."""

    def knows(self, ref: str) -> bool:
        """Return whether the job with this ref runs here."""
        return ref in self.dispatcher.jobs

    def receive(self, ref: str, job_id: str | None) -> None:
        """Take a delivery for a job. *job_id* is the service's id in it, or None."""
        job_id = None if job_id and self.recorder.key.is_in(job_id) else job_id
        is_open = self.recorder.is_open and not self._closing.is_set()
        if self._deliver(ref, job_id) or not is_open or ref in self._over:
            return
        if len(self._tasks) < _MOST_TASKS and (ref, job_id) not in self._passing_on:
            self._passing_on.add((ref, job_id))
            task = self._start(self._pass_on(ref, job_id))
            task.add_done_callback(lambda _: self._passing_on.discard((ref, job_id)))

    def _deliver(self, ref: str, job_id: str | None) -> bool:
        """Deliver to a job that is open here. Return whether there is one."""
        run = self.dispatcher.jobs.get(ref)
        if run is None:
            self.webhook_health.delivered_late(ref)
            return False
        if self.dispatcher.ended.has_id(job_id):  # a late delivery for an earlier job with the same ref
            job_id = None
        if run.state is JobState.UNCERTAIN:
            if job_id and not self.dispatcher.has_id(job_id, run):
                run.advance(wire.Accepted(id=job_id))
                run.wake()
        elif run.state is not JobState.WAITING:
            if run.has_webhook and run.state is JobState.READY:
                self.webhook_health.delivered_late(ref)  # a poll saw the end first; now the links are probed
            elif run.has_webhook:
                self.webhook_health.delivered(ref)
            run.id_from_webhook = job_id or run.id_from_webhook
            self._wake(run)
        return True

    def _wake(self, run: JobRun) -> None:
        """Wake the job at most once in `WAKE_GAP`, however often a delivery is repeated. No delivery is forgotten."""
        if run in self._resting:
            self._resting[run] = True
            return
        run.wake()
        self._resting[run] = False
        asyncio.get_running_loop().call_later(WAKE_GAP, self._rested, run)

    def _rested(self, run: JobRun) -> None:
        if self._resting.pop(run, False) and not run.future.done():
            self._wake(run)

    def start_reading(self) -> None:
        """Read from now on the deliveries that other processes received for jobs of this client."""
        self._start(self._read())

    async def close(self) -> None:
        """Take no more deliveries. Those that were read from the journal are passed on first."""
        self._closing.set()
        self.webhook_health.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _pass_on(self, ref: str, job_id: str | None) -> None:
        """Pass a delivery on to the client that owns the job, or take up a job that no live client owns."""
        row = await self.recoverer.find(ref)
        journal = self.recoverer.journal
        if row is None or row.record.state not in _OPEN:
            if row is None or row.record.state in _OVER:
                self._remember_over(ref)
            return
        record = row.record
        if record.owner != journal.owner and row.is_alive:
            await journal.deliver(record, job_id)
            return
        is_known = record.state in (JobState.PROCESSING, JobState.TIMED_OUT)
        restoring = self.recoverer.restore(record) if is_known else self.recoverer.accept_uncertain(record, job_id)
        if run := await restoring:
            run.wake()

    def _remember_over(self, ref: str) -> None:
        while len(self._over) >= _MOST_OVER:
            del self._over[next(iter(self._over))]
        self._over[ref] = None

    async def _read(self) -> None:
        while not await wait_for_event(self._closing, READ_EVERY):
            with suppress(JournalError):
                for ref, job_id in await self.recoverer.journal.delivered(self.recorder.account):
                    if not self._deliver(ref, job_id):
                        self._start(self._pass_on(ref, job_id))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="modelslab_async delivery")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("a webhook's delivery could not be passed on: %s", error)


_OPEN = (JobState.SUBMITTING, JobState.UNCERTAIN, JobState.PROCESSING, JobState.TIMED_OUT)
_OVER = (JobState.READY, JobState.FAILED)
"""States of jobs that were sent, and for which no client waits. Their refs are not sent again."""
