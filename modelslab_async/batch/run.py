"""Run a batch: keep, collect or submit each item, save its video, and write its result."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any, TypeVar

import attrs

from modelslab_async.batch import steps
from modelslab_async.batch.decider import Decider
from modelslab_async.batch.files import examine, save_as, values_of
from modelslab_async.batch.folder import Folder
from modelslab_async.batch.manifest import Entry, Source, entries
from modelslab_async.batch.naming import names
from modelslab_async.batch.results import Result
from modelslab_async.batch.steps import Action
from modelslab_async.client import Client
from modelslab_async.errors import InvalidRequestError, InvalidVideoError, JobDetachedError
from modelslab_async.job.future import Job
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import SENT, JobRecord
from modelslab_async.protocol.request import ImageToVideoUltra

OUTAGE_PATIENCE = 600.0
"""Seconds for which submits are repeated during an outage, before the batch stops."""
_OUTAGE_PAUSE = 20.0
"""Seconds between two submits of an item during an outage."""

_T = TypeVar("_T")


class Step(Enum):
    """The kinds of events of an item."""

    BEGUN = "begun"
    """The item was submitted, or its paid job is collected."""
    DELAYED = "delayed"
    """The service cannot be reached. The item will be submitted again. Each outage is reported once."""
    KEPT = "kept"
    """An earlier run finished the item."""
    ENDED = "ended"
    """The item's job ended, and its result was written."""
    LEFT = "left"
    """Nothing was done with the item in this run, or its job still runs."""


@attrs.frozen(kw_only=True)
class BatchEvent:
    """An event of one item.

    job: the job of an item that has begun; its state, eta and events are live.
    result: the item's result, of this or an earlier run; None if it has none yet.
    """

    entry: Entry
    step: Step
    job: Job | None = None
    result: Result | None = None


@attrs.define
class Run:
    """One run of a batch. Items begin in the order of the manifest, and end in any order.

    error: the error that stopped the run, or None.
    """

    decider: Decider
    stop: asyncio.Event
    error: Exception | None = None
    _events: asyncio.Queue[BatchEvent | None] = attrs.field(factory=asyncio.Queue[BatchEvent | None])
    """Events to yield. None makes the reader check whether the run has ended."""
    _jobs: set[Job] = attrs.field(factory=set[Job])
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])
    _write_lock: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    _outage_began_at: float | None = None

    @property
    def client(self) -> Client:
        """The client that submits the jobs."""
        return self.decider.client

    @property
    def folder(self) -> Folder:
        """The folder of videos and results."""
        return self.decider.folder

    async def events(self, source: Source) -> AsyncGenerator[BatchEvent]:
        """Yield the events of all items. Then raise the error that stopped the run, if there was one."""
        free_slots = asyncio.Semaphore(self.decider.options.lookahead)
        reader = asyncio.create_task(self._read(source, free_slots))
        stopper = asyncio.create_task(self._wait_for_stop(reader))
        reader.add_done_callback(lambda _: self._events.put_nowait(None))
        try:
            while not (reader.done() and not self._tasks and self._events.empty()):
                event = await self._events.get()
                if event is not None:
                    yield event
                    if event.step not in (Step.BEGUN, Step.DELAYED):
                        free_slots.release()
            if not reader.cancelled():
                await reader
            if self.error:
                raise self.error
        finally:
            await _cancel([reader, stopper, *self._tasks])

    async def _read(self, source: Source, free_slots: asyncio.Semaphore) -> None:
        """Start a task for each item, as long as `lookahead` allows."""
        items = entries(source)
        while True:
            await free_slots.acquire()
            try:
                entry = await anext(items)
            except StopAsyncIteration:
                return
            task = asyncio.create_task(self._process(entry))
            self._tasks.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._events.put_nowait(None)

    async def _wait_for_stop(self, reader: asyncio.Task[None]) -> None:
        """Once `stop` is set, read no more items, and cancel the jobs that were not submitted yet."""
        await self.stop.wait()
        reader.cancel()
        for job in self._jobs:
            job.cancel()

    async def _process(self, entry: Entry) -> None:
        try:
            event = await self._event_of(entry)
        except Exception as error:  # noqa: BLE001 - `events` raises it once all running jobs have ended
            self.error = self.error or error
            self.stop.set()
            event = BatchEvent(entry=entry, step=Step.LEFT)
        self._events.put_nowait(event)

    async def _event_of(self, entry: Entry) -> BatchEvent:
        """Do what the decider decides, and return the item's last event."""
        decision = await self.decider.decide(entry)
        record = decision.record
        match decision.action:
            case Action.KEEP:
                return BatchEvent(entry=entry, step=Step.KEPT, result=decision.result)
            case Action.LEAVE:
                return await self._leave(entry, decision.result, record)
            case Action.COLLECT if record:
                return await self._collect(entry, decision.result, record)
            case _:
                return await self._submit(entry, decision.ref)

    # --- one method for each action ---

    async def _leave(self, entry: Entry, known: Result | None, record: JobRecord | None) -> BatchEvent:
        """Leave the item, and write its result if the journal knows a newer state of an attempt that was sent."""
        if (
            record
            and record.state in SENT
            and (known is None or (known.ref, known.state) != (record.ref, record.state))
        ):
            current: JobRecord | None = record
            if record.state is JobState.SUBMITTING:  # it becomes UNCERTAIN if its client died
                current = next(iter((await self.client.recover([record.ref])).uncertain), None)
            known = await self._write(self._result(entry, current)) if current else None
        return BatchEvent(entry=entry, step=Step.LEFT, result=known)

    async def _collect(self, entry: Entry, known: Result | None, record: JobRecord) -> BatchEvent:
        """Resume a job that is paid for, and save its video unless an earlier run has saved it."""
        name = steps.inside(self.folder.path, record.saved_path)
        is_compared = known is not None and known.file == name  # the decider found that its digest differs
        if name and not is_compared and (found := await _in_thread(examine, self.folder.path / name)):
            return await self._end(entry, self._result(entry, record, saved=(name, found)))
        if job := await self.client.resume(record):
            return await self._wait(entry, job)
        return BatchEvent(entry=entry, step=Step.LEFT)  # another client has the job

    async def _submit(self, entry: Entry, ref: str) -> BatchEvent:
        """Submit the item. During an outage, submit it again until it is accepted."""
        while not self.stop.is_set():
            try:
                job = self.client.submit(_request_of(entry), track_id=ref)
                job.target = self.folder.path
            except InvalidRequestError as error:
                key = self.client.api_key
                key.hide_in(error)
                refused = steps.refused(entry, error, service=self.client.base_url, ref=ref, key=key)
                return await self._end(entry, refused)
            event = await self._wait(entry, job)
            if event.step is Step.ENDED or not isinstance(_error_of(job), steps.TRANSIENT):
                return event
            await self._wait_out(entry, job)
        return BatchEvent(entry=entry, step=Step.LEFT)

    async def _wait(self, entry: Entry, job: Job) -> BatchEvent:
        """Wait for the job's end, and save its video. Raises an error that would stop the next items too."""
        self._events.put_nowait(BatchEvent(entry=entry, step=Step.BEGUN, job=job))
        self._jobs.add(job)
        try:
            await job.wait()
        finally:
            self._jobs.discard(job)
        error = _error_of(job)
        if isinstance(error, steps.ENDS_THE_BATCH):
            raise error
        if job.cancelled() or isinstance(error, (JobDetachedError, *steps.TRANSIENT)):
            return BatchEvent(entry=entry, step=Step.LEFT, job=job)
        self._outage_began_at = None
        if job.state is not JobState.READY:
            return await self._end(entry, self._result(entry, _record_of(job), error=error), job)
        try:
            wanted = names(self.decider.options.name, {**values_of(job, entry.line), "item": entry.item})
            saved = await save_as(job, self.folder.path, wanted, partial(self.folder.claim, entry.item))
            result = self._result(entry, _record_of(job), saved=saved)
        except InvalidVideoError as unreadable:
            result = self._result(entry, _record_of(job), error=unreadable)
        return await self._end(entry, result, job)

    async def _end(self, entry: Entry, result: Result, job: Job | None = None) -> BatchEvent:
        return BatchEvent(entry=entry, step=Step.ENDED, job=job, result=await self._write(result))

    async def _wait_out(self, entry: Entry, job: Job) -> None:
        """Wait before the next submit. Raises the job's error once the outage has lasted too long."""
        now = asyncio.get_running_loop().time()
        if self._outage_began_at is None:
            self._outage_began_at = now
            self._events.put_nowait(BatchEvent(entry=entry, step=Step.DELAYED, job=job))
        elif now - self._outage_began_at > OUTAGE_PATIENCE:
            job.result()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), _OUTAGE_PAUSE)

    def _result(self, entry: Entry, record: JobRecord, **known: Any) -> Result:
        return steps.result_of(entry, record, service=self.client.base_url, now=datetime.now(UTC), **known)

    async def _write(self, result: Result) -> Result:
        """Write the result without the key, which any value of a manifest may hold by mistake."""
        result = attrs.evolve(result, **self.client.api_key.redact(attrs.asdict(result, recurse=False)))
        async with self._write_lock:
            await _in_thread(self.folder.write, result)
            self.folder.remember(result)
        return result


async def _in_thread(work: Callable[..., _T], *arguments: Any) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _request_of(entry: Entry) -> ImageToVideoUltra:
    if entry.request is None:
        raise InvalidRequestError(entry.problems)
    return entry.request


def _error_of(job: Job) -> BaseException | None:
    """Return the error of a job that ended; None if it has a video or was cancelled."""
    return None if job.cancelled() else job.exception()


def _record_of(job: Job) -> JobRecord:
    """Return the job's journal row. A batch's client has a journal, so there is one."""
    assert job.record is not None  # noqa: S101 - see above
    return job.record
