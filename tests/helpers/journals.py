"""Records for tests of journals, and a store in memory."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, TypeVar

from modelslab_async import JobState, Journal, JournalError
from modelslab_async.journal.base import Duration, Row
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.store import Change, Outcome, PutBack, Write
from modelslab_async.protocol.claims import Claimed
from modelslab_async.protocol.record import Charges, JobRecord

S = JobState
FULL = JobRecord(
    account="a",
    ref="r1",
    owner="o",
    created_at=1.5,
    state=S.READY,
    job_id="77",
    request={"prompt": "zoom in", "num_frames": 81},
    picture={"source": "path", "where": "/pictures/a.png", "length_bytes": 5, "sha256": "ab"},
    price=Decimal("0.20"),
    charged=True,
    eta=40.5,
    links=("https://files.invalid/a.mp4",),
    video={"url": "https://files.invalid/a.mp4", "seed": 7, "meta": {}, "generation_time": None},
    error="why",
    error_kind="JobError",
    submitted_at=2.0,
    accepted_at=3.0,
    ended_at=4.0,
    delivered_at=5.0,
    target="/videos/a.mp4",
)
"""A record in which every field but `saved_path` has a value."""

AJournal = TypeVar("AJournal", bound=Journal)


def a_record(journal: Journal, ref: str = "r1", state: JobState = S.WAITING, **changes: Any) -> JobRecord:
    return JobRecord(account="a", ref=ref, owner=journal.owner, created_at=1.0, state=state)._replace(**changes)


@asynccontextmanager
async def opened(journal: AJournal) -> AsyncIterator[AJournal]:
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


class MemoryStore:
    """A `Store` that keeps rows in memory, can be held up and can fail, and lists the batches that it wrote."""

    name = "journal in memory"

    def __init__(self, liveness: LivenessLock | None = None) -> None:
        self.liveness = liveness
        self.rows: dict[str, JobRecord] = {}
        self.batches: list[list[tuple[str, JobState]]] = []
        self.durations_written: list[Duration] = []
        self.errors: list[Exception] = []
        """Each makes one attempt to write a batch fail."""
        self.outcomes: dict[str, JournalError] = {}
        """Errors of single writes, by ref."""
        self.changes = 0
        """How often other clients changed the rows."""
        self.is_busy, self.may_go_on = threading.Event(), threading.Event()
        self.may_go_on.set()

    @property
    def owner(self) -> str:
        return self.liveness.owner if self.liveness else "o"

    def open(self) -> None:
        if self.liveness:
            self.liveness.acquire()

    def write(self, batch: Sequence[Change], durations: Sequence[Duration] = ()) -> Sequence[Outcome]:
        self._use()
        self.durations_written += durations
        if not batch:
            return []
        self.batches.append([(change.record.ref, change.record.state) for change in batch])
        if self.errors:
            raise self.errors.pop()
        written = [change.record for change in batch if change.record.ref not in self.outcomes]
        self.rows.update({record.ref: record for record in written})
        return [self.outcomes.get(change.record.ref) or self._outcome(change) for change in batch]

    def version(self) -> int:
        return self.changes

    def unfinished(self, account: str, ready: bool) -> Sequence[Row]:
        raise NotImplementedError

    def orphaned(self, account: str) -> Sequence[JobRecord]:
        raise NotImplementedError

    def find(self, account: str, ref: str | None, job_id: str | None) -> Row | None:
        self._use()
        record = self.rows.get(ref or "")
        return Row(record, is_alive=True) if record else None

    def find_all(self, account: str, refs: Sequence[str]) -> Sequence[Row]:
        raise NotImplementedError

    def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        raise NotImplementedError

    def deliver(self, owner: str, account: str, ref: str, job_id: str | None) -> None:
        self._use()

    def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        raise NotImplementedError

    def charges(self, account: str, since: float, apart_from: Collection[str]) -> Charges:
        raise NotImplementedError

    def prunable(self, account: str, before: float, since: float, limit: int) -> Sequence[JobRecord]:
        raise NotImplementedError

    def delete(self, records: Sequence[JobRecord], before: float) -> int:
        raise NotImplementedError

    def shrink(self) -> None:
        raise NotImplementedError

    def durations(self, service: str, operation: str) -> Sequence[Duration]:
        raise NotImplementedError

    def close(self) -> None:
        if self.liveness:
            self.liveness.release()

    def reset_after_fork(self) -> None:
        pass

    def explain(self, error: Exception) -> JournalError:
        return JournalError(f"{self.name}: {error}")

    def _outcome(self, change: Change) -> Outcome:
        return True if isinstance(change, Write | PutBack) else Claimed(usable=1)

    def _use(self) -> None:
        self.is_busy.set()
        self.may_go_on.wait(10)
