"""The journal in a SQLite file: an intent is there before its POST, an acceptance right after its reply.

Writes of many jobs share a transaction (group commit): while one is being written, the next gather, and a few that come
soon after it wait a moment for company. All of it happens in one thread of its own, off the event loop. Several
processes may share the file. A journal that was open when its process was forked is not open in the child, which may
open it, or another to the same file, for itself. Imported with the first journal.
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import attrs

from modelslab_async.errors import JournalError
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite_file import BUSY_SECONDS, Database, UnwritableError, Write, told
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import Charge, JobRecord, key_of

NOTED_WITHIN = 0.05
"""Seconds for which a note may wait for company."""
_APART = 0.02
"""Seconds from one transaction to the next, unless `_MANY` writes wait: each costs a flush to the disk and two changes
of thread. Who writes seldom does not wait."""
_MANY = 16
_NOT_SENT = (JobState.WAITING, JobState.SUBMITTING)
_at_work = threading.Lock()
"""Held while a file is in use. A fork waits for it, so that no child inherits half a transaction."""
_forking = threading.local()

_T = TypeVar("_T")


class SqliteJournal:
    """A `Journal` in one SQLite file, which is made where there is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._liveness = LivenessLock(path)
        self._database = Database(path)
        self._clear()

    def _clear(self) -> None:
        """Have nothing to write, and no thread that writes."""
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[_Waiting] = []
        self._unwritten: dict[str, _Waiting] = {}
        self._writer: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._began = -math.inf
        """When the last transaction did."""

    def leave_to_parent(self) -> None:
        """Be closed in a forked child: the parent writes its rows, and the thread did not come along."""
        self._clear()
        self._database.leave_to_parent()

    @property
    def owner(self) -> str:
        """As in `Journal`."""
        return self._liveness.owner

    async def open(self) -> None:
        """As in `Journal`."""
        if self._thread:
            raise JournalError(f"journal {self.path}: it is open already (hint: make a journal for each client)")
        self._thread = ThreadPoolExecutor(1, "modelslab_async journal")
        _opened.add(self)
        try:
            await self._in_thread(self._database.open)
            with told(self.path):
                self._liveness.enter()
        except BaseException:
            await self.close()
            raise

    def append(self, record: JobRecord, *, take_over: str | None = None) -> asyncio.Future[bool]:
        """As in `Journal`."""
        written = asyncio.get_running_loop().create_future()
        self._pending.append(_Waiting(Write(record, take_over), written))
        self._start()
        return written

    def note(self, record: JobRecord) -> None:
        """Write a job as it now is, with the next that is waited for, or a little later."""
        self._pending.append(_Waiting(Write(record, None), None))
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(NOTED_WITHIN, self._start)

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        """As in `Journal`."""
        return await self._read(self._database.unfinished, account, ready)

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> JobRecord | None:
        """As in `Journal`."""
        return await self._read(self._database.find, account, ref, job_id)

    async def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        """As in `Journal`."""
        return await self._read(self._database.recent, account, limit)

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        """As in `Journal`."""
        await self._in_thread(self._database.deliver, record.owner, record.account, record.ref, job_id)

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        """As in `Journal`."""
        return await self._in_thread(self._database.delivered, account, self.owner, self.is_alive)

    async def charges(self, account: str) -> Sequence[Charge]:
        """As in `Journal`."""
        return await self._read(self._database.charges, account)

    def is_alive(self, owner: str) -> bool:
        """As in `Journal`."""
        return self._liveness.is_alive(owner)

    async def close(self) -> None:
        """As in `Journal`."""
        try:
            await self._settled()
            self._pending[:0] = self._unwritten.values()
            self._unwritten.clear()
            await self._settled()
            with suppress(JournalError):
                await self._in_thread(self._database.close)
        finally:
            if self._thread:
                self._thread.shutdown()
                self._thread = None
            self._liveness.leave()

    def _start(self) -> None:
        if self._later:
            self._later.cancel()
            self._later = None
        if self._pending and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write(), name="modelslab_async journal")

    async def _write(self) -> None:
        """Write what gathered; then, apart from it, what could not be written before and may fail again."""
        await self._gather_company()
        batch, self._pending = _latest(self._pending), []
        batch = [waiting.after(self._unwritten.get(waiting.key)) for waiting in batch]
        overtaken = {waiting.key for waiting in batch}
        backlog = [waiting for key, waiting in self._unwritten.items() if key not in overtaken]
        try:
            is_usable = await self._commit(batch)
        except BaseException:
            self._pending[:0] = batch
            raise
        if is_usable and backlog:
            await self._commit(backlog)
        asyncio.get_running_loop().call_soon(self._start)  # what came meanwhile

    async def _commit(self, batch: Sequence[_Waiting]) -> bool:
        """Write a batch, and keep what may be written later. Return whether the file could be used at all."""
        outcomes: Sequence[bool | JournalError]
        is_usable = True
        try:
            outcomes = await self._in_thread(self._database.write, [waiting.write for waiting in batch])
        except JournalError as error:
            is_usable, outcomes = False, [error] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            self._keep(waiting, outcome)
            waiting.end(outcome)
        return is_usable

    async def _gather_company(self) -> None:
        clock = asyncio.get_running_loop().time
        if len(self._pending) < _MANY:
            await asyncio.sleep(max(0.0, self._began + _APART - clock()))
        self._began = clock()

    def _keep(self, waiting: _Waiting, outcome: bool | JournalError) -> None:
        """Keep what could not be written for the next time; but not an intent, because its job is not sent."""
        if not isinstance(outcome, JournalError) or isinstance(outcome, UnwritableError):
            self._unwritten.pop(waiting.key, None)
        elif waiting.write.record.state not in _NOT_SENT:
            self._unwritten[waiting.key] = waiting.after(self._unwritten.get(waiting.key))

    async def _read(self, work: Callable[..., _T], *arguments: Any) -> _T:
        await self._settled()
        return await self._in_thread(work, *arguments)

    async def _settled(self) -> None:
        """Have all written that was appended or noted before, by the transaction that is under way and the next."""
        for _ in range(2):
            self._start()
            if self._writer:
                await asyncio.wait([self._writer])

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        if self._thread is None:
            raise JournalError(f"journal {self.path}: it is not open")
        with told(self.path):
            return await asyncio.get_running_loop().run_in_executor(self._thread, _undisturbed, work, *arguments)


_opened = weakref.WeakSet[SqliteJournal]()


def _undisturbed(work: Callable[..., _T], *arguments: Any) -> _T:
    """Call *work* while no fork can happen."""
    with _at_work:
        return work(*arguments)


def _pause() -> None:
    """Wait until no file is in use, but not for ever, because a disk may hang."""
    _forking.is_paused = _at_work.acquire(timeout=BUSY_SECONDS)


def _go_on() -> None:
    if _forking.is_paused:
        _at_work.release()


def _leave_to_parent() -> None:
    """Have nothing open, and nothing in use, in a forked child."""
    for journal in list(_opened):
        journal.leave_to_parent()
    if _at_work.locked():
        _at_work.release()


if sys.platform != "win32":
    os.register_at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_leave_to_parent)


@attrs.frozen
class _Waiting:
    """A write, and who waits for it, if anybody does."""

    write: Write
    written: asyncio.Future[bool] | None

    @property
    def key(self) -> str:
        """Return a name for the job."""
        record = self.write.record
        return key_of(record.account, record.ref, record.created_at)

    def after(self, failed: _Waiting | None) -> _Waiting:
        """Return this write, with leave to take the row over if a write of the same job that *failed* had it."""
        if failed is None or self.write.take_over:
            return self
        return attrs.evolve(self, write=self.write._replace(take_over=failed.write.take_over))

    def end(self, outcome: bool | JournalError) -> None:
        if self.written is None or self.written.done():
            return
        if isinstance(outcome, bool):
            self.written.set_result(outcome)
        else:
            self.written.set_exception(outcome)
            self.written.exception()  # who does not look hears of it with the next intent


def _latest(pending: Sequence[_Waiting]) -> Sequence[_Waiting]:
    """A row is a job as it now is: a note that a later write of the job overtakes needs no writing."""
    last = {waiting.key: waiting for waiting in pending}
    return [waiting for waiting in pending if waiting.written or last[waiting.key] is waiting]
