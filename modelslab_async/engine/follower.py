"""Follow jobs that other clients run: their events and their ends come from the journal."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from decimal import Decimal

from modelslab_async.engine.changes import CHECK_EVERY
from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.recorder import Recorder, request_from_record
from modelslab_async.engine.recovery import Recoverer
from modelslab_async.engine.requests import differences
from modelslab_async.engine.rows import RowReader
from modelslab_async.errors import InvalidRequestError, JobTimeoutError, JournalError, RefInUseError
from modelslab_async.job.future import Job
from modelslab_async.job.run import JobRun, internal_error
from modelslab_async.journal.base import Row
from modelslab_async.media.saved import Progress, SavedVideo
from modelslab_async.polling.estimator import JobForecast
from modelslab_async.protocol import lifecycle
from modelslab_async.protocol.claims import Follow
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.replay import events_to
from modelslab_async.protocol.request import Request
from modelslab_async.protocol.secret import ApiKey

_GOES_ON = (JobState.PROCESSING, JobState.READY)
_log = logging.getLogger("modelslab_async")


class Follower:
    """Drive the runs of jobs that other clients own. If an owner dies, take its job over and give it to the dispatcher.

    It is the runtime of these runs, as the dispatcher is for jobs of this client.

    patience: seconds from the submit of a job after which its client must have reported the end; may be infinite.
    submit: queues a job that was never sent, and whose client is gone. It returns False if that is being done already.
    """

    sends_jobs = False
    """As in `JobRuntime`."""

    def __init__(
        self,
        recorder: Recorder,
        dispatcher: Dispatcher,
        recoverer: Recoverer,
        patience: float,
        submit: Callable[[JobRun, JobRecord], Awaitable[bool]],
    ) -> None:
        self.runs: dict[str, JobRun] = {}
        """The followed jobs that have not ended, by ref."""
        self._recorder, self._dispatcher, self._recoverer = recorder, dispatcher, recoverer
        self._patience, self._submit = patience, submit
        self._tasks: dict[JobRun, asyncio.Task[None]] = {}
        self._rows = RowReader(recoverer)
        self._is_closed = False

    @property
    def api_key(self) -> ApiKey:
        """The account's key."""
        return self._dispatcher.api_key

    @property
    def account(self) -> str:
        """The account's fingerprint."""
        return self._dispatcher.account

    def price_of(self, run: JobRun) -> Decimal | None:
        """Return the price of the job, USD; None if it is unknown."""
        return self._dispatcher.price_of(run)

    def forecast(self, run: JobRun, eta: float | None) -> JobForecast:
        """Return when the job is expected to end. *eta* is the service's estimate in seconds, or None."""
        return self._dispatcher.forecast(run, eta)

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
        return await self._dispatcher.save(run, path, progress, overwrite=overwrite, max_bytes=max_bytes)

    async def acknowledge(self, run: JobRun) -> None:
        """As in `JobRuntime`."""
        await self._recorder.record_delivered(run.ref)

    def on_event(self, run: JobRun, event: lifecycle.Event) -> None:
        """Log an event. The owner of the job has recorded it."""
        run.log(logging.DEBUG, "%s, says the journal", type(event).__name__)

    def on_end(self, run: JobRun) -> None:
        """Forget a job that has just got its result or its error."""
        self._forget(run)
        self._dispatcher.on_end(run)

    def _forget(self, run: JobRun) -> None:
        if self.runs.get(run.ref) is run:
            del self.runs[run.ref]

    def follow(self, row: Row, request: Request | None = None) -> Job:
        """Return the job of a row that another client owns. *request* is used if the job must be sent here."""
        record = row.record
        if run := self.runs.get(record.ref):
            return run.job
        request = request or request_from_record(record)
        if record.state in _GOES_ON:
            run = JobRun.restored(self, record, request, self._recorder.ages(record))
        else:
            run = JobRun(self, request, record.ref, operation=record.operation)
            run.submitted_at -= self._recorder.ages(record).since_creation
            if row.is_alive:
                self._mirror(run, record)
        self._start(run)
        return run.job

    def take(self, run: JobRun, follow: Follow) -> None:
        """Follow the job that the ref of *run* belongs to, if it was asked for the same video."""
        self._recorder.postpone(run)
        self._dispatcher.jobs.pop(run.ref, None)
        run.runtime = self
        if self._is_closed:
            run.stop_following()
        else:
            self._start(run, follow.record)

    def _start(self, run: JobRun, claimed: JobRecord | None = None) -> None:
        self.runs[run.ref] = run
        task = run.loop.create_task(self._drive(run, claimed), name=f"modelslab_async follow {run.ref}")
        self._tasks[run] = task
        task.add_done_callback(lambda _: self._tasks.pop(run, None))

    async def drain(self) -> None:
        """Wait for the end of all jobs that are followed."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    async def close(self) -> None:
        """Stop following. The owners go on with their jobs."""
        self._is_closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._rows.close()
        for run in list(self.runs.values()):
            run.stop_following()

    async def _drive(self, run: JobRun, claimed: JobRecord | None) -> None:
        """Follow a job to its end, or until this client owns it."""
        try:
            if claimed and run.request:
                if problems := await differences(run.request, run.media, claimed, self.api_key):
                    run.advance(lifecycle.Rejected(RefInUseError(problems)))
                    return
                run.record = claimed
            is_first, last_waiting_at = True, run.loop.time()
            while not run.future.done() and run.runtime is self:
                try:
                    row = await (self._recoverer.find(run.ref) if is_first else self._rows.next(run.ref))
                    is_first = False
                    if row:
                        await self._step(run, row)
                except JournalError:  # the journal is away: the last known state stays
                    await asyncio.sleep(CHECK_EVERY)
                if run.state is JobState.WAITING:
                    last_waiting_at = run.loop.time()
                elif run.loop.time() - last_waiting_at > self._patience:
                    self._give_up(run)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug must not leave the job without an end
            run.fail(internal_error(run, error), charged=None)
            self.on_end(run)

    def _give_up(self, run: JobRun) -> None:
        if not run.future.done() and run.runtime is self:
            words = f"the client that runs this job has not reported its end within {self._patience:.0f} s"
            run.abandon(JobTimeoutError(f"{words} (hint: Client.follow({run.ref!r}) resumes it)"))

    async def _step(self, run: JobRun, row: Row) -> None:
        """Bring the job to where its row is, or take it over if its owner is gone."""
        record = row.record
        if not row.is_alive and record.state is JobState.SUBMITTING:
            record = await self._recoverer.as_uncertain(record) or record
        elif not row.is_alive and record.state is JobState.WAITING:
            self._mirror(run, record)  # it may have been SUBMITTING when it was read last
            await self._send(run, record)
            return
        elif not row.is_alive and record.state in _GOES_ON and record.video is None and record.error is None:
            if await self._recoverer.take_up(run, record):
                self._forget(run)
            return
        self._mirror(run, record)

    def _mirror(self, run: JobRun, record: JobRecord) -> None:
        run.record = record
        for event in events_to(run.state, record):
            run.advance(event)
        if run.state is JobState.PROCESSING and not run.future.done():
            run.seen_running()

    async def _send(self, run: JobRun, record: JobRecord) -> None:
        """Send a job that was never sent, and whose client is gone. Raises JournalError."""
        try:
            is_queued = await self._submit(run, record)
        except InvalidRequestError as error:
            run.advance(lifecycle.Rejected(error))
        else:
            if is_queued:
                self._forget(run)
