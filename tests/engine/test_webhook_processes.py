"""Deliveries among processes that share a journal: received by one process, for a job of another."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.left_behind import row_of, uncertain_job
from helpers.webhooks import Courier, a_delivery, a_webhook, client_with_webhook, webhook_url_of
from helpers.world import MakeWorld, a_request

from modelslab_async import JobState, SubmitUncertainError
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.base import Row
from modelslab_async.journal.sqlite import SqliteJournal

pytestmark = pytest.mark.looptime
S = JobState


async def test_a_delivery_after_a_restart_takes_up_its_job(make_world: MakeWorld, tmp_path: Path) -> None:
    """The process that receives the delivery collects jobs that an earlier process left PROCESSING or UNCERTAIN."""
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    world.transport.deliver = courier = Courier([])
    async with world.client(journal=tmp_path / "jobs.db", webhook=a_webhook()) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(2)]
        await jobs[1].submitted()
        await client.aclose(drain=False)
    courier.webhooks.append(a_webhook())
    async with world.client(journal=tmp_path / "jobs.db", webhook=courier.webhooks[0]) as client:
        await asyncio.sleep(300)
        states = [(await row_of(client, job.ref)).state for job in jobs]
    assert states == [S.READY, S.READY]
    assert len(world.service.ledger.charges) == 2


async def test_a_delivery_reaches_the_owner_through_the_journal(make_world: MakeWorld, tmp_path: Path) -> None:
    """Whichever process receives the delivery, the process that submitted the job sees its end within 2 s."""
    world, mine, other = make_world(), a_webhook(), a_webhook()
    world.transport.deliver = Courier([other])
    journal = tmp_path / "jobs.db"
    async with world.client(journal=journal, webhook=mine) as owner, world.client(journal=journal, webhook=other):
        lateness = 0.0
        for seed in range(6):
            job = owner.submit(a_request(seed=seed))
            await job
            lateness = asyncio.get_running_loop().time() - list(world.service.jobs.values())[-1].file_at
        assert lateness <= 2.0
        polls = world.count("/fetch/")
        await owner.generate(a_request(seed=7))
        assert world.count("/fetch/") == polls + 1


async def test_a_late_delivery_reaches_an_idle_owner(make_world: MakeWorld, tmp_path: Path) -> None:
    """If a delivery arrives after its owner gave an uncertain job up, the job is collected all the same."""
    world, mine, other = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), a_webhook(), a_webhook()
    journal = tmp_path / "jobs.db"
    async with world.client(journal=journal, webhook=mine) as owner, world.client(journal=journal, webhook=other):
        job = owner.submit(a_request())
        with pytest.raises(SubmitUncertainError):
            await job
        assert await other.handle(webhook_url_of(job), a_delivery(id=world.charged_id())) == (200, b"ok")
        await asyncio.sleep(60)
        record = await row_of(owner, job.ref)
    assert (record.state, record.job_id) == (S.READY, world.charged_id())


def notifications_in(journal: Path) -> int:
    """Return how many notifications wait in a journal's file."""
    with closing(sqlite3.connect(journal)) as database:
        return int(database.execute("SELECT count(*) FROM deliveries").fetchone()[0])


async def test_notifications_for_an_owner_that_may_be_alive_are_kept(make_world: MakeWorld, tmp_path: Path) -> None:
    """If an owner's lock file cannot be read, its notifications are kept, and those for other owners are delivered."""
    world, path = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), tmp_path / "jobs.db"
    async with client_with_webhook(world, journal=path) as (client, _):
        job, journal = await uncertain_job(world, client), client.journal
        record = await row_of(client, job.ref)
        assert journal is not None
        for owner in ("0" * 16, "z" * 16):
            (tmp_path / f"jobs.db-{owner}.alive").mkdir()  # a folder, which cannot be opened as a lock file
            await journal.deliver(record._replace(owner=owner), None)
        await journal.deliver(record, world.charged_id())
        assert (await job).id == world.charged_id()
        assert notifications_in(path) == 2


async def test_a_notification_for_a_dead_owner_is_not_lost(make_world: MakeWorld, tmp_path: Path) -> None:
    """Any client of the account takes the notification and collects the job. A living owner keeps its notifications."""
    world, path = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), tmp_path / "jobs.db"
    async with client_with_webhook(world, journal=path) as (client, _):
        job = await uncertain_job(world, client)
        await client.aclose(drain=False)
    async with world.client(journal=path) as other, world.client(journal=path) as alive:
        row, journal = await row_of(other, job.ref), alive.journal
        assert row.state is S.UNCERTAIN
        assert journal is not None
        await journal.deliver(row, world.charged_id())  # as a client that took the owner for alive
        await journal.deliver(row._replace(owner=journal.owner, ref="another"), None)
        async with world.client(journal=path, webhook=a_webhook()) as client:
            await asyncio.sleep(60)
            record = await row_of(client, job.ref)
        assert await journal.delivered(row.account) == [("another", None)]
    assert (record.state, record.job_id) == (S.READY, world.charged_id())
    assert len(world.service.ledger.charges) == 1


async def test_a_job_is_taken_up_only_once(make_world: MakeWorld, tmp_path: Path) -> None:
    """Repeated deliveries and concurrent recoveries after a restart lead to one job."""
    world = make_world()
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, _):
        world.transport.deliver = None
        job = client.submit(a_request())
        await job.submitted()
        await client.aclose(drain=False)
    async with client_with_webhook(world, journal=tmp_path / "jobs.db") as (client, webhook):
        world.transport.deliver = None
        url, body = webhook_url_of(job), a_delivery(id=world.charged_id())
        found = await asyncio.gather(
            client.recover(), client.recover(), webhook.handle(url, body), webhook.handle(url, body)
        )
        assert len({*found[0].jobs, *found[1].jobs}) == 1
        assert client.statistics().in_flight == 1


class CountingJournal(SqliteJournal):
    """Count the reads of single rows."""

    reads = 0

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        self.reads += 1
        return await super().find(account, ref=ref, job_id=job_id)


@pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "over"])
async def test_repeated_deliveries_ask_the_journal_once(
    make_world: MakeWorld, tmp_path: Path, *, is_known: bool
) -> None:
    """Deliveries for a ref without a job, or with one that is over, cost one read, together and one by one."""
    world, webhook, journal = make_world(), a_webhook(), CountingJournal(tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as other:
        job = other.submit(a_request())
        await job
        ref = job.ref if is_known else "unknown"
        async with world.client(journal=journal, webhook=webhook) as client:
            handler = engine_of(client).deliveries
            for _ in range(10):
                for _ in range(10):
                    handler.receive(ref, None)
                await asyncio.sleep(1)
            assert journal.reads == 1
            handler.receive("another", None)
            await asyncio.sleep(1)
            assert journal.reads == 2
