"""Many jobs, few slots, and other clients on the same account."""

from __future__ import annotations

import asyncio

import pytest
from helpers.inside import engine_of, events_of
from helpers.world import MakeWorld, a_request

from modelslab_async import Client, Job, JobState
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize("limit", [5, 10, 15])
async def test_two_clients_share_an_accounts_limit(make_world: MakeWorld, limit: int) -> None:
    """Two clients that know nothing of each other keep to the account's limit: no job of 200 is lost or paid twice.

    The jobs of each client are accepted in the order in which they were submitted.
    """
    world = make_world(queue_limit=limit)
    async with world.client(max_in_flight=limit) as one, world.client(max_in_flight=limit) as two:
        owners: list[Client] = [one, two]
        jobs = [owners[number % 2].submit(a_request(track_id=str(number))) for number in range(200)]
        await asyncio.gather(*jobs)
    assert {job.state for job in jobs} == {JobState.READY}
    assert world.service.queue.peak_slots_used == limit
    accepted = [int(track_id or -1) for track_id in world.service.ledger.track_ids()]
    assert sorted(accepted) == list(range(200))
    for parity in (0, 1):
        own = [number for number in accepted if number % 2 == parity]
        assert own == sorted(own)


async def test_a_client_finds_a_lower_limit(make_world: MakeWorld) -> None:
    """A client made for 15 slots finds that the account has 5, and soon stops asking for more."""
    world = make_world(queue_limit=5)
    async with world.client(max_in_flight=15) as client:
        await asyncio.gather(*[client.submit(a_request()) for _ in range(40)])
    assert (world.service.queue.peak_slots_used, len(world.service.ledger.charges)) == (5, 40)
    assert world.count("img2video_ultra") - 40 <= 15


@pytest.mark.parametrize("slots", [1, 5])
async def test_a_storm_of_429_only_delays_jobs(make_world: MakeWorld, slots: int) -> None:
    """A job without a slot keeps its position and goes again: every job is accepted in the end, once.

    With one slot the jobs are accepted in the order in which they were submitted.
    """
    world = make_world(faults=[Rule(Fault.RATE_LIMIT, rate=0.5)], seed=3)
    async with world.client(max_in_flight=slots) as client:
        jobs = [client.submit(a_request()) for _ in range(20)]
        await asyncio.gather(*jobs)
    refs, accepted = [job.ref for job in jobs], world.service.ledger.track_ids()
    assert accepted == refs if slots == 1 else sorted(map(str, accepted)) == sorted(refs)
    assert world.count("img2video_ultra") > 25


async def test_a_job_is_sent_again_when_the_service_says(make_world: MakeWorld) -> None:
    """After a 429 on an idle account the job is WAITING again, and is sent after the wait that the service named."""
    world = make_world(faults=[Rule(Fault.RATE_LIMIT, times=1)])
    async with world.client() as client:
        job = client.submit(a_request())
        events = [event async for event in job.events()]
    assert [event.state for event in events[:4]] == [JobState.WAITING, JobState.SUBMITTING] * 2
    assert events[-1].state is JobState.READY
    assert events[3].elapsed == pytest.approx(30.0, abs=0.5)


async def test_a_slot_that_is_freed_is_used_at_once(make_world: MakeWorld) -> None:
    """When one of the client's jobs ends, the refused job is sent at once, and does not wait for the service's 30 s."""
    world = make_world(queue_limit=1)
    async with world.client(max_in_flight=2) as client:
        first = client.submit(a_request(num_frames=25))
        second = client.submit(a_request())
        events = [event async for event in second.events()]
        ended = next(event.elapsed for event in await events_of(first) if event.state is JobState.READY)
    resubmitted = {event.state: event.elapsed for event in events}[JobState.SUBMITTING]
    assert ended <= resubmitted <= ended + 0.1 < 30.0


async def test_waiting_jobs_cost_no_task(make_world: MakeWorld) -> None:
    """While ten thousand jobs wait, there are only as many tasks as slots."""
    client = make_world().client()
    before = len(asyncio.all_tasks())
    jobs = [client.submit(a_request()) for _ in range(10_000)]
    assert len(asyncio.all_tasks()) - before <= 5
    await client.aclose(drain=False)
    assert sum(job.cancelled() for job in jobs) == 9_995


async def test_an_uncertain_job_holds_its_slot_for_a_while(make_world: MakeWorld) -> None:
    """The service may still run a job whose reply was lost: the next one waits for longer than its expected 40 s."""
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with world.client(max_in_flight=1) as client:
        lost, following = client.submit(a_request()), client.submit(a_request())
        await following
        times = {event.state: event.elapsed for event in await events_of(following)}
    assert lost.state is JobState.UNCERTAIN
    assert 60.0 < times[JobState.SUBMITTING] <= 120.0


async def test_success_at_once_raises_the_cap(make_world: MakeWorld) -> None:
    """After refusals, jobs that are answered with success at once raise the cap like any other success."""
    world = make_world(faults=[Rule(Fault.RATE_LIMIT, times=5)])
    async with world.client() as client:
        jobs = [client.submit(a_request(num_frames=9, fps=8)) for _ in range(12)]
        await asyncio.gather(*jobs)
        assert engine_of(client).dispatcher.slots.cap == 5
    at_once = [job for job in jobs if JobState.PROCESSING not in {event.state for event in await events_of(job)}]
    assert len(at_once) > 6


async def test_first_come_first_served(make_world: MakeWorld) -> None:
    """Jobs start in the order of submission, also after a cancellation."""
    started: list[str] = []
    async with make_world().client(max_in_flight=2) as client:
        jobs: list[Job] = []
        for number in range(12):
            job = client.submit(a_request(track_id=str(number), prompt="x", num_frames=17 + 9 * (number % 3)))
            jobs.append(job)
        jobs[4].cancel()
        await asyncio.wait([asyncio.create_task(_record_start(job, started)) for job in jobs])
    assert started == [str(number) for number in range(12) if number != 4]


async def _record_start(job: Job, started: list[str]) -> None:
    async for event in job.events():
        if event.state is JobState.SUBMITTING:
            started.append(job.ref)
