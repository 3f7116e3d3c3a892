"""Decide what to do with an item of a batch, from its result in the folder and its row in the journal."""

from __future__ import annotations

import asyncio

import attrs

from modelslab_async.batch import steps
from modelslab_async.batch.folder import Folder
from modelslab_async.batch.manifest import Entry
from modelslab_async.batch.results import Result
from modelslab_async.batch.steps import Action
from modelslab_async.client import Client
from modelslab_async.errors import ClientStateError
from modelslab_async.journal.base import Journal, Row
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import SENT, JobRecord

_FAILED = (JobState.FAILED, JobState.REFUSED)
_NOT_COLLECTED = (JobState.FAILED, JobState.UNCERTAIN)


@attrs.frozen(kw_only=True)
class Options:
    """The options of a batch. `run_batch` explains them."""

    name: str
    lookahead: int
    retry_failed: bool
    resubmit_uncertain: bool
    emulator: bool


@attrs.frozen(kw_only=True)
class Decision:
    """What to do with an item, and the facts behind it.

    ref: the ref of the attempt to make, or of the last attempt.
    result: the item's last result, or None.
    record: the journal row of the item's last attempt, or None.
    """

    action: Action
    ref: str
    result: Result | None = None
    record: JobRecord | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the item ended without a video. The row counts only if the attempt was sent; else the result does."""
        is_sent = self.record is not None and self.record.state in SENT
        last = self.record if is_sent or self.result is None else self.result
        return last is not None and last.state in _FAILED


@attrs.frozen
class Decider:
    """Look up items in the folder and in the journal. Changes neither.

    begun_after: when the newest job was made that the journal had when this run began, unix seconds.
    """

    client: Client
    folder: Folder
    options: Options
    begun_after: float

    @property
    def journal(self) -> Journal:
        """The client's journal. Raises ClientStateError without one."""
        if self.client.journal is None:
            raise ClientStateError("a batch needs a journal")
        return self.client.journal

    async def decide(self, entry: Entry) -> Decision:
        """Return what to do with the item. Raises JournalError."""
        await self._read_new_results()
        result = self.folder.last(entry.item)
        if result and result.file and await self._has_file(result):
            return Decision(action=Action.KEEP, ref=result.ref, result=result)
        attempt, row = await self._last_attempt(entry, has_result=result is not None)
        record = row and row.record
        options = self.options
        known = None if options.emulator and record is None else result  # the job ended with its emulator
        action = steps.decide(
            known, record, retry_failed=options.retry_failed, resubmit_uncertain=options.resubmit_uncertain
        )
        if row and self._is_made_elsewhere(row):
            is_known = result is not None and (result.ref, result.state) == (row.record.ref, row.record.state)
            action = Action.LEAVE if is_known and row.record.state in _NOT_COLLECTED else Action.COLLECT
        if action is Action.SUBMIT_ANEW and self.folder.is_shared and self.folder.was_written_meanwhile(entry.item):
            action = Action.LEAVE  # another run has just made this attempt: one more would be paid for again
        ref = steps.ref_of(self.folder.batch, entry, attempt + (action is Action.SUBMIT_ANEW))
        return Decision(action=action, ref=ref, result=result, record=record)

    def _is_made_elsewhere(self, row: Row) -> bool:
        """Return whether another client makes the item now, or made it in a run that was under way with this one."""
        if row.record.owner == self.journal.owner or row.record.state not in SENT:
            return False
        if not self.folder.is_shared:
            return row.is_alive and row.record.state is JobState.SUBMITTING
        return row.is_alive or (row.record.created_at > self.begun_after and row.record.state is JobState.FAILED)

    async def _read_new_results(self) -> None:
        """Read what other runs of the batch wrote."""
        if self.folder.is_shared:
            for result in await asyncio.get_running_loop().run_in_executor(None, self.folder.read_new):
                self.folder.remember(result)

    async def _has_file(self, result: Result) -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, self.folder.holds, result)

    async def _last_attempt(self, entry: Entry, *, has_result: bool) -> tuple[int, Row | None]:
        """Return the number of the item's last attempt, from 1, and its journal row.

        An item with a result is looked up under the second ref too: the journal may be newer than the first attempt.
        """
        attempt, row = 1, await self._find(entry, 1)
        while (row or has_result) and (later := await self._find(entry, attempt + 1)):
            attempt, row = attempt + 1, later
        return attempt, row

    async def _find(self, entry: Entry, attempt: int) -> Row | None:
        """Return the row by its ref only: `Client.find` also matches the service's ids, which a track_id may equal."""
        ref = steps.ref_of(self.folder.batch, entry, attempt)
        return await self.journal.find(self.client.account_id, ref=ref)
