"""Run a batch: decide about each item, have it made, write its result, and yield the events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from enum import Enum

import attrs

from modelslab_async.batch.decider import Decider
from modelslab_async.batch.folder import Folder
from modelslab_async.batch.maker import Maker, in_thread
from modelslab_async.batch.manifest import Entry, Source, entries
from modelslab_async.batch.results import Result
from modelslab_async.batch.steps import Action
from modelslab_async.client import Client
from modelslab_async.errors import BudgetExceededError
from modelslab_async.job.future import Job


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
    maker: Maker
    stop: asyncio.Event
    error: Exception | None = None
    _events: asyncio.Queue[BatchEvent | None] = attrs.field(factory=asyncio.Queue[BatchEvent | None])
    """Events to yield. None makes the reader check whether the run has ended."""
    _jobs: dict[str, Job] = attrs.field(factory=dict[str, Job])
    """The jobs that have begun and not ended, by item."""
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])
    _reading_error: Exception | None = None
    """The error after which no more items are read; None if there was none."""

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
            if self.error:
                raise self.error
            if not reader.cancelled():
                await reader
            if self._reading_error:
                raise self._reading_error
        finally:
            await _cancel([reader, stopper, *self._tasks])

    async def _read(self, source: Source, free_slots: asyncio.Semaphore) -> None:
        """Start a task for each item that an earlier run did not finish, as long as `lookahead` allows."""
        items = entries(source)
        is_ready = not isinstance(source, AsyncIterable)
        while chunk := await self._next(items, free_slots, is_ready=is_ready):
            for entry, result in zip(chunk, await self.decider.kept(chunk), strict=True):
                if result:
                    self._events.put_nowait(BatchEvent(entry=entry, step=Step.KEPT, result=result))
                    continue
                task = asyncio.create_task(self._process(entry))
                self._tasks.add(task)
                task.add_done_callback(self._on_done)

    async def _next(
        self, items: AsyncIterator[Entry], free_slots: asyncio.Semaphore, *, is_ready: bool
    ) -> Sequence[Entry]:
        """Return the next items, each of which has a slot now. Return none at the end.

        They are all items for which there are slots, or one if the others may not be ready. An error of the source is
        raised when the items before it were returned.
        """
        chunk = list[Entry]()
        while self._reading_error is None and (not chunk or (is_ready and not free_slots.locked())):
            await free_slots.acquire()
            try:
                chunk.append(await anext(items))
            except StopAsyncIteration:
                break
            except Exception as error:  # noqa: BLE001 - whatever the caller's iterable raises
                self._reading_error = error
        if self._reading_error and not chunk:
            raise self._reading_error
        return chunk

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._events.put_nowait(None)

    async def _wait_for_stop(self, reader: asyncio.Task[None]) -> None:
        """Once `stop` is set, read no more items, and cancel the jobs that were not submitted yet."""
        await self.stop.wait()
        reader.cancel()
        for job in list(self._jobs.values()):
            job.cancel()

    async def _process(self, entry: Entry) -> None:
        event = BatchEvent(entry=entry, step=Step.LEFT)
        try:
            event = await self._event_of(entry)
        except BudgetExceededError as error:  # the items before this one are within the budget, and go on
            self._reading_error = self._reading_error or error
        except Exception as error:  # noqa: BLE001 - `events` raises it once all running jobs have ended
            self.error = self.error or error
            self.stop.set()
        self._events.put_nowait(event)

    async def _event_of(self, entry: Entry) -> BatchEvent:
        """Do what the decider decides, and return the item's last event."""
        decision = await self.decider.decide(entry)
        if decision.action is Action.KEEP:
            return BatchEvent(entry=entry, step=Step.KEPT, result=decision.result)
        job: Job | None = None
        try:
            result, job = await self.maker.make(entry, decision, self)
        finally:
            self._jobs.pop(entry.item, None)
        if result:
            result = await self._write(result)
        if decision.action is Action.LEAVE:
            return BatchEvent(entry=entry, step=Step.LEFT, result=result or decision.result)
        return BatchEvent(entry=entry, step=Step.ENDED if result else Step.LEFT, job=job, result=result)

    def begun(self, entry: Entry, job: Job) -> None:
        """As in `Observer`."""
        self._events.put_nowait(BatchEvent(entry=entry, step=Step.BEGUN, job=job))
        self._jobs[entry.item] = job

    def delayed(self, entry: Entry, job: Job) -> None:
        """As in `Observer`."""
        self._events.put_nowait(BatchEvent(entry=entry, step=Step.DELAYED, job=job))

    async def _write(self, result: Result) -> Result:
        """Write the result without the key, which any value of a manifest may hold by mistake."""
        result = attrs.evolve(result, **self.client.api_key.redact(attrs.asdict(result, recurse=False)))
        async with self.folder.changing:
            written = await in_thread(self.folder.write, result, self.folder.last(result.item))
            for each in written:
                self.folder.remember(each)
        return result


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
