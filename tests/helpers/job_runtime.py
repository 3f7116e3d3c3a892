"""A fake engine for a test that moves a job by hand."""

from __future__ import annotations

import os
import random
from decimal import Decimal

from modelslab_async import SavedVideo
from modelslab_async.job.run import JobRun
from modelslab_async.media.saved import Progress
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.workload import Workload
from modelslab_async.protocol.lifecycle import Event
from modelslab_async.protocol.secret import ApiKey


class FakeRuntime:
    """Stand in for the engine as a `JobRuntime`, and count the jobs that ended."""

    account = "a"
    api_key = ApiKey("any")
    sends_jobs = True

    def __init__(self) -> None:
        self.ends = 0

    def forecast(self, run: JobRun, eta: float | None) -> JobForecast:
        return JobForecast(DurationEstimator(), Workload(), eta, random.Random(1))

    def price_of(self, run: JobRun) -> Decimal | None:
        return Decimal("0.2")

    def on_event(self, run: JobRun, event: Event) -> None:
        """Do nothing."""

    def on_end(self, run: JobRun) -> None:
        self.ends += 1

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
        raise NotImplementedError

    async def acknowledge(self, run: JobRun) -> None:
        raise NotImplementedError
