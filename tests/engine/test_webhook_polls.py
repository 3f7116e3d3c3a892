"""The polls that a webhook's deliveries lead to, on virtual time, with the emulator's deliveries."""

from __future__ import annotations

import asyncio

import pytest
from helpers.inside import engine_of, events_of
from helpers.webhooks import HOOKS, a_delivery, a_webhook, client_with_webhook, webhook_url_of
from helpers.world import MakeWorld, a_request

from modelslab_async import JobState
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState


async def test_a_delivery_wakes_its_job(make_world: MakeWorld) -> None:
    """The end is seen within 0.5 s of its delivery. A request's own webhook is sent unchanged."""
    world = make_world()
    async with client_with_webhook(world) as (client, _):
        job, own = client.submit(a_request()), client.submit(a_request(webhook="https://mine.invalid/x"))
        await job
        [emulated, other] = world.service.jobs.values()
        seen = next(event.elapsed for event in await events_of(job) if event.state is S.READY)
        assert emulated.done_at <= seen <= emulated.done_at + 0.5
        assert emulated.params["webhook"].startswith(HOOKS)
        assert other.params["webhook"] == "https://mine.invalid/x"
        await own


async def test_the_poll_is_sent_before_the_answer(make_world: MakeWorld) -> None:
    """A delivery is answered once the poll that it leads to is sent."""
    world, webhook = make_world(), a_webhook()
    async with world.client(webhook=webhook) as client:
        job = client.submit(a_request())
        await job.submitted()
        polls = world.count("/fetch/")
        assert await webhook.handle(webhook_url_of(job), a_delivery()) == (200, b"ok")
        assert world.count("/fetch/") == polls + 1


FAULTS = [Fault.WEBHOOK_TWICE, Fault.WEBHOOK_LATE, Fault.WEBHOOK_FORGED, Fault.WEBHOOK_MISSING]


@pytest.mark.parametrize("fault", FAULTS)
async def test_faulty_deliveries_do_no_harm(make_world: MakeWorld, fault: Fault) -> None:
    """If deliveries come twice, late, forged or never, every job ends READY, after at most 12 polls on average."""
    world = make_world(faults=[Rule(fault, rate=0.5)], queue_limit=5)
    async with client_with_webhook(world) as (client, _):
        jobs = [client.submit(a_request(seed=seed)) for seed in range(20)]
        await asyncio.gather(*jobs)
    assert {job.state for job in jobs} == {S.READY}
    assert world.count("/fetch/") <= 12 * len(jobs)


async def test_repeated_deliveries_cost_four_polls_in_three_seconds(make_world: MakeWorld) -> None:
    """A stranger who saw a URL can repeat its delivery, and the service is polled at most four times in 3 s for it."""
    world = make_world()
    async with client_with_webhook(world) as (client, webhook):
        job = client.submit(a_request())
        await job.submitted()
        started_at, polls = asyncio.get_running_loop().time(), world.count("/fetch/")
        for _ in range(1000):
            await webhook.handle(webhook_url_of(job), a_delivery(status="success"))
            await asyncio.sleep(0.01)
        passed = asyncio.get_running_loop().time() - started_at
        assert 5 <= world.count("/fetch/") - polls <= passed * 4 / 3 + 2
        await job


async def test_an_early_delivery_is_kept(make_world: MakeWorld) -> None:
    """A delivery that arrives before the reply to the submit leads to a poll right after that reply."""
    world = make_world()
    async with client_with_webhook(world) as (client, webhook):
        job = client.submit(a_request())
        await asyncio.sleep(0)
        assert job.state is S.SUBMITTING
        await webhook.handle(webhook_url_of(job), a_delivery())
        await job.submitted()
        await asyncio.sleep(0.5)
        assert world.count("/fetch/") == 1
        await job


async def test_the_poller_relies_on_deliveries_that_arrive(make_world: MakeWorld) -> None:
    """After some ends in a row were delivered, most jobs take one poll. If deliveries stop, the polls come back."""
    world = make_world()
    async with client_with_webhook(world, max_in_flight=1) as (client, _):
        for seed in range(5):
            await client.generate(a_request(seed=seed))
        before = world.count("/fetch/")
        for seed in range(5):
            await client.generate(a_request(seed=10 + seed))
        assert 5 <= world.count("/fetch/") - before <= 7
        world.transport.deliver = None
        lateness = []
        for seed in range(3):
            job = client.submit(a_request(seed=20 + seed))
            await job
            emulated = list(world.service.jobs.values())[-1]
            lateness.append(asyncio.get_running_loop().time() - emulated.done_at)
            await asyncio.sleep(15)
        assert lateness[0] <= 61
        assert max(lateness[1:]) <= 15


async def test_a_delivery_shows_how_long_a_job_took(make_world: MakeWorld) -> None:
    """What is learned from a delivered job is an interval of at most 3 s around its duration, after a single poll."""
    world = make_world()
    async with client_with_webhook(world, max_in_flight=1) as (client, _):
        for seed in range(8):
            await client.generate(a_request(seed=seed))
        [history] = engine_of(client).shared.estimator.histories.values()
    for observation, emulated in zip(
        list(history.observations)[4:], list(world.service.jobs.values())[4:], strict=True
    ):
        duration = emulated.done_at - emulated.accepted_at
        assert observation.after <= duration <= observation.by + 1e-6
        assert observation.by - observation.after <= 3


async def test_a_delivery_while_the_links_are_probed_proves_the_webhook(make_world: MakeWorld) -> None:
    """A poll saw each end before its delivery, and the file is late: the webhook counts as reliable all the same."""
    late = [Rule(Fault.WEBHOOK_LATE, seconds=9.0), Rule(Fault.LATE_LINK, seconds=30.0)]
    world = make_world(faults=late)
    async with client_with_webhook(world, poll_cost=0.1) as (client, _):
        for _ in range(3):
            await client.submit(a_request())
        assert engine_of(client).deliveries.webhook_health.poll_value.is_reliable
