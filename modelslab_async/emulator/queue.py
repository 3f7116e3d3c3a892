"""The jobs of all accounts in the order of their submits: free slots, and when a worker starts each job. Pure."""

from __future__ import annotations

from bisect import bisect_right, insort_right
from collections import defaultdict
from itertools import islice
from operator import attrgetter

import attrs

from modelslab_async.emulator.job import EmulatedJob

_done_at = attrgetter("done_at")
_JobsByAccount = defaultdict[str, list[EmulatedJob]]


@attrs.define
class JobQueue:
    """Hold all accepted jobs, and run each account's jobs first in, first out.

    limit: how many jobs an account may have queued or processing at a time.
    workers: how many of an account's jobs are processed at a time.
    keep: how many jobs are kept. Beyond it, the oldest finished job is forgotten.
    """

    limit: int
    workers: int
    keep: int = 10_000
    jobs: dict[int, EmulatedJob] = attrs.field(factory=dict[int, EmulatedJob], init=False)
    """The jobs that are kept, by id, in the order of their submits."""
    accepted: int = attrs.field(default=0, init=False)
    """How many jobs were accepted."""
    peak_slots_used: int = attrs.field(default=0, init=False)
    """The largest number of jobs that one account ever had queued or processing."""
    _unfinished: _JobsByAccount = attrs.field(factory=lambda: _JobsByAccount(list), init=False)
    """Jobs by account, sorted by `done_at`. Finished jobs are removed when slots are counted."""
    _rendering: _JobsByAccount = attrs.field(factory=lambda: _JobsByAccount(list), init=False)
    """Jobs by account whose files are being rendered. A job keeps its slot until its file is rendered."""
    _by_file_name: dict[str, EmulatedJob] = attrs.field(factory=dict[str, EmulatedJob], init=False)

    def unfinished(self, account: str, now: float) -> list[EmulatedJob]:
        """Return the jobs of *account* that are queued or processing, sorted by `done_at`."""
        jobs = self._unfinished[account]
        return [*self._overdue(account, now), *jobs[bisect_right(jobs, now, key=_done_at) :]]

    def slots_used(self, account: str, now: float) -> int:
        """Return how many jobs of *account* are queued or processing."""
        jobs = self._unfinished[account]
        del jobs[: bisect_right(jobs, now, key=_done_at)]
        return len(jobs) + len(self._overdue(account, now))

    def busy_accounts(self, now: float) -> set[str]:
        """Return the accounts that have unfinished jobs. Forget the others' empty lists."""
        for account in [*self._unfinished]:
            if not self.slots_used(account, now):
                del self._unfinished[account]
        return {*self._unfinished, *(account for account, jobs in self._rendering.items() if jobs)}

    def _overdue(self, account: str, now: float) -> list[EmulatedJob]:
        """Return the jobs whose `done_at` has passed while their files are still being rendered."""
        return [
            job for job in self._rendering.get(account, ()) if job.done_at <= now and job.state(now) == "processing"
        ]

    def next_start(self, account: str, now: float, workers: int | None = None) -> float:
        """Return when a job that is submitted now starts: at once, or when earlier jobs leave a worker free."""
        workers = workers or self.workers
        jobs = self._unfinished[account]
        return now if len(jobs) < workers else max(now, jobs[-workers].done_at)

    def add(self, job: EmulatedJob) -> list[EmulatedJob]:
        """Add an accepted job. Return the jobs that are forgotten for it."""
        insort_right(self._unfinished[job.account], job, key=_done_at)
        self.jobs[job.id] = job
        self.accepted += 1
        self._by_file_name[job.file_name] = job
        self.peak_slots_used = max(self.peak_slots_used, self.slots_used(job.account, job.accepted_at))
        forgotten = []
        if len(self.jobs) > self.keep:
            now = job.accepted_at
            oldest = (each for each in self.jobs.values() if each.state(now) in ("success", "failed"))
            forgotten = [*islice(oldest, len(self.jobs) - self.keep)]
        for each in forgotten:
            self._forget(each)
        return forgotten

    def _forget(self, job: EmulatedJob) -> None:
        del self.jobs[job.id], self._by_file_name[job.file_name]

    def end(self, job: EmulatedJob, now: float, failure: str = "") -> None:
        """Let an unfinished job end now, with *failure* as the reason if it is not empty."""
        unfinished = self._unfinished[job.account]
        if job in unfinished:
            unfinished.remove(job)
        job.failure = failure
        job.starts_at, job.done_at, job.file_at = min(job.starts_at, now), now, now

    def start_rendering(self, job: EmulatedJob) -> None:
        """Keep *job* unfinished until `finish_rendering` is called, even after its `done_at`."""
        job.is_rendering = True
        self._rendering[job.account].append(job)

    def finish_rendering(self, job: EmulatedJob, now: float, failure: str) -> None:
        """Let *job* finish, with *failure* as the reason if it is not empty. An overdue job is done now."""
        job.is_rendering = False
        rendering = self._rendering[job.account]
        rendering.remove(job)
        if not rendering:
            del self._rendering[job.account]
        if not job.failure:
            late = max(now - job.done_at, 0.0)
            job.done_at, job.file_at, job.failure = job.done_at + late, max(job.file_at + late, now), failure

    def find_by_file_name(self, file_name: str) -> EmulatedJob | None:
        """Return the job whose file is called *file_name*, or None."""
        return self._by_file_name.get(file_name)

    def fail_unfinished(self, now: float) -> None:
        """Fail all jobs that are queued or processing, of every account."""
        for job in self.jobs.values():
            if job.state(now) in ("queued", "processing"):
                self.end(job, now, "The queue was cleared.")

    def forget_jobs(self, account: str | None = None) -> list[EmulatedJob]:
        """Forget the jobs of an account, or all jobs if it is None, finished or not. Return them.

        A job that is being rendered keeps its slot until then.
        """
        forgotten = [job for job in self.jobs.values() if account in (None, job.account)]
        for job in forgotten:
            self._forget(job)
            self._unfinished.pop(job.account, None)
        return forgotten
