"""The job future: what users await."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Generator
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING

import attrs

from modelslab_async.media.saved import DEFAULT_MAX_BYTES, Progress, SavedVideo
from modelslab_async.protocol.lifecycle import JobEvent, JobState, Video
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.request import Request
from modelslab_async.protocol.secret import ApiKey, without_key

if TYPE_CHECKING:
    from modelslab_async.job.run import JobRun


class Job:
    """A video that is being made. Await the job to get its `Video`.

    Cancelling a task that awaits a job does not cancel the job, because the job is paid for.
    """

    __slots__ = ("__weakref__", "_run")

    def __init__(self, run: JobRun) -> None:
        self._run = run

    def __repr__(self) -> str:
        return f"<Job {self.state.value} ref={self.ref} id={self.id}>"

    def __await__(self) -> Generator[None, None, Video]:
        """Wait for the end. Return the video, or raise the error that ended the job."""
        future = self._run.future
        if not future.done():
            waiter = self._run.loop.create_future()  # cancelling the task that awaits cancels this one, not the job's
            wake = partial(_set, waiter)
            future.add_done_callback(wake)
            try:
                yield from waiter
            finally:
                future.remove_done_callback(wake)
        return future.result()

    @property
    def state(self) -> JobState:
        """Where the job is, see `JobState`."""
        return self._run.state

    @property
    def ref(self) -> str:
        """The job's reference: the request's `track_id`, or a random one. The service gets it as `track_id`."""
        return self._run.ref

    @property
    def id(self) -> str | None:
        """The service's id; None before the service accepted the job."""
        return self._run.id

    @property
    def request(self) -> Request | None:
        """The request; None if the client attached to the job by its id."""
        return self._run.request

    @property
    def operation(self) -> str:
        """The name of the operation, see `modelslab_async.OPERATIONS`."""
        return self._run.operation

    @property
    def price(self) -> Decimal | None:
        """USD that the job costs if it is charged; None if the price is unknown."""
        return self._run.price

    @property
    def record(self) -> JobRecord | None:
        """The job's row in the journal; None without a journal."""
        return self._run.record

    @property
    def target(self) -> str | None:
        """The file or folder that the video is meant for, as `JobRecord.target` keeps it; None if it was not set.

        Set it right after `submit`, before the job is sent. The journal keeps the absolute path, without the key, so
        that a later process can save the video there. The client does not save the video there by itself. Without a
        journal, the path is not kept.
        """
        return self._run.record.target if self._run.record else None

    @target.setter
    def target(self, path: str | os.PathLike[str]) -> None:
        if self._run.record:
            kept = self._api_key.redact(os.path.abspath(path))  # noqa: PTH100 - pathlib keeps ".."
            self._run.record = self._run.record._replace(target=kept)

    @property
    def polls(self) -> int:
        """How often the service or a link was polled for the job."""
        return self._run.polls

    @property
    def elapsed(self) -> float:
        """Seconds since the job was created, by whichever client, until now or until its end."""
        run = self._run
        return run.event_log[-1].elapsed if run.future.done() else run.loop.time() - run.submitted_at

    @property
    def eta(self) -> float | None:
        """The client's estimate of the seconds until the video is ready. It is too long as often as too short.

        The estimate starts from the service's eta and from how long similar jobs took. It counts down, and rises if a
        poll finds the job still running. It is 0 once the video is ready, and at least 1 before. It is None before the
        service accepted the job, and after an end without a video.
        """
        return self._run.eta

    @property
    def progress(self) -> float:
        """How much of the expected time has passed: 0.0 before the service accepted the job, 1.0 once it is done.

        The value never falls, and stays below 1.0 until the video is ready. After an end without a video, it does not
        change.
        """
        return self._run.event_now().progress

    def done(self) -> bool:
        """Return whether the job has a result or an error."""
        return self._run.future.done()

    def cancelled(self) -> bool:
        """Return whether `cancel` withdrew the job."""
        return self._run.future.cancelled()

    def result(self) -> Video:
        """Return the video.

        Raises the job's error, asyncio.CancelledError if it was withdrawn, or asyncio.InvalidStateError before the end.
        """
        return self._run.future.result()

    def exception(self) -> BaseException | None:
        """Return the error that ended the job, or None for success.

        Raises as `result` does if the job has not ended or was withdrawn.
        """
        return self._run.future.exception()

    @property
    def error(self) -> BaseException | None:
        """The error that ended the job. None before the end, after success, and if the job was withdrawn."""
        return self._run.error

    def add_done_callback(self, callback: Callable[[Job], object]) -> None:
        """Have the event loop call `callback(job)` soon after the end, or soon if the job has already ended."""
        self._run.future.add_done_callback(_Callback(self, callback))

    def remove_done_callback(self, callback: Callable[[Job], object]) -> int:
        """Remove all instances of *callback* from the callbacks. Return how many were removed."""
        return self._run.future.remove_done_callback(_Callback(self, callback))

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop that the job runs in."""
        return self._run.loop

    def wake(self) -> None:
        """Poll now, for example because a webhook reported the end. The service's answer decides."""
        self._run.wake()

    def cancel(self) -> bool:
        """Withdraw the job. Return True only if it was still waiting for its turn: then nothing is charged.

        A job that was sent continues, because the service cannot cancel it. So does a job that another client runs, see
        `Client.follow`.
        """
        return self._run.cancel()

    async def submitted(self) -> str:
        """Wait until the service accepted the job. Return the service's id, or "" if the service named none.

        Raises the job's error.
        """
        async for event in self.events():
            if event.state in (JobState.PROCESSING, JobState.READY):
                break
        else:
            await self
        return self.id or ""

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, for at most *timeout* seconds. Return whether the job has ended. Never raises its error."""
        done, _ = await asyncio.wait([self._run.future], timeout=timeout)
        return bool(done)

    async def events(self, *, every: float | None = None) -> AsyncGenerator[JobEvent]:
        """Yield the job's events so far, then each as it happens, until the end.

        An event is a new state, or a poll that found the job running. With *every*, in seconds, an event with the
        current eta and progress comes at least that often, so that a progress bar moves between polls.
        """
        run, given = self._run, 0
        while True:
            while given < len(run.event_log):
                given += 1
                yield run.event_log[given - 1]
            if run.future.done():
                return
            if not await run.wait_for_change(every):
                yield run.event_now()

    @without_key
    async def save(
        self,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> SavedVideo:
        """Wait for the video and save it at *path*, whole or not at all. See `Client.download`."""
        return await self._run.runtime.save(self._run, path, progress, overwrite=overwrite, max_bytes=max_bytes)

    async def delivered(self) -> None:
        """Wait for the video, and note in the journal that the application has received it.

        `Client.recover` and `Client.recovered` then omit the job. Call it when the URL was handed out, or the file
        was copied. A job that was saved needs no such call. Without a journal, the call does nothing.

        Raises the job's error, JournalError.
        """
        await self
        await self._run.runtime.acknowledge(self._run)

    def redact(self, text: str | None) -> str:
        """Return *text* without the API key, for logs and pages that show a part of a request; "" for None."""
        return str(self._api_key.redact(text or ""))

    @property
    def _api_key(self) -> ApiKey:
        return self._run.runtime.api_key


@attrs.frozen
class _Callback:
    """A done callback that gets the job. Two with the same job and function are equal, so that one can be removed."""

    job: Job
    callback: Callable[[Job], object]

    def __call__(self, _: object) -> None:
        self.callback(self.job)


def _set(waiter: asyncio.Future[None], _: object) -> None:
    if not waiter.done():
        waiter.set_result(None)
