"""A cluster on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import distributed

from modelslab_async.client import Client
from modelslab_async.cluster.worker import JOURNAL_VARIABLE
from modelslab_async.engine.config import KEY_VARIABLE
from modelslab_async.journal.base import Journal
from modelslab_async.journal.postgres import PostgresJournal

_WORKERS = 2
_SPARE_THREADS = 3
"""Threads of a worker beyond the account's slots: their tasks save videos, or wait for the next slot."""


@asynccontextmanager
async def local_cluster(client: Client, journal: Journal, slots: int) -> AsyncIterator[str]:
    """Start a cluster of two processes with the client's key in their environment. Yield its scheduler's address.

    Each process has threads for all slots of the account, so that one that dies leaves none idle.
    """
    environment = {KEY_VARIABLE: _text(client.api_key.as_json()), JOURNAL_VARIABLE: ""}
    if isinstance(journal, PostgresJournal) and not journal.password.is_empty:
        environment["PGPASSWORD"] = _text(journal.password.as_json())
    async with distributed.LocalCluster(
        n_workers=_WORKERS,
        threads_per_worker=slots + _SPARE_THREADS,
        processes=True,
        asynchronous=True,
        dashboard_address=None,  # pyright: ignore[reportArgumentType]
        silence_logs=logging.CRITICAL,
        env=environment,
    ) as cluster:
        yield str(cluster.scheduler_address)


def _text(secret: bytes) -> str:
    return str(json.loads(secret))
