"""Deliveries that arrive while the client closes: each that was answered with 200 counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.interfering_journals import InterruptedJournal
from helpers.left_behind import row_of, uncertain_job
from helpers.webhooks import a_delivery, a_webhook, client_with_webhook, webhook_url_of
from helpers.world import MakeWorld, a_request

from modelslab_async import JobDetachedError, JobState
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState


async def test_a_delivery_counts_if_the_client_closes_before_the_reply_is_lost(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    """The close waits for the reply to the submit, and a delivery until then makes the id known."""
    world = make_world(faults=[Rule(Fault.STALL, times=1)])
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        await asyncio.sleep(60.0)
        assert job.state is S.SUBMITTING
        await client.aclose(drain=False)
    error = job.exception()
    assert isinstance(error, JobDetachedError)
    assert (error.job_id, error.charged) == (world.charged_id(), True)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        record = await row_of(client, job.ref)
    assert (record.state, record.job_id, record.charged) == (S.PROCESSING, world.charged_id(), True)


async def test_a_delivery_during_the_close_counts(make_world: MakeWorld, tmp_path: Path) -> None:
    """The close waits for the reply to the submit, and takes deliveries until then."""
    world = make_world(faults=[Rule(Fault.STALL, times=1)])
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        await asyncio.sleep(1.0)
        await client.aclose(drain=False)
    error = job.exception()
    assert isinstance(error, JobDetachedError)
    assert (error.job_id, error.charged) == (world.charged_id(), True)


@pytest.mark.parametrize("wait", [0, 1], ids=["in the same turn", "while another submit is under way"])
async def test_a_delivery_for_an_uncertain_job_during_the_close_counts(
    make_world: MakeWorld, tmp_path: Path, wait: float
) -> None:
    """The delivery is answered with 200, so its id is in the journal."""
    world, webhook = make_world(faults=[Rule(Fault.RESET_AFTER, times=1), Rule(Fault.STALL, times=1)]), a_webhook()
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        job = client.submit(a_request())
        await asyncio.sleep(10)
        assert job.state is S.UNCERTAIN
        if wait:
            client.submit(a_request())
            await asyncio.sleep(1)
        closing = asyncio.create_task(client.aclose(drain=False))
        await asyncio.sleep(wait)
        body = a_delivery(id=world.charged_id())
        assert await webhook.handle(webhook_url_of(job), body) == (200, b"ok")
        await closing
    assert isinstance(job.exception(), JobDetachedError)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        record = await row_of(client, job.ref)
    assert (record.state, record.job_id) == (S.PROCESSING, world.charged_id())


async def test_a_delivery_counts_if_the_reply_is_lost_during_the_close(make_world: MakeWorld, tmp_path: Path) -> None:
    """While the close waits for another submit, an uncertain job stays open for its delivery."""
    world, webhook = make_world(faults=[Rule(Fault.STALL, times=2)]), a_webhook()
    world.transport.deliver = None
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        job = client.submit(a_request())
        await asyncio.sleep(60)
        client.submit(a_request())
        await asyncio.sleep(40)
        closing = asyncio.create_task(client.aclose(drain=False))
        await asyncio.sleep(70)
        assert (job.state, job.done(), closing.done()) == (S.UNCERTAIN, False, False)
        assert await webhook.handle(webhook_url_of(job), a_delivery(id=world.charged_id())) == (200, b"ok")
        await closing
    assert (job.id, type(job.exception())) == (world.charged_id(), JobDetachedError)


async def test_a_notification_taken_from_the_journal_during_the_close_counts(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    """The close waits for the task that removed the notification from the file and has not yet delivered it."""
    world, mine, other = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), a_webhook(), a_webhook()
    journal = InterruptedJournal(tmp_path / "jobs.db")
    async with (
        world.client(journal=tmp_path / "jobs.db", webhook=other),
        world.client(journal=journal, webhook=mine) as owner,
    ):
        job = owner.submit(a_request())
        async for event in job.events():
            if event.state is S.UNCERTAIN:
                break
        assert await other.handle(webhook_url_of(job), a_delivery(id=world.charged_id())) == (200, b"ok")
        await journal.notifications_taken.wait()
        assert job.state is S.UNCERTAIN
        await owner.aclose(drain=False)
    assert (job.id, type(job.exception())) == (world.charged_id(), JobDetachedError)


async def test_closing_right_after_a_delivery_keeps_its_id(make_world: MakeWorld, tmp_path: Path) -> None:
    """The delivered id is in the journal, and the close does not overwrite it with UNCERTAIN."""
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, webhook):
        job = await uncertain_job(world, client)
        await webhook.handle(webhook_url_of(job), a_delivery(id=world.charged_id()))
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        record = await row_of(client, job.ref)
    assert (record.job_id, record.charged) == (world.charged_id(), True)


@pytest.mark.parametrize("twice", [False, True])
async def test_a_cancelled_close_pays_for_nothing_more(make_world: MakeWorld, tmp_path: Path, twice: bool) -> None:
    """At whatever instant the close is cancelled, every job gets an end, and none is submitted afterwards."""
    for turns in range(12):
        world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
        async with client_with_webhook(world, journal=tmp_path / f"{turns}.db", max_in_flight=2) as (client, _):
            world.transport.deliver = None
            jobs = [client.submit(a_request()) for _ in range(4)]
            await asyncio.sleep(5.0)
            closing = asyncio.create_task(client.aclose(drain=False))
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(1 + twice):
                closing.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([closing])
            charges = len(world.service.ledger.charges)
            await client.aclose(drain=False)
            await asyncio.sleep(600.0)
        assert all(job.done() for job in jobs)
        assert len(world.service.ledger.charges) == charges
