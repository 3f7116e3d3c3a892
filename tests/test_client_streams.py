"""`Client.as_completed` and `Client.map`, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from helpers.world import MakeWorld, a_request

from modelslab_async import ImageToVideoUltra, Job, JobState

pytestmark = pytest.mark.looptime
S = JobState


async def test_as_completed_yields_each_job_once_when_it_ends(make_world: MakeWorld) -> None:
    """Jobs come in the order of their ends, and a job that is passed twice comes once."""
    async with make_world().client() as client:
        jobs = [client.submit(a_request(num_frames=frames)) for frames in (81, 17, 41)]
        yielded = [job async for job in client.as_completed([*jobs, jobs[0]])]
    assert yielded == [jobs[1], jobs[2], jobs[0]]


async def test_map_keeps_to_its_lookahead(make_world: MakeWorld) -> None:
    """At most `lookahead` requests are taken ahead of the yielded jobs. A bad request becomes a REFUSED job."""
    taken = 0

    async def endless() -> AsyncIterator[ImageToVideoUltra]:
        nonlocal taken
        for number in range(30):
            taken += 1
            yield a_request(prompt="" if number == 13 else "moving", num_frames=17)

    received: list[Job] = []
    async with make_world().client() as client:
        async for job in client.map(endless(), lookahead=4):
            received.append(job)
            assert taken - len(received) <= 4
    assert len(set(received)) == 30
    assert [job.state for job in received].count(S.REFUSED) == 1


async def test_map_yields_all_jobs_before_it_raises(make_world: MakeWorld) -> None:
    """What the iterable raises is raised after the jobs before it were yielded, so that nothing paid is lost."""

    async def two_then_broken() -> AsyncIterator[ImageToVideoUltra]:
        yield a_request()
        yield a_request()
        raise OSError("the disk went away")

    received = []
    async with make_world().client() as client:
        with pytest.raises(OSError, match="went away"):
            async for job in client.map(two_then_broken()):
                received.append(job)
    assert [job.state for job in received] == [S.READY, S.READY]


async def test_leaving_map_early_keeps_the_jobs(make_world: MakeWorld) -> None:
    """After a break no further request is submitted, and the submitted jobs end with the client."""
    world = make_world()
    async with world.client() as client:
        async for _ in client.map([a_request()] * 50, lookahead=3):
            break
        charged = len(world.service.ledger.charges)
        assert 3 <= charged <= 5
    assert len(world.service.ledger.charges) <= charged + 3
    assert all(job.state(float("inf")) == "success" for job in world.service.jobs.values())


async def test_map_does_not_swallow_a_cancellation(make_world: MakeWorld) -> None:
    """A task that is cancelled inside `map` ends as cancelled."""

    async def consume() -> None:
        async for _ in client.map([a_request()] * 5):
            pass

    async with make_world().client() as client:
        task = asyncio.create_task(consume())
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
