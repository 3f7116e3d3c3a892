"""Endless requests through a window: what `Client.map` is made of."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Generic, TypeVar

from modelslab_async.job.future import Job

T = TypeVar("T")


class BoundedMap(Generic[T]):
    """Submits from a source while there is room; gives the jobs as they end."""

    def __init__(self, source: Iterable[T] | AsyncIterable[T], submit: Callable[[T], Job], lookahead: int) -> None:
        self.source, self.submit = source, submit
        self.room = asyncio.Semaphore(lookahead)
        self.ended = asyncio.Queue[Job | None]()
        self.submitted = 0

    async def jobs(self) -> AsyncGenerator[Job]:
        """Each job when it ends; then what the source raised, if it did."""
        feeder = asyncio.create_task(self._fill())
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
                feeder.exception()  # told already, or nobody listens any more

    async def _fill(self) -> None:
        requests = asynchronous(self.source)
        while True:
            await self.room.acquire()
            try:
                request = await anext(requests)
            except StopAsyncIteration:
                return
            job = self.submit(request)
            self.submitted += 1
            job.add_done_callback(self.ended.put_nowait)


async def asynchronous(source: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    """One kind of iterable of two."""
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item
