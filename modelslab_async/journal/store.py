"""The `Store` protocol: the blocking half of a journal, which `group_commit` makes asynchronous."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from modelslab_async.errors import JournalError
from modelslab_async.protocol.record import Charge, JobRecord


class Write(NamedTuple):
    """A record to write, and the owner whose row it may take (None: only its own)."""

    record: JobRecord
    take_over: str | None


class UnwritableError(JournalError):
    """The values of one record cannot be written, and trying again cannot help."""


class Store(Protocol):
    """Keep records in a blocking way. The methods may raise anything; `explain` makes it a JournalError.

    `GroupCommitJournal` reads `name` and calls `explain` in the event loop's thread. It calls `reset_after_fork` in the
    thread that forked, and all other methods in one thread that nothing else uses. For what they return see the methods
    of `Journal` with the same names.
    """

    @property
    def name(self) -> str:
        """Return what error messages call this store."""
        ...

    def open(self) -> None:
        """Get ready to read and write."""
        ...

    def write(self, batch: Sequence[Write]) -> Sequence[bool | JournalError]:
        """Write a batch in its order, and return once it is durable.

        Return for each write whether it was applied, as `Journal.append` does, or the error that kept it from the
        store. UnwritableError is final; after any other error the same write may be tried again later.
        """
        ...

    def unfinished(self, account: str, ready: bool) -> Sequence[JobRecord]:
        """Return the jobs that still need a client."""
        ...

    def find(self, account: str, ref: str | None, job_id: str | None) -> JobRecord | None:
        """Return the job with this ref or id."""
        ...

    def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        """Return the last jobs."""
        ...

    def deliver(self, owner: str, account: str, ref: str, job_id: str | None) -> None:
        """Leave a notification for an owner."""
        ...

    def delivered(self, account: str, owner: str, is_alive: Callable[[str], bool]) -> Sequence[tuple[str, str | None]]:
        """Take the notifications for *owner*, and for all owners that are not alive."""
        ...

    def charges(self, account: str) -> Sequence[Charge]:
        """Return what was, or may have been, charged."""
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
