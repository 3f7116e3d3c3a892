"""Render videos beside the server: earliest due first, in a thread a core, equal work once."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import attrs

_FIRST_SECONDS_PER_PIXEL = 1.2 / (81 * 832 * 480)
"""What PyAV needs at first; learned from each video then."""
_LEARNING_RATE = 0.3
_LEAD = 2.0
"""A video is begun this many times its rendering time before it is due."""


@attrs.define(eq=False)
class Rendering:
    """A video that is being made, or waits for its turn.

    name: names equal work.
    pixels: pixels of all its frames.
    make: returns the video. Called in a thread.
    due: returns when it is needed, on the clock of the renderer.
    """

    name: str
    pixels: int
    make: Callable[[], bytes]
    due: Callable[[], float]
    done: asyncio.Future[bytes]
    is_urgent: bool = False
    is_begun: bool = False

    @property
    def rank(self) -> tuple[bool, float]:
        """Renderings of lower rank come first."""
        return not self.is_urgent, self.due()


class Renderer:
    """Make videos in threads. Use it in one event loop.

    now: the clock of all times.
    seconds_per_pixel: how long a frame's pixel takes at first.
    """

    def __init__(self, now: Callable[[], float], *, seconds_per_pixel: float = _FIRST_SECONDS_PER_PIXEL) -> None:
        self._now, self._seconds_per_pixel = now, seconds_per_pixel
        self._count = os.cpu_count() or 1
        self._threads = ThreadPoolExecutor(self._count, "modelslab_async emulator")
        self._waiting: dict[str, Rendering] = {}
        self._running: dict[str, Rendering] = {}
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Begin no rendering any more, and wait for those that have begun."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    def seconds_until_ready(self, pixels: int) -> float:
        """Return about how long a video takes that is ordered now, given those that are ordered already."""
        ordered = sum(each.pixels for each in itertools.chain(self._waiting.values(), self._running.values()))
        return (ordered / self._count + pixels) * self._seconds_per_pixel

    def order(
        self, name: str, pixels: int, make: Callable[[], bytes], due: Callable[[], float]
    ) -> asyncio.Future[bytes]:
        """Order a video. Return a future of the video, or of the error of *make*. Equal names share one video."""
        known = self._waiting.get(name) or self._running.get(name)
        if known:
            if due() < known.due():
                known.due = due
            return known.done
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[name] = Rendering(name, pixels, make, due, future)
        self._changed.set()
        return future

    def hurry(self, name: str) -> None:
        """Prefer this video to others that are due."""
        if (rendering := self._waiting.get(name)) and not rendering.is_urgent:
            rendering.is_urgent = True
            self._changed.set()

    def reschedule(self) -> None:
        """Notice that a due time or the clock has changed."""
        self._changed.set()

    async def _run(self) -> None:
        """Begin each video when it is due soon, if a thread is free."""
        while True:
            self._changed.clear()
            wait = None
            free = self._count - len(self._running)
            if free and self._waiting:
                now = self._now()
                begins = {each.name: self._begins_at(each) for each in self._waiting.values()}
                soon = [each for each in self._waiting.values() if begins[each.name] <= now]
                for rendering in heapq.nsmallest(free, soon, key=lambda each: each.rank):
                    self._begin(rendering)
                if len(soon) < free and len(soon) < len(begins):
                    wait = min(at for at in begins.values() if at > now) - now
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def _begins_at(self, rendering: Rendering) -> float:
        return rendering.due() - _LEAD * rendering.pixels * self._seconds_per_pixel

    def _begin(self, rendering: Rendering) -> None:
        del self._waiting[rendering.name]
        self._running[rendering.name] = rendering
        loop = asyncio.get_running_loop()
        begun = loop.time()
        future = loop.run_in_executor(self._threads, rendering.make)
        future.add_done_callback(lambda made: self._end(rendering, made, loop.time() - begun))

    def _end(self, rendering: Rendering, made: asyncio.Future[bytes], seconds: float) -> None:
        del self._running[rendering.name]
        self._changed.set()
        if made.cancelled():
            rendering.done.cancel()
            return
        if error := made.exception():
            rendering.done.set_exception(error)
            return
        rendering.done.set_result(made.result())
        measured = seconds / max(rendering.pixels, 1)
        self._seconds_per_pixel += _LEARNING_RATE * (measured - self._seconds_per_pixel)
