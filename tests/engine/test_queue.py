"""Many jobs, few places, and others on the same account."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from helpers.inside import engine_of, events_of
from helpers.world import World, a_request

from modelslab_async import Client, Job, JobState
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]


@pytest.mark.parametrize("limit", [5, 10, 15])
async def test_two_clients_share_an_account(world: MakeWorld, limit: int) -> None:
    """200 jobs of two clients that know nothing of each other: the account's limit holds, none is lost or paid twice,
    and each client's jobs are taken in the order in which they were submitted.
    """
    here = world(queue_limit=limit)
    async with here.client(max_in_flight=limit) as one, here.client(max_in_flight=limit) as two:
        owners: list[Client] = [one, two]
        jobs = [owners[number % 2].submit(a_request(track_id=str(number))) for number in range(200)]
        await asyncio.gather(*jobs)
    assert {job.state for job in jobs} == {JobState.READY}
    assert here.service.queue.peak_slots_used == limit
    taken = [int(track_id or -1) for track_id in here.service.ledger.track_ids()]
    assert sorted(taken) == list(range(200))
    for parity in (0, 1):
        own = [number for number in taken if number % 2 == parity]
        assert own == sorted(own)


async def test_more_asked_than_the_account_allows(world: MakeWorld) -> None:
    """A client that believes in 15 places finds the 5 there are, and soon stops asking for more."""
    here = world(queue_limit=5)
    async with here.client(max_in_flight=15) as client:
        await asyncio.gather(*[client.submit(a_request()) for _ in range(40)])
    assert (here.service.queue.peak_slots_used, len(here.service.ledger.charges)) == (5, 40)
    assert here.count("img2video_ultra") - 40 <= 15


@pytest.mark.parametrize("places", [1, 5])
async def test_a_storm_of_429_delays_and_loses_nothing(world: MakeWorld, places: int) -> None:
    """Refusals for want of a place are waited out at the head of the queue: every job is taken in the end, once, and
    with one place in the order in which they were submitted.
    """
    here = world(faults=[Rule(Fault.RATE_LIMIT, rate=0.5)], seed=3)
    async with here.client(max_in_flight=places) as client:
        jobs = [client.submit(a_request()) for _ in range(20)]
        await asyncio.gather(*jobs)
    refs, taken = [job.ref for job in jobs], here.service.ledger.track_ids()
    assert taken == refs if places == 1 else sorted(map(str, taken)) == sorted(refs)
    assert here.count("img2video_ultra") > 25


async def test_the_service_decides_how_long_to_wait(world: MakeWorld) -> None:
    """After a 429 on an idle account the job goes again when the service said, and shows that it went back to wait."""
    here = world(faults=[Rule(Fault.RATE_LIMIT, times=1)])
    async with here.client() as client:
        job = client.submit(a_request())
        events = [event async for event in job.events()]
    assert [event.state for event in events[:4]] == [JobState.WAITING, JobState.SUBMITTING] * 2
    assert events[-1].state is JobState.READY
    assert events[3].elapsed == pytest.approx(30.0, abs=0.5)


async def test_a_place_that_frees_up_is_used_before_the_wait_is_over(world: MakeWorld) -> None:
    """When one of ours ends, the refused job goes at once: it does not sit out the service's thirty seconds."""
    here = world(queue_limit=1)
    async with here.client(max_in_flight=2) as client:
        first = client.submit(a_request(num_frames=25))
        second = client.submit(a_request())
        changes = [change async for change in second.events()]
        ended = next(change.elapsed for change in await events_of(first) if change.state is JobState.READY)
    resubmitted = {change.state: change.elapsed for change in changes}[JobState.SUBMITTING]
    assert ended <= resubmitted <= ended + 0.1 < 30.0


async def test_waiting_jobs_cost_no_task(world: MakeWorld) -> None:
    """Ten thousand jobs wait, and there are as many tasks as places."""
    client = world().client()
    before = len(asyncio.all_tasks())
    jobs = [client.submit(a_request()) for _ in range(10_000)]
    assert len(asyncio.all_tasks()) - before <= 5
    await client.aclose(drain=False)
    assert sum(job.cancelled() for job in jobs) == 9_995


async def test_an_uncertain_job_holds_its_place_for_a_while(world: MakeWorld) -> None:
    """A job whose reply was lost may fill a place: the next one waits for longer than such jobs take, about 40 s."""
    here = world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with here.client(max_in_flight=1) as client:
        lost, following = client.submit(a_request()), client.submit(a_request())
        await following
        times = {change.state: change.elapsed for change in await events_of(following)}
    assert lost.state is JobState.UNCERTAIN
    assert 60.0 < times[JobState.SUBMITTING] <= 120.0


async def test_success_at_once_lets_the_cap_climb(world: MakeWorld) -> None:
    """After a refusal, jobs that are answered with success at once are quiet successes like any other."""
    here = world(faults=[Rule(Fault.RATE_LIMIT, times=5)])
    async with here.client() as client:
        jobs = [client.submit(a_request(num_frames=9, fps=8)) for _ in range(12)]
        await asyncio.gather(*jobs)
        assert engine_of(client).dispatcher.slots.cap == 5
    at_once = [job for job in jobs if JobState.PROCESSING not in {change.state for change in await events_of(job)}]
    assert len(at_once) > 6


async def test_first_come_first_served(world: MakeWorld) -> None:
    """Jobs start in the order of submission, whatever becomes of those before them."""
    started: list[str] = []
    async with world().client(max_in_flight=2) as client:
        jobs: list[Job] = []
        for number in range(12):
            job = client.submit(a_request(track_id=str(number), prompt="x", num_frames=17 + 9 * (number % 3)))
            jobs.append(job)
        jobs[4].cancel()
        await asyncio.wait([asyncio.create_task(_note(job, started)) for job in jobs])
    assert started == [str(number) for number in range(12) if number != 4]


async def _note(job: Job, started: list[str]) -> None:
    async for change in job.events():
        if change.state is JobState.SUBMITTING:
            started.append(job.ref)
