"""The `Journal` protocol: what a client needs to keep its jobs on disk.

`sqlite` implements it in a file, and `memory` for the clients of one process.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from modelslab_async.protocol.claims import Ask, Claim
from modelslab_async.protocol.record import Charges, JobRecord


class Row(NamedTuple):
    """A job's row, and whether the client that owns it is alive. Both come from one read."""

    record: JobRecord
    is_alive: bool


class Duration(NamedTuple):
    """How long a job took, as an `Observation` of `polling.history` says it.

    service: the service's base URL and deployment. operation: what the job did, such as "img2video_ultra".
    kind: JSON of the workload's kind, see `polling.workload.Kind`.
    after, by: when the job was last seen running, and first seen to have ended, seconds since its acceptance; *by* is
        infinite if the end was not seen.
    work: how much the service had to compute. eta: the service's estimate, seconds; None if it gave none.
    """

    service: str
    operation: str
    kind: str
    after: float
    by: float
    work: float
    eta: float | None


DURATIONS_OF_KIND = 128
"""Durations of each service, operation and kind that a journal keeps: the latest."""
MAX_DURATIONS = 64 * DURATIONS_OF_KIND
"""Durations that a journal keeps in all."""
Archive = Callable[[Sequence[JobRecord]], object]
"""Callback that a thread calls with records before they are deleted.

It returns once they are on disk, or raises OSError.
"""


class Journal(Protocol):
    """Keep the records of jobs, for the clients of one process or of several. All errors are JournalError.

    `modelslab_async.journal.conformance` tests all duties of a journal. Two of them are easy to miss:

    - Each read sees every `note` that came before it, although `note` returns before the record is written.
    - If the write of an acceptance or of a later state fails, the journal tries it again by itself, at the latest in
      `close`. The engine sends an acceptance once: it logs the error, and the job goes on. But the failed write of a
      SUBMITTING record is not tried again, because that job is not sent.
    """

    @property
    def owner(self) -> str:
        """Return the name under which this client writes. `open` chooses it at random. No two live clients share it."""
        ...

    async def open(self) -> None:
        """Get ready to read and write. Raise JournalError if the journal cannot be used."""
        ...

    async def append(self, record: JobRecord, *, take_over: str | None = None) -> bool:
        """Write the current record of a job, and return once it is durable. Raise JournalError if the write fails.

        Return True if it was written. Return False, and write nothing, in two cases:

        - A job with this ref was, or may have been, submitted, and its row has another owner or `created_at`. The same
          holds for a job that waits, if *record* says that another job was withdrawn or refused.
          *take_over* names an owner whose row may be taken. It is taken unless that job ended meanwhile, or the row
          would lose its id.
          The outcome of a submit is written regardless of the owner, and the writer then owns the row. That needs the
          same `created_at`, and a row that is SUBMITTING or UNCERTAIN and has no id. The outcome is an acceptance
          (`job_id` or `accepted_at` is set), or WAITING or REFUSED: the sender knows that it was not accepted.
        - The id is new to this row, and another row of the account has it. No two paid jobs share an id.
        """
        ...

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        """Take over several rows in one transaction, each from the owner that *owners* names for it.

        Each is written by the rules of `append`, but only if the row still belongs to that owner. Return for each
        whether it was written. Raise JournalError if the transaction fails.
        """
        ...

    def note(self, record: JobRecord) -> None:
        """Queue the current record of a job, and return at once. It is written soon, at the latest by `close`.

        The rules of `append` decide whether it is written. The outcome is not reported.
        """
        ...

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        """Ask for one of the account's slots for a job that waits, and take it if it is free.

        *record* is the job's row as it is when the job has the slot: SUBMITTING, and owned by this client. All of the
        following happens in one transaction, and a claim that is given is durable:

        - Return Follow, and change nothing, if the ref belongs to another job, as `append` defines it.
        - Count the slots that the account's other clients hold, see `JobRecord.holds_slot`, and call `claims.decide`.
          UNCERTAIN jobs, including those of this client, are counted from their rows: *ask* does not include them.
          The account's cap is kept for all clients. A client counts as asking from its first refused claim until it
          gets a slot or closes, but only while it asks again within `claims.ASK_HOLDS`.
        - Raise BudgetExceededError if `ask.spending` does not allow the job, with the charges that the rows record.
        - Return Claimed and write *record*, or return NoSlot and write it as WAITING, unless the ref has a row that is
          WAITING, of whichever client. So two clients that ask for the same ref do not wake each other in turns.

        A claim comes after every `note` that came before it.
        """
        ...

    async def put_back(self, record: JobRecord, ask: Ask, *, wait: float | None, maximum: int | None) -> None:
        """Write that the service has no free slot for a job: its row is WAITING, and the account's cap falls.

        *ask* says what the other jobs of this client hold. For *wait* and *maximum* see `AccountCap.after_refusal`.
        Each acceptance that is written by `append` or `note` raises the cap again, see `AccountCap.after_acceptance`.
        """
        ...

    @property
    def keeps_pictures(self) -> bool:
        """Whether the journal keeps local pictures of jobs that wait, because their client may run on another host."""
        ...

    async def keep_picture(self, record: JobRecord, picture: bytes) -> None:
        """Keep a job's picture as long as the job is WAITING or SUBMITTING: the service may have no slot for it yet.

        A journal that keeps no pictures does nothing.
        """
        ...

    async def picture(self, record: JobRecord) -> bytes | None:
        """Return the picture of a job that was not sent; None if it was not kept."""
        ...

    def may_send(self) -> bool:
        """Return whether this client may send a job that it claimed: no other client can regard it as dead now."""
        ...

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until another client may have changed the journal, for at most *seconds*.

        The change may be a slot that became free, a job that moved, or a notification. A return without a change does
        no harm.
        """
        ...

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[Row]:
        """Return the account's jobs that still need a client, see `record.UNFINISHED`, the oldest first.

        With *ready*, jobs with finished videos that were neither saved nor acknowledged are included.
        """
        ...

    async def orphaned(self, account: str) -> Sequence[JobRecord]:
        """Return the account's jobs that still need a client, and whose own client is gone, the oldest first.

        This costs little if there is none, because clients ask every few seconds.
        """
        ...

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        """Return the account's job with this ref, or else with this id of the service. Return None if there is none."""
        ...

    async def find_all(self, account: str, refs: Collection[str]) -> Mapping[str, Row]:
        """Return the account's jobs with these refs, by ref. Omit the refs that have no job."""
        ...

    async def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        """Return the account's last *limit* jobs, the newest first."""
        ...

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        """Leave a notification for the record's owner: the job's webhook was called.

        *job_id* is the service's id that the call named, or None if it named none.
        """
        ...

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        """Take the notifications addressed to this client or to a dead one, as (ref, id or None).

        Each notification is returned once.
        """
        ...

    async def charges(self, account: str, *, since: float = -math.inf, apart_from: Collection[str] = ()) -> Charges:
        """Return what the account was charged, or may have been.

        since: the beginning of a UTC day, unix seconds; -infinity for all days. An accepted job counts only if it was
            accepted since then.
        apart_from: keys of accepted jobs that do not count, see `record.key_of`.
        """
        ...

    async def prune(self, account: str, *, before: float, archive: Archive | None = None) -> int:
        """Delete the account's jobs that are over and ended before *before* (unix seconds). Return their number.

        A job is over if it was refused, cancelled or has failed, or if its video was saved or acknowledged. A job whose
        reply was lost is never deleted, nor a job that still needs a client. The cost of a deleted job still counts in
        `claim` and `charges`. Its ref is free again, so `Client.ensure` would pay for the ref once more.

        archive: is called with some records at a time, before they are deleted. If the process is killed then, they are
            both in the archive and in the journal.
        """
        ...

    def note_duration(self, duration: Duration) -> None:
        """Keep a duration, and return at once. It is written with a later record, or lost: no job depends on it."""
        ...

    async def durations(self, service: str, operation: str) -> Sequence[Duration]:
        """Return the latest durations of an operation, at most `DURATIONS_OF_KIND` of each kind, the oldest first."""
        ...

    async def close(self) -> None:
        """Write the queued records, and release everything that `open` acquired."""
        ...
