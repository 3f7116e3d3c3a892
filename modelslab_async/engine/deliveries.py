"""What becomes of a webhook's delivery: it wakes its job, here or in the process that looks after it."""

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
from modelslab_async.job.future import Job
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import JobState

LISTEN_EVERY = 0.5
"""Seconds between two looks at what other processes took for jobs of this one."""
WAKES_APART = 1.0
"""Seconds between two wake-ups of a job."""
_MOST_TASKS = 1000
_log = logging.getLogger("modelslab_async")


class DeliveryHandler:
    """A delivery decides nothing: it leads to a look, and that answer counts."""

    def __init__(
        self, dispatcher: Dispatcher, recorder: Recorder, recoverer: Recoverer, webhook_health: WebhookHealth
    ) -> None:
        self.dispatcher, self.recorder, self.recoverer, self.webhook_health = (
            dispatcher,
            recorder,
            recoverer,
            webhook_health,
        )
        self._tasks = set[asyncio.Task[None]]()
        self._closing = asyncio.Event()
        self._resting = dict[Job, bool]()
        """Jobs that were woken just now, and whether they are to be woken again."""

    def knows(self, ref: str) -> bool:
        """Whether this job runs here."""
        return ref in self.dispatcher.jobs

    def receive(self, ref: str, job_id: str | None) -> None:
        """A delivery for this ref came, which names this id of the service (None: none). The key is no id."""
        job_id = None if job_id and self.recorder.key.is_in(job_id) else job_id
        is_open = self.recorder.is_open and not self._closing.is_set()
        if not self._tell(ref, job_id) and is_open and len(self._tasks) < _MOST_TASKS:
            self._go(self._pass_on(ref, job_id))

    def _tell(self, ref: str, job_id: str | None) -> bool:
        """Whether its job is open here, and then knows."""
        job = self.dispatcher.jobs.get(ref)
        if job is None:
            self.webhook_health.delivered_late(ref)
            return False
        if job_id in self.dispatcher.recent_ids:
            job_id = None
        if job.state is JobState.UNCERTAIN:
            if job_id:
                job._advance(wire.Accepted(id=job_id))
                job.wake()
        elif job.state is not JobState.WAITING:
            if job._is_called:
                self.webhook_health.told(ref)
            job._heard_id = job_id or job._heard_id
            self._wake(job)
        return True

    def _wake(self, job: Job) -> None:
        """Once a second at most, however often somebody repeats a delivery; none is forgotten."""
        if job in self._resting:
            self._resting[job] = True
            return
        job.wake()
        self._resting[job] = False
        asyncio.get_running_loop().call_later(WAKES_APART, self._rested, job)

    def _rested(self, job: Job) -> None:
        if self._resting.pop(job, False) and not job.done():
            self._wake(job)

    def listen(self) -> None:
        """Hear from other processes from now on."""
        self._go(self._listen())

    async def close(self) -> None:
        """Hear no more of jobs that are not open; what was taken from the journal is passed on first."""
        self._closing.set()
        self.webhook_health.close()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _pass_on(self, ref: str, job_id: str | None) -> None:
        """A job that another client has, or had, or that ended here as uncertain."""
        record = await self.recoverer.find(ref)
        journal = self.recoverer.journal
        if record is None or record.state not in _OPEN:
            return
        if record.owner != journal.owner and journal.is_alive(record.owner):
            await journal.deliver(record, job_id)
            return
        known = record.state in (JobState.PROCESSING, JobState.TIMED_OUT)
        if job := await (self.recoverer.restored(record) if known else self.recoverer.found(record, job_id)):
            job.wake()

    async def _listen(self) -> None:
        while not await wait_for_event(self._closing, LISTEN_EVERY):
            with suppress(JournalError):
                for word in await self.recoverer.journal.delivered(self.recorder.account):
                    if not self._tell(*word):
                        self._go(self._pass_on(*word))

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="modelslab_async delivery")
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            _log.warning("a webhook's delivery could not be passed on: %s", error)


_OPEN = (JobState.SUBMITTING, JobState.UNCERTAIN, JobState.PROCESSING, JobState.TIMED_OUT)
