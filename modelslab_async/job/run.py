"""Keep the inner state of one job, and move it by the one method `JobRun.advance`."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from decimal import Decimal
from typing import NamedTuple, Protocol

from modelslab_async.aio import wait_for_event
from modelslab_async.errors import JobDetachedError, JobError, ModelsLabError, SubmitUncertainError
from modelslab_async.job.future import Job
from modelslab_async.media.inputs import Media
from modelslab_async.media.saved import Progress, SavedVideo
from modelslab_async.polling.estimator import JobForecast
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import effects_of
from modelslab_async.protocol.lifecycle import JobEvent, JobState, Video
from modelslab_async.protocol.operations import DEFAULT_OPERATION
from modelslab_async.protocol.record import JobRecord, video_of
from modelslab_async.protocol.request import Request
from modelslab_async.protocol.secret import ApiKey

_NEVER = -math.inf
_LEAST_LEFT = 1.0
"""Seconds. A job that has not ended is estimated to need at least this long."""
_log = logging.getLogger("modelslab_async")


class Ages(NamedTuple):
    """How old a journal row's job is, in seconds.

    since_creation: since its client created it, until now or until its end.
    since_acceptance: since the service accepted it, until now.
    """

    since_creation: float
    since_acceptance: float


class JobRuntime(Protocol):
    """What a job needs from the engine that runs it."""

    @property
    def api_key(self) -> ApiKey:
        """The account's key, which no error may show."""
        ...

    @property
    def account(self) -> str:
        """The fingerprint of the account, see `Client.account_id`."""
        ...

    def price_of(self, run: JobRun) -> Decimal | None:
        """Return the price of the job, USD; None if it is unknown."""
        ...

    @property
    def sends_jobs(self) -> bool:
        """Whether this client sends the job, and so can withdraw it. If not, another client does."""
        ...

    def forecast(self, run: JobRun, eta: float | None) -> JobForecast:
        """Return when the job is expected to end. *eta* is the service's estimate in seconds, or None."""
        ...

    def on_event(self, run: JobRun, event: lifecycle.Event) -> None:
        """Record the event, which has just changed the job's state, and act on it."""
        ...

    def on_end(self, run: JobRun) -> None:
        """Forget the job, which has just got its result or its error."""
        ...

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
        ...

    async def acknowledge(self, run: JobRun) -> None:
        """Note in the journal that the application has the job's video. Raise JournalError."""
        ...


class JobRun:
    """One job while this client runs it. `job` is its public face, the `Job` that users and telemetry get.

    Times are those of the event loop, in seconds. For `request`, `ref`, `id` and `state` see `Job`.
    """

    def __init__(
        self,
        runtime: JobRuntime,
        request: Request | None,
        ref: str,
        *,
        operation: str = DEFAULT_OPERATION,
        media: Media | None = None,
        job_id: str | None = None,
        has_webhook: bool = False,
        is_unknown: bool = False,
    ) -> None:
        self.job = Job(self)
        self.runtime = runtime
        self.request, self.ref, self.id = request, ref, job_id
        self.state = JobState.WAITING if job_id is None else JobState.PROCESSING
        self.operation = request.operation if request else operation
        """The name of the operation."""
        self.media = media
        """The files to send, until they were sent."""
        self.body: bytes | None = None
        """The encoded request, between the claim of a slot and the submit."""
        self.has_webhook = has_webhook
        """Whether the service was given a webhook of this client for the job."""
        self.submitted_elsewhere = job_id is not None
        """Whether another client submitted the job, or its acceptance became known from a delivery only."""
        self.charged: bool | None = False if job_id is None else None
        """What is known of the charge: False, True, or None if the job may have been charged."""
        self.is_unknown = is_unknown
        """Whether the job was attached to by an id that may be a mistake, until a poll finds it running."""
        self.loop = asyncio.get_running_loop()
        self.submitted_at = self.loop.time()
        self.future: asyncio.Future[Video] = self.loop.create_future()
        self.record: JobRecord | None = None
        """The job's row in the journal; None without a journal."""
        self.budget_key = ""
        """The name of the job's reservation in the budget."""
        self.uncertain_error: ModelsLabError | None = None
        """Why the reply to the submit was lost; None if it was not."""
        self.id_from_webhook: str | None = None
        """The service's id, as a delivery named it before the submit was answered."""
        self.accepted: wire.Accepted | None = None
        self.ready: wire.Ready | None = None
        self.polls = 0
        self.accepted_at = self.last_seen_running_at = self.expected_end_at = self.submitted_at
        self.event_log = list[JobEvent]()
        self.progress = 0.0
        """The highest progress that was shown."""
        self.changed: asyncio.Event | None = None
        """Set at the next entry of the event log; made for the first reader that waits for it."""
        self._sleeper: asyncio.Future[None] | None = None
        """The poller's wait for its next poll, which `wake` ends."""
        self._is_woken = False
        self.woken_at = _NEVER
        """When a delivery last led to a poll."""
        if job_id is None:
            self.log_event(None)
        else:
            self.forecast = runtime.forecast(self, None)
            self.seen_running()

    @classmethod
    def restored(cls, runtime: JobRuntime, record: JobRecord, request: Request | None, ages: Ages) -> JobRun:
        """Return the run of a journal row that is PROCESSING or READY."""
        run = cls(runtime, request, record.ref, operation=record.operation, job_id=record.job_id or "")
        run.state = record.state
        run.event_log.clear()
        run.resume(runtime, record, ages)
        if video := video_of(record):
            run.future.set_result(video)
        run.log_event(run.eta)
        return run

    @classmethod
    def ended(
        cls,
        runtime: JobRuntime,
        record: JobRecord,
        request: Request | None,
        ages: Ages,
        error: ModelsLabError | None,
    ) -> JobRun:
        """Return the run of a journal row that ended with *error*, or that was withdrawn if *error* is None."""
        run = cls(runtime, request, record.ref, operation=record.operation)
        run.submitted_at = run.loop.time() - ages.since_creation
        run.record, run.id, run.state, run.charged = record, record.job_id, record.state, record.charged
        run.event_log.clear()
        run.log_event(None)
        if error:
            run.fail(error, charged=record.charged)
        else:
            run.future.cancel()
        return run

    def resume(self, runtime: JobRuntime, record: JobRecord, ages: Ages) -> None:
        """Go on under *runtime* with the job of a row, which the service accepted."""
        now, age = self.loop.time(), ages.since_acceptance
        self.runtime, self.record, self.id, self.submitted_elsewhere = runtime, record, record.job_id, True
        self.charged = record.charged
        meta = {} if record.seed is None else {"seed": record.seed}
        self.accepted = wire.Accepted(id=record.job_id or "", eta=record.eta, future_links=record.links, meta=meta)
        self.submitted_at, self.accepted_at = now - ages.since_creation, now - age
        self.forecast = runtime.forecast(self, record.eta)
        self.expected_end_at = now + self.forecast.left(age)

    def __repr__(self) -> str:
        return repr(self.job)

    @property
    def eta(self) -> float | None:
        """Seconds until the video is there, see `Job.eta`."""
        match self.state:
            case JobState.PROCESSING | JobState.READY if not self.future.done():
                return max(self.expected_end_at - self.loop.time(), _LEAST_LEFT)
            case JobState.READY if self.future.exception() is None:
                return 0.0
            case _:
                return None

    @property
    def error(self) -> BaseException | None:
        """The error that ended the job. None before the end, after success, and if the job was cancelled."""
        return self.future.exception() if self.future.done() and not self.future.cancelled() else None

    def event_now(self) -> JobEvent:
        """Return the job's present state as an event."""
        return self._event(self.eta)

    def _event(self, eta: float | None) -> JobEvent:
        now = self.loop.time()
        if eta == 0.0:
            self.progress = 1.0
        elif eta is not None:
            elapsed = max(now - self.accepted_at, 0.0)
            self.progress = max(self.progress, elapsed / (elapsed + eta))
        return JobEvent(self.state, now - self.submitted_at, eta, self.progress)

    def log_event(self, eta: float | None) -> None:
        """Append the present state to the event log. *eta* is the estimate to show, in seconds."""
        self.event_log.append(self._event(eta))

    async def wait_for_change(self, timeout: float | None) -> bool:
        """Wait for the next entry of the event log, for at most *timeout* seconds. Return whether it came."""
        self.changed = self.changed or asyncio.Event()
        return await wait_for_event(self.changed, timeout)

    def notify_listeners(self) -> None:
        """Wake the readers of the event log."""
        if changed := self.changed:
            self.changed = None
            changed.set()

    def advance(self, event: lifecycle.Event) -> None:
        """Move the job: transition table, own fields, engine, result, listeners. Nothing else changes its state."""
        if self.future.done():
            raise lifecycle.ImpossibleMoveError(f"{type(event).__name__} cannot happen to a job that ended")
        before = self.state
        self.state = lifecycle.transition(before, event)
        if isinstance(error := getattr(event, "error", None), ModelsLabError):
            self.runtime.api_key.hide_in(error)  # before the journal, telemetry or the caller sees it
        self._take_from(event)
        self.charged = effects_of(event).charged
        self.runtime.on_event(self, event)
        self._set_result(event)
        if self.state is JobState.PROCESSING:
            self.seen_running()
        elif self.state is not before or self.future.done():
            self.log_event(self.eta)
        self._announce()

    def polled(self, *, running: bool) -> None:
        """Count a poll. *running* says whether the service reported the job as not done."""
        self.polls += 1
        if running:
            self.is_unknown = False
            self.seen_running()

    def wake(self) -> None:
        """Poll now: a delivery says that the job ended. The service's answer to that poll decides."""
        self._is_woken = True
        if self._sleeper and not self._sleeper.done():
            self._sleeper.set_result(None)

    async def sleep(self, seconds: float) -> bool:
        """Wait for *seconds*, or until `wake`. Return whether the job was woken; each wake-up is reported once."""
        if not self._is_woken:
            self._sleeper = self.loop.create_future()
            timer = self.loop.call_later(seconds, _end, self._sleeper)
            try:
                await self._sleeper
            finally:
                timer.cancel()
                self._sleeper = None
        woken, self._is_woken = self._is_woken, False
        if woken:
            self.woken_at = self.loop.time()
        return woken

    def log(self, level: int, message: str, *arguments: object, error: BaseException | None = None) -> None:
        """Log what happened to the job. The record's `extra` has its ref, job_id, account, state and charged.

        error: the error whose traceback is logged; None for no traceback.
        """
        extra = {"ref": self.ref, "job_id": self.id, "state": self.state.value, "charged": self.charged}
        extra["account"] = self.runtime.account
        _log.log(level, f"%r: {message}", self, *arguments, exc_info=error, extra=extra)

    def abandon(self, error: JobError) -> None:
        """End the job after an unexpected error, in the way that its state allows."""
        match self.state:
            case JobState.SUBMITTING:
                self.advance(lifecycle.ReplyLost(error))
            case JobState.PROCESSING:
                self.advance(lifecycle.Abandoned(error))
            case JobState.READY if not self.future.done():
                self.advance(lifecycle.Unreadable(error))

    def end_uncertain(self) -> None:
        """End an UNCERTAIN job that waits for a delivery: none is waited for any more."""
        if self.state is JobState.UNCERTAIN and self.uncertain_error and not self.future.done():
            self.advance(lifecycle.ReplyLost(self.uncertain_error))  # the second time ends the job

    def detach(self, *, is_kept: bool, is_sent: bool) -> None:
        """End the job because its client closes.

        is_kept: the journal keeps the job as WAITING for a later client. is_sent: its paid request may have left.
        """
        if self.state is JobState.SUBMITTING:
            if is_sent:
                self.advance(lifecycle.ReplyLost(SubmitUncertainError("cancelled while the submit was under way")))
            else:
                self.advance(lifecycle.Postponed() if is_kept else lifecycle.Rejected(closed_before_sending()))
        if not is_kept:
            self.cancel()
        self.end_uncertain()
        if not self.future.done():
            is_unsent = self.state is JobState.WAITING
            hint = (
                "Client.recover() lists it as unsent"
                if is_unsent
                else f"Client.attach({self.id or self.ref!r}) resumes it"
            )
            charged = None if self.is_unknown else not is_unsent
            when = "before this job was sent" if is_unsent else "while this job was running"
            self._end_detached(f"the client was closed {when} (hint: {hint})", charged=charged)

    def stop_following(self) -> None:
        """End the job because its client closes while another client runs the job, or is about to send it."""
        words = (
            f"the client was closed while another client ran this job (hint: Client.follow({self.ref!r}) resumes it)"
        )
        self._end_detached(words, charged=True if self.state in (JobState.PROCESSING, JobState.READY) else None)

    def _end_detached(self, words: str, *, charged: bool | None) -> None:
        self.fail(JobDetachedError(words), charged=charged)
        self.log_event(None)
        self._announce()

    def cancel(self) -> bool:
        """Withdraw the job if it is WAITING and this client sends it. Return whether it was."""
        if self.state is not JobState.WAITING or self.future.done() or not self.runtime.sends_jobs:
            return False
        self.advance(lifecycle.Cancelled())
        return True

    def seen_running(self) -> None:
        """Estimate the end anew: the job was just seen running."""
        self.last_seen_running_at = now = self.loop.time()
        left = self.forecast.left(now - self.accepted_at)
        self.expected_end_at = now + left
        self.log_event(max(left, _LEAST_LEFT))
        self.notify_listeners()

    def _take_from(self, event: lifecycle.Event) -> None:
        """Keep what the event says about the job."""
        match event:
            case wire.Accepted():
                self.submitted_elsewhere = self.submitted_elsewhere or self.uncertain_error is not None
                self.id, self.accepted = event.id, event
                self.accepted_at = self.loop.time()
                self.forecast = self.runtime.forecast(self, event.eta)
            case wire.Ready():
                self.id, self.ready, self.expected_end_at = self.id or event.id, event, self.loop.time()
            case lifecycle.Failed(id=job_id):
                self.id = self.id or job_id
            case lifecycle.ReplyLost(error=error):
                self.uncertain_error = error

    def _set_result(self, event: lifecycle.Event) -> None:
        """Give the job its result or its error, if the event ends it."""
        effects = effects_of(event)
        if not effects.ends:
            return
        match event:
            case lifecycle.Verified(video=video):
                self.future.set_result(video)
            case lifecycle.Cancelled():
                self.future.cancel()
            case (
                lifecycle.Rejected(error=error)
                | lifecycle.Failed(error=error)
                | lifecycle.ReplyLost(error=error)
                | lifecycle.Abandoned(error=error)
                | lifecycle.Unreadable(error=error)
                | lifecycle.NotFound(error=error)
            ):
                self.fail(error, charged=effects.charged)

    @property
    def price(self) -> Decimal | None:
        """USD that the job costs if it is charged; None if that is unknown, as for a job that another client sent."""
        if self.record:
            return self.record.usd
        return None if self.submitted_elsewhere else self.runtime.price_of(self)

    def fail(self, error: ModelsLabError, *, charged: bool | None) -> None:
        """Give the job its error."""
        self.future.set_exception(error.about(ref=self.ref, job_id=self.id, charged=charged, price=self.price))
        self.future.exception()  # logs and the state report it, so asyncio need not log "exception was never retrieved"

    def _announce(self) -> None:
        if self.future.done():
            self.runtime.on_end(self)
        self.notify_listeners()


def internal_error(run: JobRun, error: Exception) -> JobError:
    """Return the error that ends a job after a bug in this package, and log its traceback."""
    run.log(logging.ERROR, "a bug in modelslab_async", error=error)
    return JobError(f"a bug in modelslab_async, please report it: {error!r}")


def closed_before_sending() -> JobDetachedError:
    """Return the error of a job whose client was closed just before it would have been sent."""
    return JobDetachedError("the client was closed before this job was sent")


def _end(sleeper: asyncio.Future[None]) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
