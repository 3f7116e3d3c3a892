"""Batches on a Dask cluster: its workers are processes, and the emulator is reached over HTTP."""

from __future__ import annotations

import asyncio
import os
import pickle
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import distributed
import pytest
from helpers.clusters import OPTIONS, Recorder, Studio, a_cluster, a_studio, kill
from helpers.databases import Server
from helpers.world import KEY, PNG

from modelslab_async import ConnectError, ImageToVideoUltra, InvalidRequestError, JobState
from modelslab_async.batch import Step, read_results
from modelslab_async.cluster import run_batch
from modelslab_async.cluster.messages import Setup
from modelslab_async.cluster.worker import WorkerClient
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.filterwarnings("default")  # of Dask
PASSWORD = "a-password-that-nobody-may-see"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers get the key and the journal only from the environment that a test gives them."""
    for name in ("MODELSLAB_API_KEY", "MODELSLAB_JOURNAL", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["file", "database"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A journal, and the environment of workers that use it."""
    if request.param == "file":
        yield tmp_path / "jobs.db", {}
        return
    server: Server = request.getfixturevalue("postgres")
    parts = urlsplit(server.url_of(asyncio.run(server.make_database())))
    user, _, host = parts.netloc.rpartition("@")
    dsn = urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{PASSWORD}@{host}"))
    yield dsn, {"MODELSLAB_JOURNAL": dsn}


def made(events: list[Any]) -> dict[str, Any]:
    return {event.entry.item: event.result for event in events if event.result}


async def test_a_batch_on_a_cluster(tmp_path: Path, journal: tuple[Any, dict[str, str]]) -> None:
    """Each item is paid for and saved once, by one of the workers. The next run keeps all.

    Neither the key nor the database's password is in the plugin, in a task, in the scheduler's state or in a log.
    """
    recorder = Recorder()
    async with (
        a_studio(tmp_path, journal[0]) as studio,
        a_cluster(environment=journal[1]) as cluster,
    ):
        cluster.scheduler.add_plugin(recorder)
        events = await studio.run(cluster, studio.requests(10))
        again = await studio.run(cluster, studio.requests(10))
        await cluster.scheduler.get_worker_logs()
        logs = repr(await cluster.get_logs()) + repr(cluster.scheduler.get_events())
        state = pickle.dumps(cluster.scheduler.worker_plugins) + repr(await cluster.scheduler.dump_state()).encode() if hasattr(cluster.scheduler, "dump_state") else b""
    assert studio.charges == len(list(studio.out.glob("*.mp4"))) == 10
    results = list(read_results(studio.out))
    assert {result.item: result for result in results} == made(events) == made(again)
    assert {event.step for event in again} == {Step.KEPT}
    assert {result.host for result in results} == {f"{platform.node()}/{worker}" for worker in (0, 1)}
    assert {result.file for result in results} == {f"castle-{seed}.mp4" for seed in range(10)}
    begun = [event.job for event in events if event.step is Step.BEGUN]
    assert begun
    assert {job.state for job in begun if job} == {JobState.READY}
    assert len(recorder.keys) >= 10
    assert not list(studio.out.glob(".cluster*"))
    passed = b"".join([*recorder.seen, *(key.encode() for key in recorder.keys), logs.encode(), state])
    assert b"castle.png" in passed
    assert KEY.encode() not in passed
    assert PASSWORD.encode() not in passed


async def test_a_worker_that_is_killed(tmp_path: Path) -> None:
    """Its tasks run again on another worker, and collect what was paid for."""
    async with a_studio(tmp_path, speed=30.0) as studio, a_cluster() as cluster:

        async def kill_one() -> None:
            while studio.charges < 3:  # noqa: ASYNC110 - a ledger has no event
                await asyncio.sleep(0.02)
            kill(next(iter(cluster.workers.values())).process.pid)

        events, _ = await asyncio.gather(studio.run(cluster, studio.requests(10)), kill_one())
    assert studio.charged_twice == []
    states = [result.state for result in made(events).values()]
    assert len(states) == 10
    assert {*states} <= {JobState.READY, JobState.UNCERTAIN}
    assert len(list(studio.out.glob("*.mp4"))) == states.count(JobState.READY) >= 9


async def test_a_driver_that_dies(tmp_path: Path) -> None:
    """The same batch again collects what was paid for, on the same cluster."""
    async with a_studio(tmp_path, speed=30.0) as studio, a_cluster() as cluster:
        driver = asyncio.create_task(studio.run(cluster, studio.requests(10)))
        while studio.charges < 3:  # noqa: ASYNC110 - a ledger has no event
            await asyncio.sleep(0.02)
        driver.cancel()
        await asyncio.wait([driver])
        events = await studio.run(cluster, studio.requests(10))
    assert studio.charged_twice == []
    assert {result.state for result in made(events).values()} == {JobState.READY}
    assert studio.charges == len(list(studio.out.glob("*.mp4"))) == 10


async def test_a_scheduler_that_dies(tmp_path: Path) -> None:
    """The driver ends with an error that says what to do. On another cluster, the same batch goes on."""
    async with a_studio(tmp_path, speed=30.0) as studio:
        async with a_cluster() as cluster:
            driver = asyncio.create_task(studio.run(cluster, studio.requests(6)))
            while studio.charges < 3:  # noqa: ASYNC110 - a ledger has no event
                await asyncio.sleep(0.02)
            await cluster.scheduler.close(reason="killed by a test")
            with pytest.raises(ConnectError, match="run the same batch again"):
                await driver
        async with a_cluster() as another:
            events = await studio.run(another, studio.requests(6))
    assert studio.charged_twice == []
    assert {result.state for result in made(events).values()} <= {JobState.READY, JobState.UNCERTAIN}
    assert len(made(events)) == 6


async def test_a_stop_lets_the_running_jobs_end(tmp_path: Path) -> None:
    """Jobs that wait for a slot are not sent. Running ones are saved."""
    async with a_studio(tmp_path, speed=30.0) as studio, a_cluster() as cluster:
        stop = asyncio.Event()
        running = asyncio.create_task(studio.run(cluster, studio.requests(10), stop=stop))
        while studio.charges < 3:  # noqa: ASYNC110 - a ledger has no event
            await asyncio.sleep(0.02)
        stop.set()
        events = await running
    assert 3 <= studio.charges < 10
    assert len(list(studio.out.glob("*.mp4"))) == studio.charges
    assert len([event for event in events if event.step is Step.LEFT]) == 10 - studio.charges


async def test_what_is_wrong_is_said_before_anything_is_paid(tmp_path: Path) -> None:
    """Workers without the driver's key, a folder that is not shared, and a scheduler that does not answer."""
    async with a_studio(tmp_path) as studio:
        async with a_cluster(workers=1, key="another-key") as cluster:
            with pytest.raises(InvalidRequestError, match="another API key"):
                await studio.run(cluster, studio.requests(1))
            setup = Setup(
                account="a", journal=str(tmp_path / "jobs.db"), node=platform.node(), options={}, token="t",
                folder=tmp_path / "elsewhere", name="{seed}.mp4",
            )  # fmt: skip
            async with studio.client() as client:
                setup = pytest_evolve(setup, account=await other_account(studio), base_url=client.base_url)
            async with distributed.Client(cluster, asynchronous=True) as dask:
                with pytest.raises(InvalidRequestError, match="same folder on all hosts"):
                    await dask.register_plugin(WorkerClient(setup))
        with pytest.raises(InvalidRequestError, match="no scheduler that answers"):
            async with studio.client() as client:
                async for _ in run_batch(client, studio.requests(1), studio.out, cluster="tcp://127.0.0.1:1"):
                    pass
        with pytest.raises(InvalidRequestError, match="postgresql"):
            async with studio.client() as client:
                async for _ in run_batch(client, studio.requests(1), studio.out, cluster="tcp://10.0.0.1:8786"):
                    pass
    assert studio.charges == 0


def pytest_evolve(setup: Setup, *, account: str, base_url: str) -> Setup:
    import attrs

    return attrs.evolve(setup, account=account, options={"base_url": base_url})


async def other_account(studio: Studio) -> str:
    from modelslab_async import Client

    async with Client("another-key", base_url=studio.emulator.url) as client:
        return client.account_id


async def test_too_few_threads_and_a_picture_in_memory(tmp_path: Path) -> None:
    """A cluster that cannot use all slots is reported. A picture that is no file is copied for the workers."""
    notes = list[str]()
    async with a_studio(tmp_path) as studio, a_cluster(workers=1, threads=2) as cluster:
        wanted = [ImageToVideoUltra(prompt="zoom", init_image=PNG, seed=7)]
        [result] = made(await studio.run(cluster, wanted, notify=notes.append)).values()
    assert ("2 threads for 4 slots" in notes[0], len(notes)) == (True, 1)
    assert (result.state, result.file) == (JobState.READY, "picture-7.mp4")
    assert str(result.request["init_image"]).startswith("sha256:")


async def test_errors_that_stop_the_batch(tmp_path: Path) -> None:
    """An error of the account ends the batch, as without a cluster; a failed item ends no other one."""
    async with (
        a_studio(tmp_path, faults=[Rule(Fault.JOB_FAILS, times=1)]) as studio,
        a_cluster(workers=1, threads=8) as cluster,
    ):
        events = await studio.run(cluster, studio.requests(3))
    assert sorted(result.state for result in made(events).values()) == [JobState.FAILED, JobState.READY, JobState.READY]
