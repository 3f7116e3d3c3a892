"""Recovery, a delivery, the user's decision and another client at the same job at the same time, on virtual time.

In each test one of them acts between what another reads and what it writes.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.interfering_journals import InterruptedJournal
from helpers.left_behind import job_left_running, row_of
from helpers.webhooks import a_delivery, a_webhook, webhook_url_of
from helpers.world import MakeWorld, World, a_request

from modelslab_async import InvalidRequestError, Job, JobState
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.webhook import Webhook

pytestmark = pytest.mark.looptime
S = JobState


async def deliver(webhook: Webhook, job: Job, job_id: str | None) -> None:
    """Deliver to the job's webhook, and give the client half a second to handle the delivery."""
    await webhook.handle(webhook_url_of(job), a_delivery(id=job_id))
    await asyncio.sleep(0.5)


async def job_left_as(state: JobState, world: World, path: Path) -> Job:
    """Return a job that the service accepted from a client that died, and whose row has *state*."""
    job = await job_left_running(world, path, webhook=a_webhook())
    journal = SqliteJournal(path)
    await journal.open()
    assert job.record is not None
    row = await journal.find(job.record.account, ref=job.ref)
    assert row is not None
    record = row.record
    if state in (S.SUBMITTING, S.UNCERTAIN):
        record = record._replace(job_id=None, charged=None, accepted_at=None, links=(), submitted_at=0.0)
    await journal.append(record._replace(state=state), take_over=record.owner)
    await journal.close()
    return job


async def test_a_job_that_a_delivery_takes_up_cannot_be_resolved_as_lost(make_world: MakeWorld, tmp_path: Path) -> None:
    """If a delivery takes it up during `resolve`, its id stays, and its ref cannot be paid for again."""
    world, webhook, journal = make_world(), a_webhook(), InterruptedJournal(tmp_path / "jobs.db")
    job = await job_left_as(S.UNCERTAIN, world, tmp_path / "jobs.db")
    async with world.client(journal=journal, webhook=webhook) as client:
        journal.after_find = lambda: deliver(webhook, job, job.id)
        with pytest.raises(InvalidRequestError, match="just reported by a delivery"):
            await client.resolve(job.ref, lost=True)
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        assert ((await row_of(client, job.ref)).job_id, (await row_of(client, job.ref)).charged) == (job.id, True)
        assert (await client.submit(a_request(track_id=job.ref, seed=0))).id == job.id
    assert len(world.service.ledger.charges) == 1


async def test_a_job_that_its_owner_takes_up_cannot_be_resolved_as_lost(make_world: MakeWorld, tmp_path: Path) -> None:
    """The owner is another living client, which gets the delivery during `resolve`."""
    world, webhook = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), a_webhook()
    journal = InterruptedJournal(tmp_path / "jobs.db")
    async with (
        world.client(journal=tmp_path / "jobs.db", webhook=webhook) as owner,
        world.client(journal=journal) as other,
    ):
        world.transport.deliver = None
        job = owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(60)
        assert job.state is S.UNCERTAIN
        journal.after_find = lambda: deliver(webhook, job, world.charged_id())
        with pytest.raises(InvalidRequestError, match="just reported by a delivery"):
            await other.resolve("mine", lost=True)
        assert (await row_of(other, "mine")).job_id == world.charged_id()
    assert len(world.service.ledger.charges) == 1


async def test_attach_does_not_overwrite_an_ended_row(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job of another client that ended and was saved since this client opened stays as it is."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as owner:
        job = owner.submit(a_request())
        await job.submitted()
        async with world.client(journal=tmp_path / "jobs.db") as other:
            await job.save(tmp_path / "a.mp4")
            await owner.aclose()
            before = await row_of(other, job.ref)
            await other.attach(job.ref)
            assert await row_of(other, job.ref) == before
    assert before.saved_path == str(tmp_path / "a.mp4")


@pytest.mark.parametrize("state", [S.SUBMITTING, S.UNCERTAIN])
async def test_recover_returns_a_job_that_a_delivery_takes_up_meanwhile(
    make_world: MakeWorld, tmp_path: Path, state: JobState
) -> None:
    """A job that a delivery takes up while `recover` reads the rows is returned as a job, and not as uncertain."""
    world, webhook, journal = make_world(), a_webhook(), InterruptedJournal(tmp_path / "jobs.db")
    job = await job_left_as(state, world, tmp_path / "jobs.db")
    async with world.client(journal=journal, webhook=webhook) as client:
        journal.after_unfinished = lambda: deliver(webhook, job, job.id)
        found = await client.recover()
        assert ([each.ref for each in found.jobs], found.uncertain) == ([job.ref], ())


async def test_concurrent_recoveries_both_list_uncertain_jobs(make_world: MakeWorld, tmp_path: Path) -> None:
    """An uncertain row is no job that only one caller may have."""
    world = make_world()
    job = await job_left_as(S.SUBMITTING, world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        for found in await asyncio.gather(client.recover(), client.recover()):
            assert [record.ref for record in found.uncertain] == [job.ref]


async def test_recover_does_not_overwrite_a_found_video(make_world: MakeWorld, tmp_path: Path) -> None:
    """If another recovery finds the video meanwhile, the row keeps it, and one caller gets the job."""
    world, journal = make_world(), InterruptedJournal(tmp_path / "jobs.db")
    await job_left_as(S.READY, world, tmp_path / "jobs.db")
    async with world.client(journal=journal) as client:
        found: list[Job] = []

        async def find_elsewhere() -> None:
            found.extend((await client.recover()).jobs)
            await found[0]

        journal.after_unfinished = find_elsewhere
        found.extend((await client.recover()).jobs)
        record = await row_of(client, found[0].ref)
        assert (record.state, record.video is not None, len(found)) == (S.READY, True, 1)


async def test_recover_and_attach_share_a_job_that_both_take_up(make_world: MakeWorld, tmp_path: Path) -> None:
    """The row is taken over once, and both callers get the same job."""
    world, journal = make_world(), InterruptedJournal(tmp_path / "jobs.db")
    job = await job_left_as(S.PROCESSING, world, tmp_path / "jobs.db")
    async with world.client(journal=journal) as client:
        attaching = list[asyncio.Task[Job]]()

        async def attach() -> None:
            attaching.append(asyncio.create_task(client.attach(job.ref)))

        journal.after_unfinished = attach
        (found,) = (await client.recover()).jobs
        assert await attaching[0] is found
        assert (await client.attach(job.ref)).id == job.id


async def test_a_close_during_a_recovery_leaves_no_job_without_an_end(make_world: MakeWorld, tmp_path: Path) -> None:
    """At whatever instant the client closes, each job that the recovery returns has an end."""
    world = make_world()
    await job_left_as(S.PROCESSING, world, tmp_path / "jobs.db")
    for turns in range(30):
        async with world.client(journal=tmp_path / "jobs.db") as client:
            recovering = asyncio.create_task(client.recover())
            for _ in range(turns):
                await asyncio.sleep(0.001)
            await client.aclose(drain=False)
            await asyncio.wait([recovering])
            found = () if recovering.exception() else recovering.result().jobs
            assert all([await job.wait(1) for job in found]), turns
            assert not engine_of(client).dispatcher.jobs, turns


@pytest.mark.parametrize("others", [0, 1001])
async def test_a_notification_for_a_dead_client_counts_once_it_was_taken(
    make_world: MakeWorld, tmp_path: Path, others: int
) -> None:
    """The notification counts even if a thousand others come with it, and even if its client closes at once."""
    world, journal = make_world(), InterruptedJournal(tmp_path / "jobs.db")
    job = await job_left_as(S.UNCERTAIN, world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as other:
        record = await row_of(other, job.ref)
        jobs = [*((f"another-{number}", None) for number in range(others)), (job.ref, job.id)]
        notifications = [(record.owner, record.account, ref, job_id) for ref, job_id in jobs]
        async with world.client(journal=journal, webhook=a_webhook()) as client:
            with closing(sqlite3.connect(tmp_path / "jobs.db")) as database, database:
                database.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?)", notifications)
            await journal.notifications_taken.wait()
            await client.aclose(drain=False)
        assert (await row_of(other, job.ref)).job_id == job.id
