"""Streams of jobs: `Client.as_completed` over given jobs, `Client.map` over endless requests."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Generic, TypeVar

from modelslab_async.job.future import Job

T = TypeVar("T")


async def as_completed(jobs: Iterable[Job]) -> AsyncGenerator[Job]:
    """Yield each job when it ends."""
    ended: asyncio.Queue[Job] = asyncio.Queue()
    awaited = dict.fromkeys(jobs)
    for job in awaited:
        job.add_done_callback(ended.put_nowait)
    for _ in awaited:
        yield await ended.get()


class BoundedMap(Generic[T]):
    """Submit the items of a source, at most *lookahead* ahead of the reader, and yield the jobs as they end."""

    def __init__(self, source: Iterable[T] | AsyncIterable[T], submit: Callable[[T], Job], lookahead: int) -> None:
        self.source, self.submit = source, submit
        self.room = asyncio.Semaphore(lookahead)
        self.ended = asyncio.Queue[Job | None]()
        self.submitted = 0

    async def jobs(self) -> AsyncGenerator[Job]:
        """Yield each job when it ends. At the end, raise what the source raised."""
        feeder = asyncio.create_task(self._feed())
        feeder.add_done_callback(lambda _: self.ended.put_nowait(None))
        given = 0
        try:
            while not feeder.done() or given < self.submitted:
                job = await self.ended.get()
                if job is not None:
                    given += 1
                    self.room.release()
                    yield job
            await feeder
        finally:
            feeder.cancel()
            await asyncio.wait([feeder])
            if not feeder.cancelled():
                feeder.exception()  # raised above, or the reader stopped before the end

    async def _feed(self) -> None:
        requests = as_async(self.source)
        while True:
            await self.room.acquire()
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            job = self.submit(request)
            self.submitted += 1
            job.add_done_callback(self.ended.put_nowait)


async def as_async(source: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """Yield the items of an iterable of either kind."""
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item
