"""What an earlier client, here or in a process that is gone, left behind; and how it is taken up again."""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.recorder import Recorder, request_from_record
from modelslab_async.errors import ClientStateError
from modelslab_async.job.future import Job
from modelslab_async.journal.base import Journal
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.wire import Asset

CANDIDATES = "see recover(search=True).candidates"
_NEW = ("a new job with this ref is open, and will be refused", "wait for its end")
_IN_DOUBT = {JobState.SUBMITTING, JobState.UNCERTAIN}
_OVER = (JobState.REFUSED, JobState.CANCELLED, JobState.FAILED)


class Recovery(NamedTuple):
    """What `Client.recover` found in the journal. Nothing of it was, or will be, submitted again.

    jobs: those that are paid for: watched on, or READY and not saved yet. `job.save` and `await job` work as ever.
    uncertain: those whose reply was lost. `Client.resolve` takes a person's word on them.
    unsent: those that never had their turn: nothing is charged. `Client.resubmit` sends them.
    owned_elsewhere: those that another client, which is alive, looks after.
    candidates: with `search`, the account's recent videos that no row knows: one may be an uncertain job's.
    """

    jobs: tuple[Job, ...]
    uncertain: tuple[JobRecord, ...]
    unsent: tuple[JobRecord, ...]
    owned_elsewhere: tuple[JobRecord, ...]
    candidates: tuple[Asset, ...] = ()


class Recoverer:
    """Takes up jobs of the journal."""

    def __init__(self, recorder: Recorder, dispatcher: Dispatcher) -> None:
        self.recorder, self.dispatcher = recorder, dispatcher
        self._one_by_one = asyncio.Lock()
        self.undelivered = set[str]()
        """Refs of jobs taken up that nobody was given."""

    @property
    def journal(self) -> Journal:
        """Raises ClientStateError where there is none."""
        if self.recorder.journal is None or not self.recorder.is_open:
            raise ClientStateError("there is no journal: async with Client(journal=...) keeps one")
        return self.recorder.journal

    async def recover(self, refs: Collection[str] | None) -> Recovery:
        """Collect, and list; of all that is unfinished, or of just these."""
        jobs, uncertain, unsent, elsewhere = list[Job](), list[JobRecord](), list[JobRecord](), list[JobRecord]()
        for record in await self._records(refs):
            if record.owner == self.journal.owner:
                is_reliable = record.ref in self.dispatcher.jobs and record.ref not in self.undelivered
                if is_reliable or record.state in (JobState.WAITING, JobState.SUBMITTING):
                    continue
            elif self.journal.is_alive(record.owner):
                elsewhere.append(record)
                continue
            if record.state is JobState.WAITING:
                unsent.append(record)
            elif record.state in _IN_DOUBT and (mine := await self._doubted(record)):
                uncertain.append(mine)
            elif record.state not in _OVER and (job := await self.restored(record)):
                jobs.append(job)
        await self.dispatcher.count_slots_used_elsewhere()
        given = tuple(job for job in dict.fromkeys(jobs) if job.ref in self.undelivered)
        self.undelivered -= {job.ref for job in given}
        return Recovery(given, tuple(uncertain), tuple(unsent), tuple(elsewhere))

    async def _records(self, refs: Collection[str] | None) -> Sequence[JobRecord]:
        if refs is None:
            return await self.journal.unfinished(self.recorder.account)
        return [record for ref in dict.fromkeys(refs) if (record := await self.find(ref))]

    async def find(self, ref: str) -> JobRecord | None:
        """The row with this ref, or this id of the service."""
        return await self.journal.find(self.recorder.account, ref=ref, job_id=ref)

    async def unsent(self, record: JobRecord) -> JobRecord:
        """Return the present row of a job that was never sent. Raises InvalidRequestError if it was, or may be yet."""
        now = await self.find(record.ref)
        if now is None or now.state is not JobState.WAITING:
            requirement = "no job with this ref is in the journal" if now is None else f"that job is {now.state.value}"
            raise refusal("ref", record.ref, requirement, "see Client.recover().unsent")
        if self.journal.is_alive(now.owner):
            raise refusal("ref", record.ref, "another client, which is alive, will send it", "leave it to that one")
        return now

    async def unknown(self, assets: tuple[Asset, ...]) -> tuple[Asset, ...]:
        """Those of the account's videos that no row knows."""
        return tuple([a for a in assets if await self.journal.find(self.recorder.account, job_id=a.id) is None])

    def attach(self, ref: str) -> Job | None:
        """The job of a row with this ref that another client left; None where none is known."""
        record = self.recorder.left.get(ref)
        if record is None or record.job_id is None or self.journal.is_alive(record.owner):
            return None
        if self._is_new(record):
            raise refusal("job_id", ref, *_NEW)
        mine = record._replace(owner=self.journal.owner, state=_state_of(record))
        self.journal.append(mine, take_over=record.owner)
        return self._job(mine)

    async def resolve(self, ref: str, *, job_id: str | None) -> Job | None:
        """An uncertain job was taken as `job_id`, or with None was not."""
        record = await self.find(ref)
        if record is None or record.state is not JobState.UNCERTAIN:
            requirement = "no uncertain job has this ref" if record is None else f"that job is {record.state.value}"
            raise refusal("ref", ref, requirement, "see Client.recover().uncertain")
        if self._is_new(record):
            raise refusal("ref", ref, *_NEW)
        if job_id and (other := await self.journal.find(self.recorder.account, job_id=job_id)):
            raise refusal("id", job_id, f"that is the job {other.ref}", CANDIDATES)
        self.dispatcher.resolved(record.ref)
        over = {"state": JobState.REFUSED, "charged": False, "ended_at": self.recorder.clock()}
        if job_id is None:
            async with self._one_by_one:
                now = await self.find(record.ref)
                if not (now and now.state is record.state and await self.recorder.take_over(record, **over)):
                    raise refusal("ref", ref, "word of it came", "see Client.recover")
            self.recorder.resolved(record, taken=False)
        job = await self.found(record, job_id)
        self.undelivered.discard(record.ref)
        return job

    def _is_new(self, record: JobRecord) -> bool:
        """Whether the open job with its ref is another, which will be refused."""
        job = self.dispatcher.jobs.get(record.ref)
        return job is not None and not (job._record and job._record.created_at == record.created_at)

    async def found(self, record: JobRecord, job_id: str | None) -> Job | None:
        """The job of a row that was uncertain, watched on under this id; None without one, or as in `restored`."""
        known = record._replace(job_id=job_id, charged=True, accepted_at=record.submitted_at)
        job = await self.restored(known) if job_id else None
        if job:
            self.recorder.resolved(record, taken=True)
        return job

    async def restored(self, record: JobRecord) -> Job | None:
        """A job that goes on; None where another client was quicker, or a new job with its ref."""
        async with self._one_by_one:
            now = await self.find(record.ref)
            if self._is_new(record):
                return None
            if job := self.dispatcher.jobs.get(record.ref):
                return job
            if now is None or now.saved_path != record.saved_path:
                return None
            is_same = (now.state, now.video) == (record.state, record.video)
            if not (is_same or (record.job_id and {now.state, record.state} <= _IN_DOUBT)):
                if record.ref not in self.undelivered or now.state in _OVER:
                    return None
                record = now
            if mine := await self.recorder.take_over(record, state=_state_of(record)):
                self.undelivered.add(mine.ref)
            return mine and self._job(mine)

    async def _doubted(self, record: JobRecord) -> JobRecord | None:
        """The row of a job in doubt, as an uncertain one's; None where word of it came."""
        async with self._one_by_one:
            now = await self.find(record.ref)
            if now == record and record.state is JobState.SUBMITTING:
                return await self.recorder.take_over(record, state=JobState.UNCERTAIN)
            return now if now and now.state is JobState.UNCERTAIN else None

    def _job(self, mine: JobRecord) -> Job:
        if job := self.dispatcher.jobs.get(mine.ref):
            return job
        self.recorder.left.pop(mine.ref, None)
        since = mine.accepted_at or mine.submitted_at or mine.created_at
        age = max(self.recorder.clock() - since, 0.0)
        job = Job.restored(self.dispatcher, mine, request_from_record(mine), age=age)
        if not job.done():
            self.dispatcher.adopt(job)
        return job


def _state_of(record: JobRecord) -> JobState:
    """A video that is known is there, as are links without an id to ask for; anything else is looked at anew."""
    is_there = record.video is not None or (record.state is JobState.READY and not record.job_id)
    return JobState.READY if is_there else JobState.PROCESSING
