"""Recovery while a webhook's deliveries take up the same jobs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.interfering_journals import InterruptedJournal
from helpers.left_behind import job_left_running, row_of
from helpers.webhooks import a_delivery, a_webhook, webhook_url_of
from helpers.world import MakeWorld, a_request

from modelslab_async import JobState
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState
LOST_REPLY = Rule(Fault.RESET_AFTER, times=1)


async def test_recover_returns_jobs_that_a_delivery_took_up(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job that a delivery took up is returned once. Jobs that this client submitted are not returned."""
    world, webhook = make_world(), a_webhook()
    earlier = await job_left_running(world, tmp_path / "jobs.db", webhook=webhook)
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        own = client.submit(a_request())
        await own.submitted()
        assert (await webhook.handle(webhook_url_of(earlier), b"{}"))[0] == 200
        await asyncio.sleep(1)
        (found,) = (await client.recover()).jobs
        assert (await client.recover()).jobs == (await client.recover([earlier.ref, own.ref])).jobs == ()
        assert (await found).id == earlier.id
    assert len(world.service.ledger.charges) == 2


@pytest.mark.parametrize("is_recovered_first", [False, True])
async def test_a_delivery_during_the_recovery_of_its_job_counts(
    make_world: MakeWorld, tmp_path: Path, is_recovered_first: bool
) -> None:
    """If the client died during the submit, the delivered id counts, whether `recover` or the delivery is first."""
    world, webhook = make_world(), a_webhook()
    earlier = await job_left_running(world, tmp_path / "jobs.db", webhook=webhook)
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        unanswered = (await row_of(client, earlier.ref))._replace(
            state=S.SUBMITTING, job_id=None, charged=None, accepted_at=None
        )
        assert client.journal is not None
        await client.journal.append(unanswered, take_over=unanswered.owner)
        delivery = webhook.handle(webhook_url_of(earlier), a_delivery(id=earlier.id))
        calls = [client.recover(), delivery]
        await asyncio.gather(*(calls if is_recovered_first else reversed(calls)))
        await asyncio.sleep(1)
        assert (await row_of(client, earlier.ref)).job_id == earlier.id
        assert (await client.attach(earlier.ref)).id == earlier.id
    assert len(world.service.ledger.charges) == 1


async def test_a_job_that_ends_during_its_recovery_is_returned(make_world: MakeWorld, tmp_path: Path) -> None:
    """A delivery takes the job up, and its video is there, before `recover` comes to its row."""
    world, webhook = make_world(), a_webhook()
    earlier = await job_left_running(world, tmp_path / "jobs.db", webhook=webhook)
    journal = InterruptedJournal(tmp_path / "jobs.db")
    async with world.client(journal=journal, webhook=webhook) as client:

        async def end() -> None:
            await webhook.handle(webhook_url_of(earlier), b"{}")
            await asyncio.sleep(120)

        journal.after_unfinished = end
        (found,) = (await client.recover()).jobs
        assert (found.ref, found.state, (await found).id) == (earlier.ref, S.READY, earlier.id)


async def test_recover_does_not_return_an_attached_job(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job that a delivery took up and `attach` returned is not returned again."""
    world, webhook = make_world(), a_webhook()
    earlier = await job_left_running(world, tmp_path / "jobs.db", webhook=webhook)
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        await webhook.handle(webhook_url_of(earlier), b"{}")
        await asyncio.sleep(1)
        assert (await client.attach(earlier.ref)).id == earlier.id
        assert (await client.recover()).jobs == ()


async def test_a_delivery_without_an_id_takes_no_uncertain_job_up(make_world: MakeWorld, tmp_path: Path) -> None:
    """Once the job is resolved as lost and its ref is sent anew, `recover` does not return the new job."""
    world, webhook = make_world(faults=[LOST_REPLY]), a_webhook()
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        earlier = client.submit(a_request(track_id="mine"))
        await asyncio.sleep(5)
        await client.aclose(drain=False)
    assert earlier.request is not None
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        await webhook.handle(webhook_url_of(earlier), b"{}")
        await asyncio.sleep(1)
        await client.resolve("mine", lost=True)
        await client.submit(a_request(track_id="mine")).submitted()
        assert (await client.recover()).jobs == ()
