"""Deliveries for jobs whose submit's reply was lost: they show that the service accepted the job."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from pathlib import Path

import pytest
from helpers.inside import states_of
from helpers.left_behind import row_of, uncertain_job
from helpers.webhooks import a_delivery, a_webhook, client_with_webhook, webhook_url_of
from helpers.world import PNG, MakeWorld, a_request

from modelslab_async import JobState, SubmitUncertainError, Timeouts
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState


async def test_a_delivery_shows_that_an_uncertain_job_was_accepted(make_world: MakeWorld, tmp_path: Path) -> None:
    """The job goes on to its video under the delivered id, and is paid for once."""
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        states = await states_of(job)
        video = await job
        record = await row_of(client, job.ref)
    assert states[:4] == [S.WAITING, S.SUBMITTING, S.UNCERTAIN, S.PROCESSING]
    assert states[-1] is S.READY
    assert video.id == world.charged_id()
    assert (record.state, record.charged, record.error, record.job_id) == (S.READY, True, None, video.id)
    assert len(world.service.ledger.charges) == 1


async def test_an_uncertain_job_without_a_delivery_ends_as_uncertain(make_world: MakeWorld) -> None:
    """The job ends after ten minutes, or when the client closes, and is never sent again."""
    world = make_world(faults=[Rule(Fault.RESET_BEFORE, times=2)])
    async with client_with_webhook(world) as (client, _):
        first = client.submit(a_request())
        with pytest.raises(SubmitUncertainError):
            await first
        assert asyncio.get_running_loop().time() >= 600
        second = client.submit(a_request())
        await asyncio.sleep(1)
        assert (second.state, second.done()) == (S.UNCERTAIN, False)
        await client.aclose(drain=False)
        assert isinstance(second.exception(), SubmitUncertainError)
    assert world.service.ledger.charges == []
    assert world.count("img2video_ultra") == 2


async def test_a_delivery_before_the_reply_is_lost_counts(make_world: MakeWorld, tmp_path: Path) -> None:
    """A delivery may arrive while the reply to the submit is still awaited."""
    world = make_world(faults=[Rule(Fault.STALL, times=1)])
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        assert (await job).id == world.charged_id()
    assert len(world.service.ledger.charges) == 1


@pytest.mark.parametrize("after", [0.1, 30.0], ids=["before the reply is lost", "after it"])
async def test_a_late_delivery_for_an_earlier_job_with_the_same_ref_is_ignored(
    make_world: MakeWorld, after: float
) -> None:
    """A later job whose reply is lost does not take the earlier job's id for its own."""
    world = make_world(faults=[Rule(Fault.SLOW, rate=1, times=1, seconds=0), Rule(Fault.STALL, times=1)])
    webhook = a_webhook()
    async with world.client(webhook=webhook, timeouts=Timeouts(submit=10)) as client:
        first = await client.generate(a_request(track_id="mine"))
        job = client.submit(a_request(track_id="mine", seed=2))
        await asyncio.sleep(after)
        for job_id in (first.id, world.charged_id(1), first.id):
            assert await webhook.handle(webhook_url_of(job), a_delivery(id=job_id)) == (200, b"ok")
        assert (await job).id != first.id
    assert len(world.service.ledger.charges) == 2


async def test_a_delivery_reaches_only_its_own_account(make_world: MakeWorld) -> None:
    """Two accounts use the same ref, and one reply is lost: each job ends under its own id, with its own video."""
    world = make_world()
    async with client_with_webhook(world) as (client, _):
        other = await client.account("the-key-of-another-account")
        first = client.submit(a_request(track_id="order-1"))
        await first.submitted()
        await asyncio.sleep(20.0)
        world.service.set_faults([Rule(Fault.RESET_AFTER, times=1)])
        second = other.submit(a_request(track_id="order-1"))
        states = await states_of(second)
        videos = await asyncio.gather(first, second)
    assert S.UNCERTAIN in states
    ids = [str(charge.job_id) for charge in world.service.ledger.charges]
    assert [video.id for video in videos] == ids


async def test_resolving_a_job_ends_its_wait_for_a_delivery(make_world: MakeWorld, tmp_path: Path) -> None:
    """The job goes on under its id and holds one slot, and its row keeps the id."""
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, _):
        job = await uncertain_job(world, client)
        found = await client.resolve(job.ref, id=world.charged_id())
        assert found is not None
        assert client.statistics().in_flight == 1
        await found
        await asyncio.sleep(700.0)
        assert isinstance(job.exception(), SubmitUncertainError)
        record = await row_of(client, job.ref)
    assert (record.state, record.job_id) == (S.READY, world.charged_id())


async def test_resolving_a_job_as_lost_frees_it(
    make_world: MakeWorld, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once the user said that an uncertain job was lost, no timer and nothing else keeps it in memory."""
    caplog.set_level(logging.CRITICAL, "modelslab_async")  # pytest keeps log records, and with them their jobs
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, _):
        job = await uncertain_job(world, client, init_image=PNG + bytes(20_000))  # too large to be kept for `attach`
        await client.resolve(job.ref, lost=True)
        assert isinstance(job.exception(), SubmitUncertainError)
        await asyncio.get_running_loop().shutdown_default_executor()  # its thread may still hold what it encoded
        reference = weakref.ref(job)
        del job
        gc.collect()
        assert reference() is None


async def test_a_delivery_that_names_another_jobs_id_decides_nothing(make_world: MakeWorld) -> None:
    """No two jobs get one video: the id of a running job does not make an uncertain job accepted."""
    world = make_world(faults=[Rule(Fault.RESET_BEFORE, times=1)])
    webhook = a_webhook()
    async with world.client(webhook=webhook, max_in_flight=2) as client:
        uncertain, running = client.submit(a_request()), client.submit(a_request())
        running_id = await running.submitted()
        assert uncertain.state is S.UNCERTAIN
        await webhook.handle(webhook_url_of(uncertain), a_delivery(id=running_id))
        await asyncio.sleep(1)
        assert (uncertain.state, uncertain.id) == (S.UNCERTAIN, None)
        await running
        await client.aclose(drain=False)
