"""`Client.recovered` and `Job.delivered`: living clients take over by themselves what a dead one left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.left_behind import job_left_running, jobs_left_running, row_of
from helpers.world import PNG, MakeWorld, World, a_request

from modelslab_async import (
    Client,
    ClientStateError,
    InvalidRequestError,
    Job,
    JobState,
    JournalError,
    SubmitUncertainError,
)
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage
from modelslab_async.protocol.record import JobRecord
from modelslab_async.telemetry import Telemetry

pytestmark = pytest.mark.looptime
S = JobState


@asynccontextmanager
async def recovering(client: Client, **options: bool) -> AsyncIterator[list[Job]]:
    """Collect what the client takes over."""
    jobs = list[Job]()

    async def collect() -> None:
        async with aclosing(client.recovered(**options)) as recovered:
            async for job in recovered:
                jobs.append(job)

    task = asyncio.create_task(collect())
    try:
        yield jobs
    finally:
        await client.aclose(drain=False)
        async with asyncio.timeout(1):
            await task  # it ends with its client


async def leave_all_kinds(world: World, path: Path) -> None:
    """Leave a ready, a running, an uncertain and a waiting job of a client that is closed."""
    client = world.client(journal=path, max_in_flight=2)
    await client.__aenter__()
    await client.generate(a_request(track_id="ready"))
    await client.submit(a_request(track_id="running")).submitted()
    world.service.set_faults([Rule(Fault.RESET_AFTER, times=1)])
    await client.submit(a_request(track_id="uncertain")).wait()
    client.submit(a_request(track_id="waiting"))
    await client.aclose(drain=False)


async def test_each_kind_of_job_is_taken_over(make_world: MakeWorld, tmp_path: Path) -> None:
    """Of a dead client, the running job goes on, the waiting one is sent, and the others are reported. Nothing is paid
    twice.
    """
    world = make_world()
    await leave_all_kinds(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client, recovering(client) as jobs:
        await asyncio.sleep(5)
        by_ref = {job.ref: job for job in jobs}
        assert set(by_ref) == {"ready", "running", "uncertain", "waiting"}
        assert by_ref["ready"].done()
        assert isinstance(by_ref["uncertain"].error, SubmitUncertainError)
        for ref in ("ready", "running", "waiting"):
            await by_ref[ref].save(tmp_path / f"{ref}.mp4")
        assert len(jobs) == 4
    assert sorted(map(str, world.service.ledger.track_ids())) == ["ready", "running", "uncertain", "waiting"]


async def test_a_client_that_dies_later_is_noticed(make_world: MakeWorld, tmp_path: Path) -> None:
    """Its jobs are taken over within seconds, by one of the clients that live."""
    world, path = make_world(queue_limit=20), tmp_path / "jobs.db"
    async with (
        world.client(journal=path) as first,
        world.client(journal=path) as second,
        recovering(first) as of_first,
        recovering(second) as of_second,
    ):
        left = await jobs_left_running(world, path, 5)
        await asyncio.sleep(5)
        taken = [job.ref for job in (*of_first, *of_second)]
        assert sorted(taken) == sorted(job.ref for job in left)
        for job in (*of_first, *of_second):
            assert (await job).ref == job.ref
    assert len(world.service.ledger.charges) == 5


async def test_jobs_of_living_clients_are_left_alone(make_world: MakeWorld, tmp_path: Path) -> None:
    """Neither a job of another client that lives, nor a job of this one, is taken over."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as other, world.client(journal=path) as client, recovering(client) as jobs:
        await client.submit(a_request()).wait()
        await other.submit(a_request()).wait()
        await asyncio.sleep(30)
        assert jobs == []


async def test_without_resubmit_a_waiting_job_stays_in_the_journal(make_world: MakeWorld, tmp_path: Path) -> None:
    """It is not sent, and `recover` lists it as unsent."""
    world = make_world()
    await leave_all_kinds(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client, recovering(client, resubmit=False) as jobs:
        await asyncio.sleep(5)
        assert {job.ref for job in jobs} == {"ready", "running", "uncertain"}
        assert [record.ref for record in (await client.recover()).unsent] == ["waiting"]


async def test_a_job_that_a_follower_takes_over_is_reported_too(make_world: MakeWorld, tmp_path: Path) -> None:
    """The application learns of each job that became its own, in whichever way; once each."""
    world, path = make_world(), tmp_path / "jobs.db"
    owner = world.client(journal=path)
    await owner.__aenter__()
    await owner.submit(a_request(track_id="running")).submitted()
    async with world.client(journal=path) as client, recovering(client) as jobs:
        followed = await client.follow("running")
        await owner.aclose(drain=False)
        await followed
        await asyncio.sleep(5)
        assert jobs == [followed]
    assert len(world.service.ledger.charges) == 1


async def test_a_job_whose_picture_is_gone_is_refused_once(make_world: MakeWorld, tmp_path: Path) -> None:
    """The row says REFUSED, so that no client tries again, and nothing is charged."""
    world, path = make_world(queue_limit=5), tmp_path / "jobs.db"
    owner = world.client(journal=path, max_in_flight=1)
    await owner.__aenter__()
    await owner.submit(a_request()).submitted()
    owner.submit(a_request(init_image=PNG, track_id="bytes"))
    await owner.aclose(drain=False)
    async with world.client(journal=path) as client, recovering(client) as jobs:
        await asyncio.sleep(30)
        (refused,) = [job for job in jobs if job.ref == "bytes"]
        assert isinstance(refused.error, InvalidRequestError)
        assert (await row_of(client, "bytes")).state is S.REFUSED
    assert len(world.service.ledger.charges) == 1


class Away(MemoryJournal):
    """Fail while `is_away`."""

    is_away = True

    async def orphaned(self, account: str) -> list[JobRecord]:
        if self.is_away:
            raise JournalError("the disk is away")
        return await super().orphaned(account)


async def left_waiting(make_world: MakeWorld) -> tuple[World, MemoryStorage]:
    """Return a storage with a job that waits, and whose client is closed. Its picture is kept there."""
    world, storage = make_world(queue_limit=5), MemoryStorage()
    earlier = world.client(journal=MemoryJournal(storage), max_in_flight=1)
    await earlier.__aenter__()
    await earlier.submit(a_request()).submitted()
    earlier.submit(a_request(init_image=PNG, track_id="mine"))
    await earlier.aclose(drain=False)
    return world, storage


class Slow(MemoryJournal):
    """Take a second to take over rows, and five to fetch a picture, as a database far away does."""

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        await asyncio.sleep(1)
        return await super().take_over(records, owners)

    async def picture(self, record: JobRecord) -> bytes | None:
        await asyncio.sleep(5)
        return await super().picture(record)


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5, 3.0, 6.5])
async def test_a_job_is_sent_once_if_it_is_followed_while_it_is_taken_over(
    make_world: MakeWorld, seconds: float
) -> None:
    """The search and the follower both find that a job waits, and that its client is gone. One of them sends it."""
    world, storage = await left_waiting(make_world)
    async with world.client(journal=Slow(storage)) as client, recovering(client) as jobs:
        await asyncio.sleep(seconds)
        followed = await client.follow("mine")
        assert (await followed).ref == "mine"
        assert len([job for job in jobs if job.ref == "mine"]) == 1
    assert world.service.ledger.track_ids().count("mine") == 1


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.5, 3.0, 6.5])
async def test_a_job_is_sent_once_if_it_is_submitted_while_it_is_taken_over(
    make_world: MakeWorld, seconds: float
) -> None:
    """A task that runs again submits the job that the search has just found."""
    world, storage = await left_waiting(make_world)
    async with world.client(journal=Slow(storage)) as client, recovering(client):
        await asyncio.sleep(seconds)
        with suppress(InvalidRequestError):  # once the job is open here, its ref is in use
            await client.submit(a_request(init_image=PNG, track_id="mine"))
        assert (await client.follow("mine")).ref == "mine"
        await asyncio.sleep(120)
    assert world.service.ledger.track_ids().count("mine") == 1


class AwayFor(MemoryJournal):
    """Fail to fetch a picture at first."""

    failures = 2

    async def picture(self, record: JobRecord) -> bytes | None:
        if self.failures:
            self.failures -= 1
            raise JournalError("the disk is away")
        return await super().picture(record)


@pytest.mark.parametrize("is_followed", [True, False])
async def test_a_waiting_job_survives_an_outage_during_its_take_over(make_world: MakeWorld, is_followed: bool) -> None:
    """The client that took it over tries again, and refuses nothing because of the journal."""
    world, storage = await left_waiting(make_world)
    async with world.client(journal=AwayFor(storage)) as client:
        if is_followed:
            assert (await (await client.follow("mine"))).ref == "mine"
        else:
            async with recovering(client) as jobs:
                await asyncio.sleep(120)
                (job,) = [job for job in jobs if job.ref == "mine"]
                assert job.state is S.READY
    assert world.service.ledger.track_ids().count("mine") == 1


@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0, 5.9])
async def test_a_job_that_is_taken_over_during_a_close_waits_for_the_next_client(
    make_world: MakeWorld, seconds: float
) -> None:
    """A client that closes before it could queue the job leaves it in the journal, and starts nothing more."""
    world, storage = await left_waiting(make_world)
    client = world.client(journal=Slow(storage))
    await client.__aenter__()
    async with recovering(client) as jobs:
        await asyncio.sleep(seconds)
        await client.aclose(drain=False)
        await asyncio.sleep(10)
        assert [job for job in jobs if job.ref == "mine" and not job.done()] == []
        assert not engine_of(client).dispatcher.jobs
    async with world.client(journal=MemoryJournal(storage)) as later:
        assert (await (await later.follow("mine"))).ref == "mine"
    assert world.service.ledger.track_ids().count("mine") == 1


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_job_can_be_followed_at_any_instant_of_its_recovery(
    make_world: MakeWorld, tmp_path: Path, turns: int
) -> None:
    """A browser that connects again right after a restart gets the job, whatever the search does at that moment."""
    world = make_world()
    left = await job_left_running(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client, recovering(client) as jobs:
        for _ in range(turns):
            await asyncio.sleep(0.001)
        followed = await client.follow(left.ref)
        assert (await followed).ref == left.ref
        assert [job.ref for job in jobs] == [left.ref]
    assert len(world.service.ledger.charges) == 1


async def test_the_search_goes_on_after_an_outage(make_world: MakeWorld) -> None:
    """While the journal cannot be read nothing is taken over; afterwards everything is."""
    world, storage = make_world(), MemoryStorage()
    async with world.client(journal=MemoryJournal(storage)) as earlier:
        await earlier.submit(a_request(track_id="mine")).submitted()
        await earlier.aclose(drain=False)
    journal = Away(storage)
    async with world.client(journal=journal) as client, recovering(client) as jobs:
        await asyncio.sleep(10)
        assert jobs == []
        journal.is_away = False
        await asyncio.sleep(5)
        assert [job.ref for job in jobs] == ["mine"]


async def test_recovered_needs_a_journal(make_world: MakeWorld) -> None:
    """Without one, nothing could be taken over."""
    async with make_world().client() as client:
        with pytest.raises(ClientStateError, match="journal"):
            await anext(client.recovered())


async def test_a_delivered_job_is_not_recovered_again(make_world: MakeWorld, tmp_path: Path) -> None:
    """An application that hands out URLs and saves nothing acknowledges each video once."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as client:
        acknowledged = client.submit(a_request(track_id="acknowledged"))
        await client.submit(a_request(track_id="forgotten")).wait()
        await acknowledged.delivered()  # waits for the video
        await acknowledged.delivered()
        assert (await row_of(client, "acknowledged")).delivered_at is not None
    async with world.client(journal=path) as client:
        assert [job.ref for job in (await client.recover()).jobs] == ["forgotten"]
    async with world.client(journal=path) as client:
        assert (await (await client.ensure(a_request(), ref="acknowledged"))).ref == "acknowledged"
    assert len(world.service.ledger.charges) == 2


async def test_a_followed_job_can_be_acknowledged(make_world: MakeWorld, tmp_path: Path) -> None:
    """Any client may acknowledge a job, whichever ran it."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as owner, world.client(journal=path) as other:
        owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(1)
        await (await other.follow("mine")).delivered()
    async with world.client(journal=path) as client:
        assert (await client.recover()).jobs == ()


async def test_delivered_raises_the_jobs_error(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job without a video cannot be acknowledged, and stays for `recover` if it is uncertain."""
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with world.client(journal=tmp_path / "jobs.db") as client:
        with pytest.raises(SubmitUncertainError):
            await client.submit(a_request()).delivered()
        assert len((await client.recover()).uncertain) == 1


async def test_ensure_returns_when_another_process_can_find_the_job(make_world: MakeWorld, tmp_path: Path) -> None:
    """A visitor's next request may come to any worker, at once."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as one, world.client(journal=path) as other:
        job = await one.ensure(a_request(), ref="mine")
        assert (await other.follow("mine")).ref == job.ref


async def test_elapsed_counts_from_the_creation_of_the_job(make_world: MakeWorld, tmp_path: Path) -> None:
    """Whichever client shows the job: its own, one that follows it, and one that took it over."""
    world, path = make_world(), tmp_path / "jobs.db"
    owner = world.client(journal=path)
    await owner.__aenter__()
    mine = owner.submit(a_request(track_id="mine"))
    async with world.client(journal=path) as other:
        await asyncio.sleep(20)
        followed = await other.follow("mine")
        assert followed.elapsed == pytest.approx(mine.elapsed, abs=0.1)
        await owner.aclose(drain=False)
    async with world.client(journal=path) as last:
        (taken,) = (await last.recover()).jobs
        await taken
        ended = taken.elapsed
        assert ended == pytest.approx(40, abs=5)
    async with world.client(journal=path) as later:
        await asyncio.sleep(500)
        assert (await later.follow("mine")).elapsed == pytest.approx(ended, abs=1)


async def test_log_records_carry_the_job(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each has ref, job_id, account, state and charged as attributes, so that logs in JSON can be searched."""
    caplog.set_level(logging.INFO, "modelslab_async")
    world = make_world()
    left = await job_left_running(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client, recovering(client) as jobs:
        await asyncio.sleep(60)
        assert len(jobs) == 1
    records = [vars(record) for record in caplog.records if vars(record).get("ref") == left.ref]
    assert {record["account"] for record in records} == {client.account_id}
    steps = [(record["state"], record["charged"], record["job_id"]) for record in records]
    assert steps == [
        ("submitting", None, None),
        ("processing", True, left.id),
        ("processing", True, left.id),  # taken over
        ("ready", True, left.id),
        ("ready", True, left.id),
    ]


async def test_telemetry_is_notified_of_a_recovery(make_world: MakeWorld, tmp_path: Path) -> None:
    """Both the search and `recover` notify it."""
    notifications = list[str]()

    class Recoveries(Telemetry):
        def recovered(self, job: Job) -> None:
            notifications.append(job.ref)

    world = make_world()
    for attempt in range(2):
        left = await job_left_running(world, tmp_path / "jobs.db")
        async with world.client(journal=tmp_path / "jobs.db", telemetry=Recoveries()) as client:
            if attempt:
                await client.recover()
            else:
                async with recovering(client):
                    await asyncio.sleep(5)
        assert notifications[-1] == left.ref
    assert len(notifications) >= 2
