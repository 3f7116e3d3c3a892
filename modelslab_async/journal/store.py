"""The `Store` protocol: the blocking half of a journal, which `group_commit` makes asynchronous."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Protocol

from modelslab_async.errors import JournalError, ModelsLabError
from modelslab_async.journal.base import Duration, Row
from modelslab_async.protocol.claims import Ask, Claim
from modelslab_async.protocol.record import Charges, JobRecord


class Write(NamedTuple):
    """A record to write. The outcome is a bool.

    take_over: the owner whose row it may take; None for only its own.
    is_exclusive: whether nothing is written unless the row still belongs to *take_over*.
    """

    record: JobRecord
    take_over: str | None = None
    is_exclusive: bool = False


class ClaimSlot(NamedTuple):
    """A claim of a slot, see `Journal.claim`. The outcome is a `Claim`, or BudgetExceededError."""

    record: JobRecord
    ask: Ask


class PutBack(NamedTuple):
    """A job that the service refused for want of a slot, see `Journal.put_back`. The outcome is a bool."""

    record: JobRecord
    ask: Ask
    wait: float | None
    maximum: int | None


Change = Write | ClaimSlot | PutBack
Outcome = bool | Claim | ModelsLabError


class UnwritableError(JournalError):
    """The values of one record cannot be written, and trying again cannot help."""


class Store(Protocol):
    """Keep records in a blocking way. The methods may raise anything; `explain` makes it a JournalError.

    `GroupCommitJournal` reads `name` and `owner` and calls `explain` in the event loop's thread. It calls
    `reset_after_fork` in the thread that forked, and all other methods in one thread that nothing else uses. For what
    they return see the methods of `Journal` with the same names.
    """

    @property
    def name(self) -> str:
        """Return what error messages call this store."""
        ...

    @property
    def owner(self) -> str:
        """Return the name of this client, which `open` draws."""
        ...

    def open(self) -> None:
        """Get ready to read and write, under a new name."""
        ...

    def write(self, batch: Sequence[Change], durations: Sequence[Duration] = ()) -> Sequence[Outcome]:
        """Make the changes of a batch in their order, and return once they are durable. Keep the durations if possible.

        Return the outcome of each change, or the error that kept it from the store. UnwritableError is final; after any
        other JournalError the same change may be tried again later.
        """
        ...

    def version(self) -> int:
        """Return a number that differs from the last one if another client has changed the store since."""
        ...

    def unfinished(self, account: str, ready: bool) -> Sequence[Row]:
        """Return the jobs that still need a client."""
        ...

    def orphaned(self, account: str) -> Sequence[JobRecord]:
        """Return the unfinished jobs whose client is gone."""
        ...

    def find(self, account: str, ref: str | None, job_id: str | None) -> Row | None:
        """Return the job with this ref or id."""
        ...

    def find_all(self, account: str, refs: Sequence[str]) -> Sequence[Row]:
        """Return the jobs with these refs."""
        ...

    def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        """Return the last jobs."""
        ...

    def deliver(self, owner: str, account: str, ref: str, job_id: str | None) -> None:
        """Leave a notification for an owner."""
        ...

    def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        """Take the notifications for this client, and for all that are not alive."""
        ...

    def charges(self, account: str, since: float, apart_from: Collection[str]) -> Charges:
        """Return what was, or may have been, charged."""
        ...

    def prunable(self, account: str, before: float, since: float, limit: int) -> Sequence[JobRecord]:
        """Return jobs that `Journal.prune` deletes, the oldest first: those that were created at *since* or later."""
        ...

    def delete(self, records: Sequence[JobRecord], before: float) -> int:
        """Delete jobs that are still prunable. Return how many they were."""
        ...

    def shrink(self) -> None:
        """Give the space of deleted jobs back to the system, as far as that keeps no other client waiting."""
        ...

    def durations(self, service: str, operation: str) -> Sequence[Duration]:
        """Return the durations of an operation."""
        ...

    def close(self) -> None:
        """Release everything that `open` took."""
        ...

    def reset_after_fork(self) -> None:
        """Become closed in a forked child, without touching what the parent has open."""
        ...

    def explain(self, error: Exception) -> JournalError:
        """Return a JournalError that says what happened and what to do about it."""
        ...
