"""Make many videos from a manifest: a batch can be stopped or killed at any time, and started again.

`run_batch(client, read_manifest(path), folder)` yields an event for each step of each item. The videos and
`results.jsonl` are in the folder.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import attrs

from modelslab_async.batch.decider import Decider, Options
from modelslab_async.batch.folder import Owner, opened
from modelslab_async.batch.manifest import Entry, Source, read_manifest, value_of
from modelslab_async.batch.naming import DEFAULT_NAME, pattern_problem
from modelslab_async.batch.plan import BatchPlan
from modelslab_async.batch.planner import plan_run
from modelslab_async.batch.results import Result, read_results
from modelslab_async.batch.run import BatchEvent, Run, Step
from modelslab_async.client import Client
from modelslab_async.errors import ClientStateError, InvalidRequestError, ModelsLabError
from modelslab_async.protocol.problems import wrong
from modelslab_async.protocol.secret import ApiKey, without_key

__all__ = [
    "Batch",
    "BatchEvent",
    "BatchPlan",
    "Entry",
    "Result",
    "Step",
    "open_batch",
    "read_manifest",
    "read_results",
    "run_batch",
    "value_of",
]
DEFAULT_LOOKAHEAD = 64


@attrs.frozen
class Batch:
    """A batch whose folder is open. `open_batch` makes it."""

    _decider: Decider

    @property
    def _api_key(self) -> ApiKey:
        return self._decider.client.api_key

    @without_key
    async def plan(self, manifest: Source, *, check_wallet: bool = False) -> BatchPlan:
        """Return what `run` would do with the manifest, and every problem in it. Nothing is sent or charged.

        With *check_wallet*, the service is asked for the account's balance, which must cover the cost.

        Raises InvalidRequestError if the manifest cannot be read; JournalError; with *check_wallet*, APIError or
        TransportError.
        """
        return await plan_run(self._decider, manifest, check_wallet=check_wallet)

    async def run(self, manifest: Source, *, stop: asyncio.Event | None = None) -> AsyncGenerator[BatchEvent]:
        """Make the videos of a manifest and yield the events. See `run_batch`."""
        run = Run(self._decider, stop or asyncio.Event())
        async with aclosing(run.events(manifest)) as events:
            try:
                async for event in events:
                    yield event
            except ModelsLabError as error:
                self._api_key.hide_in(error)
                raise


@asynccontextmanager
async def open_batch(
    client: Client,
    folder: Path,
    *,
    name: str = DEFAULT_NAME,
    lookahead: int = DEFAULT_LOOKAHEAD,
    retry_failed: bool = False,
    resubmit_uncertain: bool = False,
    emulator: bool = False,
) -> AsyncIterator[Batch]:
    """Open a batch in *folder*, and lock the folder against other runs. `run_batch` explains arguments and errors."""
    client.api_key.require_absent(folder=folder, name=name)
    problem = pattern_problem(name)
    if lookahead < 1:
        problem = wrong("lookahead", lookahead, "must be at least 1", "pass a larger number")
    if problem:
        raise InvalidRequestError([problem])
    journal = client.journal
    if journal is None:
        raise ClientStateError(
            "a batch needs a journal, to continue after a crash (hint: async with Client(journal=...) as client)"
        )
    await client.history(1)  # raises if the client is not open, before the folder is made
    journal_name = getattr(journal, "path", type(journal).__qualname__)
    owner = Owner(account=client.account_id, journal=os.path.abspath(journal_name), emulator=emulator)  # noqa: PTH100, ASYNC240 - no I/O
    options = Options(
        name=name,
        lookahead=lookahead,
        retry_failed=retry_failed,
        resubmit_uncertain=resubmit_uncertain,
        emulator=emulator,
    )
    loop = asyncio.get_running_loop()
    manager = opened(Path(folder), owner)
    async with AsyncExitStack() as stack:
        opening = loop.run_in_executor(None, manager.__enter__)
        try:
            opened_folder = await asyncio.shield(opening)
        finally:
            await asyncio.wait([opening])  # a caller that is cancelled here unlocks the folder too
            if opening.exception() is None:
                stack.push(manager.__exit__)
        yield Batch(Decider(client, opened_folder, options))


async def run_batch(
    client: Client,
    manifest: Source,
    folder: Path,
    *,
    name: str = DEFAULT_NAME,
    lookahead: int = DEFAULT_LOOKAHEAD,
    retry_failed: bool = False,
    resubmit_uncertain: bool = False,
    emulator: bool = False,
    stop: asyncio.Event | None = None,
) -> AsyncGenerator[BatchEvent]:
    """Make the videos of a manifest in *folder*, write a line of `results.jsonl` for each, and yield the events.

    The client must have a journal. Run again with the same manifest, folder and journal, the batch continues. Finished
    videos are kept; their files are compared by digest. Paid jobs are collected. Uncertain and failed items are left.
    All other items are submitted. No item is paid for twice, and a failed item never stops the others.

    manifest: entries of `read_manifest`, requests or mappings, from an iterable or an async iterable. Items are read
        only when there is room for them, so millions are fine.
    name: the pattern of file names, with the fields stem (of the picture), seed, line, ref, item, id and prompt. No
        file is overwritten: if a name is taken, a number is added.
    lookahead: the most items under way at once, from reading their line to the end of their download.
    retry_failed: submit items that failed in an earlier run again. They may be charged again.
    resubmit_uncertain: submit uncertain items again, under another ref. They may be charged twice.
    emulator: the service is an emulator that starts empty with each run, so another emulator may continue its folder.
    stop: once it is set, no more items are submitted. The iteration ends when the running jobs have ended.

    Raises InvalidRequestError for wrong arguments, a manifest that cannot be read or a folder that cannot be used;
    ClientStateError without a journal. During an outage, submits are repeated for ten minutes. These errors stop the
    batch, and are raised once all running jobs have ended: AuthenticationError, InsufficientCreditsError,
    BudgetExceededError, JournalError, OSError of the disk, and ConnectError or ServerError after an outage.
    """
    async with (
        open_batch(
            client,
            folder,
            name=name,
            lookahead=lookahead,
            retry_failed=retry_failed,
            resubmit_uncertain=resubmit_uncertain,
            emulator=emulator,
        ) as batch,
        aclosing(batch.run(manifest, stop=stop)) as events,
    ):
        async for event in events:
            yield event
