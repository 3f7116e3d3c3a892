"""`Client.follow`: a job of another client, its events, and what becomes of it when that client is gone."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.left_behind import job_left_running, row_of, until_known
from helpers.world import MakeWorld, a_request

from modelslab_async import InsufficientCreditsError, JobDetachedError, JobState, NotFoundError, SubmitUncertainError
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState


async def test_a_follower_sees_all_states_and_the_video(make_world: MakeWorld, tmp_path: Path) -> None:
    """It polls nothing: the end comes from the journal within seconds, and the video can be saved by the follower."""
    world, path = make_world(queue_limit=5), tmp_path / "jobs.db"
    async with world.client(journal=path, max_in_flight=1) as owner, world.client(journal=path) as other:
        first, second = owner.submit(a_request()), owner.submit(a_request(track_id="mine"))
        await first.submitted()
        job = await other.follow("mine")
        assert job.state is S.WAITING
        assert await other.follow("mine") is job
        states = [event.state async for event in job.events()]
        assert list(dict.fromkeys(states)) == [S.WAITING, S.SUBMITTING, S.PROCESSING, S.READY]
        assert (await job).url == (await second).url
        assert (job.id, job.polls) == (second.id, 0)
        await job.save(tmp_path / "a.mp4")
        assert (await row_of(owner, "mine")).saved_path == str(tmp_path / "a.mp4")
    assert len(world.service.ledger.charges) == 2


async def test_the_progress_of_a_followed_job_moves(make_world: MakeWorld, tmp_path: Path) -> None:
    """Its estimate and its progress come from the acceptance in the row, and the progress never falls."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as owner, world.client(journal=path) as other:
        running = owner.submit(a_request(track_id="mine"))
        await running.submitted()
        await asyncio.sleep(10)
        job = await other.follow("mine")
        assert job.progress == pytest.approx(running.progress, abs=0.15)
        seen = [event.progress async for event in job.events(every=1.0)]
    assert seen == sorted(seen)
    assert len(set(seen)) > 5


async def test_a_job_is_taken_over_when_its_client_is_gone(make_world: MakeWorld, tmp_path: Path) -> None:
    """The awaited job goes on: polled if the service has it, and sent if it was never sent."""
    world, path = make_world(queue_limit=5), tmp_path / "jobs.db"
    owner = world.client(journal=path, max_in_flight=1)
    async with world.client(journal=path) as other:
        await owner.__aenter__()
        owner.submit(a_request(track_id="running"))
        owner.submit(a_request(track_id="waiting"))
        await owner.attach("running")
        await asyncio.sleep(1)
        jobs = [await other.follow(ref) for ref in ("running", "waiting")]
        await owner.aclose(drain=False)
        videos = await asyncio.gather(*jobs)
        assert [video.ref for video in videos] == ["running", "waiting"]
        assert other.journal is not None
        assert {(await row_of(other, ref)).owner for ref in ("running", "waiting")} == {other.journal.owner}
    assert len(world.service.ledger.charges) == 2


async def test_a_job_that_dies_while_it_is_submitted_is_uncertain(make_world: MakeWorld, tmp_path: Path) -> None:
    """A follower does not send it again."""
    world, path = make_world(faults=[Rule(Fault.SLOW, times=1, seconds=3600)]), tmp_path / "jobs.db"
    owner = world.client(journal=path)
    async with world.client(journal=path) as other:
        await owner.__aenter__()
        owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(1)
        job = await other.follow("mine")
        assert job.state is S.SUBMITTING
        await owner.aclose(drain=False)
        with pytest.raises(SubmitUncertainError):
            await job
    assert world.count("img2video_ultra") == 1


@pytest.mark.parametrize("fault", [Fault.JOB_FAILS, Fault.ERROR_500, None])
async def test_a_followed_job_ends_as_its_owners_job(
    make_world: MakeWorld, tmp_path: Path, fault: Fault | None
) -> None:
    """A failure, a refusal and a withdrawal reach the follower."""
    world, path = make_world(queue_limit=5, faults=[Rule(Fault.SLOW, times=1, seconds=5)]), tmp_path / "jobs.db"
    async with world.client(journal=path, max_in_flight=1) as owner, world.client(journal=path) as other:
        owner.submit(a_request())
        job = owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(1)
        followed = await other.follow("mine")
        if fault is None:
            assert job.cancel()
        else:
            world.service.set_faults([Rule(fault, times=1)])
        await asyncio.wait([asyncio.ensure_future(each.wait()) for each in (job, followed)])
        assert followed.state is job.state
        assert followed.cancelled() is job.cancelled()
        assert type(followed.error) is type(job.error) or isinstance(job.error, type(followed.error))
        assert getattr(followed.error, "charged", None) == getattr(job.error, "charged", None)


async def test_an_unknown_ref_is_not_found(make_world: MakeWorld, tmp_path: Path) -> None:
    """Nothing is asked of the service."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        with pytest.raises(NotFoundError, match="has no job typo"):
            await client.follow("typo")
    assert world.transport.requests == []


async def test_a_follower_that_closes_leaves_the_job_alone(make_world: MakeWorld, tmp_path: Path) -> None:
    """The job is detached here, and its owner goes on."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as owner:
        running = owner.submit(a_request(track_id="mine"))
        await running.submitted()
        async with world.client(journal=path) as other:
            job = await other.follow("mine")
            await other.aclose(drain=False)
        with pytest.raises(JobDetachedError):
            await job
        assert (await running).ref == "mine"
        row = await row_of(owner, "mine")
        assert owner.journal is not None
        assert (row.state, row.owner) == (S.READY, owner.journal.owner)


async def test_leaving_the_block_waits_for_followed_jobs(make_world: MakeWorld, tmp_path: Path) -> None:
    """As for jobs of this client."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as owner:
        running = owner.submit(a_request(track_id="mine"))
        await running.submitted()
        async with world.client(journal=path) as other:
            job = await other.follow("mine")
        assert job.done()
        assert job.error is None
        assert engine_of(other).follower.runs == {}


async def test_a_job_of_an_earlier_client_is_resumed(make_world: MakeWorld, tmp_path: Path) -> None:
    """If no client runs the job, it is polled here from the start."""
    world = make_world()
    left = await job_left_running(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = await client.follow(left.ref)
        assert (await job).id == left.id
        assert job.polls > 0


async def test_the_error_of_a_refused_job_has_its_class_in_every_client(make_world: MakeWorld, tmp_path: Path) -> None:
    """A program that follows a job can tell an empty wallet from a wrong request, also after a restart."""
    world, path = make_world(wallet=Decimal(0)), tmp_path / "jobs.db"
    async with world.client(journal=path) as owner, world.client(journal=path) as other:
        job = owner.submit(a_request(track_id="mine"))
        await until_known(owner, "mine")
        followed = await other.follow("mine")
        for each in (job, followed):
            with pytest.raises(InsufficientCreditsError) as caught:
                await each
            assert caught.value.charged is False
    async with world.client(journal=path) as later:
        assert isinstance((await later.follow("mine")).error, InsufficientCreditsError)
