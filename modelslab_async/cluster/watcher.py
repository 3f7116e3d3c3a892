"""Show the jobs of other clients, as the journal's rows have them. Nothing is polled, taken over or sent."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal

from modelslab_async.client import Client
from modelslab_async.errors import ClientStateError, JournalError
from modelslab_async.job.future import Job
from modelslab_async.job.run import JobRun
from modelslab_async.journal.base import Journal
from modelslab_async.media.saved import SavedVideo
from modelslab_async.polling.estimator import DurationEstimator, JobForecast, PollValue
from modelslab_async.polling.workload import workload_of
from modelslab_async.protocol import lifecycle
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.replay import events_to
from modelslab_async.protocol.request import Request
from modelslab_async.protocol.secret import ApiKey

_CHECK_EVERY = 2.0
"""Seconds after which the rows are read again, if no change of the journal was noticed before."""
_LEAST_GAP = 0.5
"""Seconds between two reads."""


class Watcher:
    """The jobs that a driver shows. It is their runtime, as a dispatcher is for the jobs of its client."""

    sends_jobs = False
    """As in `JobRuntime`."""

    def __init__(self, client: Client, journal: Journal) -> None:
        self._client, self._journal = client, journal
        self._runs = dict[str, tuple[JobRun, Callable[[Job], None] | None]]()
        """The jobs that have not ended, by ref, each with what to call when its row is there."""
        self._estimator, self._rng = DurationEstimator(), random.Random()

    @property
    def api_key(self) -> ApiKey:
        """The account's key."""
        return self._client.api_key

    @property
    def account(self) -> str:
        """The account's fingerprint."""
        return self._client.account_id

    def price_of(self, run: JobRun) -> Decimal | None:
        """Return the price of the job, USD; None if it is unknown."""
        request = run.request
        return self._client.prices.price_of(run.operation, request.model_id if request else None).usd

    def forecast(self, run: JobRun, eta: float | None) -> JobForecast:
        """Return when a job is expected to end."""
        workload = workload_of(run.request, run.operation)
        return JobForecast(self._estimator, workload, eta, self._rng, PollValue(), run.has_webhook)

    def on_event(self, run: JobRun, event: lifecycle.Event) -> None:
        """Do nothing: the job's own client has recorded the event."""

    def on_end(self, run: JobRun) -> None:
        """Forget a job that has just ended."""
        self._runs.pop(run.ref, None)

    async def save(self, run: JobRun, /, path: str | os.PathLike[str], *_: object, **__: object) -> SavedVideo:
        """Raise ClientStateError: a worker saves the video."""
        raise ClientStateError(f"{path}: a worker of the cluster saves {run.ref} (hint: await the batch's event)")

    async def acknowledge(self, run: JobRun) -> None:
        """Do nothing: the batch keeps the video."""

    def watch(self, request: Request | None, ref: str, on_row: Callable[[Job], None]) -> Job:
        """Return the job with this ref. *on_row* is called with it once the journal has its row."""
        run = JobRun(self, request, ref)
        self._runs[ref] = run, on_row
        return run.job

    async def end(self, ref: str) -> None:
        """Bring a job to where its row is now, and forget it."""
        if ref in self._runs:
            with suppress(JournalError):
                row = await self._journal.find(self._client.account_id, ref=ref)
                if row:
                    self._show(row.record)
            self._runs.pop(ref, None)

    async def run(self) -> None:
        """Read the rows again whenever the journal may have changed."""
        while True:
            with suppress(JournalError):  # the journal is away: the last known state stays
                if self._runs:
                    for row in await self._journal.unfinished(self._client.account_id):
                        self._show(row.record)
                await self._journal.wait_for_change(_CHECK_EVERY)
            await asyncio.sleep(_LEAST_GAP)

    def _show(self, record: JobRecord) -> None:
        run, on_row = self._runs.get(record.ref, (None, None))
        if run is None:
            return
        if on_row:
            self._runs[record.ref] = run, None
            on_row(run.job)
        run.record = record
        for event in events_to(run.state, record):
            run.advance(event)
        if run.state is JobState.PROCESSING and not run.future.done():
            run.seen_running()
