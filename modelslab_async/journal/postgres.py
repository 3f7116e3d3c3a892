"""The journal in a PostgreSQL database, for clients on several hosts. It needs the extra `postgres` (asyncpg).

The connections belong to the event loop of a separate thread. So the lease is renewed while the application's loop is
busy, and a forked child does not use its parent's connections.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import threading
import weakref
from collections.abc import Collection, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from modelslab_async.errors import JournalError
from modelslab_async.journal.base import Archive, Duration, Row
from modelslab_async.journal.postgres_address import Address
from modelslab_async.journal.postgres_queue import Change, PutBackClaim, Queued
from modelslab_async.journal.store import Outcome, PutBack, Write
from modelslab_async.protocol.claims import Ask, Claim
from modelslab_async.protocol.problems import is_positive, require
from modelslab_async.protocol.record import Charges, JobRecord
from modelslab_async.protocol.secret import ApiKey

if TYPE_CHECKING:
    from modelslab_async.journal.postgres_store import PostgresStore

_log = logging.getLogger("modelslab_async")

_T = TypeVar("_T")


class PostgresJournal:
    """A `Journal` in a PostgreSQL database, in a schema `modelslab_async`, which is created if it does not exist.

    dsn: the database's URL, as asyncpg takes it: postgresql://USER:PASSWORD@HOST:PORT/DATABASE. Its options, such as
        sslmode, and the environment variables, such as PGPASSWORD, are asyncpg's. The password is kept as secret as
        the API key. The role needs CREATE on the database, or rights on the schema if it exists. It needs no more.
    lease: seconds after its last beat during which the other clients regard this client as alive. After that, they take
        over its jobs. All leases are measured by the database's clock.
    beat: seconds between two beats; at most a third of *lease*. A client whose last beat is older than half a lease
        sends no job.

    After an outage of the database, no client is regarded as dead until one more lease has passed.

    While the database is away, claims wait, and reads raise JournalError. An `append` raises JournalError too, but what
    it was to write is written when the database is back, unless that is the intent of a job. `open` raises
    JournalError within 10 s.

    The journal works through a pooler such as pgbouncer in transaction mode, but without LISTEN: `wait_for_change` then
    returns only when its time is over. Pass the URL of the server itself to have LISTEN.

    The pictures of jobs that wait are kept in the database, at most 5 MB each.

    Raises InvalidRequestError for invalid arguments.
    """

    keeps_pictures = True
    """As in `Journal`."""

    def __init__(self, dsn: str, *, lease: float = 30.0, beat: float = 5.0) -> None:
        self._address = Address(dsn)
        del dsn  # a traceback may show local variables
        self._address.require()
        require(
            (is_positive(lease), "lease", lease, "must be a number of seconds above 0", "pass 30, or omit it"),
            (is_positive(beat), "beat", beat, "must be a number of seconds above 0", "pass 5, or omit it"),
        )
        require((3 * beat <= lease, "beat", beat, "must be at most a third of the lease", "pass 5 with a lease of 30"))
        self._lease, self._beat = lease, beat
        self._thread: _Thread | None = None
        self._owner = ""

    def __repr__(self) -> str:
        return f"<PostgresJournal {self._address.name.removeprefix('journal ')}>"

    @property
    def owner(self) -> str:
        """As in `Journal`."""
        return self._owner

    @property
    def place(self) -> str:
        """The database's URL without user, password and options."""
        return self._address.place

    @property
    def dsn(self) -> str:
        """The database's URL without the password."""
        return self._address.dsn

    @property
    def password(self) -> ApiKey:
        """The password of the URL, wrapped like an API key; empty if the URL has none."""
        return self._address.wrapped_password

    def reset_after_fork(self) -> None:
        """Become closed in a forked child. The parent's thread goes on there, and writes what was queued."""
        if self._thread:
            _inherited.append(self._thread)
            self._thread = None

    async def open(self) -> None:
        """As in `Journal`."""
        if self._thread:
            raise self._error("it is open already", "make a journal for each client")
        try:
            from modelslab_async.journal.postgres_store import PostgresStore  # noqa: PLC0415 - asyncpg is optional
        except ImportError as error:
            what, hint = "asyncpg is not installed", "pip install 'modelslab_async[postgres]'"
            raise self._error(what, hint) from error
        _opened.add(self)
        self._thread = thread = _Thread()
        try:
            thread.store = PostgresStore(self._address, self._lease, self._beat)
            await self._call(thread.store.open())
        except BaseException:
            self._thread = None
            thread.stop()
            raise
        self._owner = thread.store.owner

    async def append(self, record: JobRecord, *, take_over: str | None = None) -> bool:
        """As in `Journal`."""
        return bool(await self._make(Write(record, take_over)))

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        """As in `Journal`."""
        return await self._call(self._store.take_over(records, owners))

    def note(self, record: JobRecord) -> None:
        """As in `Journal`. A record that is noted after `close` is lost, and is logged."""
        try:
            self._put(Write(record), None)
        except JournalError as error:
            _log.error("%s (ref %s)", error, record.ref)

    async def put_back(self, record: JobRecord, ask: Ask, *, wait: float | None, maximum: int | None) -> None:
        """As in `Journal`."""
        await self._make(PutBack(record, ask, wait, maximum))

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        """As in `Journal`. Wait while the database is away. If the caller is cancelled, the job is put back."""
        try:
            return await self._call(self._store.claim(record, ask))
        except asyncio.CancelledError:
            if self._thread:
                self._put(PutBackClaim(record), None)
            raise

    def may_send(self) -> bool:
        """As in `Journal`. The last beat is younger than half a lease."""
        if self._thread is None or self._thread.store is None:
            return False
        return self._thread.store.lease.age < self._lease / 2

    async def keep_picture(self, record: JobRecord, picture: bytes) -> None:
        """As in `Journal`."""
        await self._call(self._store.keep_picture(record, picture))

    async def picture(self, record: JobRecord) -> bytes | None:
        """As in `Journal`."""
        return await self._call(self._store.picture(record))

    async def wait_for_change(self, seconds: float) -> None:
        """As in `Journal`."""
        await self._call(self._store.wait_for_change(seconds))

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[Row]:
        """As in `Journal`."""
        return await self._call(self._store.unfinished(account, ready))

    async def orphaned(self, account: str) -> Sequence[JobRecord]:
        """As in `Journal`."""
        return await self._call(self._store.orphaned(account))

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        """As in `Journal`."""
        return await self._call(self._store.find(account, ref, job_id))

    async def find_all(self, account: str, refs: Collection[str]) -> Mapping[str, Row]:
        """As in `Journal`."""
        return await self._call(self._store.find_all(account, refs))

    async def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        """As in `Journal`."""
        return await self._call(self._store.recent(account, limit))

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        """As in `Journal`."""
        await self._call(self._store.deliver(record, job_id))

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        """As in `Journal`."""
        return await self._call(self._store.delivered(account))

    async def charges(self, account: str, *, since: float = -math.inf, apart_from: Collection[str] = ()) -> Charges:
        """As in `Journal`."""
        return await self._call(self._store.charges(account, since, apart_from))

    async def prune(self, account: str, *, before: float, archive: Archive | None = None) -> int:
        """As in `Journal`."""
        return await self._call(self._store.prune(account, before, archive))

    def note_duration(self, duration: Duration) -> None:
        """As in `Journal`. A duration that is noted after `close` is lost."""
        if self._thread and self._thread.store:
            self._thread.loop.call_soon_threadsafe(self._thread.store.note_duration, duration)

    async def durations(self, service: str, operation: str) -> Sequence[Duration]:
        """As in `Journal`."""
        return await self._call(self._store.durations(service, operation))

    async def close(self) -> None:
        """As in `Journal`."""
        if self._thread:
            thread, store = self._thread, self._store
            try:
                await self._call(store.close())
            finally:
                self._thread = None
                thread.stop()

    @property
    def _store(self) -> PostgresStore:
        if self._thread is None or self._thread.store is None:
            raise self._error("it is not open", "open it in this process first")
        return self._thread.store

    def _error(self, words: str, hint: str) -> JournalError:
        return self._address.error(JournalError, words, hint)

    async def _make(self, change: Change) -> Outcome:
        """Queue a change, and return its outcome. It is made even if the caller is cancelled."""
        outcome = Future[Outcome]()
        self._put(change, outcome)
        return await asyncio.wrap_future(outcome)

    def _put(self, change: Change, outcome: Future[Outcome] | None) -> None:
        store, thread = self._store, self._thread
        assert thread is not None  # noqa: S101 - or `_store` had raised
        thread.loop.call_soon_threadsafe(store.queue.put, Queued(change, outcome))

    async def _call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine in the thread's loop. Raise JournalError if the journal is closed meanwhile."""
        assert self._thread is not None  # noqa: S101 - the coroutine is one of the thread's store
        result = asyncio.run_coroutine_threadsafe(work, self._thread.loop)
        try:
            return await asyncio.wrap_future(result)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task and task.cancelling():
                raise
        raise self._error("it was closed meanwhile", "open it again")


class _Thread:
    """A thread that runs an event loop until `stop`."""

    def __init__(self) -> None:
        self.store: PostgresStore | None = None
        self._stopped = asyncio.Event()
        started = Future[asyncio.AbstractEventLoop]()
        self._thread = threading.Thread(target=self._run, args=[started], name="modelslab_async journal", daemon=True)
        self._thread.start()
        self.loop = started.result()

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        async def run() -> None:
            started.set_result(asyncio.get_running_loop())
            await self._stopped.wait()

        asyncio.run(run())

    def stop(self) -> None:
        """Cancel the tasks, and end the loop and the thread."""
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()


_opened = weakref.WeakSet[PostgresJournal]()
_inherited: list[_Thread] = []
"""Loops and connections of the parent process, in a forked child. They are kept unused, because closing a connection
would end the parent's."""


def _after_fork_in_child() -> None:
    for journal in list(_opened):
        journal.reset_after_fork()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
