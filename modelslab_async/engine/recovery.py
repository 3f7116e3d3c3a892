"""Take up the jobs that an earlier client left, here or in a process that is gone."""

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.recorder import Recorder, request_from_record
from modelslab_async.errors import ClientStateError
from modelslab_async.job.future import Job
from modelslab_async.job.run import JobRun
from modelslab_async.journal.base import Journal, Row
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.replay import error_of, events_to
from modelslab_async.protocol.wire import Asset

SEE_CANDIDATES = "see Client.recover(search=True).candidates"
_IS_NEW = ("cannot be taken up: a new job with this ref waits for its turn here", "wait for its end")
_UNCERTAIN = {JobState.SUBMITTING, JobState.UNCERTAIN}
_OVER = (JobState.REFUSED, JobState.CANCELLED, JobState.FAILED)
_RESUMABLE = (JobState.PROCESSING, JobState.READY, JobState.TIMED_OUT)


class Recovery(NamedTuple):
    """What `Client.recover` found in the journal. None of it was, or will be, submitted again.

    jobs: paid jobs that continue, and jobs that are READY and not saved yet. `job.save` and `await job` work as usual.
    uncertain: jobs whose reply was lost. `Client.resolve` takes the user's decision on them.
    unsent: jobs that were never sent, and are not charged. `Client.resubmit` sends them.
    owned_elsewhere: jobs of another client that is alive.
    candidates: with `search`, recent videos of the account that are in no row. Each may be the video of an uncertain
        job.
    """

    jobs: tuple[Job, ...]
    uncertain: tuple[JobRecord, ...]
    unsent: tuple[JobRecord, ...]
    owned_elsewhere: tuple[JobRecord, ...]
    candidates: tuple[Asset, ...] = ()


class Recoverer:
    """Find jobs by ref or id, and take up those of the journal."""

    def __init__(
        self,
        recorder: Recorder,
        dispatcher: Dispatcher,
        follow: Callable[[Row], Job],
        on_taken_over: Callable[[JobRun], None],
    ) -> None:
        self.recorder, self.dispatcher, self.follow = recorder, dispatcher, follow
        self.on_taken_over = on_taken_over
        """Called with each job that this client takes over from another client."""
        self._take_over_lock = asyncio.Lock()
        self._not_handed_out = set[str]()
        """Refs of jobs that were taken up and not yet given to the user."""

    @property
    def journal(self) -> Journal:
        """The open journal. Raises ClientStateError if there is none."""
        if self.recorder.journal is None or not self.recorder.is_open:
            raise ClientStateError("this client has no journal (hint: use async with Client(journal=...))")
        return self.recorder.journal

    async def recover(self, refs: Collection[str] | None) -> Recovery:
        """Take up what is unfinished, or only the jobs with these refs or ids."""
        owner = self.journal.owner
        rows = {row.record.ref: row for row in await self._rows(refs)}.values()
        mine = [row.record for row in rows if row.record.owner == owner and not self._is_handed_out(row.record)]
        orphans = [row.record for row in rows if not row.is_alive]
        sent = [record for record in orphans if record.state is not JobState.WAITING]
        async with self._take_over_lock:
            taken = await self._take_over(sent)
        uncertain = [job.record for job in taken.values() if job.record and job.state is JobState.UNCERTAIN]
        jobs = [job for job in taken.values() if job.state is not JobState.UNCERTAIN]
        for record in (*mine, *(each for each in sent if each.ref not in taken)):
            if record.state in _UNCERTAIN and (doubted := await self.as_uncertain(record)):
                uncertain.append(doubted)
            elif record.owner == owner and record.video:  # nothing is to be written
                self._not_handed_out.add(record.ref)
                jobs.append(self._resume(record).job)
            elif record.state not in _OVER and (run := await self.restore(record)):
                jobs.append(run.job)
        given = tuple(job for job in dict.fromkeys(jobs) if job.ref in self._not_handed_out)
        self._not_handed_out -= {job.ref for job in given}
        return Recovery(
            given,
            tuple(uncertain),
            tuple(record for record in orphans if record.state is JobState.WAITING),
            tuple(row.record for row in rows if row.is_alive and row.record.owner != owner),
        )

    def _is_handed_out(self, record: JobRecord) -> bool:
        """Return whether the user has this job of this client already."""
        is_known = record.ref in self.dispatcher.jobs and record.ref not in self._not_handed_out
        return is_known or record.state in (JobState.WAITING, JobState.SUBMITTING)

    async def take_over(self, orphans: Sequence[JobRecord]) -> list[JobRecord]:
        """Take over jobs of clients that are gone. Return the rows of those that were never sent, and are now to be."""
        async with self._take_over_lock:
            sent = [record for record in orphans if record.state is not JobState.WAITING]
            waiting = [record for record in orphans if record.state is JobState.WAITING]
            await self._take_over(sent)
            return await self._write_as_own(waiting, {})

    async def _take_over(self, orphans: Sequence[JobRecord]) -> dict[str, Job]:
        """Take over jobs that were, or may have been, sent, and resume them. Return those that this client got."""
        taken = dict[str, Job]()
        states = {record.ref: _state_when_taken_over(record) for record in orphans}
        for record in await self._write_as_own(orphans, states):
            if record.state is JobState.UNCERTAIN:
                run = self._ended(record)
            else:
                self._not_handed_out.add(record.ref)
                run = self._resume(record)
            taken[record.ref] = run.job
            self.on_taken_over(run)
        return taken

    async def _write_as_own(self, records: Sequence[JobRecord], states: Mapping[str, JobState]) -> list[JobRecord]:
        """Write the rows as this client's, in one transaction, and with these states. Return those that it got."""
        records = [each for each in records if each.state not in _OVER and not self._ref_is_reused(each)]
        mine = [each._replace(owner=self.journal.owner, state=states.get(each.ref, each.state)) for each in records]
        if not mine:
            return []
        written = await self.journal.take_over(mine, [record.owner for record in records])
        return [each for each, is_mine in zip(mine, written, strict=True) if is_mine and not self._ref_is_reused(each)]

    async def _rows(self, refs: Collection[str] | None) -> Sequence[Row]:
        if refs is None:
            return await self.journal.unfinished(self.recorder.account)
        return [row for ref in dict.fromkeys(refs) if (row := await self.find(ref))]

    async def find(self, ref_or_id: str) -> Row | None:
        """Return the row with this ref or this id of the service; None if there is none."""
        return await self.journal.find(self.recorder.account, ref=ref_or_id, job_id=ref_or_id)

    async def unsent(self, record: JobRecord) -> JobRecord:
        """Return the present row of a job that was never sent. Raises InvalidRequestError if it was, or may be yet."""
        row = await self.find(record.ref)
        if row is None or row.record.state is not JobState.WAITING:
            requirement = "is not in the journal" if row is None else f"cannot be sent: it is {row.record.state.value}"
            raise refusal("ref", record.ref, requirement, "see Client.recover().unsent")
        if row.is_alive:
            raise refusal("ref", record.ref, "has a live owner, which will send the job", "leave it there")
        return row.record

    async def assets_without_row(self, assets: tuple[Asset, ...]) -> tuple[Asset, ...]:
        """Return those of the account's videos that are in no row."""
        return tuple([a for a in assets if await self.journal.find(self.recorder.account, job_id=a.id) is None])

    async def attach(self, ref_or_id: str, operation: str) -> Job:
        """Return the job with this ref or id: open here, ended here, in the journal, or else known to the service.

        operation: that of a job that only the service knows.
        """
        job = await self._find_job(ref_or_id, operation)
        self._not_handed_out.discard(job.ref)
        return job

    async def _find_job(self, ref_or_id: str, operation: str) -> Job:
        row = await self.find(ref_or_id) if self.recorder.is_open and self.recorder.journal else None
        record = row and row.record
        if run := self.dispatcher.open_job(ref_or_id):
            if record and self._ref_is_reused(record) and record.state not in _OVER:
                raise refusal("ref_or_id", ref_or_id, *_IS_NEW)
            return run.job
        ended = self.dispatcher.ended.find(ref_or_id)
        is_paid_elsewhere = record is not None and record.state not in _OVER  # and *ended* was refused for its ref
        if ended and _is_final(ended) and not (is_paid_elsewhere and ended.state in _OVER):
            return ended
        if row:
            return await self.attach_row(row)
        if ended and not ended.id:
            return ended
        if ended:
            run = JobRun(self.dispatcher, ended.request, ended.ref, operation=ended.operation, job_id=ended.id)
        else:
            run = JobRun(self.dispatcher, None, new_ref(), operation=operation, job_id=ref_or_id, is_unknown=True)
        self.dispatcher.adopt(run)
        return run.job

    async def attach_row(self, row: Row) -> Job:
        """Return the job of a row that is not open here."""
        record = row.record
        if record.video:
            ages = self.recorder.ages(record)
            return JobRun.restored(self.dispatcher, record, request_from_record(record), ages).job
        is_elsewhere = record.owner != self.journal.owner and row.is_alive
        if record.state in _OVER or (record.state is JobState.WAITING and not is_elsewhere):
            return self.ended_job(record)
        if is_elsewhere and record.state is JobState.UNCERTAIN:
            return self.ended_job(record)
        if is_elsewhere and record.state is not JobState.TIMED_OUT:  # a job that timed out is polled by no client
            return self.follow(row)
        if record.job_id is None and (uncertain := await self.as_uncertain(record)):
            return self.ended_job(uncertain)
        if run := await self.restore(record):
            return run.job
        if mine := self.dispatcher.jobs.get(record.ref):
            return mine.job  # this client took it over meanwhile
        now = await self.find(record.ref)
        if now and now.record.created_at == record.created_at and now.record != record:
            return await self.attach_row(now)  # another client, or this one, was quicker
        raise refusal(
            "ref_or_id", record.ref, "cannot be attached to: another client took it up just now", "attach again"
        )

    def ended_job(self, record: JobRecord) -> Job:
        """Return the job of a row that ended without a video, or that nothing can be done about here."""
        return self._ended(record).job

    def _ended(self, record: JobRecord) -> JobRun:
        request, ages = request_from_record(record), self.recorder.ages(record)
        return JobRun.ended(self.dispatcher, record, request, ages, error_of(record))

    async def resume(self, record: JobRecord) -> Job | None:
        """Take over a row's job and give it to the user.

        Return None if the job was not sent or ended without a video, if a live client owns it, or as `restore` does.
        """
        row = await self.find(record.ref)
        if row is None or row.record.state not in _RESUMABLE:
            return None
        if row.record.owner != self.journal.owner and row.is_alive:
            return None
        run = await self.restore(row.record)
        if run is None:
            return None
        self._not_handed_out.discard(run.ref)
        return run.job

    async def resolve(self, ref: str, *, job_id: str | None) -> JobRun | None:
        """Resolve an uncertain job: the service accepted it as *job_id*, or with None it was lost."""
        row = await self.find(ref)
        record = row and row.record
        if record is None or record.state is not JobState.UNCERTAIN:
            requirement = "is not in the journal" if record is None else f"is {record.state.value}, not uncertain"
            raise refusal("ref", ref, requirement, "see Client.recover().uncertain")
        if self._ref_is_reused(record):
            raise refusal("ref", ref, *_IS_NEW)
        if job_id and (other := await self.journal.find(self.recorder.account, job_id=job_id)):
            raise refusal("id", job_id, f"is the id of the job {other.record.ref}", SEE_CANDIDATES)
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
            now = await self._present(record)
            if not (now and now.state is record.state and await self.recorder.take_over(record, **over)):
                raise refusal("ref", record.ref, "was just reported by a delivery", "see Client.recover")
        self.recorder.record_resolved(record, accepted=False)

    def _ref_is_reused(self, record: JobRecord) -> bool:
        """Return whether the open job with the record's ref is another job, whose turn has not come yet."""
        run = self.dispatcher.jobs.get(record.ref)
        return run is not None and not (run.record and run.record.created_at == record.created_at)

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
            now = await self._present(record)
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
            mine = await self.recorder.take_over(record, state=_resumed_state(record))
            if mine:
                self._not_handed_out.add(mine.ref)
            if mine is None or self._ref_is_reused(mine):
                return None
            run = self._resume(mine)
            if record.owner != mine.owner:
                self.on_taken_over(run)
            return run

    async def take_up(self, run: JobRun, record: JobRecord) -> bool:
        """Take over the record's job, which *run* followed, and drive *run* from now on. Return whether it could."""
        async with self._take_over_lock:
            if record.ref in self.dispatcher.jobs:
                return False
            state = JobState.READY if run.state is JobState.READY else _resumed_state(record)
            mine = await self.recorder.take_over(record, state=state)
            if mine is None:
                return False
            for event in events_to(run.state, mine):
                run.advance(event)
            run.resume(self.dispatcher, mine, self.recorder.ages(mine))
            if not run.future.done():
                self.dispatcher.adopt(run)
            self.on_taken_over(run)
            return True

    async def as_uncertain(self, record: JobRecord) -> JobRecord | None:
        """Take over a row whose submit has no known outcome, as UNCERTAIN. Return None if its outcome became known."""
        async with self._take_over_lock:
            now = await self._present(record)
            if now == record and record.state is JobState.SUBMITTING:
                mine = await self.recorder.take_over(record, state=JobState.UNCERTAIN)
                if mine and mine.owner != record.owner:
                    self.on_taken_over(self._ended(mine))
                return mine
            return now if now and now.state is JobState.UNCERTAIN else None

    async def _present(self, record: JobRecord) -> JobRecord | None:
        """Return the record as the journal has it now."""
        row = await self.find(record.ref)
        return row and row.record

    def _resume(self, mine: JobRecord) -> JobRun:
        if run := self.dispatcher.jobs.get(mine.ref):
            return run
        run = JobRun.restored(self.dispatcher, mine, request_from_record(mine), self.recorder.ages(mine))
        if not run.future.done():
            self.dispatcher.adopt(run)
        return run


def new_ref() -> str:
    """Return a random reference for a job."""
    return os.urandom(16).hex()


def _is_final(ended: Job) -> bool:
    """Return whether asking the service again about an ended job cannot change how it ended."""
    return ended.error is None or ended.state in _OVER


def _state_when_taken_over(record: JobRecord) -> JobState:
    return JobState.UNCERTAIN if record.state in _UNCERTAIN else _resumed_state(record)


def _resumed_state(record: JobRecord) -> JobState:
    """Return READY if the video is known, or if only links and no id are; otherwise the job is polled again."""
    is_there = record.video is not None or (record.state is JobState.READY and not record.job_id)
    return JobState.READY if is_there else JobState.PROCESSING
