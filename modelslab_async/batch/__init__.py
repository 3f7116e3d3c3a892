"""Make many videos from a manifest: a batch can be stopped or killed at any time, and started again.

`run_batch(client, read_manifest(path), folder)` yields an event for each step of each item. The videos and
`results.jsonl` are in the folder.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

from modelslab_async.batch.decider import Options
from modelslab_async.batch.manifest import Entry, Source, read_manifest, value_of
from modelslab_async.batch.naming import DEFAULT_NAME
from modelslab_async.batch.opening import DEFAULT_LOOKAHEAD, Batch, open_decider
from modelslab_async.batch.plan import BatchPlan
from modelslab_async.batch.results import Result, read_results
from modelslab_async.batch.run import BatchEvent, Step
from modelslab_async.client import Client

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


@asynccontextmanager
async def open_batch(
    client: Client,
    folder: Path,
    *,
    name: str = DEFAULT_NAME,
    lookahead: int = DEFAULT_LOOKAHEAD,
    retry_failed: bool = False,
    resubmit_uncertain: bool = False,
    verify: bool = False,
    emulator: bool = False,
) -> AsyncIterator[Batch]:
    """Open a batch in *folder*, and lock the folder. `run_batch` explains arguments and errors."""
    options = Options(
        name=name,
        lookahead=lookahead,
        retry_failed=retry_failed,
        resubmit_uncertain=resubmit_uncertain,
        verify=verify,
        emulator=emulator,
    )
    async with open_decider(client, folder, options) as decider:
        yield Batch(decider)


async def run_batch(
    client: Client,
    manifest: Source,
    folder: Path,
    *,
    name: str = DEFAULT_NAME,
    lookahead: int = DEFAULT_LOOKAHEAD,
    retry_failed: bool = False,
    resubmit_uncertain: bool = False,
    verify: bool = False,
    emulator: bool = False,
    stop: asyncio.Event | None = None,
) -> AsyncGenerator[BatchEvent]:
    """Make the videos of a manifest in *folder*, write a line of `results.jsonl` for each, and yield the events.

    The client must have a journal. If the batch is run again with the same manifest, folder and journal, it continues.
    Finished videos are kept. The digest of a file is compared if its size, or the time of its last change, differs.
    Paid jobs are collected. Uncertain and failed items are left as they are. All other items are submitted. No item is
    paid for twice, and a failed item never stops the others.

    The folder is locked against other runs, unless the journal is in PostgreSQL. Then runs on several hosts, with the
    same manifest, journal and folder, share the work: each item is made by one of them, and each run ends with all
    results. `modelslab_async.cluster` runs a batch on the workers of a Dask cluster.

    manifest: entries of `read_manifest`, requests or mappings, from an iterable or an async iterable. Items are read
        only when there is room for them, so millions are fine.
    name: the pattern of file names, with the fields stem (of the picture), seed, line, ref, item, id and prompt. No
        file is overwritten: if a name is taken, a number is added.
    lookahead: the most items under way at once, from reading their line to the end of their download.
    retry_failed: submit items that failed in an earlier run again. They may be charged again.
    resubmit_uncertain: submit uncertain items again, under another ref. They may be charged twice.
    verify: compare the digests of all finished videos.
    emulator: the service is an emulator that starts empty with each run, so another emulator may continue its folder.
    stop: once it is set, no more items are submitted. The iteration ends when the running jobs have ended.

    Raises InvalidRequestError for wrong arguments, a manifest that cannot be read or a folder that cannot be used;
    ClientStateError without a journal. During an outage, submits are repeated for ten minutes. These errors stop the
    batch, and are raised once all running jobs have ended: AuthenticationError, InsufficientCreditsError,
    BudgetExceededError, JournalError, OSError of the disk, and TransportError or ServerError after an outage.
    """
    async with (
        open_batch(
            client,
            folder,
            name=name,
            lookahead=lookahead,
            retry_failed=retry_failed,
            resubmit_uncertain=resubmit_uncertain,
            verify=verify,
            emulator=emulator,
        ) as batch,
        aclosing(batch.run(manifest, stop=stop)) as events,
    ):
        async for event in events:
            yield event
