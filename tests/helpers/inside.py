"""A look inside a client, for tests of the engine's parts."""

from __future__ import annotations

from modelslab_async import Client, Job
from modelslab_async.engine.engine import Engine
from modelslab_async.job.run import JobRun
from modelslab_async.protocol.lifecycle import JobEvent


def engine_of(client: Client) -> Engine:
    """Return the engine behind a client."""
    engine: Engine = vars(client)["_engine"]
    return engine


def run_of(client: Client, ref: str) -> JobRun:
    """Return the run of a job that is open."""
    return engine_of(client).dispatcher.jobs[ref]


async def events_of(job: Job) -> list[JobEvent]:
    """Return all events of a job that ended."""
    assert job.done()
    return [event async for event in job.events()]
