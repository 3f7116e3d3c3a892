"""Take over the jobs of clients that are gone, as long as this client lives."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable

from modelslab_async.aio import wait_for_event
from modelslab_async.engine.recovery import Recoverer
from modelslab_async.errors import JournalError
from modelslab_async.job.future import Job
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import JobRecord

CHECK_EVERY = 2.0
"""Seconds from one search for orphaned jobs to the next. Their client is known to be dead within its lease."""
_log = logging.getLogger("modelslab_async")


class Orphans:
    """Report each job that this client takes over, and search for more while a reader waits for them.

    is_open: whether a job with this ref is open here. Its follower takes it over.
    send: queues a job that was never sent. Raises JournalError.
    """

    def __init__(
        self, recoverer: Recoverer, is_open: Callable[[str], bool], send: Callable[[JobRecord], Awaitable[None]]
    ) -> None:
        self._recoverer, self._is_open, self._send = recoverer, is_open, send
        self._readers = list[list[Job]]()
        """The jobs that each reader has not read yet."""
        self._unsent = list[JobRecord]()
        """Rows that are this client's now, of jobs that it has not queued yet: the journal was away."""
        self._searching = asyncio.Lock()
        self._changed = asyncio.Event()
        self._is_closed = False

    def add(self, job: Job) -> None:
        """Report a job that was taken over."""
        for unread in self._readers:
            unread.append(job)
        self._wake()

    def close(self) -> None:
        """Take over no more jobs, and end the readers."""
        self._is_closed = True
        self._wake()

    async def jobs(self, *, resubmit: bool) -> AsyncGenerator[Job]:
        """Yield each job that is taken over, until `close`. With *resubmit*, jobs that were never sent are among them.

        While the journal cannot be read, none is found.
        """
        unread = list[Job]()
        self._readers.append(unread)
        try:
            while not self._is_closed:
                changed = self._changed
                try:
                    await self._search(resubmit=resubmit)
                except JournalError as error:
                    _log.info("the journal cannot be searched for jobs of clients that are gone: %s", error)
                except Exception:  # noqa: BLE001 - a bug must not end the search
                    _log.exception("a bug in modelslab_async")
                while unread and not self._is_closed:
                    yield unread.pop(0)
                await wait_for_event(changed, CHECK_EVERY)
        finally:
            self._readers = [each for each in self._readers if each is not unread]

    async def _search(self, *, resubmit: bool) -> None:
        recoverer = self._recoverer
        async with self._searching:
            orphans = await recoverer.journal.orphaned(recoverer.recorder.account)
            orphans = [each for each in orphans if not self._is_open(each.ref)]
            if not resubmit:
                orphans = [each for each in orphans if each.state is not JobState.WAITING]
            if orphans and not self._is_closed:
                self._unsent += await recoverer.take_over(orphans)
            while self._unsent and not self._is_closed:
                record = self._unsent.pop(0)
                try:
                    await self._send(record)
                except (JournalError, asyncio.CancelledError):
                    self._unsent.append(record)
                    raise

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
