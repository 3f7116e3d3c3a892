"""Open a batch: check the arguments, and lock the folder."""

from __future__ import annotations

import asyncio
import math
import os
import platform
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import attrs

from modelslab_async.batch.decider import Decider, Options
from modelslab_async.batch.folder import Owner, opened
from modelslab_async.batch.maker import LocalMaker, Maker
from modelslab_async.batch.manifest import Source
from modelslab_async.batch.naming import pattern_problem
from modelslab_async.batch.plan import BatchPlan
from modelslab_async.batch.planner import plan_run
from modelslab_async.batch.run import BatchEvent, Run
from modelslab_async.client import Client
from modelslab_async.errors import ClientStateError, InvalidRequestError, ModelsLabError
from modelslab_async.journal.base import Journal
from modelslab_async.protocol.problems import wrong
from modelslab_async.protocol.secret import ApiKey, without_key

DEFAULT_LOOKAHEAD = 64


def local_maker(decider: Decider, stop: asyncio.Event) -> LocalMaker:
    """Return what makes the items in this process."""
    return LocalMaker(
        client=decider.client,
        folder=decider.folder.path,
        name=decider.options.name,
        host=platform.node(),
        stop=stop,
        claim=decider.folder.claim,
        is_shared=decider.folder.is_shared,
    )


@attrs.frozen
class Batch:
    """A batch whose folder is open. `open_batch` makes it."""

    _decider: Decider
    _make_maker: Callable[[Decider, asyncio.Event], Maker] = local_maker

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
        stop = stop or asyncio.Event()
        run = Run(self._decider, self._make_maker(self._decider, stop), stop)
        async with aclosing(run.events(manifest)) as events:
            try:
                async for event in events:
                    yield event
            except ModelsLabError as error:
                self._api_key.hide_in(error)
                raise


@asynccontextmanager
async def open_decider(
    client: Client, folder: Path, options: Options, *, is_shared: bool | None = None
) -> AsyncIterator[Decider]:
    """Open and lock the folder of a batch. `run_batch` explains arguments and errors.

    is_shared: whether several runs may use the folder at a time. None if the journal is for several hosts.
    """
    client.api_key.require_absent(folder=folder, name=options.name)
    problem = pattern_problem(options.name)
    if options.lookahead < 1:
        problem = wrong("lookahead", options.lookahead, "must be at least 1", "pass a larger number")
    if problem:
        raise InvalidRequestError([problem])
    journal = client.journal
    if journal is None:
        raise ClientStateError(
            "a batch needs a journal, to continue after a crash (hint: async with Client(journal=...) as client)"
        )
    newest = await client.history(1)  # raises if the client is not open, before the folder is made
    owner = Owner(account=client.account_id, journal=journal_name(journal), emulator=options.emulator)
    loop = asyncio.get_running_loop()
    manager = opened(Path(folder), owner, shared=journal.keeps_pictures if is_shared is None else is_shared)
    async with AsyncExitStack() as stack:
        opening = loop.run_in_executor(None, manager.__enter__)
        try:
            opened_folder = await asyncio.shield(opening)
        finally:
            await asyncio.wait([opening])  # a caller that is cancelled here unlocks the folder too
            if opening.exception() is None:
                stack.push(manager.__exit__)
        yield Decider(client, opened_folder, options, newest[0].created_at if newest else -math.inf)


def journal_name(journal: Journal) -> str:
    """Return a journal's absolute path, or its database without user and password. Else return its type's name."""
    path: os.PathLike[str] | None = getattr(journal, "path", None)
    if path is not None:
        return os.path.abspath(path)  # noqa: PTH100 - pathlib keeps ".."
    return str(getattr(journal, "place", type(journal).__qualname__))
