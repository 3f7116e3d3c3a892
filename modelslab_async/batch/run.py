"""A batch on its way: each item is kept, collected or submitted, its video saved, its result written down."""

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
from modelslab_async.protocol.secret import ApiKey

OUTAGE_PATIENCE = 600.0
"""Seconds for which a service that cannot be reached is asked again, before the batch stops."""
_OUTAGE_PAUSE = 20.0

_T = TypeVar("_T")


class Step(Enum):
    """What happened to an item: begun (submitted, or collected), kept from an earlier run, ended, or left as it is.

    Delayed: nobody takes it because of an outage, which is told once; it, and others, go again while that may pass.
    """

    BEGUN = "begun"
    DELAYED = "delayed"
    KEPT = "kept"
    ENDED = "ended"
    LEFT = "left"


@attrs.frozen(kw_only=True)
class BatchEvent:
    """News of one item.

    job: where it has begun; its state, eta and events are live. result: where it ended, now or in an earlier run; None
    for an item that is left for the next run.
    """

    entry: Entry
    step: Step
    job: Job | None = None
    result: Result | None = None


@attrs.define
class Run:
    """One run of a batch. Items are begun in their order, and end as they end."""

    decider: Decider
    stop: asyncio.Event
    trouble: Exception | None = None
    _news: asyncio.Queue[BatchEvent | None] = attrs.field(factory=asyncio.Queue[BatchEvent | None])
    _jobs: set[Job] = attrs.field(factory=set[Job])
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])
    _writing: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    _out_since: float | None = None

    @property
    def client(self) -> Client:
        """Whose jobs they are."""
        return self.decider.client

    @property
    def _key(self) -> ApiKey:
        return self.client._api_key

    @property
    def folder(self) -> Folder:
        """Where the videos go."""
        return self.decider.folder

    async def events(self, source: Source) -> AsyncGenerator[BatchEvent]:
        """The news; then raises what made the batch stop before its end, if anything did."""
        room = asyncio.Semaphore(self.decider.options.lookahead)
        feeding = asyncio.create_task(self._feed(source, room))
        stopping = asyncio.create_task(self._stopped(feeding))
        feeding.add_done_callback(lambda _: self._news.put_nowait(None))
        try:
            while not (feeding.done() and not self._tasks and self._news.empty()):
                event = await self._news.get()
                if event is not None:
                    yield event
                    if event.step not in (Step.BEGUN, Step.DELAYED):
                        room.release()
            if not feeding.cancelled():
                await feeding
            if self.trouble:
                raise self.trouble
        finally:
            await _end([feeding, stopping, *self._tasks])

    async def _feed(self, source: Source, room: asyncio.Semaphore) -> None:
        items = entries(source)
        while True:
            await room.acquire()
            try:
                entry = await anext(items)
            except StopAsyncIteration:
                return
            task = asyncio.create_task(self._follow(entry))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._news.put_nowait(None)  # who waits for news sees that there are no more

    async def _stopped(self, feeding: asyncio.Task[None]) -> None:
        await self.stop.wait()
        feeding.cancel()
        for job in self._jobs:
            job.cancel()

    async def _follow(self, entry: Entry) -> None:
        try:
            event = await self._item(entry)
        except Exception as error:  # noqa: BLE001 - it is raised again once all that runs has ended
            self.trouble = self.trouble or error
            self.stop.set()
            event = BatchEvent(entry=entry, step=Step.LEFT)
        self._news.put_nowait(event)

    async def _item(self, entry: Entry) -> BatchEvent:
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

    # --- the ways of an item ---

    async def _leave(self, entry: Entry, known: Result | None, record: JobRecord | None) -> BatchEvent:
        """Nothing is done. What is new of it is written down; that a later attempt was not sent is not news."""
        if (
            record
            and record.state in SENT
            and (known is None or (known.ref, known.state) != (record.ref, record.state))
        ):
            listed: JobRecord | None = record
            if record.state is JobState.SUBMITTING:  # uncertain from now on, where its client died
                listed = next(iter((await self.client.recover([record.ref])).uncertain), None)
            known = await self._written(self._result(entry, listed)) if listed else None
        return BatchEvent(entry=entry, step=Step.LEFT, result=known)

    async def _collect(self, entry: Entry, known: Result | None, record: JobRecord) -> BatchEvent:
        """It is paid for: watch it on, if that is needed, and save its video, if that was not done."""
        name = steps.inside(self.folder.path, record.saved_path)
        is_another = known is not None and known.file == name  # it was compared with the result's digest
        if name and not is_another and (found := await _in_thread(examine, self.folder.path / name)):
            return await self._ended(entry, self._result(entry, record, saved=(name, found)))
        journal = self.client.journal
        if journal and (record.owner == journal.owner or not journal.is_alive(record.owner)):
            return await self._awaited(entry, await self.client.attach(record.ref))
        return BatchEvent(entry=entry, step=Step.LEFT)  # another client is at it

    async def _submit(self, entry: Entry, ref: str) -> BatchEvent:
        """Submit it; again and again while nobody takes it because of an outage."""
        while not self.stop.is_set():
            try:
                job = self.client.submit(_sendable(entry), track_id=ref)
            except InvalidRequestError as error:
                self._key.hide_in(error)
                refused = steps.refused(entry, error, service=self.client.base_url, ref=ref, key=self._key)
                return await self._ended(entry, refused)
            event = await self._awaited(entry, job)
            if event.step is Step.ENDED or not isinstance(job.error, steps.PASSES):
                return event
            await self._outage(entry, job)
        return BatchEvent(entry=entry, step=Step.LEFT)

    async def _awaited(self, entry: Entry, job: Job) -> BatchEvent:
        self._news.put_nowait(BatchEvent(entry=entry, step=Step.BEGUN, job=job))
        self._jobs.add(job)
        try:
            await job.wait()
        finally:
            self._jobs.discard(job)
        error = job.error
        if isinstance(error, steps.ENDS_THE_BATCH):
            raise error
        if job.cancelled() or isinstance(error, (JobDetachedError, *steps.PASSES)):
            return BatchEvent(entry=entry, step=Step.LEFT, job=job)
        self._out_since = None
        assert job.record is not None  # noqa: S101 - there is a journal
        if job.state is not JobState.READY:
            return await self._ended(entry, self._result(entry, job.record, error=error), job)
        try:
            wanted = names(self.decider.options.name, {**values_of(job, entry.line), "item": entry.item})
            saved = await save_as(job, self.folder.path, wanted, partial(self.folder.claims, entry.item))
            result = self._result(entry, job.record, saved=saved)
        except InvalidVideoError as unreadable:
            result = self._result(entry, job.record, error=unreadable)
        return await self._ended(entry, result, job)

    async def _ended(self, entry: Entry, result: Result, job: Job | None = None) -> BatchEvent:
        return BatchEvent(entry=entry, step=Step.ENDED, job=job, result=await self._written(result))

    async def _outage(self, entry: Entry, job: Job) -> None:
        """Wait a little, for as long as it may pass. Raises the job's error once that is too long."""
        now = asyncio.get_running_loop().time()
        if self._out_since is None:
            self._out_since = now
            self._news.put_nowait(BatchEvent(entry=entry, step=Step.DELAYED, job=job))
        elif now - self._out_since > OUTAGE_PATIENCE:
            job.result()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), _OUTAGE_PAUSE)

    def _result(self, entry: Entry, record: JobRecord, **known: Any) -> Result:
        return steps.result_of(entry, record, service=self.client.base_url, now=datetime.now(UTC), **known)

    async def _written(self, result: Result) -> Result:
        """Write it down without the key, which may stand in a manifest as any value."""
        result = attrs.evolve(result, **self._key.redact(attrs.asdict(result, recurse=False)))
        async with self._writing:
            await _in_thread(self.folder.write, result)
            self.folder.know(result)
        return result


async def _in_thread(work: Callable[..., _T], *arguments: Any) -> _T:
    return await asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _sendable(entry: Entry) -> ImageToVideoUltra:
    if entry.request is None:
        raise InvalidRequestError(entry.problems)
    return entry.request
