"""Decide what to do with an item of a batch, from its result in the folder and its row in the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial

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
    verify: bool
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
        [decision] = await self.decide_all([entry])
        return decision

    async def kept(self, entries: Sequence[Entry]) -> Sequence[Result | None]:
        """Return for each item its last result if its file is unchanged, or None."""
        await self._read_new_results()
        return await self._with_files([self.folder.last(entry.item) for entry in entries])

    async def decide_all(self, entries: Sequence[Entry]) -> Sequence[Decision]:
        """Return what to do with each of the items. Raises JournalError."""
        await self._read_new_results()
        results = [self.folder.last(entry.item) for entry in entries]
        kept = await self._with_files(results)
        others = [(entry, result) for entry, result, is_kept in zip(entries, results, kept, strict=True) if not is_kept]
        attempts = iter(await self._last_attempts(others))
        return [
            Decision(action=Action.KEEP, ref=is_kept.ref, result=is_kept)
            if is_kept
            else self._decide(entry, result, *next(attempts))
            for entry, result, is_kept in zip(entries, results, kept, strict=True)
        ]

    def _decide(self, entry: Entry, result: Result | None, attempt: int, row: Row | None) -> Decision:
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
            async with self.folder.changing:
                for line in await asyncio.get_running_loop().run_in_executor(None, self.folder.read_new):
                    self.folder.remember(line)

    async def _with_files(self, results: Sequence[Result | None]) -> Sequence[Result | None]:
        """Return the results, with None in the place of those without an unchanged file."""
        if not any(result and result.file for result in results):
            return [None] * len(results)
        holds = partial(self.folder.holds, verify=self.options.verify)

        def check() -> Sequence[Result | None]:
            return [result if result and holds(result) else None for result in results]

        return await asyncio.get_running_loop().run_in_executor(None, check)

    async def _last_attempts(self, items: Iterable[tuple[Entry, Result | None]]) -> Sequence[tuple[int, Row | None]]:
        """Return for each item the number of its last attempt, from 1, and its journal row.

        An item with a result is looked up under the second ref too: the journal may be newer than the first attempt.
        Rows are found by their refs only: `Client.find` also matches the service's ids, which a track_id may equal.
        """
        batch = self.folder.batch
        searches = [_Search(entry, is_on=True, has_result=result is not None) for entry, result in items]
        while on := [search for search in searches if search.is_on]:
            refs = [steps.ref_of(batch, search.entry, search.attempt + 1) for search in on]
            rows = await self.journal.find_all(self.client.account_id, refs)
            for search, ref in zip(on, refs, strict=True):
                search.take(rows.get(ref))
        return [(max(search.attempt, 1), search.row) for search in searches]


@attrs.define
class _Search:
    """The search for the last attempt of an item. `attempt` is the last one that was looked up or found."""

    entry: Entry
    is_on: bool
    has_result: bool
    attempt: int = 0
    row: Row | None = None

    def take(self, row: Row | None) -> None:
        """Take the row of the next attempt. The first attempt counts without a row too."""
        if row or self.attempt == 0:
            self.attempt, self.row = self.attempt + 1, row
            self.is_on = row is not None or self.has_result
        else:
            self.is_on = False
