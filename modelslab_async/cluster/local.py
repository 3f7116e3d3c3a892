"""A cluster on this machine."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import distributed

from modelslab_async.client import Client
from modelslab_async.cluster.worker import JOURNAL_VARIABLE
from modelslab_async.engine.config import KEY_VARIABLE
from modelslab_async.journal.base import Journal
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.protocol.problems import refusal

_WORKERS = 2
_SPARE_THREADS = 3
"""Threads of a worker beyond the account's slots: their tasks save videos, or wait for the next slot."""


@asynccontextmanager
async def local_cluster(client: Client, journal: Journal, slots: int) -> AsyncIterator[str]:
    """Start a cluster of two processes with the client's key in their environment. Yield its scheduler's address.

    Each process has threads for all slots of the account, so that one that dies leaves none idle.
    """
    cluster, problem = await _started(client, journal, slots)
    if cluster is None:
        raise refusal("cluster", "local", f"cannot be started: {problem}", "start one with dask scheduler")
    try:
        yield str(cluster.scheduler_address)
    finally:
        await cluster.close()


async def _started(client: Client, journal: Journal, slots: int) -> tuple[Any, str]:
    """Start the cluster. Return it, or None and why it did not start.

    It raises no error of Dask, because a traceback shows local variables, and Dask's hold the environment.
    """
    try:
        starting: Any = distributed.LocalCluster(
            n_workers=_WORKERS,
            threads_per_worker=slots + _SPARE_THREADS,
            processes=True,
            asynchronous=True,
            dashboard_address="127.0.0.1:0",  # None would take port 8787, which may be in use, for all hosts
            silence_logs=logging.CRITICAL,
            env=_environment(client, journal),
        )
        return await starting, ""
    except Exception as error:  # noqa: BLE001 - whatever keeps Dask from starting
        hidden = journal.password.redact(str(error)) if isinstance(journal, PostgresJournal) else str(error)
        return None, f"{type(error).__name__}: {client.api_key.redact(hidden)}"


def _environment(client: Client, journal: Journal) -> dict[str, str]:
    environment = {KEY_VARIABLE: _text(client.api_key.as_json()), JOURNAL_VARIABLE: ""}
    if isinstance(journal, PostgresJournal) and not journal.password.is_empty:
        environment["PGPASSWORD"] = _text(journal.password.as_json())
    return environment


def _text(secret: bytes) -> str:
    return str(json.loads(secret))
