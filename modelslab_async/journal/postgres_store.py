"""Write, claim and read for one client in a PostgreSQL database, and keep the client's lease.

Everything runs in one event loop, which is not the application's, see `postgres`.
"""

import asyncio
import hashlib
import logging
import math
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from modelslab_async.aio import wait_for_event
from modelslab_async.errors import JournalError, ModelsLabError
from modelslab_async.journal import postgres_rows as rows
from modelslab_async.journal import pruning
from modelslab_async.journal.base import Archive, Duration, Row
from modelslab_async.journal.postgres_address import Address
from modelslab_async.journal.postgres_database import AwayError, Database, transaction
from modelslab_async.journal.postgres_queue import RETRY_SECONDS, Change, PutBackClaim, Queued, WriteQueue
from modelslab_async.journal.store import Outcome, PutBack, UnwritableError, Write
from modelslab_async.protocol.claims import Account, AccountCap, Ask, Claim, Claimed, Follow
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import Charges, JobRecord, belongs_to

if TYPE_CHECKING:
    from modelslab_async.journal.postgres_rows import AnyConnection

OPEN_SECONDS = 10.0
"""How long opening may take, and how long closing waits for the database."""
MAX_PICTURE_BYTES = 5_000_000
_log = logging.getLogger("modelslab_async")

_T = TypeVar("_T")


class Lease:
    """Track for how long the other clients regard this one as alive.

    Two clocks are used: the monotonic clock of some systems stands still while the machine sleeps, and the other one
    may be set back.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._renewed_at: tuple[float, float] | None = None
        self._returned_at = -math.inf
        """When the first beat after an outage was sent, by the monotonic clock: the other one may be corrected."""

    @staticmethod
    def now() -> tuple[float, float]:
        """Return the time of both clocks."""
        return time.monotonic(), time.time()

    def renew(self, sent_at: tuple[float, float]) -> None:
        """Note that the database has a beat that was sent at that time."""
        if self._renewed_at and sent_at[0] - self._renewed_at[0] > self.seconds / 2:
            self._returned_at = sent_at[0]
        self._renewed_at = max(sent_at, self._renewed_at or sent_at)

    @property
    def age(self) -> float:
        """Return the seconds since the last beat was sent; infinite before the first."""
        if self._renewed_at is None:
            return math.inf
        return max(now - then for now, then in zip(self.now(), self._renewed_at, strict=True))

    @property
    def shows_deaths(self) -> bool:
        """Return whether another client whose lease ended is dead.

        After an outage of the database, the leases of all clients have ended. Each client then gets one more lease of
        time to beat again.
        """
        return self.now()[0] - self._returned_at >= self.seconds and self.age < self.seconds / 2


class PostgresStore:
    """One client's rows, connections and lease. The methods that are named as in `Journal` do what they do there."""

    def __init__(self, address: Address, lease: float, beat: float) -> None:
        self.owner = f"{socket.gethostname()[:40]}-{uuid.uuid4().hex[:16]}"
        """The client's name. It begins with the name of its host, which reports show."""
        self.lease = Lease(lease)
        self.address = address
        self._beat_every = beat
        self._database = Database(address, timeout=max(2.0, lease / 3))
        self.queue = WriteQueue(address.name, self._commit)
        self._clock_offset = 0.0
        """Seconds by which the database's clock is ahead of this host's."""
        self._is_changed = asyncio.Event()
        """Set when another client may have changed the rows."""
        self._durations: list[Duration] = []
        """Durations that are written with the next beat."""
        self._tasks: list[asyncio.Task[None]] = []

    # --- opening, closing, and being alive ---

    async def open(self) -> None:
        """Connect, and be alive. Raise JournalError within `OPEN_SECONDS`."""
        failure: JournalError | None = None
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                await self._database.open()
                self.lease.renew(await self._database.run(self._beat))
                await self._database.run(rows.clean)
        except JournalError as error:
            failure = error
        except TimeoutError as error:
            failure = self._database.explain(error)
        if failure:
            await self._database.close()
            raise failure
        works: list[Callable[[], Awaitable[None]]] = [
            self.queue.run,
            self._keep_alive,
            self._keep_clean,
            self._keep_durations,
        ]
        self._tasks = [asyncio.create_task(_endless(work)) for work in works]

    async def close(self) -> None:
        """Write what is queued, as far as the database can be reached, and be dead for the other clients."""
        with suppress(TimeoutError):
            async with asyncio.timeout(OPEN_SECONDS):
                await self.queue.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.queue.end(self.address.error(JournalError, "it is closed", "open it again"))
        with suppress(JournalError, TimeoutError):
            async with asyncio.timeout(self._database.timeout):
                await self._write_durations()
                await self._database.run(partial(rows.leave, owner=self.owner), tries=1)
        await self._database.close()

    async def _beat(self, connection: "AnyConnection") -> tuple[float, float]:
        """Write that this client is alive, and compare the clocks. Return what `Lease.renew` takes after the commit."""
        sent_at = self.lease.now()
        now = await rows.beat(connection, self.owner, self.lease.seconds)
        self._clock_offset = now - (sent_at[1] + time.time()) / 2
        return sent_at

    async def _keep_alive(self) -> None:
        """Renew the lease, and listen for the other clients, until the connection fails."""
        try:
            connection = await self._database.connect()
        except JournalError:
            await asyncio.sleep(min(self._beat_every, RETRY_SECONDS))
            return
        try:
            await connection.add_listener(rows.CHANNEL, self._on_notification)
            self._is_changed.set()  # notifications may have been lost while there was no connection
            while True:
                async with transaction(connection):
                    sent_at = await self._beat(connection)
                self.lease.renew(sent_at)
                await asyncio.sleep(self._beat_every)
        except Exception as error:  # noqa: BLE001 - whatever ended the connection
            _log.info("%s: reconnect to renew the lease: %s", self.address.name, self._database.explain(error))
            await asyncio.sleep(min(self._beat_every, RETRY_SECONDS))
        finally:
            connection.terminate()

    async def _keep_clean(self) -> None:
        """Remove what dead clients left, once in each lease."""
        await asyncio.sleep(self.lease.seconds)
        with suppress(JournalError):
            await self._database.run(rows.clean, tries=1)

    async def _keep_durations(self) -> None:
        """Write durations, once in each beat. Those that cannot be written are lost."""
        await asyncio.sleep(self._beat_every)
        await self._write_durations()

    async def _write_durations(self) -> None:
        durations, self._durations = self._durations, []
        if durations:
            with suppress(JournalError, asyncpg.UniqueViolationError):
                await self._database.run(partial(rows.write_durations, durations=durations), tries=1)

    def _on_notification(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload != self.owner:
            self._is_changed.set()

    async def wait_for_change(self, seconds: float) -> None:
        """As in `Journal`."""
        await wait_for_event(self._is_changed, seconds)
        self._is_changed.clear()

    # --- writes ---

    async def _commit(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """Make changes that follow each other in the queue. Several changes are notes, and share a transaction."""
        if len(changes) > 1:
            with suppress(UnwritableError, asyncpg.UniqueViolationError):
                await self._database.run(partial(self._write_notes, notes=changes))
                return [True] * len(changes)
        return [await self._commit_alone(change) for change in changes]

    async def _commit_alone(self, change: Change) -> Outcome:
        try:
            return await self._database.run(partial(self._make, change=change))
        except asyncpg.UniqueViolationError:
            return False  # the id belongs to another row
        except UnwritableError as error:
            return error

    async def _write_notes(self, connection: "AnyConnection", notes: Sequence[Change]) -> None:
        """Write notes in the order of their refs, so that two clients do not wait for each other."""
        ordered = sorted((note.record for note in notes), key=lambda record: (record.account, record.ref))
        await connection.executemany(rows.WRITE, [self._values(record) for record in ordered])

    async def _make(self, connection: "AnyConnection", change: Change) -> Outcome:
        match change:
            case Write(record=record, take_over=take_over):
                return await self._write(connection, record, take_over)
            case PutBackClaim(record=record):
                await self._put_back_claim(connection, record)
                return True
            case PutBack(record=record):
                account, now = await self._account(connection, record.account)
                used = change.ask.held + account.used(now)
                cap = account.cap.after_refusal(used, now, wait=change.wait, maximum=change.maximum)
                await rows.write_cap(connection, record.account, cap)
                return await self._write(connection, record, None)

    async def _put_back_claim(self, connection: "AnyConnection", record: JobRecord) -> None:
        """Undo a claim that may have been committed. Its own transaction has ended when the lock is there."""
        await rows.lock(connection, record.account)
        await rows.put_back_claim(connection, record, self.owner)

    async def _write(self, connection: "AnyConnection", record: JobRecord, take_over: str | None) -> bool:
        """Write a record by the rules of `Journal.append`. An acceptance raises the account's cap."""
        values = self._values(record, take_over)
        cap: AccountCap | None = None
        if record.accepted_at is not None and await rows.has_cap(connection, record.account):
            cap, _ = await rows.lock(connection, record.account)
            if not await rows.is_submitting(connection, record):
                cap = None
        is_written = await rows.write(connection, values)
        if is_written and cap:
            await rows.write_cap(connection, record.account, cap.after_acceptance())
        return is_written

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> list[bool]:
        """As in `Journal`. All records are of one account."""
        await self.queue.flush()
        pairs = zip(records, owners, strict=True)
        values = {record.ref: self._values(record, owner) for record, owner in pairs}
        if not values:
            return []
        try:
            written = await self._database.run(partial(rows.take_over, account=records[0].account, values=values))
        except asyncpg.UniqueViolationError:
            if len(records) == 1:
                return [False]  # the id belongs to another row
            halves = len(records) // 2
            first = await self.take_over(records[:halves], owners[:halves])
            return first + await self.take_over(records[halves:], owners[halves:])
        return [record.ref in written for record in records]

    def _values(self, record: JobRecord, take_over: str | None = None) -> tuple[object, ...]:
        try:
            return rows.write_values(record, take_over, self.owner, self._clock_offset)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            unwritable = self._database.unwritable(str(error), error)
        raise unwritable

    # --- claims ---

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        """As in `Journal`. Wait while the database is away."""
        is_repeated = False
        while True:
            try:
                await self.queue.flush()
                work = partial(self._claim, record=record, ask=ask, is_repeated=is_repeated)
                answer, sent_at = await self._database.run(work, tries=1)
            except AwayError:
                is_repeated = True
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except ModelsLabError:
                if is_repeated:  # what an earlier attempt may have committed is still there
                    self.queue.put(Queued(PutBackClaim(record)))
                raise
            self.lease.renew(sent_at)
            return answer

    async def _claim(
        self, connection: "AnyConnection", record: JobRecord, ask: Ask, is_repeated: bool
    ) -> tuple[Claim, tuple[float, float]]:
        """Claim a slot and renew the lease. Return the answer, and what `Lease.renew` takes after the commit.

        is_repeated: whether an earlier attempt failed, which may have been committed. Nothing was sent for it.
        """
        values = self._values(record)
        if is_repeated:
            await self._put_back_claim(connection, record)
        account, now = await self._account(connection, record.account)
        there = await rows.find(connection, record.account, record.ref, None)
        if there is not None and not belongs_to(there.record, record):
            return Follow(*self._seen(there)), await self._beat(connection)
        if ask.spending:
            ask.spending.require(await rows.count_charges(connection, record.account, ask.spending.since))
        decision = account.decide(self.owner, ask, now)
        if decision.cap:
            await rows.write_cap(connection, record.account, decision.cap)
        if decision.ask:
            await rows.write_ask(connection, record.account, decision.ask)
        waiting = record._replace(state=JobState.WAITING, submitted_at=None, charged=False)
        if isinstance(decision.answer, Claimed):
            if not await rows.write(connection, values):
                raise AwayError(f"{self.address.name}: the row changed meanwhile (hint: try again)")
        elif there is None or there.record.state is not JobState.WAITING:
            await rows.write(connection, self._values(waiting))
        sent_at = await self._beat(connection)
        if (task := asyncio.current_task()) and task.cancelling():
            raise asyncio.CancelledError  # in case that a wait of asyncpg swallowed it
        return decision.answer, sent_at

    async def _account(self, connection: "AnyConnection", account: str) -> tuple[Account, float]:
        """Lock an account's row, and read what is known of the account. Return also the database's time."""
        cap, now = await rows.lock(connection, account)
        asks = await rows.read_asks(connection, account, self.owner)
        holding = await rows.holding(connection, account, self.owner)
        return Account(cap, asks, [self._seen(row) for row in holding]), now

    def _seen(self, row: Row) -> Row:
        """Return the row. Its owner counts as alive unless this client is certain that it is dead."""
        return row if row.is_alive or self.lease.shows_deaths else row._replace(is_alive=True)

    # --- reads, notifications and pictures ---

    async def _read(self, work: Callable[["AnyConnection"], Awaitable[_T]]) -> _T:
        """Read once everything is written that was queued before, as far as the database takes it."""
        with suppress(JournalError):
            await self.queue.flush()
        return await self._database.run(work)

    async def unfinished(self, account: str, ready: bool) -> list[Row]:
        """As in `Journal`."""
        return [self._seen(row) for row in await self._read(partial(rows.unfinished, account=account, ready=ready))]

    async def orphaned(self, account: str) -> list[JobRecord]:
        """As in `Journal`. Return none while this client cannot be certain which clients are dead."""
        found = await self._read(partial(rows.orphaned, account=account))
        return found if self.lease.shows_deaths else []

    async def find(self, account: str, ref: str | None, job_id: str | None) -> Row | None:
        """As in `Journal`."""
        row = await self._read(partial(rows.find, account=account, ref=ref, job_id=job_id))
        return row and self._seen(row)

    async def find_all(self, account: str, refs: Collection[str]) -> dict[str, Row]:
        """As in `Journal`."""
        found = await self._read(partial(rows.find_all, account=account, refs=refs))
        return {row.record.ref: self._seen(row) for row in found}

    async def recent(self, account: str, limit: int) -> list[JobRecord]:
        """As in `Journal`."""
        return await self._read(partial(rows.recent, account=account, limit=limit))

    async def charges(self, account: str, since: float, apart_from: Collection[str]) -> Charges:
        """As in `Journal`."""
        work = partial(rows.charges, account=account, since=since, apart_from=apart_from)
        return Charges(self.address.place, *await self._read(work))

    async def prune(self, account: str, before: float, archive: Archive | None) -> int:
        """As in `Journal`. The database uses the space of deleted rows again."""

        async def find(since: float) -> list[JobRecord]:
            since = max(since, -sys.float_info.max)
            work = partial(rows.prunable, account=account, before=before, since=since, limit=pruning.BATCH)
            return await self._read(work)

        async def delete(records: Sequence[JobRecord]) -> int:
            return await self._database.run(partial(rows.delete, records=records, before=before))

        return await pruning.prune(find, delete, archive)

    def note_duration(self, duration: Duration) -> None:
        """As in `Journal`."""
        self._durations.append(duration)

    async def durations(self, service: str, operation: str) -> list[Duration]:
        """As in `Journal`."""
        return await self._database.run(partial(rows.durations, service=service, operation=operation))

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        """As in `Journal`."""

        async def work(connection: "AnyConnection") -> None:
            await rows.deliver(connection, record, job_id)
            await rows.notify(connection, self.owner)

        await self._database.run(work)

    async def delivered(self, account: str) -> list[tuple[str, str | None]]:
        """As in `Journal`."""
        return await self._database.run(partial(rows.take_deliveries, account=account, owner=self.owner))

    async def keep_picture(self, record: JobRecord, picture: bytes) -> None:
        """As in `Journal`."""
        if len(picture) > MAX_PICTURE_BYTES:
            words = f"a picture of {len(picture)} bytes is too large: at most {MAX_PICTURE_BYTES} are kept"
            raise self.address.error(JournalError, words, "make it smaller, or pass its URL")
        digest = hashlib.sha256(picture).hexdigest()
        await self._read(partial(rows.keep_picture, record=record, digest=digest, picture=picture))

    async def picture(self, record: JobRecord) -> bytes | None:
        """As in `Journal`."""
        return await self._read(partial(rows.picture, record=record))


async def _endless(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        await work()
