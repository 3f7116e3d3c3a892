"""The journal in memory, for tests and for clients of one process. Nothing is kept when the process ends."""

import asyncio
import math
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Sequence
from decimal import Decimal

from modelslab_async.aio import wait_for_event
from modelslab_async.errors import JournalError
from modelslab_async.journal import pruning
from modelslab_async.journal.base import DURATIONS_OF_KIND, MAX_DURATIONS, Archive, Duration, Row
from modelslab_async.protocol.claims import Account, AccountCap, Ask, Claim, Claimed, ClientAsk, Follow
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import HOLDING, UNFINISHED, UNSENT, Charge, Charges, JobRecord, belongs_to, key_of

_IN_DOUBT = (JobState.SUBMITTING, JobState.UNCERTAIN)
_NOT_SENT = (JobState.WAITING, JobState.REFUSED)


class MemoryStorage:
    """What several journals of one process share, as several processes share a file.

    clock: returns the time in unix seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.rows: dict[tuple[str, str], JobRecord] = {}
        """The jobs, by account and ref."""
        self.caps: dict[str, AccountCap] = {}
        self.asks: dict[tuple[str, str], ClientAsk] = {}
        """What each client asked for last, by account and owner."""
        self.deliveries: dict[tuple[str, str, str], str | None] = {}
        """The ids of notifications, by owner, account and ref."""
        self.pictures: dict[str, bytes] = {}
        """The pictures of jobs that were not sent, by the key of the job."""
        self.alive: dict[str, asyncio.Event] = {}
        """The clients that are alive. Each has an event, which is set when another client changes something."""
        self.name = f"memory {uuid.uuid4().hex}"
        self.pruned: list[JobRecord] = []
        """The jobs that were pruned and charged: they count on."""
        self.durations = deque[Duration](maxlen=MAX_DURATIONS)

    def changed_by(self, owner: str) -> None:
        """Wake the other clients."""
        for each, is_changed in self.alive.items():
            if each != owner:
                is_changed.set()

    def of_account(self, account: str) -> Iterator[JobRecord]:
        """Yield the account's jobs."""
        return (record for record in self.rows.values() if record.account == account)


class MemoryJournal:
    """A `Journal` in memory. Journals on the same *storage* see each other's jobs; None makes a storage for this one.

    A client counts as alive from `open` to `close`.
    """

    keeps_pictures = True
    """As in `Journal`."""

    def __init__(self, storage: MemoryStorage | None = None) -> None:
        self.storage = MemoryStorage() if storage is None else storage
        self.owner = ""
        """As in `Journal`."""
        self._is_changed: asyncio.Event | None = None

    async def open(self) -> None:
        """As in `Journal`."""
        if self._is_changed:
            raise JournalError("journal in memory: it is open already (hint: make a journal for each client)")
        self.owner = uuid.uuid4().hex[:16]
        self._is_changed = self.storage.alive[self.owner] = asyncio.Event()

    async def append(self, record: JobRecord, *, take_over: str | None = None) -> bool:
        """As in `Journal`."""
        self._require_open()
        return self._write(record, take_over)

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        """As in `Journal`."""
        self._require_open()
        pairs = zip(records, owners, strict=True)
        return [self._owner_of(record) == owner and self._write(record, owner) for record, owner in pairs]

    def _owner_of(self, record: JobRecord) -> str | None:
        there = self.storage.rows.get((record.account, record.ref))
        return there and there.owner

    def note(self, record: JobRecord) -> None:
        """As in `Journal`. The record is written at once."""
        self._write(record)

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        """As in `Journal`."""
        self._require_open()
        there = self.storage.rows.get((record.account, record.ref))
        if there is not None and not belongs_to(there, record):
            return Follow(there, self._is_alive(there))
        if ask.spending:
            ask.spending.require(self._count_charges(record.account, ask.spending.since))
        decision = self._account(record.account).decide(self.owner, ask, self.storage.clock())
        if decision.cap:
            self.storage.caps[record.account] = decision.cap
        if decision.ask:
            self.storage.asks[record.account, self.owner] = decision.ask
        if isinstance(decision.answer, Claimed):
            self._write(record)
        elif there is None or there.state is not JobState.WAITING:
            self._write(record._replace(state=JobState.WAITING, submitted_at=None, charged=False))
        return decision.answer

    async def put_back(self, record: JobRecord, ask: Ask, *, wait: float | None, maximum: int | None) -> None:
        """As in `Journal`."""
        self._require_open()
        account, now = self._account(record.account), self.storage.clock()
        used = ask.held + account.used(now)
        self.storage.caps[record.account] = account.cap.after_refusal(used, now, wait=wait, maximum=maximum)
        self._write(record)

    async def keep_picture(self, record: JobRecord, picture: bytes) -> None:
        """As in `Journal`."""
        self._require_open()
        self.storage.pictures[_key(record)] = picture

    async def picture(self, record: JobRecord) -> bytes | None:
        """As in `Journal`."""
        self._require_open()
        return self.storage.pictures.get(_key(record))

    def may_send(self) -> bool:
        """As in `Journal`. Only this process could regard a client as dead, and it does not before `close`."""
        return True

    async def wait_for_change(self, seconds: float) -> None:
        """As in `Journal`."""
        is_changed = self._require_open()
        await wait_for_event(is_changed, seconds)
        is_changed.clear()

    async def unfinished(self, account: str, *, ready: bool = True) -> list[Row]:
        """As in `Journal`."""
        self._require_open()
        states = [state for state in UNFINISHED if ready or state is not JobState.READY]
        return [row for row in self._unfinished(account) if row.record.state in states]

    def _unfinished(self, account: str) -> list[Row]:
        records = [record for record in self.storage.of_account(account) if record.is_unfinished]
        records.sort(key=lambda record: record.created_at)
        return [Row(record, self._is_alive(record)) for record in records]

    async def orphaned(self, account: str) -> list[JobRecord]:
        """As in `Journal`."""
        self._require_open()
        return [row.record for row in self._unfinished(account) if not row.is_alive]

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        """As in `Journal`."""
        self._require_open()
        record = self.storage.rows.get((account, ref or ""))
        if record is None and job_id is not None:
            record = next((each for each in self.storage.of_account(account) if each.job_id == job_id), None)
        return Row(record, self._is_alive(record)) if record else None

    async def find_all(self, account: str, refs: Collection[str]) -> dict[str, Row]:
        """As in `Journal`."""
        self._require_open()
        found = [record for ref in refs if (record := self.storage.rows.get((account, ref)))]
        return {record.ref: Row(record, self._is_alive(record)) for record in found}

    async def recent(self, account: str, limit: int) -> list[JobRecord]:
        """As in `Journal`."""
        self._require_open()
        newest = sorted(self.storage.of_account(account), key=lambda record: record.created_at, reverse=True)
        return newest[:limit]

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        """As in `Journal`."""
        self._require_open()
        key = record.owner, record.account, record.ref
        self.storage.deliveries[key] = job_id or self.storage.deliveries.get(key)
        self.storage.changed_by(self.owner)

    async def delivered(self, account: str) -> list[tuple[str, str | None]]:
        """As in `Journal`."""
        self._require_open()
        mine = [
            key
            for key in self.storage.deliveries
            if key[1] == account and (key[0] == self.owner or key[0] not in self.storage.alive)
        ]
        return [(key[2], self.storage.deliveries.pop(key)) for key in mine]

    async def charges(self, account: str, *, since: float = -math.inf, apart_from: Collection[str] = ()) -> Charges:
        """As in `Journal`."""
        self._require_open()
        charged = list(self._charged(account))
        counts = Counter(
            record.price
            for record in charged
            if record.accepted_at is not None and record.accepted_at >= since and _key(record) not in apart_from
        )
        in_doubt = [
            Charge(_key(record), _charged_at(record), record.price, is_certain=False)
            for record in charged
            if record.accepted_at is None
        ]
        return Charges(self.storage.name, counts, in_doubt)

    async def prune(self, account: str, *, before: float, archive: Archive | None = None) -> int:
        """As in `Journal`."""
        self._require_open()

        async def find(since: float) -> list[JobRecord]:
            found = [record for record in self.storage.of_account(account) if pruning.is_prunable(record, before)]
            found.sort(key=lambda record: record.created_at)
            return [record for record in found if record.created_at >= since][: pruning.BATCH]

        async def delete(records: Sequence[JobRecord]) -> int:
            gone = [record for record in records if self.storage.rows.get((account, record.ref)) == record]
            for record in gone:
                del self.storage.rows[account, record.ref]
            self.storage.pruned += [record for record in gone if record.charged is not False]
            return len(gone)

        return await pruning.prune(find, delete, archive)

    def note_duration(self, duration: Duration) -> None:
        """As in `Journal`."""
        self.storage.durations.append(duration)

    async def durations(self, service: str, operation: str) -> list[Duration]:
        """As in `Journal`."""
        self._require_open()
        counts, latest = Counter[str](), list[Duration]()
        for duration in reversed(self.storage.durations):
            if (duration.service, duration.operation) == (service, operation):
                counts[duration.kind] += 1
                if counts[duration.kind] <= DURATIONS_OF_KIND:
                    latest.append(duration)
        return latest[::-1]

    async def close(self) -> None:
        """As in `Journal`."""
        self.storage.alive.pop(self.owner, None)
        for key in [key for key in self.storage.asks if key[1] == self.owner]:
            del self.storage.asks[key]
        self.storage.changed_by(self.owner)
        self._is_changed = None

    def _require_open(self) -> asyncio.Event:
        if self._is_changed is None:
            raise JournalError("journal in memory: it is not open (hint: open it first)")
        return self._is_changed

    def _is_alive(self, record: JobRecord) -> bool:
        return record.owner in self.storage.alive

    def _write(self, record: JobRecord, take_over: str | None = None) -> bool:
        """Write a record by the rules of `Journal.append`, and return whether it was written."""
        rows, key = self.storage.rows, (record.account, record.ref)
        there = rows.get(key)
        if self._is_id_taken(record) or (there is not None and not _may_replace(there, record, take_over)):
            return False
        if there and there.state is JobState.SUBMITTING:
            self._raise_cap(record)
        if there and there.created_at != record.created_at:
            self.storage.pictures.pop(_key(there), None)
        if record.state not in (JobState.WAITING, JobState.SUBMITTING):
            self.storage.pictures.pop(_key(record), None)
        rows[key] = record
        self.storage.changed_by(self.owner)
        return True

    def _is_id_taken(self, record: JobRecord) -> bool:
        """Return whether the record's id belongs to another row of the account."""
        if record.job_id is None:
            return False
        refs = {each.ref for each in self.storage.of_account(record.account) if each.job_id == record.job_id}
        return bool(refs) and record.ref not in refs

    def _raise_cap(self, record: JobRecord) -> None:
        cap = self.storage.caps.get(record.account)
        if cap and record.accepted_at is not None:
            self.storage.caps[record.account] = cap.after_acceptance()

    def _account(self, account: str) -> Account:
        """Return what is known of an account."""
        asks = [ask for key, ask in self.storage.asks.items() if key[0] == account and key[1] in self.storage.alive]
        holding = [
            (record, self._is_alive(record))
            for record in self.storage.of_account(account)
            if record.state in HOLDING and (record.owner != self.owner or record.state is JobState.UNCERTAIN)
        ]
        return Account(self.storage.caps.get(account, AccountCap()), asks, holding)

    def _count_charges(self, account: str, since: float) -> Counter[Decimal]:
        """Return how many jobs were accepted since then, or are in doubt since any time, by price."""
        return Counter(
            record.price
            for record in self._charged(account)
            if (record.charged is None and record.accepted_at is None) or _charged_at(record) >= since
        )

    def _charged(self, account: str) -> Iterator[JobRecord]:
        """Yield the jobs that were, or may have been, charged, also those that were pruned."""
        for record in (*self.storage.of_account(account), *self.storage.pruned):
            if record.account == account and record.charged is not False:
                yield record


def _may_replace(row: JobRecord, record: JobRecord, take_over: str | None) -> bool:
    """Return whether *record* may replace the *row* of the same ref, by the rules of `Journal.append`."""
    if belongs_to(row, record):
        is_same = (row.owner, row.created_at) == (record.owner, record.created_at)
        return is_same or row.state is not JobState.WAITING or record.state not in UNSENT
    if row.owner == take_over and row.ended_at in (None, record.ended_at) and row.job_id in (None, record.job_id):
        return True
    is_accepted = record.job_id is not None or record.accepted_at is not None
    is_outcome = row.created_at == record.created_at and (is_accepted or record.state in _NOT_SENT)
    return is_outcome and row.state in _IN_DOUBT and row.job_id is None


def _key(record: JobRecord) -> str:
    return key_of(record.account, record.ref, record.created_at)


def _charged_at(record: JobRecord) -> float:
    return record.accepted_at or record.submitted_at or record.created_at
