"""Find an open job by its ref, as an application's webhook must that does not use the package's own `Webhook`."""

from __future__ import annotations

from modelslab_async import Job
from modelslab_async.telemetry import Telemetry


class OpenJobs(Telemetry):
    """The client's open jobs, by ref. Pass it as `Client(telemetry=...)`."""

    def __init__(self) -> None:
        self.by_ref: dict[str, Job] = {}

    def submitted(self, job: Job) -> None:
        """Remember the job."""
        self.by_ref[job.ref] = job

    def ended(self, job: Job) -> None:
        """Forget the job."""
        self.by_ref.pop(job.ref, None)

    def wake(self, ref: str) -> None:
        """Wake the job with this ref, if it is open."""
        if job := self.by_ref.get(ref):
            job.wake()
