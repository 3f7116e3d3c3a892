"""Recovery, a delivery, a person's word and another client at the same job at the same time: on virtual time.

Each test lets one of them act between what another read and what it writes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.world import World, a_request

from modelslab_async import Client, InvalidRequestError, Job, JobRecord, JobState
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.webhook import Webhook

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]
S = JobState


class Hooked(SqliteJournal):
    """Lets something happen after the next reading of one row, or of all, before who read goes on."""

    after_find: Callable[[], Awaitable[object]] | None = None
    after_unfinished: Callable[[], Awaitable[object]] | None = None

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.taken = asyncio.Event()
        """Words were taken out of the file; who waits for that goes first."""

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> JobRecord | None:
        record = await super().find(account, ref=ref, job_id=job_id)
        happens, self.after_find = self.after_find, None
        if happens:
            await happens()
        return record

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        records = await super().unfinished(account, ready=ready)
        if ready:
            happens, self.after_unfinished = self.after_unfinished, None
            if happens:
                await happens()
        return records

    async def delivered(self, account: str) -> Sequence[tuple[str, str | None]]:
        words = await super().delivered(account)
        if words:
            self.taken.set()
            await asyncio.sleep(0.01)
        return words


def hook() -> Webhook:
    return Webhook(public_url="https://hooks.invalid", secret="x" * 32)


async def deliver(webhook: Webhook, job: Job, job_id: str | None) -> None:
    """The service calls the job's webhook; and a while for what follows."""
    assert job.request is not None
    await webhook.handle(job.request.webhook or "", json.dumps({"status": "success", "id": job_id}).encode())
    await asyncio.sleep(0.5)


async def row(client: Client, ref: str) -> JobRecord:
    record = await client.find(ref)
    assert record is not None
    return record


async def left(here: World, path: Path, state: JobState) -> Job:
    """A job that the service took, of a client that died; and what its row says."""
    async with here.client(journal=path, webhook=hook()) as client:
        job = client.submit(a_request(track_id="mine"))
        await job.submitted()
        await client.aclose(drain=False)
    file = SqliteJournal(path)
    await file.open()
    assert job.record is not None
    record = await file.find(job.record.account, ref=job.ref)
    assert record is not None
    if state in (S.SUBMITTING, S.UNCERTAIN):
        record = record._replace(job_id=None, charged=None, accepted_at=None, links=(), submitted_at=0.0)
    await file.append(record._replace(state=state), take_over=record.owner)
    await file.close()
    return job


async def test_lost_is_not_believed_of_a_job_that_was_just_heard_of(world: MakeWorld, tmp_path: Path) -> None:
    """A delivery takes it up while a person's word is written: the id stays, and its ref cannot be paid for again."""
    here, webhook, journal = world(), hook(), Hooked(tmp_path / "jobs.db")
    job = await left(here, tmp_path / "jobs.db", S.UNCERTAIN)
    async with here.client(journal=journal, webhook=webhook) as client:
        journal.after_find = lambda: deliver(webhook, job, job.id)
        with pytest.raises(InvalidRequestError, match="just reported by a delivery"):
            await client.resolve(job.ref, lost=True)
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        assert ((await row(client, job.ref)).job_id, (await row(client, job.ref)).charged) == (job.id, True)
        with pytest.raises(InvalidRequestError, match="was sent before"):
            await client.submit(a_request(track_id="mine"))
    assert len(here.service.ledger.charges) == 1


async def test_lost_is_not_believed_where_its_living_owner_hears_of_it(world: MakeWorld, tmp_path: Path) -> None:
    """The owner is another client."""
    here, webhook = world(faults=[Rule(Fault.RESET_AFTER, times=1)]), hook()
    journal = Hooked(tmp_path / "jobs.db")
    async with (
        here.client(journal=tmp_path / "jobs.db", webhook=webhook) as owner,
        here.client(journal=journal) as other,
    ):
        here.transport.deliver = None
        job = owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(60)
        assert job.state is S.UNCERTAIN
        the_id = str(here.service.ledger.charges[0].job_id)
        journal.after_find = lambda: deliver(webhook, job, the_id)
        with pytest.raises(InvalidRequestError, match="just reported by a delivery"):
            await other.resolve("mine", lost=True)
        assert (await row(other, "mine")).job_id == the_id
    assert len(here.service.ledger.charges) == 1


async def test_attach_puts_no_old_row_over_one_that_ended(world: MakeWorld, tmp_path: Path) -> None:
    """What another client had when this one began has ended since, and was saved."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as owner:
        job = owner.submit(a_request())
        await job.submitted()
        async with here.client(journal=tmp_path / "jobs.db") as other:
            await job.save(tmp_path / "a.mp4")
            await owner.aclose()
            before = await row(other, job.ref)
            await other.attach(job.ref)
            assert await row(other, job.ref) == before
    assert before.saved_path == str(tmp_path / "a.mp4")


@pytest.mark.parametrize("state", [S.SUBMITTING, S.UNCERTAIN])
async def test_what_a_delivery_takes_up_while_rows_are_read_is_given(
    world: MakeWorld, tmp_path: Path, state: JobState
) -> None:
    """It is a job, and uncertain no more."""
    here, webhook, journal = world(), hook(), Hooked(tmp_path / "jobs.db")
    job = await left(here, tmp_path / "jobs.db", state)
    async with here.client(journal=journal, webhook=webhook) as client:
        journal.after_unfinished = lambda: deliver(webhook, job, job.id)
        found = await client.recover()
        assert ([each.ref for each in found.jobs], found.uncertain) == ([job.ref], ())


async def test_two_recoveries_at_a_time_both_tell_what_is_uncertain(world: MakeWorld, tmp_path: Path) -> None:
    """It is no job that only one may have."""
    here = world()
    job = await left(here, tmp_path / "jobs.db", S.SUBMITTING)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        for found in await asyncio.gather(client.recover(), client.recover()):
            assert [record.ref for record in found.uncertain] == [job.ref]


async def test_an_older_row_is_not_put_over_a_found_video(world: MakeWorld, tmp_path: Path) -> None:
    """Its client died while the file was looked for; another recovery finds it while this one works."""
    here, journal = world(), Hooked(tmp_path / "jobs.db")
    await left(here, tmp_path / "jobs.db", S.READY)
    async with here.client(journal=journal) as client:
        given: list[Job] = []

        async def another_finds_it() -> None:
            given.extend((await client.recover()).jobs)
            await given[0]

        journal.after_unfinished = another_finds_it
        given.extend((await client.recover()).jobs)
        record = await row(client, given[0].ref)
        assert (record.state, record.video is not None, len(given)) == (S.READY, True, 1)


async def test_what_is_attached_to_while_it_is_recovered_is_not_given_twice(world: MakeWorld, tmp_path: Path) -> None:
    """Whoever asked first has it."""
    here, journal = world(), Hooked(tmp_path / "jobs.db")
    job = await left(here, tmp_path / "jobs.db", S.PROCESSING)
    async with here.client(journal=journal) as client:
        attaching = list[asyncio.Task[Job]]()

        async def attach() -> None:
            attaching.append(asyncio.create_task(client.attach(job.ref)))

        journal.after_find = attach
        assert (await client.recover()).jobs == ()
        assert (await attaching[0]).id == job.id
        assert (await client.attach(job.ref)).id == job.id


async def test_no_job_is_left_without_an_end_where_the_client_closes(world: MakeWorld, tmp_path: Path) -> None:
    """Recovery takes it up while all others are let go."""
    here = world()
    await left(here, tmp_path / "jobs.db", S.PROCESSING)
    for turns in range(30):
        async with here.client(journal=tmp_path / "jobs.db") as client:
            recovering = asyncio.create_task(client.recover())
            for _ in range(turns):
                await asyncio.sleep(0.001)
            await client.aclose(drain=False)
            await asyncio.wait([recovering])
            given = () if recovering.exception() else recovering.result().jobs
            assert all([await job.wait(1) for job in given]), turns
            assert not engine_of(client).dispatcher.jobs, turns


@pytest.mark.parametrize("others", [0, 1001])
async def test_a_word_for_a_dead_client_is_used_though_many_come_or_its_taker_closes(
    world: MakeWorld, tmp_path: Path, others: int
) -> None:
    """It was taken out of the file, so it counts."""
    here, file = world(), Hooked(tmp_path / "jobs.db")
    job = await left(here, tmp_path / "jobs.db", S.UNCERTAIN)
    async with here.client(journal=tmp_path / "jobs.db") as other:
        record, shared = await row(other, job.ref), other.journal
        assert isinstance(shared, SqliteJournal)
        words = [(record.owner, record.account, f"another-{number}", None) for number in range(others)]
        async with here.client(journal=file, webhook=hook()) as client:
            with shared.store.transaction() as connection:
                connection.executemany("INSERT INTO deliveries VALUES (?, ?, ?, ?)", words)
                connection.execute(
                    "INSERT INTO deliveries VALUES (?, ?, ?, ?)", (record.owner, record.account, job.ref, job.id)
                )
            await file.taken.wait()
            await client.aclose(drain=False)
        assert (await row(other, job.ref)).job_id == job.id
