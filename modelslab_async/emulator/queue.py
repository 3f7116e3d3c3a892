"""The jobs of all accounts in the order of their submits: free slots, and when a worker starts each job. Pure."""

from __future__ import annotations

from bisect import bisect_right, insort_right
from collections import defaultdict
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
    """

    limit: int
    workers: int
    jobs: dict[int, EmulatedJob] = attrs.field(factory=dict[int, EmulatedJob], init=False)
    """All accepted jobs, by id."""
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

    def has_free_slot(self, account: str, now: float) -> bool:
        """Return whether *account* may submit another job."""
        return self._slots_used(account, now) < self.limit

    def _slots_used(self, account: str, now: float) -> int:
        jobs = self._unfinished[account]
        del jobs[: bisect_right(jobs, now, key=_done_at)]
        return len(jobs) + len(self._overdue(account, now))

    def _overdue(self, account: str, now: float) -> list[EmulatedJob]:
        """Return the jobs whose `done_at` has passed while their files are still being rendered."""
        return [job for job in self._rendering[account] if job.done_at <= now and job.state(now) == "processing"]

    def next_start(self, account: str, now: float) -> float:
        """Return when a job that is submitted now starts: at once, or when earlier jobs leave a worker free."""
        jobs = self._unfinished[account]
        return now if len(jobs) < self.workers else max(now, jobs[-self.workers].done_at)

    def add(self, job: EmulatedJob) -> None:
        """Add an accepted job."""
        insort_right(self._unfinished[job.account], job, key=_done_at)
        self.jobs[job.id] = job
        self._by_file_name[job.file_name] = job
        self.peak_slots_used = max(self.peak_slots_used, self._slots_used(job.account, job.accepted_at))

    def start_rendering(self, job: EmulatedJob) -> None:
        """Keep *job* unfinished until `finish_rendering` is called, even after its `done_at`."""
        job.is_rendering = True
        self._rendering[job.account].append(job)

    def finish_rendering(self, job: EmulatedJob, now: float, failure: str) -> None:
        """Let *job* finish, with *failure* as the reason if it is not empty. An overdue job is done now."""
        job.is_rendering = False
        self._rendering[job.account].remove(job)
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
                job.failure, job.done_at = "The queue was cleared.", now
                job.starts_at = min(job.starts_at, now)

    def forget_jobs(self) -> None:
        """Forget all jobs and their files, finished or not. A job that is being rendered keeps its slot until then."""
        self.jobs.clear()
        self._unfinished.clear()
        self._by_file_name.clear()
