"""Many jobs on few places: whose turn it is, and which tasks run."""

import asyncio
import logging
from collections import Counter, deque
from decimal import Decimal
from typing import Any, assert_never

from modelslab_async import aio
from modelslab_async.engine.endings import give_up, let_go, mistake, stays_uncertain
from modelslab_async.engine.poller import Poller
from modelslab_async.engine.saver import Saver
from modelslab_async.engine.submitter import Submitter
from modelslab_async.errors import JournalError
from modelslab_async.job.future import Job
from modelslab_async.polling.schedule import urgency
from modelslab_async.protocol import lifecycle, record, wire
from modelslab_async.protocol.effects import SlotEffect, effects_of
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.slots import Slots
from modelslab_async.protocol.statistics import Statistics
from modelslab_async.telemetry import Notifier, Telemetry

_log = logging.getLogger("modelslab_async")
ASK_ELSEWHERE_EVERY = 2.0
"""Seconds between two looks into the journal for places of other clients, while somebody waits for one."""
_DOUBTS = 2.0
"""An uncertain job holds its place for so many times what such jobs take."""
HEARD_WITHIN = 600.0
"""Seconds for which a word is waited for of a job whose reply was lost, where it has a webhook."""
_TURNS = 5
"""Turns of the event loop that a result may take through shields, timeouts and tasks to who awaits it."""
_TROUBLE = (JobState.REFUSED, JobState.FAILED, JobState.UNCERTAIN, JobState.TIMED_OUT)


class Dispatcher:
    """Gives jobs their turn, and keeps the tasks that drive them. A job that waits costs no task."""

    def __init__(
        self, submitter: Submitter, poller: Poller, saver: Saver, notifier: Notifier, max_in_flight: int
    ) -> None:
        self.jobs: dict[str, Job] = {}
        """The open jobs, by ref."""
        self.recent_ids = deque[str | None](maxlen=1000)
        """Ids of the last that ended: a delivery of theirs may come late, to a job that has the same ref."""
        self.slots = Slots[Job](max_in_flight)
        self._submitter, self._poller, self._saver = submitter, poller, saver
        self.forecast, self.save = poller.forecast, saver.save
        self._api, self._recorder, self._notifier = submitter.api, submitter.recorder, notifier
        self._tasks: dict[Job, asyncio.Task[None]] = {}
        self._submits: dict[Job, asyncio.Task[None]] = {}
        """Paid requests under way. A cancelled driver does not cancel its own."""
        self._is_stopping = False
        self._holds: dict[Job, asyncio.TimerHandle] = {}
        self._doubts: dict[Job, asyncio.TimerHandle] = {}
        self._retry: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._asking: asyncio.Task[None] | None = None
        poller.webhook_health.poll_value.urgency = lambda: urgency(self.slots.waiting, self.slots.cap)

    async def count_slots_used_elsewhere(self) -> None:
        """Places that other clients' jobs are known to fill are not free for ours."""
        used_elsewhere = await self._recorder.slots_used_elsewhere()
        now = self._count_idle_time(aio.now())
        self.slots.used_elsewhere = used_elsewhere
        self._pump(now)

    def statistics(self) -> Statistics:
        """How it stands."""
        self._count_idle_time(aio.now())
        states = Counter(job.state for job in self.jobs.values())
        return self._api.counters.snapshot(states, cap=self.slots.cap, in_flight=self.slots.taken)

    def enqueue(self, job: Job) -> None:
        """A new job: it goes when its turn comes."""
        self._notifier.notify(Telemetry.submitted, job)
        self.jobs[job.ref] = job
        if self.slots.is_full and not self.slots.used_elsewhere:  # then nothing follows from one more
            self.slots.enqueue(job)
            return
        now = self._count_idle_time(job._submitted_at)
        self.slots.enqueue(job)
        self._pump(now)

    def adopt(self, job: Job) -> None:
        """A job that is at the service already."""
        self.jobs[job.ref] = job
        if job.state is JobState.PROCESSING:
            self.slots.occupy(job)
        self._run(job)

    def resolved(self, ref: str) -> None:
        """A person knows what became of a job: it is in doubt no more, and holds no place for that."""
        if job := self.jobs.get(ref):
            stays_uncertain(job)
        for job in [job for job in self._holds if job.ref == ref]:
            self._holds[job].cancel()
            self._free(job)

    @property
    def api_key(self) -> ApiKey:
        """The key of the client's account."""
        return self._api.key

    @property
    def price(self) -> Decimal:
        """What a job costs, USD."""
        return self._recorder.prices.usd

    def moved(self, job: Job, event: lifecycle.Event) -> None:
        """What a job's move means for the places, and who is next."""
        self._recorder.moved(job, event)
        _log.log(logging.WARNING if job.state in _TROUBLE else logging.INFO, "%r: %s", job, type(event).__name__)
        self._announce(job, event)
        if effects_of(event).slot is not SlotEffect.KEEP:
            now = self._count_idle_time(job._loop.time())
            self._place(job, event, now)
            if job.state is not JobState.WAITING:
                job._image = None
            if self.slots.waiting:
                self._pump(now)

    def _place(self, job: Job, event: lifecycle.Event, now: float) -> None:
        effects = effects_of(event)
        match effects.slot:
            case SlotEffect.ACCEPT:
                self._heard_of(job)
                self.slots.accepted(job)
                self._run(job)
            case SlotEffect.PUT_BACK:
                assert isinstance(event, lifecycle.PutBack)  # noqa: S101 - the only event with this effect
                self.slots.put_back(job, now, wait=event.wait, maximum=event.maximum)
            case SlotEffect.HOLD:
                self._lose(job, awaits_webhook=not effects.ends)
            case SlotEffect.WITHDRAW:
                self.slots.withdraw(job)
            case SlotEffect.RELEASE:
                if isinstance(event, wire.Ready) and self.slots.is_unanswered(job):
                    self.slots.accepted(job)  # success at once is an acceptance too
                self.slots.release(job)
            case SlotEffect.KEEP:
                pass
            case _:
                assert_never(effects.slot)

    def _announce(self, job: Job, event: lifecycle.Event) -> None:
        """Notify the application's telemetry."""
        match event:
            case wire.Accepted():
                self._notifier.notify(Telemetry.accepted, job)
            case wire.Ready() if self.slots.is_unanswered(job):
                self._notifier.notify(Telemetry.accepted, job)
            case lifecycle.PutBack():
                self._notifier.notify(Telemetry.refused, job, None)
            case lifecycle.Rejected(error=error):
                self._notifier.notify(Telemetry.refused, job, error)

    def ended(self, job: Job) -> None:
        """The job has a result."""
        if self.jobs.get(job.ref) is job:  # one that was refused may share the ref of an open job
            del self.jobs[job.ref]
        self.recent_ids.append(job.id)
        self._api.counters.ended[job.state] += 1
        self._notifier.notify(Telemetry.ended, job)

    def stop(self) -> None:
        """Grant no slot from now on: the client is about to close, and a new paid job would not be waited for."""
        self._is_stopping = True

    async def drain(self) -> None:
        """Wait for the end of every job and every download. After `stop`, only of those that are under way."""
        while True:
            for _ in range(_TURNS):
                await asyncio.sleep(0)  # a task that awaited a job may be about to save its video
            jobs = self._tasks.values() if self._is_stopping else [job._future for job in self.jobs.values()]
            ends: list[asyncio.Future[Any]] = [*jobs, *self._saver.saves]
            if not ends:
                return
            await asyncio.wait(ends)

    async def let_go(self) -> None:
        """Submit nothing more, wait for the replies under way within their bound, and detach from the rest.

        A job that waits for its turn stays WAITING in the journal, for the next client; without one it is cancelled.
        """
        self._api.closing.set()
        try:
            if self._submits:
                await asyncio.wait(list(self._submits.values()), timeout=self._api.timeouts.submit)
        finally:
            tasks = [task for task in (*self._submits.values(), *self._tasks.values(), self._asking) if task]
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                for job in list(self.jobs.values()):
                    self._let_go(job)
                for timer in (*self._holds.values(), self._retry):
                    if timer:
                        timer.cancel()

    def _let_go(self, job: Job) -> None:
        let_go(job, is_kept=self._recorder.is_kept(job), is_sent=job in self._submits)
        if job.state is JobState.WAITING:
            self._recorder.postpone(job)

    def has_id(self, job_id: str, but: Job) -> bool:
        """Return whether another job that runs here, or ended here lately, has this id of the service."""
        return job_id in self.recent_ids or any(job.id == job_id for job in self._tasks if job is not but)

    def _pump(self, now: float) -> None:
        """Give the free places to those who wait; come again when the service said so."""
        if self._api.closing.is_set() or self._is_stopping:
            return
        for job in self.slots.grant(now):
            job._advance(lifecycle.Started())
            self._run(job)
        self._retry_at(self.slots.retry_at)
        if self.slots.used_elsewhere and self.slots.waiting and self._asking is None:
            self._asking = asyncio.create_task(self._ask_elsewhere(), name="modelslab_async elsewhere")

    def _retry_at(self, at: float | None) -> None:
        if self._retry and self._retry.when() != at:
            self._retry.cancel()
            self._retry = None
        if self._retry is None and at is not None:
            self._retry = asyncio.get_running_loop().call_at(at, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._pump(self._count_idle_time(aio.now()))

    async def _ask_elsewhere(self) -> None:
        """See from time to time whether a place has become free."""
        await asyncio.sleep(ASK_ELSEWHERE_EVERY)
        self._asking = None
        try:
            await self.count_slots_used_elsewhere()
        except JournalError:  # then what was known goes on
            self._pump(self._count_idle_time(aio.now()))

    def _count_idle_time(self, now: float) -> float:
        """Called before the places change. Gives the time."""
        if self.slots.waiting:
            self._api.counters.slot_idle_time += (now - self._idle_since) * self.slots.idle
        self._idle_since = now
        return now

    def _run(self, job: Job) -> None:
        """Have it driven to its end, if it is not."""
        if job not in self._tasks:
            self._tasks[job] = job._loop.create_task(self._drive(job), name=f"modelslab_async {job.ref}")

    async def _drive(self, job: Job) -> None:
        """From its turn, or from where it is, to its end."""
        try:
            while job.state is JobState.SUBMITTING:
                await self._submit(job)
            if self._api.closing.is_set() and job.state is not JobState.UNCERTAIN:
                return self._let_go(job)
            if job.state is JobState.PROCESSING:
                await self._poller.follow(job)
            if job.state is JobState.READY:
                await self._poller.find_file(job)
        except asyncio.CancelledError:
            self._let_go(job)
            raise
        except Exception as error:  # noqa: BLE001 - a mistake of ours, and somebody awaits this job
            give_up(job, mistake(job, error))
        finally:
            self._tasks.pop(job, None)

    async def _submit(self, job: Job) -> None:
        """Send it in a task of its own: if the driver is cancelled, the reply is still waited for and written down."""
        sending = job._loop.create_task(self._submitter.submit(job, self.has_id), name=f"modelslab_async {job.ref}")
        self._submits[job] = sending
        try:
            await aio.uninterrupted(sending)
        finally:
            del self._submits[job]

    def _lose(self, job: Job, *, awaits_webhook: bool) -> None:
        """Hold its place for a while; and wait for a word of it, where one may come."""
        if doubt := self._doubts.pop(job, None):
            doubt.cancel()
        else:
            self.slots.hold(job)
            hold = min(record.SLOT_HOLD, _DOUBTS * self.forecast(job, None).left(0.0))
            self._holds[job] = asyncio.get_running_loop().call_later(hold, self._free, job)
        if awaits_webhook:
            self._doubts[job] = asyncio.get_running_loop().call_later(HEARD_WITHIN, stays_uncertain, job)

    def _heard_of(self, job: Job) -> None:
        """It was taken all the same."""
        if doubt := self._doubts.pop(job, None):
            doubt.cancel()
            if hold := self._holds.pop(job, None):
                hold.cancel()
            self.slots.occupy(job)

    def _free(self, job: Job) -> None:
        now = self._count_idle_time(aio.now())
        self._holds.pop(job, None)
        self.slots.release(job)
        self._pump(now)
