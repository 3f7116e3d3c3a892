"""Journals in a file that fail, or let another actor act, at an instant that the test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from modelslab_async import JobRecord, JournalError
from modelslab_async.journal.base import Row
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.protocol.claims import Ask, Claim

Action = Callable[[], Awaitable[object]]


class InterruptedJournal(SqliteJournal):
    """Let another actor act between a read and the reader's next step.

    `after_find` and `after_unfinished` run once, after the next such read and before the reader gets its result.
    """

    after_find: Action | None = None
    after_unfinished: Action | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.notifications_taken = asyncio.Event()
        """Set when `delivered` has removed notifications from the file. The reader gets them only 10 ms later."""

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        record = await super().find(account, ref=ref, job_id=job_id)
        action, self.after_find = self.after_find, None
        if action:
            await action()
        return record

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[Row]:
        records = await super().unfinished(account, ready=ready)
        if ready:
            action, self.after_unfinished = self.after_unfinished, None
            if action:
                await action()
        return records

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        notifications = await super().delivered(account)
        if notifications:
            self.notifications_taken.set()
            await asyncio.sleep(0.01)
        return notifications


class FailingJournal(SqliteJournal):
    """Fail on demand: as if the disk were full, or at the next reads of single rows."""

    is_full = False
    failing_reads = 0

    async def append(self, record: JobRecord, *, take_over: str | None = None) -> bool:
        if self.is_full:
            raise JournalError("the disk is full")
        return await super().append(record, take_over=take_over)

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        if self.is_full:
            raise JournalError("the disk is full")
        return await super().take_over(records, owners)

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        if self.is_full:
            raise JournalError("the disk is full")
        return await super().claim(record, ask)

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        if self.failing_reads:
            self.failing_reads -= 1
            raise JournalError("the disk is away")
        return await super().find(account, ref=ref, job_id=job_id)


class LocklessJournal(SqliteJournal):
    """See no lock of another client, as on a network share without locks: all other clients look dead."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.store.liveness = _Lockless(path)


class _Lockless(LivenessLock):
    def is_alive(self, owner: str) -> bool:
        return owner == self.owner
