"""The job future, and the one function that moves it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator
from decimal import Decimal
from functools import partial
from typing import Protocol

from modelslab_async.errors import JobDetachedError, ModelsLabError
from modelslab_async.media.images import Image
from modelslab_async.media.saved import DEFAULT_MAX_BYTES, Progress, SavedVideo
from modelslab_async.polling.estimator import JobForecast
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import effects_of
from modelslab_async.protocol.lifecycle import JobEvent, JobState, Video
from modelslab_async.protocol.record import JobRecord, video_of
from modelslab_async.protocol.request import ImageToVideoUltra
from modelslab_async.protocol.secret import ApiKey, without_key

_LEAST_LEFT = 1.0
"""Seconds: nothing is told to be over before it is."""


class JobRuntime(Protocol):
    """What a job asks of the client that runs it."""

    @property
    def api_key(self) -> ApiKey:
        """The key that no error may show."""
        ...

    @property
    def price(self) -> Decimal:
        """What a job costs, USD."""
        ...

    def forecast(self, job: Job, eta: float | None) -> JobForecast:
        """What is expected of the job, for which the service says `eta` seconds."""
        ...

    def moved(self, job: Job, event: lifecycle.Event) -> None:
        """The job came into another state."""
        ...

    def ended(self, job: Job) -> None:
        """The job has a result."""
        ...

    async def save(
        self, job: Job, /, path: str | os.PathLike[str], progress: Progress | None, *, overwrite: bool, max_bytes: int
    ) -> SavedVideo:
        """Put the job's video on disk, once it is there."""
        ...


class Job:
    """A video to come. Await it for the `Video`; cancelling the task that awaits it never cancels the job.

    state: where it is.
    ref: its reference, chosen by us (or the request's track_id), sent as track_id.
    id: the service's id; None before the service took it.
    request: what was asked for; None for a job that was attached to.
    """

    __slots__ = (
        "__weakref__",
        "_accepted",
        "_doubt",
        "_due_at",
        "_forecast",
        "_future",
        "_heard_id",
        "_history",
        "_image",
        "_is_called",
        "_is_found",
        "_is_woken",
        "_keeper",
        "_key",
        "_loop",
        "_news",
        "_ready",
        "_record",
        "_running_at",
        "_sleeper",
        "_submitted_at",
        "_taken_at",
        "id",
        "polls",
        "ref",
        "request",
        "state",
    )  # fmt: skip
    _forecast: JobForecast
    """What is expected of it, from the service's acceptance on."""

    def __init__(
        self,
        keeper: JobRuntime,
        request: ImageToVideoUltra | None,
        ref: str,
        *,
        image: Image | None = None,
        job_id: str | None = None,
        is_called: bool = False,
    ) -> None:
        self.request, self.ref, self.id = request, ref, job_id
        self.state = JobState.WAITING if job_id is None else JobState.PROCESSING
        self._keeper = keeper
        self._image = image
        """What it is to be made of, until it was sent."""
        self._is_called = is_called
        """The service is given a webhook of ours for it."""
        self._loop = asyncio.get_running_loop()
        self._submitted_at = self._loop.time()
        self._future: asyncio.Future[Video] = self._loop.create_future()
        self._news: asyncio.Event | None = None
        """Those who listen wait for it; made for the first of them."""
        self._sleeper: asyncio.Future[None] | None = None
        """Who watches it, between two looks."""
        self._is_woken = False
        self._doubt: ModelsLabError | None = None
        """Why it is UNCERTAIN, while a webhook may still tell that it was taken."""
        self._heard_id: str | None = None
        """The service's id, as a delivery told it."""
        self._accepted: wire.Accepted | None = None
        self._ready: wire.Ready | None = None
        self._record: JobRecord | None = None
        self._key = ""
        self._is_found = job_id is not None
        """It was submitted elsewhere: nobody here saw it begin."""
        self.polls = 0
        self._taken_at = self._running_at = self._due_at = self._submitted_at
        self._history = [JobEvent(JobState.WAITING, 0.0)] if job_id is None else list[JobEvent]()
        """The events so far."""
        if job_id is not None:
            self._forecast = keeper.forecast(self, None)
            self._seen_running()

    @classmethod
    def restored(cls, keeper: JobRuntime, record: JobRecord, request: ImageToVideoUltra | None, *, age: float) -> Job:
        """A job of the journal that is PROCESSING, or READY with its video; accepted `age` seconds ago."""
        job = cls(keeper, request, record.ref, job_id=record.job_id or "")
        job._record, job.id, job.state = record, record.job_id, record.state
        meta = {} if record.seed is None else {"seed": record.seed}
        job._accepted = wire.Accepted(id=record.job_id or "", eta=record.eta, future_links=record.links, meta=meta)
        job._taken_at -= age
        job._forecast = keeper.forecast(job, record.eta)
        job._history = []
        if video := video_of(record):
            job._future.set_result(video)
        job._note(job.eta)
        return job

    def __repr__(self) -> str:
        return f"<Job {self.state.value} ref={self.ref} id={self.id}>"

    def __await__(self) -> Generator[None, None, Video]:
        """The video, or the error that ended the job."""
        if not self.done():
            waiter = self._loop.create_future()  # whose cancelling is not the job's
            tell = partial(_end, waiter)
            self._future.add_done_callback(tell)
            try:
                yield from waiter
            finally:
                self._future.remove_done_callback(tell)
        return self.result()

    @property
    def eta(self) -> float | None:
        """Seconds left until the video is there, as likely less as more: the client's own estimate.

        It counts down, and is corrected when a look sees the job still running. It starts from the service's eta, and
        from how long jobs of the kind took. 0 once the video is there, and at least 1 before; None before the service
        took the job, and for one that ended without a video.
        """
        match self.state:
            case JobState.PROCESSING | JobState.READY if not self.done():
                return max(self._due_at - self._loop.time(), _LEAST_LEFT)
            case JobState.READY if self._future.exception() is None:
                return 0.0
            case _:
                return None

    @property
    def record(self) -> JobRecord | None:
        """The job's row in the journal as it now is; None without a journal."""
        return self._record

    def done(self) -> bool:
        """Whether there is a result or an exception."""
        return self._future.done()

    def cancelled(self) -> bool:
        """Whether `cancel` withdrew it."""
        return self._future.cancelled()

    def result(self) -> Video:
        """The video; raises the job's error, asyncio.CancelledError, or asyncio.InvalidStateError before the end."""
        return self._future.result()

    def exception(self) -> BaseException | None:
        """The error that ended the job, or None; raises as `result` does for a job without an end or cancelled."""
        return self._future.exception()

    def _error(self) -> BaseException | None:
        """The error that ended the job; None where there is none (yet), and where it was cancelled."""
        return self.exception() if self.done() and not self.cancelled() else None

    def add_done_callback(self, callback: Callable[[Job], object]) -> None:
        """Have `callback(job)` called by the event loop soon after the end, or soon if it was."""
        self._future.add_done_callback(lambda _: callback(self))

    def cancel(self) -> bool:
        """Withdraw it: True only while it waits for its turn, and then nothing is charged. Later there is no way."""
        if self.state is not JobState.WAITING:
            return False
        self._advance(lifecycle.Cancelled())
        return True

    async def submitted(self) -> str:
        """Wait until the service took it, and give the service's id ("" where it told none); raises the job's error."""
        async for change in self.events():
            if change.state in (JobState.PROCESSING, JobState.READY):
                break
        else:
            await self
        return self.id or ""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for at most so many seconds; True if it came. Raises no error of the job."""
        done, _ = await asyncio.wait([self._future], timeout=timeout)
        return bool(done)

    def wake(self) -> None:
        """Look now: something says that the job ended. What the service then answers decides."""
        self._is_woken = True
        if self._sleeper:
            _end(self._sleeper)

    async def _sleep(self, seconds: float) -> bool:
        """Let so many seconds pass, or less where it is woken. Whether it was: one wake-up, one look."""
        if not self._is_woken:
            self._sleeper = self._loop.create_future()
            timer = self._loop.call_later(seconds, _end, self._sleeper)
            try:
                await self._sleeper
            finally:
                timer.cancel()
                self._sleeper = None
        woken, self._is_woken = self._is_woken, False
        return woken

    async def events(self) -> AsyncGenerator[JobEvent]:
        """The news so far, then each as it comes, until the end of the job: its states, and each look that saw it run.

        `eta` in it may rise at a look, since a job that is still running may take longer than was thought; between two
        events it only counts down.
        """
        told = 0
        while True:
            while news := self._history[told:]:
                told += len(news)
                for event in news:
                    yield event
            if self.done():
                return
            self._news = self._news or asyncio.Event()
            await self._news.wait()

    @without_key
    async def save(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> SavedVideo:
        """Wait for the video and put it at `path`, whole or not at all. See `Client.download`."""
        return await self._keeper.save(self, path, progress, overwrite=overwrite, max_bytes=max_bytes)

    @property
    def _api_key(self) -> ApiKey:
        return self._keeper.api_key

    def _advance(self, event: lifecycle.Event) -> None:
        """The one way in which a job moves: table, own fields, keeper, result, listeners."""
        if self._future.done():
            raise lifecycle.ImpossibleMoveError(f"{type(event).__name__} cannot happen to a job that ended")
        before = self.state
        self.state = lifecycle.transition(before, event)
        if isinstance(error := getattr(event, "error", None), ModelsLabError):
            self._api_key.hide_in(error)  # before the journal, telemetry or the caller sees it
        self._learn(event)
        self._keeper.moved(self, event)
        self._settle(event)
        if self.state is JobState.PROCESSING:
            self._seen_running()
        elif self.state is not before or self._future.done():
            self._note(self.eta)
        self._tell()

    def polled(self, *, running: bool) -> None:
        """A look came back."""
        self.polls += 1
        if running:
            self._seen_running()
            self._tell()

    def _seen_running(self) -> None:
        """It runs: that is news of how long it takes."""
        self._running_at = now = self._loop.time()
        left = self._forecast.left(now - self._taken_at)
        self._due_at = now + left
        self._note(max(left, _LEAST_LEFT))

    def _note(self, eta: float | None) -> None:
        self._history.append(JobEvent(self.state, self._loop.time() - self._submitted_at, eta))

    def _learn(self, event: lifecycle.Event) -> None:
        match event:
            case wire.Accepted():
                self._is_found = self._is_found or self._doubt is not None
                self.id, self._accepted = event.id, event
                self._taken_at = self._loop.time()
                self._forecast = self._keeper.forecast(self, event.eta)
            case wire.Ready():
                self.id, self._ready, self._due_at = self.id or event.id, event, self._loop.time()
            case lifecycle.Failed(id=job_id):
                self.id = self.id or job_id
            case lifecycle.ReplyLost(error=error):
                self._doubt = error

    def _settle(self, event: lifecycle.Event) -> None:
        """Give the job its result or its error, if the event ends it."""
        effects = effects_of(event)
        if not effects.ends:
            return
        match event:
            case lifecycle.Verified(video=video):
                self._future.set_result(video)
            case lifecycle.Cancelled():
                self._future.cancel()
            case (
                lifecycle.Rejected(error=error)
                | lifecycle.Failed(error=error)
                | lifecycle.ReplyLost(error=error)
                | lifecycle.Abandoned(error=error)
                | lifecycle.Unreadable(error=error)
            ):
                self._fail(error, charged=effects.charged)

    def _detach(self) -> None:
        """The client leaves; the job goes on at the service, and its state here stays the last that was known."""
        if not self.done():
            is_unsent = self.state is JobState.WAITING
            later = "Client.recover() lists it as unsent" if is_unsent else f"Client.attach({self.id!r}) watches it on"
            when = "before this job was sent" if is_unsent else "while this job was running"
            self._fail(JobDetachedError(f"the client was closed {when}; {later}"), charged=not is_unsent)
            self._tell()

    def _fail(self, error: ModelsLabError, *, charged: bool | None) -> None:
        price = None if self._is_found and self._record is None else self._keeper.price
        self._future.set_exception(error.about(ref=self.ref, job_id=self.id, charged=charged, price=price))
        self._future.exception()  # told by log and state; asyncio's "never retrieved" would tell it a second time

    def _tell(self) -> None:
        if self._future.done():
            self._keeper.ended(self)
        if news := self._news:
            self._news = None
            news.set()


def _end(sleeper: asyncio.Future[None], _: object = None) -> None:
    if not sleeper.done():
        sleeper.set_result(None)
