"""What is known of an item, in the folder and in the journal, and so what is to be done with it."""

from __future__ import annotations

import asyncio

import attrs

from modelslab_async.batch import steps
from modelslab_async.batch.folder import Folder
from modelslab_async.batch.manifest import Entry
from modelslab_async.batch.results import Result
from modelslab_async.batch.steps import Action
from modelslab_async.client import Client
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import SENT, JobRecord

_FAILED = (JobState.FAILED, JobState.REFUSED)


@attrs.frozen(kw_only=True)
class Options:
    """How a batch is run, see `run_batch`."""

    name: str
    lookahead: int
    retry_failed: bool
    resubmit_uncertain: bool
    emulator: bool


@attrs.frozen(kw_only=True)
class Decision:
    """What to do, and why: the item's last result and its attempt's row, None where there is none.

    ref: of the attempt that is to be made, or was.
    """

    action: Action
    ref: str
    result: Result | None = None
    record: JobRecord | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it ended without a video, as far as is known: an attempt that was not sent tells nothing."""
        is_sent = self.record is not None and self.record.state in SENT
        last = self.record if is_sent or self.result is None else self.result
        return last is not None and last.state in _FAILED


@attrs.frozen
class Decider:
    """Asks folder and journal. Changes nothing."""

    client: Client
    folder: Folder
    options: Options

    async def decide(self, entry: Entry) -> Decision:
        """What is to be done with the item."""
        result = self.folder.last(entry.item)
        if result and result.file and await self._is_there(result):
            return Decision(action=Action.KEEP, ref=result.ref, result=result)
        attempt, record = await self._last_attempt(entry, is_known=result is not None)
        options = self.options
        known = None if options.emulator and record is None else result  # its job ended with its emulator
        action = steps.decide(
            known, record, retry_failed=options.retry_failed, resubmit_uncertain=options.resubmit_uncertain
        )
        ref = steps.ref_of(self.folder.batch, entry, attempt + (action is Action.SUBMIT_ANEW))
        return Decision(action=action, ref=ref, result=result, record=record)

    async def _is_there(self, result: Result) -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, self.folder.holds, result)

    async def _last_attempt(self, entry: Entry, *, is_known: bool) -> tuple[int, JobRecord | None]:
        """Its number, from 1, and its row in the journal, which may be newer than the first one."""
        attempt, record = 1, await self._find(entry, 1)
        while (record or is_known) and (later := await self._find(entry, attempt + 1)):
            attempt, record = attempt + 1, later
        return attempt, record

    async def _find(self, entry: Entry, attempt: int) -> JobRecord | None:
        ref = steps.ref_of(self.folder.batch, entry, attempt)
        journal = self.client.journal
        return await journal.find(self.client.account_id, ref=ref) if journal else None
