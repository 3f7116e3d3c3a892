"""Run batches against a world on virtual time, with a journal and a folder on disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.world import World, a_request
from modelslab_async import ImageToVideoUltra, JobState
from modelslab_async.batch import BatchEvent, BatchPlan, Result, Step, open_batch, read_results, run_batch

MakeWorld = Callable[..., World]
S = JobState


def requests(count: int, **changes: Any) -> list[ImageToVideoUltra]:
    """Return requests that differ in their seeds, from 0."""
    return [a_request(seed=seed, **changes) for seed in range(count)]


async def run(here: World, folder: Path, wanted: Any, *, client: Any = None, **options: Any) -> list[BatchEvent]:
    """Run a batch with a new client and the journal beside the folder, as a new process would. Return its events."""
    journal = folder.parent / "jobs.db"
    async with here.client(journal=journal, **(client or {})) as made:
        return [event async for event in run_batch(made, wanted, folder, **options)]


async def leave(here: World, folder: Path, wanted: Any, after: float, **options: Any) -> None:
    """Run a batch, and leave it after so many seconds."""
    async with here.client(journal=folder.parent / "jobs.db") as client:
        events = run_batch(client, wanted, folder, **options)
        try:
            async with asyncio.timeout(after):
                async for _ in events:
                    pass
        except TimeoutError:
            await events.aclose()
            await client.aclose(drain=False)


async def plan(here: World, folder: Path, wanted: Any, *, client: Any = None, **options: Any) -> BatchPlan:
    """Return the plan of a batch."""
    async with (
        here.client(journal=folder.parent / "jobs.db", **(client or {})) as made,
        open_batch(made, folder) as batch,
    ):
        return await batch.plan(wanted, **options)


def ends(events: list[BatchEvent]) -> Counter[tuple[Step, JobState | None]]:
    """Return how many items ended in each way."""
    last = (event for event in events if event.step not in (Step.BEGUN, Step.DELAYED))
    return Counter((event.step, event.result.state if event.result else None) for event in last)


def results(folder: Path) -> list[Result]:
    """Return the lines of results.jsonl."""
    return list(read_results(folder))


def charges(here: World) -> int:
    """Return how many jobs the world's service charged."""
    return len(here.service.ledger.charges)
