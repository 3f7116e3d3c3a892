"""Decide which queued job may be submitted next, and keep the tasks that drive the jobs."""

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from decimal import Decimal
from typing import Any, assert_never
from weakref import WeakValueDictionary

from modelslab_async import aio
from modelslab_async.engine.claimer import Claimer
from modelslab_async.engine.poller import Poller
from modelslab_async.engine.saver import Saver
from modelslab_async.engine.submitter import Submitter
from modelslab_async.errors import usd
from modelslab_async.job.future import Job
from modelslab_async.job.run import JobRun, internal_error
from modelslab_async.media.inputs import is_large
from modelslab_async.media.saved import Progress, SavedVideo
from modelslab_async.polling.estimator import JobForecast
from modelslab_async.protocol import lifecycle, record, wire
from modelslab_async.protocol.claims import Follow
from modelslab_async.protocol.effects import SlotEffect, effects_of
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.slots import Slots
from modelslab_async.protocol.statistics import Statistics
from modelslab_async.telemetry import Notifier, Telemetry

_log = logging.getLogger("modelslab_async")
_UNCERTAIN_HOLD = 2.0
"""An uncertain job holds its slot for the expected time of such a job, multiplied by this."""
DELIVERY_WITHIN = 600.0
"""Seconds for which a webhook's delivery is waited for after the reply to a submit was lost."""
_MAX_ENDED_JOBS = 100
"""The latest jobs that ended are kept for `attach`. Older ones are found while the program holds them."""
_MAX_ENDED_IDS = 1000
"""The ids of the latest jobs that ended are kept for late deliveries."""
_TURNS = 5
"""Turns of the event loop that a result may take through shields, timeouts and tasks to the task that awaits it."""


class Dispatcher:
    """Give queued jobs their slots, and run one task for each job that has one. A queued job costs no task."""

    sends_jobs = True
    """As in `JobRuntime`."""

    def __init__(
        self,
        submitter: Submitter,
        poller: Poller,
        saver: Saver,
        notifier: Notifier,
        slots: Slots[JobRun],
        *,
        on_taken: Callable[[JobRun, Follow], None],
    ) -> None:
        self.jobs: dict[str, JobRun] = {}
        """The open jobs, by ref."""
        self.ended = EndedJobs()
        self.slots = slots
        self._submitter, self._poller, self._saver = submitter, poller, saver
        self._api, self._recorder, self._notifier = submitter.api, submitter.recorder, notifier
        self._tasks: dict[JobRun, asyncio.Task[None]] = {}
        self._submits: dict[JobRun, asyncio.Task[None]] = {}
        """Paid requests under way. Cancelling a job's task does not cancel its request."""
        self._is_stopping = False
        self._slot_holds: dict[JobRun, asyncio.TimerHandle] = {}
        """When each uncertain job gives up its slot."""
        self._delivery_waits: dict[JobRun, asyncio.TimerHandle] = {}
        """When each uncertain job with a webhook ends as UNCERTAIN."""
        self._retry: asyncio.TimerHandle | None = None
        self._idle_since = 0.0
        self._claimer: Claimer | None = None
        """Claims slots in the journal; None without a journal."""
        if submitter.recorder.journal:
            self._claimer = Claimer(submitter, slots, on_claimed=self._start_submit, on_taken=on_taken)

    @property
    def api_key(self) -> ApiKey:
        """The account's key."""
        return self._api.key

    @property
    def account(self) -> str:
        """The account's fingerprint."""
        return self._recorder.account

    def price_of(self, run: JobRun) -> Decimal | None:
        """Return the price of the job, USD; None if it is unknown."""
        return self._recorder.price_of(run.request, run.operation).usd

    def forecast(self, run: JobRun, eta: float | None) -> JobForecast:
        """Return when the job is expected to end. *eta* is the service's estimate in seconds, or None."""
        return self._poller.forecast(run, eta)

    async def save(
        self,
        run: JobRun,
        /,
        path: str | os.PathLike[str],
        progress: Progress | None,
        *,
        overwrite: bool,
        max_bytes: int,
    ) -> SavedVideo:
        """Wait for the job's video and save it at *path*."""
        return await self._saver.save(run.job, path, progress, overwrite=overwrite, max_bytes=max_bytes)

    async def acknowledge(self, run: JobRun) -> None:
        """As in `JobRuntime`."""
        await self._recorder.record_delivered(run.ref)

    def statistics(self) -> Statistics:
        """Return what the client did so far and what it does now."""
        self._count_idle_time(aio.now())
        states = Counter(run.state for run in self.jobs.values())
        return self._api.counters.snapshot(states, cap=self.slots.cap)

    def enqueue(self, run: JobRun) -> None:
        """Queue a new job. It is submitted when a slot is free for it.

        Two open jobs with one ref could be paid for twice, so that is refused here too, whatever the caller checked.
        """
        if self.jobs.get(run.ref, run) is not run:
            raise AssertionError(f"a job with the ref {run.ref} is open already")
        self._notifier.notify(Telemetry.submitted, run.job)
        self.jobs[run.ref] = run
        if self.slots.is_full:  # then one more in the queue changes nothing
            self.slots.enqueue(run)
            return
        now = self._count_idle_time(run.loop.time())
        self.slots.enqueue(run)
        self._pump(now)

    def adopt(self, run: JobRun) -> None:
        """Go on with a job that the service has already."""
        self.jobs[run.ref] = run
        if run.state is JobState.PROCESSING:
            self.slots.occupy(run)
        self._start(run)

    def open_job(self, ref_or_id: str) -> JobRun | None:
        """Return the open job with this ref, or else with this id of the service; None if there is none."""
        by_ref = self.jobs.get(ref_or_id)
        return by_ref or next((run for run in self.jobs.values() if run.id == ref_or_id), None)

    def has_id(self, job_id: str, but: JobRun) -> bool:
        """Return whether another job that runs here, or ended here lately, has this id of the service."""
        return self.ended.has_id(job_id) or any(run.id == job_id for run in self._tasks if run is not but)

    def end_uncertainty(self, ref: str) -> None:
        """End the job's doubt and free its slot, because the user resolved it by hand."""
        if run := self.jobs.get(ref):
            run.end_uncertain()
        for run in [run for run in self._slot_holds if run.ref == ref]:
            self._slot_holds[run].cancel()
            self._release_slot(run)

    def on_event(self, run: JobRun, event: lifecycle.Event) -> None:
        """Record an event that has just changed a job's state, log it, and move the queue."""
        self._recorder.on_event(run, event)
        level = logging.WARNING if hasattr(event, "error") else logging.INFO
        run.log(level, "%s", _described(event, run.price))
        self._notify(run, event)
        if effects_of(event).slot is not SlotEffect.KEEP:
            now = self._count_idle_time(run.loop.time())
            self._update_slots(run, event, now)
            if run.state is not JobState.WAITING:
                run.media = None
            if self.slots.waiting:
                self._pump(now)

    def on_end(self, run: JobRun) -> None:
        """Forget a job that has just got its result or its error."""
        if self.jobs.get(run.ref) is run:  # a refused job may share the ref of an open one
            del self.jobs[run.ref]
        run.media = run.body = None
        self.ended.add(run)
        self._api.counters.ended[run.state] += 1
        self._notifier.notify(Telemetry.ended, run.job)

    def _update_slots(self, run: JobRun, event: lifecycle.Event, now: float) -> None:
        effects = effects_of(event)
        match effects.slot:
            case SlotEffect.ACCEPT:
                self._accept_uncertain(run)
                self.slots.accepted(run, now)
                self._start(run)
            case SlotEffect.PUT_BACK:
                if isinstance(event, lifecycle.PutBack):
                    self.slots.refused(run, now, wait=event.wait, maximum=event.maximum)
                else:
                    self.slots.put_back(run)
            case SlotEffect.HOLD:
                self._hold_slot(run, wait_for_delivery=not effects.ends)
            case SlotEffect.WITHDRAW:
                self.slots.withdraw(run)
            case SlotEffect.RELEASE:
                if isinstance(event, wire.Ready) and self.slots.is_unanswered(run):
                    self.slots.accepted(run, now)  # success at once is an acceptance too
                self.slots.release(run)
            case SlotEffect.KEEP:
                pass
            case _:
                assert_never(effects.slot)

    def _notify(self, run: JobRun, event: lifecycle.Event) -> None:
        match event:
            case lifecycle.Started():
                self._notifier.notify(Telemetry.started, run.job, run.job.elapsed)
            case wire.Accepted():
                self._notifier.notify(Telemetry.accepted, run.job)
            case wire.Ready() if self.slots.is_unanswered(run):
                self._notifier.notify(Telemetry.accepted, run.job)
            case lifecycle.PutBack():
                self._notifier.notify(Telemetry.refused, run.job, None)
            case lifecycle.Rejected(error=error):
                self._notifier.notify(Telemetry.refused, run.job, error)

    def stop(self) -> None:
        """Grant no slot from now on, because the client is about to close and would not wait for a new paid job."""
        self._is_stopping = True
        if self._claimer:
            self._claimer.stop()

    async def drain(self) -> None:
        """Wait for the end of every job and every download. After `stop`, wait only for those under way."""
        while True:
            for _ in range(_TURNS):
                await asyncio.sleep(0)  # a task that awaited a job may be about to save its video
            jobs = self._tasks.values() if self._is_stopping else [run.future for run in self.jobs.values()]
            ends: list[asyncio.Future[Any]] = [*jobs, *self._saver.saves]
            if not ends:
                return
            await asyncio.wait(ends)

    async def close(self) -> None:
        """Submit nothing more, wait for the replies under way within their bound, and detach from the other jobs.

        A job that waits for its turn stays WAITING in the journal for the next client; without one it is cancelled.
        """
        self._api.closing.set()
        try:
            if self._claimer:
                await self._claimer.close(self._api.timeouts.submit)
            if self._submits:
                await asyncio.wait(list(self._submits.values()), timeout=self._api.timeouts.submit)
        finally:
            tasks = [*self._submits.values(), *self._tasks.values()]
            for task in tasks:
                task.cancel()
            try:
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                for run in list(self.jobs.values()):
                    self._detach(run)
                for timer in (*self._slot_holds.values(), self._retry):
                    if timer:
                        timer.cancel()

    def _detach(self, run: JobRun) -> None:
        run.detach(is_kept=self._recorder.is_kept(run), is_sent=run in self._submits)
        if run.state is JobState.WAITING:
            self._recorder.postpone(run)

    def _pump(self, now: float) -> None:
        """Give the free slots to queued jobs, and schedule the next attempt for the time that the service named."""
        if self._api.closing.is_set() or self._is_stopping:
            return
        if self._claimer:
            self._claimer.wake()
            return
        for run in self.slots.grant(now):
            self._start_submit(run)
        self._retry_at(self.slots.retry_at)

    def _start_submit(self, run: JobRun) -> None:
        """Submit a job that has a slot."""
        self._count_idle_time(run.loop.time())
        run.advance(lifecycle.Started())
        self._start(run)

    def _retry_at(self, at: float | None) -> None:
        if self._retry and self._retry.when() != at:
            self._retry.cancel()
            self._retry = None
        if self._retry is None and at is not None:
            self._retry = asyncio.get_running_loop().call_at(at, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._pump(self._count_idle_time(aio.now()))

    def _count_idle_time(self, now: float) -> float:
        """Add up for how long free slots were not used. Called before the slots change; returns *now*."""
        if self.slots.waiting:
            self._api.counters.slot_idle_time += (now - self._idle_since) * self.slots.idle
        self._idle_since = now
        return now

    def _start(self, run: JobRun) -> None:
        """Start the task that drives the job, if it has none."""
        if run not in self._tasks:
            self._tasks[run] = run.loop.create_task(self._drive(run), name=f"modelslab_async {run.ref}")

    async def _drive(self, run: JobRun) -> None:
        """Drive a job from its present state to its end."""
        try:
            while run.state is JobState.SUBMITTING:
                await self._submit(run)
            if self._api.closing.is_set() and run.state is not JobState.UNCERTAIN:
                return self._detach(run)
            if run.state is JobState.PROCESSING:
                await self._poller.poll_until_done(run)
            if run.state is JobState.READY:
                await self._poller.poll_until_readable(run)
        except asyncio.CancelledError:
            self._detach(run)
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours must not leave the job without an end
            run.abandon(internal_error(run, error))
        finally:
            self._tasks.pop(run, None)

    async def _submit(self, run: JobRun) -> None:
        """Submit in a separate task, so that the reply is awaited and recorded even if the job's task is cancelled."""
        sending = run.loop.create_task(self._submitter.submit(run, self.has_id), name=f"modelslab_async {run.ref}")
        self._submits[run] = sending
        try:
            await aio.uninterrupted(sending)
        finally:
            del self._submits[run]

    def _hold_slot(self, run: JobRun, *, wait_for_delivery: bool) -> None:
        """Hold the slot of an uncertain job for a while, and wait for a delivery if one may come."""
        if wait := self._delivery_waits.pop(run, None):
            wait.cancel()
        else:
            self.slots.hold(run)
            hold = min(record.SLOT_HOLD, _UNCERTAIN_HOLD * self.forecast(run, None).left(0.0))
            self._slot_holds[run] = asyncio.get_running_loop().call_later(hold, self._release_slot, run)
        if wait_for_delivery:
            self._delivery_waits[run] = asyncio.get_running_loop().call_later(DELIVERY_WITHIN, run.end_uncertain)

    def _accept_uncertain(self, run: JobRun) -> None:
        """Stop waiting for a delivery of a job that turned out to be accepted."""
        if wait := self._delivery_waits.pop(run, None):
            wait.cancel()
            if hold := self._slot_holds.pop(run, None):
                hold.cancel()
            self.slots.occupy(run)

    def _release_slot(self, run: JobRun) -> None:
        now = self._count_idle_time(aio.now())
        self._slot_holds.pop(run, None)
        self.slots.release(run)
        self._pump(now)


class EndedJobs:
    """Remember the latest jobs that ended, by ref and by id, and find older ones while the program holds them.

    A job whose picture or video was passed as bytes or a data URI is not kept alive here, because files take megabytes.
    """

    def __init__(self) -> None:
        self._ids = deque[str | None](maxlen=_MAX_ENDED_IDS)
        self._kept = deque[Job](maxlen=_MAX_ENDED_JOBS)
        self._found = WeakValueDictionary[str, Job]()

    def add(self, run: JobRun) -> None:
        """Remember a job that ended, unless the service knew no such id: the next `attach` asks again."""
        if run.is_unknown and run.state is JobState.REFUSED:
            return
        self._ids.append(run.id)
        if run.id:
            self._found[run.ref] = self._found[run.id] = run.job
        else:
            self._found.setdefault(run.ref, run.job)  # a job that was refused for its ref does not hide the first one
        if not is_large(run.request):
            self._kept.append(run.job)

    def has_id(self, job_id: str | None) -> bool:
        """Return whether one of the latest jobs had this id of the service."""
        return job_id is not None and job_id in self._ids

    def find(self, ref_or_id: str) -> Job | None:
        """Return the job with this ref or id, or None."""
        return self._found.get(ref_or_id)


def _described(event: lifecycle.Event, price: Decimal | None) -> str:
    """Return a log line for an event: what happened, why, and what is known of the charge."""
    cost = usd(price)
    match event:
        case lifecycle.Started():
            return "submitting"
        case lifecycle.PutBack(wait=wait):
            when = f"in {wait:.0f} s" if wait else "when one is free"
            return f"not accepted, because the account has no free slot; sent again {when}"
        case lifecycle.Deferred():
            return "not sent, because the journal was out of reach for too long; it asks for a slot again"
        case lifecycle.Postponed():
            return "not sent, because the client closes. The journal keeps it"
        case lifecycle.Cancelled():
            return "cancelled before it was sent. Not charged"
        case wire.Accepted(eta=eta):
            return f"accepted, charged {cost}{'' if eta is None else f'. The service expects {eta:.0f} s'}"
        case wire.Ready():
            return f"the service reports success, charged {cost}"
        case lifecycle.Verified():
            return "the video can be read"
        case _:
            charged = {False: "Not charged", True: f"Charged {cost}", None: f"May have been charged {cost}"}
            return f"{Exception.__str__(event.error).rstrip('.')}. {charged[effects_of(event).charged]}"
