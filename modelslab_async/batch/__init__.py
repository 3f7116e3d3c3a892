"""A manifest in, videos out: batches that can be left alone, killed, and started again.

`run_batch(client, read_manifest(path), folder)` yields what happens; the videos and `results.jsonl` are in the folder.
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
from modelslab_async.batch.planner import survey
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
    """A batch whose folder is open, see `open_batch`."""

    _decider: Decider

    @property
    def _api_key(self) -> ApiKey:
        return self._decider.client._api_key

    @without_key
    async def plan(self, manifest: Source, *, check_wallet: bool = False) -> BatchPlan:
        """What `run` would do, and all that is wrong with it. Costs nothing; with `check_wallet` the service is asked.

        Raises JournalError; with `check_wallet`, APIError or TransportError.
        """
        return await survey(self._decider, manifest, check_wallet=check_wallet)

    async def run(self, manifest: Source, *, stop: asyncio.Event | None = None) -> AsyncGenerator[BatchEvent]:
        """Do it; see `run_batch`."""
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
    """A batch in `folder`, which nobody else may run meanwhile. For the arguments and errors see `run_batch`."""
    client._api_key.require_absent(folder=folder, name=name)
    problem = pattern_problem(name)
    if lookahead < 1:
        problem = wrong("lookahead", lookahead, "at least 1", "pass more")
    if problem:
        raise InvalidRequestError([problem])
    journal = client.journal
    if journal is None or not journal.owner:
        raise ClientStateError("a batch goes on after a crash: async with Client(journal=...) as client")
    where = getattr(journal, "path", type(journal).__qualname__)
    owner = Owner(account=client.account_id, journal=os.path.abspath(where), emulator=emulator)  # noqa: PTH100, ASYNC240 - no I/O
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
            held = await asyncio.shield(opening)
        finally:
            await asyncio.wait([opening])  # who is cancelled here lets go of the folder too
            if opening.exception() is None:
                stack.push(manager.__exit__)
        yield Batch(Decider(client, held, options))


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
    """Make the videos of a manifest in `folder`, with a line of `results.jsonl` for each; yields what happens.

    The client has a journal. Run again with the same manifest, folder and journal, the batch goes on: what is finished
    is kept (its file is compared by digest), what is paid for is collected, what is uncertain or failed is left, and
    the rest is done. Nothing is paid twice. A failed item never stops the others.

    manifest: entries of `read_manifest`, requests or mappings, of an iterable or an async one; millions are fine.
    name: a pattern of file names, with the fields stem (of the picture), seed, line, ref, item, id and prompt. Nothing
        is overwritten: a name that is taken gets a number.
    lookahead: how many items are under way at most, from the reading of their line to the end of their download.
    retry_failed: submit what failed in an earlier run again; it may be paid again.
    resubmit_uncertain: submit what is uncertain again, under another ref; it may be paid twice.
    emulator: the service is an emulator that starts anew with each run: its folder may be gone on with by another one.
    stop: once it is set nothing more is submitted, and the iteration ends when the jobs that run have ended.

    Raises InvalidRequestError for arguments, a manifest or a folder that cannot be used; ClientStateError without a
    journal. An outage is waited out for ten minutes. What stops the batch is raised once all that runs has ended:
    AuthenticationError, InsufficientCreditsError, BudgetExceededError, JournalError, an outage's ConnectError or
    ServerError, OSError of the disk.
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
