"""The asynchronous half of a journal: one thread that writes to a blocking `Store`, with group commit.

The writes of many jobs share a transaction, because each transaction costs a flush to the disk. While one is written,
later writes gather for the next.

A fork waits until no store is in use. A journal that was open before the fork is closed in the child. The child may
open it again, under another owner, or open another journal on the same store.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import attrs

from modelslab_async.errors import JournalError, ModelsLabError
from modelslab_async.journal import pruning
from modelslab_async.journal.base import Archive, Duration, Row
from modelslab_async.journal.store import Change, ClaimSlot, Outcome, PutBack, Store, UnwritableError, Write
from modelslab_async.protocol.claims import Ask, Claim
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import plural
from modelslab_async.protocol.record import Charges, JobRecord, key_of

NOTE_DELAY = 0.05
"""Seconds for which a noted record may wait to share a transaction."""
TRANSACTION_INTERVAL = 0.02
"""Least seconds from the start of one transaction to the next, unless `_FULL_BATCH` writes wait. A client that seldom
writes does not wait."""
_FULL_BATCH = 16
_FORK_WAIT = 5.0
"""Seconds for which a fork waits for the store; not for ever, because a disk may hang."""
CHECK_EVERY = 0.2
"""Seconds between two checks whether another client changed the store, while that matters."""
_log = logging.getLogger("modelslab_async")

_T = TypeVar("_T")


class GroupCommitJournal:
    """A `Journal` over a blocking store."""

    keeps_pictures = False
    """As in `Journal`. The clients of a file run on one host, where they can read each other's pictures."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reset()

    def _reset(self) -> None:
        """Clear the queue, and forget the thread that writes it."""
        self._thread: ThreadPoolExecutor | None = None
        self._pending: list[_PendingChange] = []
        """Writes for the next transaction."""
        self._backlog: dict[str, _PendingChange] = {}
        """Writes that failed and are tried again with each transaction, by job."""
        self._durations: list[Duration] = []
        """Durations for the next transaction."""
        self._writer: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        """Starts the writer for noted records."""
        self._version: int | None = None
        """The store's version when `wait_for_change` last asked."""
        self._changes = 0
        """How many changes of the version were seen, by any caller of `wait_for_change`."""
        self.last_transaction_at = -math.inf
        """The loop's time when the last transaction began, seconds."""

    def reset_after_fork(self) -> None:
        """Become closed in a forked child. The parent writes what was queued, and the thread exists only there."""
        self._reset()
        self._store.reset_after_fork()

    @property
    def owner(self) -> str:
        """As in `Journal`."""
        return self._store.owner

    async def open(self) -> None:
        """As in `Journal`."""
        if self._thread:
            raise JournalError(f"{self._store.name}: it is open already (hint: make a journal for each client)")
        self._thread = ThreadPoolExecutor(1, "modelslab_async journal")
        _opened.add(self)
        try:
            await self._call(self._store.open)
        except BaseException:
            await self.close()
            raise

    async def append(self, record: JobRecord, *, take_over: str | None = None) -> bool:
        """As in `Journal`."""
        return bool(await self._make(Write(record, take_over)))

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        """As in `Journal`."""
        pairs = zip(records, owners, strict=True)
        writes = [self._make(Write(record, owner, is_exclusive=True)) for record, owner in pairs]
        return [bool(outcome) for outcome in await asyncio.gather(*writes)]

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        """As in `Journal`."""
        outcome = await self._make(ClaimSlot(record, ask))
        assert isinstance(outcome, Claim)  # noqa: S101 - errors are raised
        return outcome

    async def put_back(self, record: JobRecord, ask: Ask, *, wait: float | None, maximum: int | None) -> None:
        """As in `Journal`."""
        await self._make(PutBack(record, ask, wait, maximum))

    async def _make(self, change: Change) -> bool | Claim:
        """Make a change with the next transaction, and return its outcome. Raise its error."""
        outcome: asyncio.Future[bool | Claim] = asyncio.get_running_loop().create_future()
        self._pending.append(_PendingChange(change, outcome))
        self._start_writer()
        return await outcome

    def may_send(self) -> bool:
        """As in `Journal`. The liveness lock is held as long as this process exists, however slow it is."""
        return True

    async def keep_picture(self, record: JobRecord, picture: bytes) -> None:
        """As in `Journal`."""

    async def picture(self, record: JobRecord) -> bytes | None:  # noqa: ARG002 - the protocol's
        """As in `Journal`."""
        return None

    async def wait_for_change(self, seconds: float) -> None:
        """As in `Journal`. The store is asked every `CHECK_EVERY` seconds."""
        changes = self._changes
        for _ in range(math.ceil(seconds / CHECK_EVERY)):
            await asyncio.sleep(min(CHECK_EVERY, seconds))
            version = await self._call(self._store.version)
            if version != self._version:
                self._version = version
                self._changes += 1
            if self._changes != changes:
                return

    def note(self, record: JobRecord) -> None:
        """As in `Journal`. The record shares the next transaction, or gets one within `NOTE_DELAY` seconds."""
        self._pending.append(_PendingChange(Write(record), None))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(NOTE_DELAY, self._start_writer)

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[Row]:
        """As in `Journal`."""
        return await self._read(self._store.unfinished, account, ready)

    async def orphaned(self, account: str) -> Sequence[JobRecord]:
        """As in `Journal`."""
        return await self._read(self._store.orphaned, account)

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        """As in `Journal`."""
        return await self._read(self._store.find, account, ref, job_id)

    async def find_all(self, account: str, refs: Collection[str]) -> Mapping[str, Row]:
        """As in `Journal`."""
        return {row.record.ref: row for row in await self._read(self._store.find_all, account, list(refs))}

    async def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        """As in `Journal`."""
        return await self._read(self._store.recent, account, limit)

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        """As in `Journal`."""
        await self._call(self._store.deliver, record.owner, record.account, record.ref, job_id)

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        """As in `Journal`."""
        return await self._call(self._store.delivered, account)

    async def charges(self, account: str, *, since: float = -math.inf, apart_from: Collection[str] = ()) -> Charges:
        """As in `Journal`."""
        return await self._read(self._store.charges, account, since, apart_from)

    async def prune(self, account: str, *, before: float, archive: Archive | None = None) -> int:
        """As in `Journal`."""
        find = partial(self._read, self._store.prunable, account, before)
        count = await pruning.prune(
            lambda since: find(since, pruning.BATCH),
            lambda records: self._call(self._store.delete, records, before),
            archive,
        )
        if count:
            await self._call(self._store.shrink)
        return count

    def note_duration(self, duration: Duration) -> None:
        """As in `Journal`. The duration is written by the next transaction, at the latest by `close`."""
        self._durations.append(duration)

    async def durations(self, service: str, operation: str) -> Sequence[Duration]:
        """As in `Journal`."""
        return await self._call(self._store.durations, service, operation)

    async def close(self) -> None:
        """As in `Journal`. Writes that failed before are tried once more."""
        try:
            await self._flush()
            self._pending[:0] = self._backlog.values()
            self._backlog.clear()
            await self._flush()
            with suppress(JournalError):
                if durations := self._take_durations():
                    await self._call(self._store.write, [], durations)
            if lost := len(self._backlog):
                _log.error("%s: closed with %s that could not be written", self._store.name, plural(lost, "row"))
            with suppress(JournalError):
                await self._call(self._store.close)
        finally:
            if self._thread:
                self._thread.shutdown()
                self._thread = None

    def _start_writer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._pending and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write(), name="modelslab_async journal")

    async def _write(self) -> None:
        """Write one batch. Then write the backlog in a separate transaction, because it may fail again."""
        await self._wait_for_more()
        batch, self._pending = _without_overtaken(self._pending), []
        batch = [pending.inherit_take_over(self._backlog.get(pending.key)) for pending in batch]
        keys = {pending.key for pending in batch}
        backlog = [pending for key, pending in self._backlog.items() if key not in keys]
        try:
            is_usable = await self._commit(batch)
        except BaseException:
            self._pending[:0] = batch
            raise
        if is_usable and backlog:
            await self._commit(backlog)
        asyncio.get_running_loop().call_soon(self._start_writer)  # for writes that came meanwhile

    async def _wait_for_more(self) -> None:
        """Wait until the next transaction may begin, so that it is shared by more writes."""
        clock = asyncio.get_running_loop().time
        if len(self._pending) < _FULL_BATCH:
            await asyncio.sleep(max(0.0, self.last_transaction_at + TRANSACTION_INTERVAL - clock()))
        self.last_transaction_at = clock()

    async def _commit(self, batch: Sequence[_PendingChange]) -> bool:
        """Write a batch, and resolve its writes. Return whether the store could be used at all."""
        outcomes: Sequence[Outcome]
        is_usable = True
        try:
            changes = [pending.change for pending in batch]
            outcomes = await self._call(self._store.write, changes, self._take_durations())
        except JournalError as error:
            is_usable, outcomes = False, [error] * len(batch)
        for pending, outcome in zip(batch, outcomes, strict=True):
            self._update_backlog(pending, outcome)
            pending.resolve(outcome)
        return is_usable

    def _take_durations(self) -> Sequence[Duration]:
        durations, self._durations = self._durations, []
        return durations

    def _update_backlog(self, pending: _PendingChange, outcome: Outcome) -> None:
        """Keep a write that failed for the next transaction; but not an intent, because that job is not submitted."""
        if not isinstance(outcome, JournalError) or isinstance(outcome, UnwritableError):
            self._backlog.pop(pending.key, None)
        elif pending.change.record.state is not JobState.SUBMITTING:
            if not self._backlog:
                _log.warning("%s: a write failed, and is repeated with the next one: %s", self._store.name, outcome)
            self._backlog[pending.key] = pending.inherit_take_over(self._backlog.get(pending.key))

    async def _read(self, method: Callable[..., _T], *arguments: Any) -> _T:
        """Call a method of the store once everything is written that was queued before."""
        await self._flush()
        return await self._call(method, *arguments)

    async def _flush(self) -> None:
        """Write everything that is queued now: by the transaction that is under way, and the next."""
        for _ in range(2):
            self._start_writer()
            if self._writer:
                await asyncio.wait([self._writer])

    async def _call(self, method: Callable[..., _T], *arguments: Any) -> _T:
        """Call a method of the store in the journal's thread. Raise only JournalError."""
        if self._thread is None:
            raise JournalError(f"{self._store.name}: it is not open (hint: open it in this process first)")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, _without_fork, method, *arguments)
        except JournalError:
            raise
        except Exception as error:
            raise self._store.explain(error) from error


@attrs.frozen
class _PendingChange:
    """A change in the queue, and the future of the caller that awaits it (None: no caller does)."""

    change: Change
    outcome: asyncio.Future[bool | Claim] | None

    @property
    def key(self) -> str:
        """Return the name of the job."""
        record = self.change.record
        return key_of(record.account, record.ref, record.created_at)

    def inherit_take_over(self, failed: _PendingChange | None) -> _PendingChange:
        """Return this write with the `take_over` of an earlier write of the same job that *failed*.

        The earlier write would have made the row this client's.
        """
        match self.change, failed and failed.change:
            case Write(take_over=None) as mine, Write(take_over=str(owner)):
                return attrs.evolve(self, change=mine._replace(take_over=owner))
            case _:
                return self

    def resolve(self, outcome: Outcome) -> None:
        """Hand the outcome to the caller, unless the caller was cancelled, or has the error of an earlier attempt."""
        if self.outcome is None or self.outcome.done():
            return
        if isinstance(outcome, ModelsLabError):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


def _without_overtaken(pending: Sequence[_PendingChange]) -> Sequence[_PendingChange]:
    """Drop noted records that a later write of the same job replaces anyway. A take-over may be refused."""
    last = {each.key: each for each in pending if not getattr(each.change, "take_over", None)}
    return [each for each in pending if each.outcome or last[each.key] is each]


_opened = weakref.WeakSet[GroupCommitJournal]()
_store_in_use = threading.Lock()
"""Held while any store is in use. A fork waits for it, so that no child inherits half a transaction."""
_forking = threading.local()


def _without_fork(method: Callable[..., _T], *arguments: Any) -> _T:
    with _store_in_use:
        return method(*arguments)


def _before_fork() -> None:
    _forking.has_lock = _store_in_use.acquire(timeout=_FORK_WAIT)


def _after_fork_in_parent() -> None:
    if _forking.has_lock:
        _store_in_use.release()


def _after_fork_in_child() -> None:
    for journal in list(_opened):
        journal.reset_after_fork()
    if _store_in_use.locked():
        _store_in_use.release()


if sys.platform != "win32":
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
