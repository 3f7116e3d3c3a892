"""Run a batch on the workers of a Dask cluster. It needs the extra `dask` (distributed).

Each item is a task, which calls `Client.ensure` and saves the video. The journal decides what was sent, so a task that
runs twice pays once. Each worker has one client. The worker takes the API key from its own environment,
MODELSLAB_API_KEY, and the password of the database from MODELSLAB_JOURNAL (the whole URL) or from PGPASSWORD or the
password file, as asyncpg does. Neither passes through Dask.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from modelslab_async.batch.decider import Options
from modelslab_async.batch.manifest import Source
from modelslab_async.batch.naming import DEFAULT_NAME
from modelslab_async.batch.opening import DEFAULT_LOOKAHEAD, Batch, open_decider
from modelslab_async.batch.run import BatchEvent
from modelslab_async.client import Client
from modelslab_async.protocol.problems import refusal

__all__ = ["LOCAL", "open_batch", "run_batch"]
LOCAL = "local"
"""The address that starts a cluster on this machine."""
_log = logging.getLogger("modelslab_async")


@asynccontextmanager
async def open_batch(
    client: Client,
    folder: Path,
    *,
    cluster: str,
    options: Mapping[str, Any] | None = None,
    name: str = DEFAULT_NAME,
    lookahead: int = DEFAULT_LOOKAHEAD,
    retry_failed: bool = False,
    resubmit_uncertain: bool = False,
    verify: bool = False,
    emulator: bool = False,
    notify: Callable[[str], object] = _log.warning,
) -> AsyncIterator[Batch]:
    """Open a batch in *folder*, connect to a cluster, and check its workers. `run_batch` explains all arguments."""
    try:
        from modelslab_async.cluster.driver import open_maker  # noqa: PLC0415 - distributed is optional, and heavy
    except ImportError as error:
        requirement = f"cannot be used without the package distributed: {error}"
        raise refusal("cluster", cluster, requirement, "run pip install 'modelslab_async[dask]'") from error
    known = Options(
        name=name,
        lookahead=lookahead,
        retry_failed=retry_failed,
        resubmit_uncertain=resubmit_uncertain,
        verify=verify,
        emulator=emulator,
    )
    async with (
        open_decider(client, folder, known, is_shared=False) as decider,
        open_maker(decider, cluster, options or {}, notify) as make_maker,
    ):
        yield Batch(decider, make_maker)


async def run_batch(
    client: Client,
    manifest: Source,
    folder: Path,
    *,
    cluster: str,
    options: Mapping[str, Any] | None = None,
    name: str = DEFAULT_NAME,
    lookahead: int = DEFAULT_LOOKAHEAD,
    retry_failed: bool = False,
    resubmit_uncertain: bool = False,
    verify: bool = False,
    emulator: bool = False,
    notify: Callable[[str], object] = _log.warning,
    stop: asyncio.Event | None = None,
) -> AsyncGenerator[BatchEvent]:
    """Make the videos of a manifest on a cluster, as `modelslab_async.batch.run_batch` does in one process.

    *client* only reads the journal, and counts the budget: it writes the results and sends nothing. Its journal is in
    PostgreSQL, or in a file if all workers are on this host. If this process or the scheduler dies, repeat the call: it
    collects what was paid for. The tasks of a worker that dies run again on another worker.

    cluster: the scheduler's address, such as "tcp://scheduler:8786"; "local" starts a cluster on this machine.
    options: how the workers make their clients: arguments of `Client` such as max_in_flight, limits, timeouts or
        poll_cost. base_url and enterprise are those of *client*.
    folder: where all workers save their videos, under the same path on each host. A file is written and read on both
        sides before anything is paid. Local pictures that a worker cannot read are copied to it.
    notify: called with a text if the cluster has too few threads to use all slots. By default, it is logged.

    Raises InvalidRequestError also if the cluster cannot be used; ConnectError if its scheduler is lost.
    """
    async with (
        open_batch(
            client,
            folder,
            cluster=cluster,
            options=options,
            name=name,
            lookahead=lookahead,
            retry_failed=retry_failed,
            resubmit_uncertain=resubmit_uncertain,
            verify=verify,
            emulator=emulator,
            notify=notify,
        ) as batch,
        aclosing(batch.run(manifest, stop=stop)) as events,
    ):
        async for event in events:
            yield event
