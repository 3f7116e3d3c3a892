"""Take up the jobs that an earlier client left, here or in a process that is gone."""

import asyncio
import os
from collections.abc import Collection, Sequence
from typing import NamedTuple

from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.recorder import Recorder, request_from_record
from modelslab_async.errors import ClientStateError, JobDetachedError, JobError, JobFailedError, SubmitUncertainError
from modelslab_async.job.future import Job
from modelslab_async.job.run import JobRun
from modelslab_async.journal.base import Journal
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.wire import Asset

SEE_CANDIDATES = "see Client.recover(search=True).candidates"
_IS_NEW = ("cannot be taken up: a new job with this ref is open, and will be refused", "wait for its end")
_UNCERTAIN = {JobState.SUBMITTING, JobState.UNCERTAIN}
_OVER = (JobState.REFUSED, JobState.CANCELLED, JobState.FAILED)
_RESUMABLE = (JobState.PROCESSING, JobState.READY, JobState.TIMED_OUT)


class Recovery(NamedTuple):
    """What `Client.recover` found in the journal. None of it was, or will be, submitted again.

    jobs: paid jobs that go on, and those that are READY and not saved yet. `job.save` and `await job` work as usual.
    uncertain: jobs whose reply was lost. `Client.resolve` takes the user's decision on them.
    unsent: jobs that never had their turn. Nothing is charged; `Client.resubmit` sends them.
    owned_elsewhere: jobs of another client that is alive.
    candidates: with `search`, recent videos of the account that are in no row. One may be an uncertain job's.
    """

    jobs: tuple[Job, ...]
    uncertain: tuple[JobRecord, ...]
    unsent: tuple[JobRecord, ...]
    owned_elsewhere: tuple[JobRecord, ...]
    candidates: tuple[Asset, ...] = ()


class Recoverer:
    """Find jobs by ref or id, and take up those of the journal."""

    def __init__(self, recorder: Recorder, dispatcher: Dispatcher) -> None:
        self.recorder, self.dispatcher = recorder, dispatcher
        self._take_over_lock = asyncio.Lock()
        self._not_handed_out = set[str]()
        """Refs of jobs that were taken up and not yet given to the user."""

    @property
    def journal(self) -> Journal:
        """The open journal. Raises ClientStateError if there is none."""
        if self.recorder.journal is None or not self.recorder.is_open:
            raise ClientStateError("this client keeps no journal (hint: use async with Client(journal=...))")
        return self.recorder.journal

    async def recover(self, refs: Collection[str] | None) -> Recovery:
        """Take up what is unfinished, or only the jobs with these refs or ids."""
        jobs, uncertain, unsent, elsewhere = list[Job](), list[JobRecord](), list[JobRecord](), list[JobRecord]()
        for record in await self._records(refs):
            if record.owner == self.journal.owner:
                is_handed_out = record.ref in self.dispatcher.jobs and record.ref not in self._not_handed_out
                if is_handed_out or record.state in (JobState.WAITING, JobState.SUBMITTING):
                    continue
            elif self.journal.is_alive(record.owner):
                elsewhere.append(record)
                continue
            if record.state is JobState.WAITING:
                unsent.append(record)
            elif record.state in _UNCERTAIN and (mine := await self._as_uncertain(record)):
                uncertain.append(mine)
            elif record.state not in _OVER and (run := await self.restore(record)):
                jobs.append(run.job)
        await self.dispatcher.count_slots_used_elsewhere()
        given = tuple(job for job in dict.fromkeys(jobs) if job.ref in self._not_handed_out)
        self._not_handed_out -= {job.ref for job in given}
        return Recovery(given, tuple(uncertain), tuple(unsent), tuple(elsewhere))

    async def _records(self, refs: Collection[str] | None) -> Sequence[JobRecord]:
        if refs is None:
            return await self.journal.unfinished(self.recorder.account)
        return [record for ref in dict.fromkeys(refs) if (record := await self.find(ref))]

    async def find(self, ref_or_id: str) -> JobRecord | None:
        """Return the row with this ref or this id of the service; None if there is none."""
        return await self.journal.find(self.recorder.account, ref=ref_or_id, job_id=ref_or_id)

    async def unsent(self, record: JobRecord) -> JobRecord:
        """Return the present row of a job that was never sent. Raises InvalidRequestError if it was, or may be yet."""
        now = await self.find(record.ref)
        if now is None or now.state is not JobState.WAITING:
            requirement = "is not in the journal" if now is None else f"cannot be sent: it is {now.state.value}"
            raise refusal("ref", record.ref, requirement, "see Client.recover().unsent")
        if self.journal.is_alive(now.owner):
            raise refusal("ref", record.ref, "has a live owner, which will send the job", "leave it there")
        return now

    async def assets_without_row(self, assets: tuple[Asset, ...]) -> tuple[Asset, ...]:
        """Return those of the account's videos that are in no row."""
        return tuple([a for a in assets if await self.journal.find(self.recorder.account, job_id=a.id) is None])

    async def attach(self, ref_or_id: str) -> Job:
        """Return the job with this ref or id: open here, ended here, in the journal, or else known to the service."""
        job = await self._find_job(ref_or_id)
        self._not_handed_out.discard(job.ref)
        return job

    async def _find_job(self, ref_or_id: str) -> Job:
        record = await self.find(ref_or_id) if self.recorder.is_open and self.recorder.journal else None
        if run := self.dispatcher.open_job(ref_or_id):
            if record and self._ref_is_reused(record) and record.state not in _OVER:
                raise refusal("ref_or_id", ref_or_id, *_IS_NEW)
            return run.job
        ended = self.dispatcher.ended.find(ref_or_id)
        is_paid_elsewhere = record is not None and record.state not in _OVER  # and *ended* was refused for its ref
        if ended and _is_final(ended) and not (is_paid_elsewhere and ended.state in _OVER):
            return ended
        if record:
            return await self._attach_record(record)
        if ended and not ended.id:
            return ended
        if ended:
            run = JobRun(self.dispatcher, ended.request, ended.ref, job_id=ended.id)
        else:
            run = JobRun(self.dispatcher, None, new_ref(), job_id=ref_or_id, is_unknown=True)
        self.dispatcher.adopt(run)
        return run.job

    async def _attach_record(self, record: JobRecord) -> Job:
        """Return the job of a row that is not open here."""
        if record.video:
            return JobRun.restored(self.dispatcher, record, request_from_record(record), age=self._age(record)).job
        is_elsewhere = record.owner != self.journal.owner and self.journal.is_alive(record.owner)
        if record.state in _OVER or (record.state is JobState.WAITING and not is_elsewhere):
            return self._ended(record)
        if is_elsewhere:
            return self._followed(record)
        if record.job_id is None and (uncertain := await self._as_uncertain(record)):
            return self._ended(uncertain)
        if run := await self.restore(record):
            return run.job
        raise refusal(
            "ref_or_id", record.ref, "cannot be attached to: another client took it up just now", "attach again"
        )

    def _followed(self, record: JobRecord) -> Job:
        """Return a job that another live client owns, which is polled here too."""
        if record.job_id is None:
            requirement = "cannot be attached to yet: another client submits it, and it has no id"
            raise refusal("ref_or_id", record.ref, requirement, "attach again later")
        run = JobRun(self.dispatcher, request_from_record(record), record.ref, job_id=record.job_id)
        self.dispatcher.adopt(run, holds_slot=False)  # the journal counts the slot for its owner
        return run.job

    def _ended(self, record: JobRecord) -> Job:
        """Return the job of a row that ended without a video, or that nothing can be done about here."""
        return JobRun.ended(self.dispatcher, record, request_from_record(record), _error_of(record)).job

    async def resume(self, record: JobRecord) -> Job | None:
        """Take over a row's job and give it to the user.

        Return None if the job was not sent or ended without a video, if a live client owns it, or as `restore` does.
        """
        now = await self.find(record.ref)
        if now is None or now.state not in _RESUMABLE:
            return None
        if now.owner != self.journal.owner and self.journal.is_alive(now.owner):
            return None
        run = await self.restore(now)
        if run is None:
            return None
        self._not_handed_out.discard(run.ref)
        return run.job

    async def resolve(self, ref: str, *, job_id: str | None) -> JobRun | None:
        """Resolve an uncertain job: the service accepted it as *job_id*, or with None it was lost."""
        record = await self.find(ref)
        if record is None or record.state is not JobState.UNCERTAIN:
            requirement = "is not in the journal" if record is None else f"is {record.state.value}, not uncertain"
            raise refusal("ref", ref, requirement, "see Client.recover().uncertain")
        if self._ref_is_reused(record):
            raise refusal("ref", ref, *_IS_NEW)
        if job_id and (other := await self.journal.find(self.recorder.account, job_id=job_id)):
            raise refusal("id", job_id, f"is the id of the job {other.ref}", SEE_CANDIDATES)
        self.dispatcher.end_uncertainty(record.ref)
        if job_id is None:
            await self._resolve_as_lost(record)
            run = None
        elif (run := await self.accept_uncertain(record, job_id)) is None:
            raise refusal("ref", ref, "cannot be resolved: another client took it up just now", "see Client.recover")
        self._not_handed_out.discard(record.ref)
        return run

    async def _resolve_as_lost(self, record: JobRecord) -> None:
        over = {"state": JobState.REFUSED, "charged": False, "ended_at": self.recorder.clock()}
        async with self._take_over_lock:
            now = await self.find(record.ref)
            if not (now and now.state is record.state and await self.recorder.take_over(record, **over)):
                raise refusal("ref", record.ref, "was just reported by a delivery", "see Client.recover")
        self.recorder.record_resolved(record, accepted=False)

    def _ref_is_reused(self, record: JobRecord) -> bool:
        """Return whether the open job with the record's ref is another job, which will be refused."""
        run = self.dispatcher.jobs.get(record.ref)
        if run is None:
            return False
        is_followed = run.id is not None and run.id == record.job_id
        return not (is_followed or (run.record and run.record.created_at == record.created_at))

    async def accept_uncertain(self, record: JobRecord, job_id: str | None) -> JobRun | None:
        """Take up an uncertain job under the id that became known. Return None without an id, or as `restore` does."""
        known = record._replace(job_id=job_id, charged=True, accepted_at=record.submitted_at)
        run = await self.restore(known) if job_id else None
        if run:
            self.recorder.record_resolved(record, accepted=True)
        return run

    async def restore(self, record: JobRecord) -> JobRun | None:
        """Take over the record's job and resume it.

        Return None if another client took it over first, or a new job uses its ref.
        """
        async with self._take_over_lock:
            now = await self.find(record.ref)
            if self._ref_is_reused(record):
                return None
            if run := self.dispatcher.jobs.get(record.ref):
                return run
            if now is None or now.saved_path != record.saved_path:
                return None
            is_same = (now.state, now.video) == (record.state, record.video)
            if not (is_same or (record.job_id and {now.state, record.state} <= _UNCERTAIN)):
                if record.ref not in self._not_handed_out or now.state in _OVER:
                    return None
                record = now
            if mine := await self.recorder.take_over(record, state=_resumed_state(record)):
                self._not_handed_out.add(mine.ref)
            return self._resume(mine) if mine and not self._ref_is_reused(mine) else None

    async def _as_uncertain(self, record: JobRecord) -> JobRecord | None:
        """Take over a row whose submit has no known outcome, as UNCERTAIN. Return None if its outcome became known."""
        async with self._take_over_lock:
            now = await self.find(record.ref)
            if now == record and record.state is JobState.SUBMITTING:
                return await self.recorder.take_over(record, state=JobState.UNCERTAIN)
            return now if now and now.state is JobState.UNCERTAIN else None

    def _resume(self, mine: JobRecord) -> JobRun:
        if run := self.dispatcher.jobs.get(mine.ref):
            return run
        run = JobRun.restored(self.dispatcher, mine, request_from_record(mine), age=self._age(mine))
        if not run.future.done():
            self.dispatcher.adopt(run)
        return run

    def _age(self, record: JobRecord) -> float:
        """Return the seconds since the service accepted the job."""
        return max(self.recorder.clock() - (record.accepted_at or record.submitted_at or record.created_at), 0.0)


def new_ref() -> str:
    """Return a random reference for a job."""
    return os.urandom(16).hex()


def _is_final(ended: Job) -> bool:
    """Return whether asking the service again about an ended job cannot change how it ended."""
    return ended.error is None or ended.state in _OVER


def _resumed_state(record: JobRecord) -> JobState:
    """Return READY if the video is known, or if only links and no id are; otherwise the job is polled again."""
    is_there = record.video is not None or (record.state is JobState.READY and not record.job_id)
    return JobState.READY if is_there else JobState.PROCESSING


def _error_of(record: JobRecord) -> JobError | None:
    """Return the error that ended a row's job; None if the job was withdrawn."""
    why = record.error
    match record.state:
        case JobState.CANCELLED:
            return None
        case JobState.WAITING:
            return JobDetachedError("the client was closed before this job was sent (hint: Client.resubmit sends it)")
        case JobState.UNCERTAIN:
            lost = "its process ended while the submit was under way"
            return SubmitUncertainError(f"{why or lost} (hint: Client.resolve({record.ref!r}, ...) decides)")
        case JobState.FAILED:
            return JobFailedError(why or "the service failed the job")
        case _:
            return JobError(why or "the service refused the job")
