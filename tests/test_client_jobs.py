"""A `Job` of a client: a future, its events, its cancellation, and its timeout, on virtual time."""

from __future__ import annotations

import asyncio
import gc

import pytest
from helpers.inside import states_of
from helpers.world import KEY, MakeWorld, a_request

from modelslab_async import AuthenticationError, Job, JobState, JobTimeoutError, ModelsLabError, Timeouts
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState


async def test_events_are_replayed_in_order_to_each_reader(make_world: MakeWorld) -> None:
    """`events` yields the events so far and then each new one, polls included, to any number of readers."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        early = asyncio.create_task(states_of(job))
        await job
        late = [event async for event in job.events()]
    assert await early == [event.state for event in late]
    assert list(dict.fromkeys(await early)) == [S.WAITING, S.SUBMITTING, S.PROCESSING, S.READY]
    assert [event.elapsed for event in late] == sorted(event.elapsed for event in late)


async def test_a_job_behaves_as_a_future(make_world: MakeWorld) -> None:
    """done, result, exception, callbacks and wait mean what they mean for asyncio's futures."""
    called: list[Job] = []
    async with make_world().client() as client:
        job = client.submit(a_request())
        job.add_done_callback(called.append)
        with pytest.raises(asyncio.InvalidStateError):
            job.result()
        assert not await job.wait(timeout=1.0)
        assert await job.wait()
        assert (job.result(), job.exception(), job.cancelled()) == (await job, None, False)
        await asyncio.sleep(0)
    assert called == [job]


async def test_submitted_returns_the_id_at_the_acceptance(make_world: MakeWorld) -> None:
    """If the job ends without an acceptance, `submitted` raises the job's error."""
    world = make_world(keys=[KEY])
    async with world.client() as client, world.client(api_key="the-key-of-another-account") as stranger:
        job = client.submit(a_request())
        assert await job.submitted() == job.id
        assert job.state is S.PROCESSING
        with pytest.raises(AuthenticationError):
            await stranger.submit(a_request()).submitted()


async def test_cancelling_a_task_that_awaits_a_job_does_not_cancel_the_job(make_world: MakeWorld) -> None:
    """The job goes on, because it is paid for."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        awaiter = asyncio.ensure_future(client.as_completed([job]).__anext__())
        waiter = asyncio.create_task(_await(job))
        await job.submitted()
        waiter.cancel()
        awaiter.cancel()
        await asyncio.wait([waiter, awaiter])
        assert waiter.cancelled()
        assert (await job).ref == job.ref


async def _await(job: Job) -> None:
    await job


async def test_a_wait_that_times_out_leaves_nothing_behind(make_world: MakeWorld) -> None:
    """However often a wait for a job times out, nothing of it stays in memory, and other waiters get the video."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        patient = asyncio.ensure_future(job)
        await asyncio.sleep(0)
        futures, referrers = futures_alive(), len(gc.get_referrers(job))
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(job, 0.1)
        assert futures_alive() < futures + 10  # the client's own may come and go
        assert len(gc.get_referrers(job)) < referrers + 10
        assert (await patient).ref == job.ref


def futures_alive() -> int:
    """Return how many futures are in memory."""
    gc.collect()
    return sum(type(each) is asyncio.Future for each in gc.get_objects())


async def test_gather_takes_jobs(make_world: MakeWorld) -> None:
    """`asyncio.gather` takes jobs like any other awaitable."""
    async with make_world().client() as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(7)]
        videos = await asyncio.gather(*jobs)
    assert [video.seed for video in videos] == list(range(7))


async def test_a_waiting_job_can_be_cancelled(make_world: MakeWorld) -> None:
    """`cancel` returns True while the job waits for its slot, and nothing is sent or charged."""
    world = make_world()
    async with world.client(max_in_flight=1) as client:
        first, second = client.submit(a_request()), client.submit(a_request())
        await first.submitted()
        assert second.cancel()
        assert (second.state, second.cancelled(), second.done()) == (S.CANCELLED, True, True)
        assert await states_of(second) == [S.WAITING, S.CANCELLED]
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
    assert world.service.ledger.track_ids() == [first.ref]


async def test_a_job_that_was_sent_cannot_be_cancelled(make_world: MakeWorld) -> None:
    """The service cannot cancel: `cancel` returns False, and the job goes on."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        assert not job.cancel()
        await job.submitted()
        assert not job.cancel()
        await job
        assert not job.cancel()


async def test_a_job_that_timed_out_can_be_attached_to(make_world: MakeWorld) -> None:
    """`Timeouts.job` ends the wait with an error that says the job is charged. `attach` collects its video."""
    world = make_world()
    async with world.client(timeouts=Timeouts(job=5.0)) as client:
        job = client.submit(a_request())
        with pytest.raises(JobTimeoutError) as caught:
            await job
    assert isinstance(caught.value, TimeoutError)
    assert (job.state, caught.value.charged, caught.value.job_id) == (S.TIMED_OUT, True, job.id)
    async with world.client() as client:
        assert (await client.attach(str(job.id))).id == job.id


async def test_an_attached_job_has_no_price(make_world: MakeWorld) -> None:
    """The client does not know whether and for how much a job that was submitted elsewhere was charged."""
    world = make_world(faults=[Rule(Fault.JOB_FAILS)])
    async with world.client() as payer, world.client() as other:
        own = payer.submit(a_request())
        attached = await other.attach(await own.submitted())
        errors = [await _error_of(job) for job in (own, attached)]
    assert [error.price for error in errors] == [payer.prices.usd, None]


async def _error_of(job: Job) -> ModelsLabError:
    await job.wait()
    error = job.exception()
    assert isinstance(error, ModelsLabError)
    return error
