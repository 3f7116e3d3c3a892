"""Clusters on this machine, an emulator for their workers, and what passed through them."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import distributed
from distributed.diagnostics.plugin import SchedulerPlugin

from helpers.world import KEY, PNG
from modelslab_async import Budget, Client, ImageToVideoUltra
from modelslab_async.batch import BatchEvent
from modelslab_async.cluster import run_batch
from modelslab_async.emulator import Emulator, skeleton

OPTIONS: dict[str, Any] = {"max_in_flight": 4, "poll_cost": 0.02}


class Recorder(SchedulerPlugin):
    """Keep what the scheduler is given, as bytes."""

    def __init__(self) -> None:
        self.seen = list[bytes]()
        self.keys = set[str]()

    def update_graph(self, scheduler: Any, **kwargs: Any) -> None:
        self.seen += [repr(kwargs).encode(), *map(bytes, scheduler.worker_plugins.values())]
        for key, task in scheduler.tasks.items():
            self.keys.add(str(key))
            self.seen.append(pickle.dumps(task.run_spec))


ENVIRONMENT = {"MODELSLAB_API_KEY": KEY, "MODELSLAB_JOURNAL": ""}


def processes(**environment: str) -> distributed.LocalCluster:
    """Start a cluster of two processes with the key in their environment."""
    return distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=6,
        dashboard_address=None,  # pyright: ignore[reportArgumentType]
        env={**ENVIRONMENT, **environment},
    )


@asynccontextmanager
async def a_small_cluster(threads: int = 8) -> AsyncIterator[distributed.LocalCluster]:
    """Start a cluster of one worker in this process, with this process's environment."""
    async with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=threads,
        processes=False,
        protocol="tcp",
        asynchronous=True,
        dashboard_address=None,  # pyright: ignore[reportArgumentType]
    ) as cluster:
        yield cluster


@attrs.frozen
class Studio:
    """An emulator over HTTP, and batches against it."""

    emulator: Emulator
    folder: Path
    journal: Any

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def charges(self) -> int:
        return len(self.emulator.ledger.charges)

    @property
    def charged_twice(self) -> list[str | None]:
        return [ref for ref, count in Counter(self.emulator.ledger.track_ids()).items() if count > 1]

    async def until_charged(self, count: int) -> None:
        while self.charges < count:  # noqa: ASYNC110 - a ledger has no event
            await asyncio.sleep(0.02)

    def requests(self, count: int) -> list[ImageToVideoUltra]:
        picture = self.folder / "castle.png"
        picture.write_bytes(PNG)
        return [ImageToVideoUltra(prompt="zoom", init_image=picture, seed=seed) for seed in range(count)]

    @asynccontextmanager
    async def client(self, budget: Budget | None = None) -> AsyncIterator[Client]:
        """Open the driver's client."""
        async with Client(KEY, base_url=self.emulator.url, journal=self.journal, budget=budget) as client:
            yield client

    async def run(self, cluster: Any, wanted: Any, *, budget: Budget | None = None, **options: Any) -> list[BatchEvent]:
        """Run the batch on a cluster, with a new client of the driver. Return its events."""
        async with self.client(budget) as client:
            running = run_batch(
                client, wanted, self.out, cluster=cluster.scheduler_address, **{"options": OPTIONS, **options}
            )
            return [event async for event in running]


@asynccontextmanager
async def a_studio(folder: Path, journal: Any = None, **options: Any) -> AsyncIterator[Studio]:
    usual: dict[str, Any] = {"speed": 100.0, "render": skeleton, "eta": {"good": 1}, "queue_limit": 4}
    async with Emulator(**{**usual, **options}) as emulator:
        yield Studio(emulator, folder, journal or folder / "jobs.db")
