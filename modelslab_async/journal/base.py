"""Jobs on disk: what a client asks of a journal. `sqlite` keeps one in a file."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

from modelslab_async.protocol.record import Charge, JobRecord


class Journal(Protocol):
    """Where jobs are written down. All errors are JournalError."""

    @property
    def owner(self) -> str:
        """Return the name of the client that writes, which `open` draws; no two that live have the same."""
        ...

    async def open(self) -> None:
        """Make ready, or say why that cannot be."""
        ...

    def append(self, record: JobRecord, *, take_over: str | None = None) -> Awaitable[bool]:
        """Write a job as it now is; durable once awaited.

        Return False, and write nothing, in two cases:

        - The row of this ref was or may have been sent, and another client owns it, or it was made at another time.
          `take_over` names an owner from which the row is taken, unless it ended meanwhile or would lose its id.
          An acceptance (`job_id` or `accepted_at`) is taken whoever owns the row, and the writer owns it then. That
          needs the same `created_at`, and a row that is SUBMITTING or UNCERTAIN and has no id.
        - The id is new to this row, and another row of the account has it: no two paid jobs share an id.
        """
        ...

    def note(self, record: JobRecord) -> None:
        """The same without anybody waiting for it: soon, and surely before `close` is done."""
        ...

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        """The jobs of an account that somebody should still look after; `ready` with videos that were not saved."""
        ...

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> JobRecord | None:
        """The job with this ref, or this id of the service."""
        ...

    async def recent(self, account: str, limit: int) -> Sequence[JobRecord]:
        """The last jobs, the newest first."""
        ...

    async def deliver(self, record: JobRecord, job_id: str | None) -> None:
        """Leave word for the record's owner that its webhook was called, with this id of the service or none."""
        ...

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        """The refs and ids of which word was left for this client, or a dead one; once each."""
        ...

    async def charges(self, account: str) -> Sequence[Charge]:
        """The jobs that the service took, or may have."""
        ...

    def is_alive(self, owner: str) -> bool:
        """Whether another client still drives its jobs."""
        ...

    async def close(self) -> None:
        """Write what is left, and let go."""
        ...
