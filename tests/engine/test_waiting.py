"""Waiting as users meet it, on virtual time: progress, pace, wake-ups, and what is counted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from helpers.world import World, a_request

from modelslab_async import Client, InvalidRequestError, JobState
from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.job import EtaKind

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]
S = JobState


@pytest.mark.parametrize("kind", ["good", "absent", "zero", "ten times", "a tenth"])
async def test_a_progress_bar_can_be_honest(world: MakeWorld, kind: EtaKind) -> None:
    """Whatever the service's eta, ours counts down between two events, is never 0 before the video is there, and is
    None before the job was taken. So a bar of elapsed / (elapsed + eta) goes back at a look only.
    """
    async with world(eta={kind: 1}).client() as client:
        job = client.submit(a_request())
        bar, before = [0.0], job.eta
        while not await job.wait(timeout=0.5):
            if job.eta is not None:
                assert job.eta > 0
                elapsed = asyncio.get_running_loop().time()
                bar.append(elapsed / (elapsed + job.eta))
        events = [event async for event in job.events()]
        assert (before, job.eta) == (None, 0)
    looks = sum(event.state is S.PROCESSING for event in events) - 1
    assert sum(after < before for before, after in itertools.pairwise(bar)) <= looks
    assert max(bar) < 1
    assert [event.eta for event in events[:2]] == [None, None]
    assert all(event.eta and event.eta > 0 for event in events[2:-1])
    assert (events[-1].state, events[-1].eta) == (S.READY, 0)


async def test_the_eta_of_a_job_that_has_no_video(world: MakeWorld) -> None:
    """None: there is nothing to wait for any more."""
    async with world(faults=[Rule(Fault.JOB_FAILS)]).client() as client:
        job = client.submit(a_request())
        await job.wait()
        assert job.state is S.FAILED
        assert job.eta is None


async def test_jobs_teach_the_next_ones(world: MakeWorld) -> None:
    """With etas ten times too long the first job is expected late; after ten, the next is expected when it comes."""
    here = world(eta={"ten times": 1})
    async with here.client() as client:
        begun = asyncio.get_running_loop().time()
        for _ in range(10):
            await client.generate(a_request())
        typical = (asyncio.get_running_loop().time() - begun) / 10
        job = client.submit(a_request())
        await job.submitted()
        assert job.eta == pytest.approx(typical, rel=0.3)


async def test_statistics_are_a_snapshot_that_agrees_with_the_wire(world: MakeWorld) -> None:
    """Jobs by state, requests by kind as the service got them, looks per job, and where the end can have been."""
    here = world(faults=[Rule(Fault.JOB_FAILS, times=1)])
    async with here.client(max_in_flight=2) as client:
        before = client.statistics()
        jobs = [client.submit(a_request()) for _ in range(5)]
        await jobs[0].submitted()
        during = client.statistics()
        await asyncio.wait([asyncio.ensure_future(job.wait()) for job in jobs])
        await client.balance()
        after = client.statistics()
    assert sum(before.jobs.values()) == 0
    assert before.polls_per_job is before.detection_latency is None
    assert (during.jobs[S.WAITING], during.cap, during.in_flight) == (3, 2, 2)
    assert (after.jobs[S.READY], after.jobs[S.FAILED], sum(after.jobs.values())) == (4, 1, 5)
    assert after.requests["submit"] == here.count("img2video_ultra") == 5
    assert after.requests["fetch"] == here.count("/fetch/")
    assert (after.requests["call"], after.requests["download"]) == (1, 0)
    assert sum(after.requests.values()) == len(here.transport.requests)
    assert after.polls_per_job == after.requests["fetch"] / 5
    assert after.detection_latency is not None
    assert 1 <= after.detection_latency <= 60
    assert after.in_flight == after.slot_idle_time == 0


async def test_idle_places_are_counted_while_a_job_waits(world: MakeWorld) -> None:
    """A refusal that holds four jobs back for half a minute leaves two places empty for so long."""
    here = world(faults=[Rule(Fault.RATE_LIMIT, times=1)])
    async with here.client(max_in_flight=2) as client:
        jobs = [client.submit(a_request()) for _ in range(4)]
        await asyncio.gather(*jobs)
        assert client.statistics().slot_idle_time >= 30


async def test_looks_keep_the_pace(world: MakeWorld) -> None:
    """A hundred jobs that are attached to, at one look in two seconds: never two sooner, and each one is seen."""
    here = world(queue_limit=200, workers=200)
    async with here.client(max_in_flight=100) as elsewhere, here.client(max_polls_per_second=0.5) as client:
        ids = [await elsewhere.submit(a_request()).submitted() for _ in range(100)]
        begun = asyncio.get_running_loop().time()
        jobs = [await client.attach(job_id) for job_id in ids]
        await asyncio.gather(*jobs)
        fetches = client.statistics().requests["fetch"]
        assert asyncio.get_running_loop().time() - begun >= (fetches - 1) * 2
        assert fetches >= 100


async def test_wake_looks_at_once(world: MakeWorld) -> None:
    """wake() ends a wait early with one fetch; the service's answer decides."""
    here = world(eta={"ten times": 1})
    async with here.client() as client:
        job = client.submit(a_request())
        await job.submitted()
        before = here.count("fetch")
        job.wake()
        await asyncio.sleep(0.01)
        assert here.count("fetch") == before + 1
        assert job.state is S.PROCESSING
        await job


@pytest.mark.parametrize("wait", ["poll", "links", "auto"])
async def test_each_way_of_waiting_sees_the_end_and_a_failure(world: MakeWorld, wait: Any) -> None:
    """A video and a failed job, whatever is looked at; only "links" probes before the end."""
    here = world(faults=[Rule(Fault.JOB_FAILS, times=1)])
    async with here.client(wait=wait) as client:
        failed, made = (client.submit(a_request()) for _ in range(2))
        await asyncio.gather(failed, made, return_exceptions=True)
        probes = client.statistics().requests["probe"]
    assert (failed.state, made.state) == (S.FAILED, S.READY)
    assert (probes > 0) == (wait != "poll")


async def test_a_job_that_is_attached_to_is_looked_at_at_once(world: MakeWorld) -> None:
    """It may have ended long ago."""
    here = world()
    async with here.client() as client:
        video = await client.generate(a_request())
        begun = asyncio.get_running_loop().time()
        assert (await (await client.attach(str(video.id)))).url == video.url
        assert asyncio.get_running_loop().time() - begun < 1


@pytest.mark.parametrize("name", ["poll_cost", "max_polls_per_second"])
@pytest.mark.parametrize("value", [0, -1.0, True, "1", float("nan"), float("inf")], ids=str)
def test_numbers_that_cannot_be_right(name: str, value: Any) -> None:
    """One clear error, with the name of the argument and the way out."""
    with pytest.raises(InvalidRequestError) as caught:
        Client(api_key="any", **{name: value})
    assert [problem.field for problem in caught.value.problems] == [name]


async def test_looks_are_closer_while_others_wait_for_a_place(world: MakeWorld) -> None:
    """An end that is seen late keeps all that wait for the place; the same jobs are seen later where nobody waits."""
    latencies = {}
    for waiting in (0, 40):
        here = world(queue_limit=5)
        async with here.client(max_in_flight=5) as client:
            jobs = [client.submit(a_request(seed=seed)) for seed in range(5 + waiting)]
            await asyncio.gather(*jobs[:5])
            latencies[waiting] = client.statistics().detection_latency
            for job in jobs[5:]:
                job.cancel()
    assert latencies[0]
    assert latencies[40]
    assert latencies[40] < 0.7 * latencies[0]


async def test_who_waits_no_more_hastens_nobody(world: MakeWorld) -> None:
    """Jobs that were cancelled before their turn leave no trace: the looks are as if nobody had waited."""
    lives = []
    for waiting in (0, 40):
        here = world(queue_limit=5)
        async with here.client(max_in_flight=5) as client:
            begun = asyncio.get_running_loop().time()
            jobs = [client.submit(a_request(seed=seed)) for seed in range(5 + waiting)]
            assert all(job.cancel() for job in jobs[5:])
            await asyncio.gather(*jobs[:5])
            took = asyncio.get_running_loop().time() - begun
            lives.append((client.statistics().requests, took))
    (lone_requests, lone_took), (requests, took) = lives
    assert requests == lone_requests
    assert took == pytest.approx(lone_took)


async def test_haste_keeps_to_the_pace(world: MakeWorld) -> None:
    """However many wait, looks at all jobs together are no more than the client may make."""
    here = world(queue_limit=20)
    async with here.client(max_in_flight=20, max_polls_per_second=0.5) as client:
        for seed in range(200):
            client.submit(a_request(seed=seed))
        await asyncio.sleep(120)
        assert 0 < here.count("/fetch/") <= 0.5 * 120 + 1
        await client.aclose(drain=False)
