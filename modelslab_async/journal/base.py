"""The `Journal` protocol: what a client needs to keep its jobs on disk. `sqlite` implements it in a file."""

from collections.abc import Sequence
from typing import Protocol

from modelslab_async.protocol.record import Charge, JobRecord


class Journal(Protocol):
    """Keep the records of jobs, for the clients of one process or of several. All errors are JournalError.

    Two duties are easy to miss:

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

        - A job with this ref was, or may have been, submitted, and its row has another owner or `created_at`.
          *take_over* names an owner whose row may be taken. It is taken unless that job ended meanwhile, or the row
          would lose its id.
          An acceptance (`job_id` or `accepted_at` is set) is written regardless of the owner, and the writer then owns
          the row. That needs the same `created_at`, and a row that is SUBMITTING or UNCERTAIN and has no id.
        - The id is new to this row, and another row of the account has it. No two paid jobs share an id.
        """
        ...

    def note(self, record: JobRecord) -> None:
        """Queue the current record of a job, and return at once. It is written soon, at the latest by `close`.

        The rules of `append` decide whether it is written. The outcome is not reported.
        """
        ...

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        """Return the account's jobs that still need a client, see `record.UNFINISHED`, the oldest first.

        With *ready*, finished videos that were not saved are among them.
        """
        ...

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> JobRecord | None:
        """Return the account's job with this ref, or else with this id of the service. Return None if there is none."""
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

    async def charges(self, account: str) -> Sequence[Charge]:
        """Return what the account was charged, or may have been: one entry for each such job."""
        ...

    def is_alive(self, owner: str) -> bool:
        """Return whether the client of this name still drives its jobs."""
        ...

    async def close(self) -> None:
        """Write the queued records, and release everything that `open` acquired."""
        ...
