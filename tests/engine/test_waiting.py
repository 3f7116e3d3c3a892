"""Waiting for jobs as users see it, on virtual time: eta, polls, wake-ups and statistics."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from helpers.world import MakeWorld, a_request

from modelslab_async import Client, InvalidRequestError, JobState
from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.job import EtaKind

pytestmark = pytest.mark.looptime
S = JobState


@pytest.mark.parametrize("kind", ["good", "absent", "zero", "ten times", "a tenth"])
async def test_the_eta_is_fit_for_a_progress_bar(make_world: MakeWorld, kind: EtaKind) -> None:
    """Whatever the service's eta is, a bar of elapsed / (elapsed + eta) goes back only at a poll.

    The client's eta counts down between two events. It is above 0 until the video is there, and None before the
    acceptance.
    """
    async with make_world(eta={kind: 1}).client() as client:
        job = client.submit(a_request())
        bar, before = [0.0], job.eta
        while not await job.wait(timeout=0.5):
            if job.eta is not None:
                assert job.eta > 0
                elapsed = asyncio.get_running_loop().time()
                bar.append(elapsed / (elapsed + job.eta))
        events = [event async for event in job.events()]
        assert (before, job.eta) == (None, 0)
    polls = sum(event.state is S.PROCESSING for event in events) - 1
    assert sum(after < before for before, after in pairwise(bar)) <= polls
    assert max(bar) < 1
    assert [event.eta for event in events[:2]] == [None, None]
    assert all(event.eta and event.eta > 0 for event in events[2:-1])
    assert (events[-1].state, events[-1].eta) == (S.READY, 0)


async def test_a_job_without_a_video_has_no_eta(make_world: MakeWorld) -> None:
    """Once a job ended without a video, its eta is None."""
    async with make_world(faults=[Rule(Fault.JOB_FAILS)]).client() as client:
        job = client.submit(a_request())
        await job.wait()
        assert job.state is S.FAILED
        assert job.eta is None


async def test_the_estimate_learns_from_earlier_jobs(make_world: MakeWorld) -> None:
    """If the service's etas are ten times too long, the estimate is right after ten jobs."""
    world = make_world(eta={"ten times": 1})
    async with world.client() as client:
        started_at = asyncio.get_running_loop().time()
        for _ in range(10):
            await client.generate(a_request())
        typical = (asyncio.get_running_loop().time() - started_at) / 10
        job = client.submit(a_request())
        await job.submitted()
        assert job.eta == pytest.approx(typical, rel=0.3)


async def test_statistics_agree_with_the_requests_sent(make_world: MakeWorld) -> None:
    """A snapshot counts jobs by state, requests by kind, polls per job, and how late an end was seen."""
    world = make_world(faults=[Rule(Fault.JOB_FAILS, times=1)])
    async with world.client(max_in_flight=2) as client:
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
    assert after.requests["submit"] == world.count("img2video_ultra") == 5
    assert after.requests["fetch"] == world.count("/fetch/")
    assert (after.requests["call"], after.requests["download"]) == (1, 0)
    assert sum(after.requests.values()) == len(world.transport.requests)
    assert after.polls_per_job == after.requests["fetch"] / 5
    assert after.detection_latency is not None
    assert 1 <= after.detection_latency <= 60
    assert after.in_flight == after.slot_idle_time == 0


async def test_idle_slots_are_counted_while_a_job_waits(make_world: MakeWorld) -> None:
    """A refusal that holds four jobs back for 30 s leaves two slots idle for that time."""
    world = make_world(faults=[Rule(Fault.RATE_LIMIT, times=1)])
    async with world.client(max_in_flight=2) as client:
        jobs = [client.submit(a_request()) for _ in range(4)]
        await asyncio.gather(*jobs)
        assert client.statistics().slot_idle_time >= 30


async def test_polls_keep_to_the_rate_limit(make_world: MakeWorld) -> None:
    """A hundred attached jobs at one poll in 2 s: no two polls are closer, and each job's end is seen."""
    world = make_world(queue_limit=200, workers=200)
    async with world.client(max_in_flight=100) as elsewhere, world.client(max_polls_per_second=0.5) as client:
        ids = [await elsewhere.submit(a_request()).submitted() for _ in range(100)]
        started_at = asyncio.get_running_loop().time()
        jobs = [await client.attach(job_id) for job_id in ids]
        await asyncio.gather(*jobs)
        fetches = client.statistics().requests["fetch"]
        assert asyncio.get_running_loop().time() - started_at >= (fetches - 1) * 2
        assert fetches >= 100


async def test_wake_polls_at_once(make_world: MakeWorld) -> None:
    """`wake` ends a wait early with one fetch, and the service's answer decides."""
    world = make_world(eta={"ten times": 1})
    async with world.client() as client:
        job = client.submit(a_request())
        await job.submitted()
        before = world.count("fetch")
        job.wake()
        await asyncio.sleep(0.01)
        assert world.count("fetch") == before + 1
        assert job.state is S.PROCESSING
        await job


@pytest.mark.parametrize("wait", ["poll", "links", "auto"])
async def test_each_strategy_sees_success_and_failure(make_world: MakeWorld, wait: Any) -> None:
    """Each strategy finds a video and a failed job. "poll" never probes a link."""
    world = make_world(faults=[Rule(Fault.JOB_FAILS, times=1)])
    async with world.client(wait=wait) as client:
        failed, made = (client.submit(a_request()) for _ in range(2))
        await asyncio.gather(failed, made, return_exceptions=True)
        probes = client.statistics().requests["probe"]
    assert (failed.state, made.state) == (S.FAILED, S.READY)
    assert (probes > 0) == (wait != "poll")


async def test_an_attached_job_is_polled_at_once(make_world: MakeWorld) -> None:
    """An attached job may have ended long ago."""
    world = make_world()
    async with world.client() as client:
        video = await client.generate(a_request())
        started_at = asyncio.get_running_loop().time()
        assert (await (await client.attach(str(video.id)))).url == video.url
        assert asyncio.get_running_loop().time() - started_at < 1


@pytest.mark.parametrize("name", ["poll_cost", "max_polls_per_second"])
@pytest.mark.parametrize("value", [0, -1.0, True, "1", float("nan"), float("inf")], ids=str)
def test_bad_numbers_are_refused(name: str, value: Any) -> None:
    """One clear error names the argument."""
    with pytest.raises(InvalidRequestError) as caught:
        Client(api_key="any", **{name: value})
    assert [problem.field for problem in caught.value.problems] == [name]


async def test_polls_are_closer_while_jobs_wait_for_a_slot(make_world: MakeWorld) -> None:
    """An end that is seen late holds up all waiting jobs, so the same jobs are polled more often while others wait."""
    latencies = {}
    for waiting in (0, 40):
        world = make_world(queue_limit=5)
        async with world.client(max_in_flight=5) as client:
            jobs = [client.submit(a_request(seed=seed)) for seed in range(5 + waiting)]
            await asyncio.gather(*jobs[:5])
            latencies[waiting] = client.statistics().detection_latency
            for job in jobs[5:]:
                job.cancel()
    assert latencies[0]
    assert latencies[40]
    assert latencies[40] < 0.7 * latencies[0]


async def test_cancelled_jobs_do_not_hasten_polls(make_world: MakeWorld) -> None:
    """Jobs that were cancelled while they waited leave no trace: the polls are as if none had waited."""
    runs = []
    for waiting in (0, 40):
        world = make_world(queue_limit=5)
        await asyncio.sleep(-asyncio.get_running_loop().time() % 1.0)  # polls wait for ticks, so both runs start at one
        async with world.client(max_in_flight=5) as client:
            started_at = asyncio.get_running_loop().time()
            jobs = [client.submit(a_request(seed=seed)) for seed in range(5 + waiting)]
            assert all(job.cancel() for job in jobs[5:])
            await asyncio.gather(*jobs[:5])
            took = asyncio.get_running_loop().time() - started_at
            runs.append((client.statistics().requests, took))
    (requests_alone, took_alone), (requests, took) = runs
    assert requests == requests_alone
    assert took == pytest.approx(took_alone)


async def test_hastened_polls_keep_to_the_rate_limit(make_world: MakeWorld) -> None:
    """However many jobs wait, all polls together stay within the client's limit."""
    world = make_world(queue_limit=20)
    async with world.client(max_in_flight=20, max_polls_per_second=0.5) as client:
        for seed in range(200):
            client.submit(a_request(seed=seed))
        await asyncio.sleep(120)
        assert 0 < world.count("/fetch/") <= 0.5 * 120 + 1
        await client.aclose(drain=False)
