"""Let several parts of a program wait for changes that other clients make to the journal, without losing one."""

import asyncio

from modelslab_async.aio import wait_for_event
from modelslab_async.errors import JournalError
from modelslab_async.journal.base import Journal

CHECK_EVERY = 2.0
"""Seconds after which a change is assumed, if the journal noticed none."""


class Changes:
    """Count the changes of a journal, as long as something waits for one. All clients on the journal share this count.

    `Journal.wait_for_change` reports each change once. Two callers would take the changes away from each other.
    """

    def __init__(self, journal: Journal) -> None:
        self.count = 0
        self._journal = journal
        self._waiting = 0
        self._next = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def wait(self, since: int, seconds: float) -> None:
        """Return at once if the count is not *since* any more, else at the next change, or after *seconds*."""
        if self.count != since:
            return
        self._waiting += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="modelslab_async changes")
        try:
            await wait_for_event(self._next, seconds)
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Count no more."""
        if task := self._task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._waiting:
                try:
                    await self._journal.wait_for_change(CHECK_EVERY)
                except JournalError:
                    await asyncio.sleep(CHECK_EVERY)
                self.count += 1
                self._next.set()
                self._next = asyncio.Event()
                await asyncio.sleep(0)  # those that waited may wait again
        finally:
            self._task = None
