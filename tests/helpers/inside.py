"""Access to the inside of a client or a job, for tests of the engine's parts."""

from __future__ import annotations

from operator import attrgetter

from modelslab_async import Client, Job
from modelslab_async.engine.engine import Engine
from modelslab_async.job.run import JobRun
from modelslab_async.protocol.lifecycle import JobEvent, JobState


def engine_of(client: Client) -> Engine:
    """Return the engine behind a client."""
    engine: Engine = vars(client)["_engine"]
    return engine


def inside_shown(client: Client) -> str:
    """Return the reprs of all attributes of a client, of its engine, and of the engine's parts."""
    parts = vars(engine_of(client))
    objects = [client, engine_of(client), *(part for part in parts.values() if hasattr(part, "__dict__"))]
    return "\n".join(repr(vars(each)) for each in objects)


def run_of(client: Client, ref: str) -> JobRun:
    """Return the run of an open job."""
    return engine_of(client).dispatcher.jobs[ref]


def inner_state_of(job: Job) -> dict[str, object]:
    """Return all attributes of the run behind a job, open or ended, by name."""
    run: JobRun = attrgetter("_run")(job)
    return vars(run)


async def events_of(job: Job) -> list[JobEvent]:
    """Return all events of a job that ended."""
    assert job.done()
    return [event async for event in job.events()]


async def states_of(job: Job) -> list[JobState]:
    """Return the states of all events of a job, in their order. Wait for its end."""
    return [event.state async for event in job.events()]
