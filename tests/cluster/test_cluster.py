"""Batches on a Dask cluster: its workers are processes, and the emulator is reached over HTTP."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import attrs
import distributed
import pytest
from helpers.clusters import Recorder, a_small_cluster, a_studio, processes
from helpers.databases import Server
from helpers.world import KEY, PNG

from modelslab_async import (
    Budget,
    BudgetExceededError,
    Client,
    ConnectError,
    ImageToVideoUltra,
    InvalidRequestError,
    JobState,
)
from modelslab_async.batch import Step, read_results
from modelslab_async.cluster import driver, run_batch
from modelslab_async.cluster.messages import Setup, Task
from modelslab_async.cluster.worker import WorkerClient
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.filterwarnings("default")  # of Dask
PASSWORD = "a-password-that-nobody-may-see"
NODE = platform.node()


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver gets the key as an argument, and the workers from their environment."""
    for name in ("MODELSLAB_API_KEY", "MODELSLAB_JOURNAL", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers in processes of their own, with the key and the database's password in their environment."""
    with processes(PGPASSWORD=PASSWORD) as running:
        yield running


@pytest.fixture(params=["file", "database"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A journal in a file, or in a database with a password."""
    if request.param == "file":
        return tmp_path / "jobs.db"
    server: Server = request.getfixturevalue("postgres")
    parts = urlsplit(server.url_of(asyncio.run(server.make_database())))
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{PASSWORD}@{host}"))


def made(events: list[Any]) -> dict[str, Any]:
    return {event.entry.item: event.result for event in events if event.result}


async def test_a_batch_on_a_cluster(tmp_path: Path, journal: Any, cluster: Any) -> None:
    """Each item is paid for and saved once, by one of the workers. The next run keeps all.

    Neither the key nor the database's password is in the plugin, in a task, in the scheduler's state or in a log.
    """
    recorder = Recorder()
    async with a_studio(tmp_path, journal) as studio:
        cluster.scheduler.add_plugin(recorder, name=str(tmp_path))
        events = await studio.run(cluster, studio.requests(10))
        again = await studio.run(cluster, studio.requests(10))
    state = cluster.scheduler.get_events(), cluster.get_logs(), vars(cluster.scheduler)
    assert studio.charges == len(list(studio.out.glob("*.mp4"))) == 10
    results = list(read_results(studio.out))
    assert {result.item: result for result in results} == made(events) == made(again)
    assert {event.step for event in again} == {Step.KEPT}
    assert {result.host for result in results} == {f"{NODE}/0", f"{NODE}/1"}
    assert {result.file for result in results} == {f"castle-{seed}.mp4" for seed in range(10)}
    begun = [event.job for event in events if event.step is Step.BEGUN]
    assert {job.state for job in begun if job} == {JobState.READY}
    assert not list(studio.out.glob(".cluster*"))
    passed = b"".join([*recorder.seen, repr(state).encode()])
    assert (b"castle.png" in passed, b"WorkerClient" in passed) == (True, True)
    assert KEY.encode() not in passed
    assert PASSWORD.encode() not in passed


async def test_a_worker_that_is_killed(tmp_path: Path, cluster: Any) -> None:
    """Its tasks run again on another worker, and collect what was paid for."""
    async with a_studio(tmp_path, speed=30.0) as studio:
        running = asyncio.create_task(studio.run(cluster, studio.requests(10)))
        await studio.until_charged(3)
        os.kill(next(iter(cluster.workers.values())).process.pid, signal.SIGKILL)
        events = await running
    assert studio.charged_twice == []
    states = [result.state for result in made(events).values()]
    assert len(states) == 10
    assert {*states} <= {JobState.READY, JobState.UNCERTAIN}
    assert len(list(studio.out.glob("*.mp4"))) == states.count(JobState.READY) >= 6


async def test_a_driver_that_dies(tmp_path: Path, cluster: Any) -> None:
    """The same batch again collects what was paid for, on the same cluster."""
    async with a_studio(tmp_path, speed=30.0) as studio:
        driving = asyncio.create_task(studio.run(cluster, studio.requests(10)))
        await studio.until_charged(3)
        driving.cancel()
        await asyncio.wait([driving])
        events = await studio.run(cluster, studio.requests(10))
    assert studio.charged_twice == []
    assert {result.state for result in made(events).values()} == {JobState.READY}
    assert studio.charges == len(list(studio.out.glob("*.mp4"))) == 10
    assert {result.host for result in made(events).values()} <= {f"{NODE}/0", f"{NODE}/1", None}


async def test_a_scheduler_that_dies(tmp_path: Path, cluster: Any) -> None:
    """The driver ends with an error that says what to do. On another cluster, the same batch goes on."""
    doomed: Any = await distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=6,
        processes=False,
        protocol="tcp",
        asynchronous=True,
        dashboard_address=None,  # pyright: ignore[reportArgumentType]
    )
    async with a_studio(tmp_path, speed=30.0) as studio:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MODELSLAB_API_KEY", KEY)
            driving = asyncio.create_task(studio.run(doomed, studio.requests(6)))
            await studio.until_charged(3)
        await doomed.scheduler.close(reason="killed by a test")
        with pytest.raises(ConnectError, match="run the same batch again"):
            await driving
        with suppress(TimeoutError):  # without its scheduler, it ends slowly
            await doomed.close(timeout=1)
        doomed.status = distributed.Status.closed  # else it warns, when it is collected, that it was not closed
        events = await studio.run(cluster, studio.requests(6))
    assert studio.charged_twice == []
    assert {result.state for result in made(events).values()} <= {JobState.READY, JobState.UNCERTAIN}
    assert len(made(events)) == 6


async def test_a_stop_lets_the_running_jobs_end(tmp_path: Path, cluster: Any) -> None:
    """Jobs that wait for a slot are not sent. Running ones are saved."""
    async with a_studio(tmp_path, speed=10.0) as studio:
        stop = asyncio.Event()
        running = asyncio.create_task(studio.run(cluster, studio.requests(10), stop=stop))
        await studio.until_charged(3)
        stop.set()
        events = await running
    assert 3 <= studio.charges < 10
    assert len(list(studio.out.glob("*.mp4"))) == studio.charges
    assert len([event for event in events if event.step is Step.LEFT]) == 10 - studio.charges


async def test_a_wrong_worker_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker with another key, with another database or on a folder that is not shared: nothing is paid."""
    monkeypatch.setenv("MODELSLAB_API_KEY", "another-key")
    async with a_studio(tmp_path) as studio, a_small_cluster() as small:
        with pytest.raises(InvalidRequestError, match="another API key"):
            await studio.run(small, studio.requests(1))
        async with Client("another-key", base_url=studio.emulator.url) as client:
            right = Setup(
                account=client.account_id,
                batch="b",
                journal=str(tmp_path / "jobs.db"),
                node=NODE,
                options={"base_url": studio.emulator.url},
                folder=tmp_path / "elsewhere",
                name="{seed}.mp4",
                token="t",
            )
        monkeypatch.setenv("MODELSLAB_JOURNAL", "postgresql://one/db")
        for wrong, message in (
            (right, "same folder on all hosts"),
            (attrs.evolve(right, node="another-host"), "is a file on the host another-host"),
            (attrs.evolve(right, journal="postgresql://two/db"), "must be the database of the driver"),
        ):
            async with distributed.Client(small, asynchronous=True) as dask:
                with pytest.raises(InvalidRequestError, match=message):
                    await dask.register_plugin(WorkerClient(wrong))
        assert studio.charges == 0


@pytest.mark.parametrize(
    ("address", "message"), [("tcp://127.0.0.1:1", "no scheduler that answers"), ("tcp://10.0.0.1:8786", "postgresql")]
)
async def test_a_cluster_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    """A scheduler that does not answer, and one on another host while the journal is a file."""
    monkeypatch.setattr(driver, "_CONNECT_SECONDS", 0.5)
    async with a_studio(tmp_path) as studio, studio.client() as client:
        with pytest.raises(InvalidRequestError, match=message):
            await anext(aiter(run_batch(client, studio.requests(1), studio.out, cluster=address)))


async def test_few_threads_and_a_picture_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that cannot use all slots is reported. A picture that is no file is copied for the workers."""
    monkeypatch.setenv("MODELSLAB_API_KEY", KEY)
    notes = list[str]()
    async with a_studio(tmp_path) as studio, a_small_cluster(threads=2) as small:
        wanted = [ImageToVideoUltra(prompt="zoom", init_image=PNG, seed=7)]
        [result] = made(await studio.run(small, wanted, notify=notes.append)).values()
    assert ("2 threads for 4 slots" in notes[0], len(notes)) == (True, 1)
    assert (result.state, result.file) == (JobState.READY, "picture-7.mp4")
    assert str(result.request["init_image"]).startswith("sha256:")


async def test_a_picture_that_a_worker_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied to the batch's folder. A worker that has another file at the path uses the copy too."""
    monkeypatch.setenv("MODELSLAB_API_KEY", KEY)
    real, seen = WorkerClient.make, list[Task]()

    async def make_elsewhere(self: WorkerClient, task: Task) -> Any:
        """Make an item as a worker of a host on which another picture is at the same path."""
        seen.append(task)
        picture = tmp_path / "castle.png"
        content = picture.read_bytes()
        picture.write_bytes(b"another picture")
        try:
            return await real(self, task)
        finally:
            picture.write_bytes(content)

    monkeypatch.setattr(WorkerClient, "make", make_elsewhere)
    async with a_studio(tmp_path) as studio, a_small_cluster() as small:
        [result] = made(await studio.run(small, studio.requests(1))).values()
    assert [task.copy is not None for task in seen] == [False, True]
    assert not list(studio.out.glob(".*"))
    assert (result.file, result.request["init_image"]) == ("castle-0.mp4", str(tmp_path / "castle.png"))


async def test_a_failed_item_ends_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result says so, as without a cluster. A budget bounds what the workers spend."""
    monkeypatch.setenv("MODELSLAB_API_KEY", KEY)
    async with a_studio(tmp_path, faults=[Rule(Fault.JOB_FAILS, times=1)]) as studio, a_small_cluster() as small:
        events = await studio.run(small, studio.requests(3))
        assert sorted(each.state for each in made(events).values()) == ["failed", "ready", "ready"]
        with pytest.raises(BudgetExceededError):
            await studio.run(small, studio.requests(9), budget=Budget(usd="0.4"))
    assert 3 <= studio.charges <= 5
