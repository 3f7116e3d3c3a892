"""`lifespan` and `cleanup_ctx`: clients that recover jobs as long as their application lives."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from helpers.world import KEY, MakeWorld, World, a_request

from modelslab_async import Client, Job, JobState
from modelslab_async.emulator import Fault, Rule
from modelslab_async.web import CLIENT, cleanup_ctx, lifespan

pytestmark = pytest.mark.looptime
Living = Callable[..., AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def lifespan_of(make: Callable[[], Client], **options: Any) -> AsyncIterator[Client]:
    """Run the lifespan of an ASGI application."""
    async with lifespan(make, **options)(None) as state:
        yield state["modelslab"]


@asynccontextmanager
async def cleanup_ctx_of(make: Callable[[], Client], **options: Any) -> AsyncIterator[Client]:
    """Run the cleanup context of an application of aiohttp."""
    app = web.Application()
    async with asynccontextmanager(cleanup_ctx(make, **options))(app):
        yield app[CLIENT]


both = pytest.mark.parametrize("living", [lifespan_of, cleanup_ctx_of])


async def leave_jobs(world: World, path: Path) -> None:
    """Leave a running job and a waiting one in a journal."""
    async with world.client(journal=path, max_in_flight=1) as client:
        await client.submit(a_request(track_id="running")).submitted()
        client.submit(a_request(track_id="waiting"))
        await client.aclose(drain=False)


@both
async def test_jobs_of_a_dead_client_reach_the_callback(make_world: MakeWorld, tmp_path: Path, living: Living) -> None:
    """Each job that was left behind is passed to the callback, which can save its video. Each is paid for once."""
    world, path = make_world(), tmp_path / "jobs.db"
    await leave_jobs(world, path)
    seen = list[tuple[str, JobState]]()

    async def save(job: Job) -> None:
        seen.append((job.ref, job.state))
        await job.save(tmp_path / f"{job.ref}.mp4")

    async with living(partial(world.client, journal=path), on_recovered=save):
        async with asyncio.timeout(200):
            while len(list(tmp_path.glob("*.mp4"))) < 2:  # noqa: ASYNC110 - a folder has no event for it
                await asyncio.sleep(1)
    assert {ref for ref, _ in seen} == {"running", "waiting"}
    assert ("running", JobState.PROCESSING) in seen  # long before its end
    assert sorted(map(str, world.service.ledger.track_ids())) == ["running", "waiting"]


@both
async def test_a_living_client_takes_over_from_one_that_dies_later(
    make_world: MakeWorld, tmp_path: Path, living: Living
) -> None:
    """Recovery does not only happen at the start."""
    world, path, seen = make_world(), tmp_path / "jobs.db", asyncio.Queue[Job]()
    async with living(partial(world.client, journal=path), on_recovered=seen.put):
        await asyncio.sleep(60)
        assert seen.empty()
        await leave_jobs(world, path)
        async with asyncio.timeout(10):
            assert {(await seen.get()).ref, (await seen.get()).ref} == {"running", "waiting"}


async def test_without_a_callback_jobs_are_driven_to_their_ends(make_world: MakeWorld, tmp_path: Path) -> None:
    """The journal of an application without a callback has no job that stays PROCESSING."""
    world, path = make_world(), tmp_path / "jobs.db"
    await leave_jobs(world, path)
    async with lifespan_of(partial(world.client, journal=path)) as client:
        await asyncio.sleep(200)
        assert {row.state for row in await client.history()} == {JobState.READY}


async def test_without_resubmit_waiting_jobs_are_not_sent(make_world: MakeWorld, tmp_path: Path) -> None:
    """An application that decides by itself about jobs that were never sent finds them in the journal."""
    world, path = make_world(), tmp_path / "jobs.db"
    await leave_jobs(world, path)
    async with lifespan_of(partial(world.client, journal=path), resubmit=False) as client:
        await asyncio.sleep(200)
        states = {row.ref: row.state for row in await client.history()}
    assert states == {"running": JobState.READY, "waiting": JobState.WAITING}


async def test_a_callback_that_fails_stops_nothing(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its traceback is logged without the key. The other jobs reach the callback too."""
    world, path = make_world(), tmp_path / "jobs.db"
    await leave_jobs(world, path)
    seen = list[str]()

    async def fail(job: Job) -> None:
        seen.append(job.ref)
        raise ValueError(f"no space for {KEY}")

    async with lifespan_of(partial(world.client, journal=path), on_recovered=fail):
        await asyncio.sleep(200)
    assert sorted(seen) == ["running", "waiting"]
    (failure, _) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "no space for ***" in failure.getMessage()
    assert "test_lifespan.py" in failure.getMessage()
    assert KEY not in caplog.text
    assert failure.exc_info is None  # a reporter would show the local variables of its frames


async def test_an_error_of_the_job_is_one_line_in_the_log(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A callback that awaits a job that fails is no bug of the application."""
    world, path = make_world(), tmp_path / "jobs.db"
    await leave_jobs(world, path)
    world.service.set_faults([Rule(Fault.JOB_FAILS, times=1)])

    async def wait(job: Job) -> None:
        await job

    async with lifespan_of(partial(world.client, journal=path), on_recovered=wait):
        await asyncio.sleep(200)
    (warning,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("on_recovered")]
    assert "\n" not in warning
    assert "failed" in warning


@both
async def test_a_shutdown_waits_for_its_grace_and_leaves_the_rest(
    make_world: MakeWorld, tmp_path: Path, living: Living, caplog: pytest.LogCaptureFixture
) -> None:
    """A shutdown ends within the grace, with callbacks that still run, and logs no error. The next start goes on."""
    world, path, loop = make_world(), tmp_path / "jobs.db", asyncio.get_running_loop()
    ended = list[str]()

    async def save(job: Job) -> None:
        try:
            await job.save(tmp_path / f"{job.ref}.mp4")
        except BaseException as error:
            ended.append(type(error).__name__)
            raise
        finally:
            await asyncio.sleep(0)

    async with living(partial(world.client, journal=path), on_recovered=save, grace=3.0):
        await leave_jobs(world, path)
        await asyncio.sleep(5)
        stopping_at = loop.time()
    assert loop.time() - stopping_at <= 3.1
    assert len(ended) == 2
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    async with living(partial(world.client, journal=path), on_recovered=save):
        await asyncio.sleep(200)
    assert {file.stem for file in tmp_path.glob("*.mp4")} == {"running", "waiting"}
    assert len(world.service.ledger.charges) == 2


async def test_a_callback_that_hangs_cannot_stop_a_shutdown(make_world: MakeWorld, tmp_path: Path) -> None:
    """A callback that ignores its cancellation is left after five seconds."""
    world, path, loop = make_world(), tmp_path / "jobs.db", asyncio.get_running_loop()
    await leave_jobs(world, path)

    async def hang(job: Job) -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                continue

    before = asyncio.all_tasks()
    async with lifespan_of(partial(world.client, journal=path), on_recovered=hang, grace=0.0):
        await asyncio.sleep(10)
        stopping_at = loop.time()
    assert loop.time() - stopping_at <= 6
    left = asyncio.all_tasks() - before
    assert len(left) == 2
    await asyncio.wait(left)


async def test_without_a_journal_nothing_is_recovered(make_world: MakeWorld) -> None:
    """A client without a journal lives as long as its application."""
    async with lifespan_of(make_world().client) as client:
        assert (await client.generate(a_request())).url
