"""Jobs that another client runs: followed, taken over when that client dies, and never paid twice."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.left_behind import row_of
from helpers.world import PNG, MakeWorld, World, a_request

from modelslab_async import (
    Client,
    Job,
    JobDetachedError,
    JobError,
    JobRecord,
    JobState,
    JobTimeoutError,
    JournalError,
    SubmitUncertainError,
    Timeouts,
)
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.base import Row
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage
from modelslab_async.protocol.claims import Ask, Claim

pytestmark = pytest.mark.looptime
S = JobState


class Paused(MemoryJournal):
    """Hold up claims, as a database far away does: before they are decided, or before the answer arrives.

    Notes are not held up.
    """

    def __init__(self, storage: MemoryStorage, *, is_decided: bool = False) -> None:
        super().__init__(storage)
        self._is_decided = is_decided
        self.is_claiming, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        answer = await super().claim(record, ask) if self._is_decided else None
        self.is_claiming.set()
        await self.may_go_on.wait()
        return answer or await super().claim(record, ask)


class Away(MemoryJournal):
    """Fail while `is_away`."""

    is_away = False

    async def wait_for_change(self, seconds: float) -> None:
        if self.is_away:
            raise JournalError("the disk is away")
        await super().wait_for_change(seconds)


class Counted(MemoryJournal):
    """Count the reads."""

    reads = 0

    async def find(self, account: str, *, ref: str | None = None, job_id: str | None = None) -> Row | None:
        self.reads += 1
        return await super().find(account, ref=ref, job_id=job_id)

    async def unfinished(self, account: str, *, ready: bool = True) -> list[Row]:
        self.reads += 1
        return await super().unfinished(account, ready=ready)


class SlowPicture(MemoryJournal):
    """Take a second to fetch a picture."""

    def __init__(self, storage: MemoryStorage) -> None:
        super().__init__(storage)
        self.is_asked = asyncio.Event()

    async def picture(self, record: JobRecord) -> bytes | None:
        self.is_asked.set()
        await asyncio.sleep(1)
        return PNG


def on(world: World, storage: MemoryStorage, **options: object) -> Client:
    return world.client(**{"journal": MemoryJournal(storage), **options})


def kill(client: Client) -> None:
    """Let the other clients see *client* as dead."""
    assert isinstance(client.journal, MemoryJournal)
    del client.journal.storage.alive[client.journal.owner]


async def waiting_elsewhere(owner: Client, other: Client) -> Job:
    """Return a job that *other* follows, while it waits for a slot of *owner*."""
    blocker, waiting = owner.submit(a_request()), owner.submit(a_request(track_id="mine"))
    await blocker.submitted()
    job = await other.follow(waiting.ref)
    assert job.state is S.WAITING
    return job


async def test_cancelling_a_followed_job_does_nothing(make_world: MakeWorld) -> None:
    """Only the client that will send a job can withdraw it: `cancel` returns False, and the job goes on."""
    world, storage = make_world(), MemoryStorage()
    async with on(world, storage, max_in_flight=1) as owner, on(world, storage) as other:
        job = await waiting_elsewhere(owner, other)
        assert not job.cancel()
        assert (await job).ref == "mine"


async def test_a_client_that_closes_does_not_know_whether_a_followed_job_was_charged(make_world: MakeWorld) -> None:
    """The job of another client may be sent at any time. The error says how to follow it again."""
    world, storage = make_world(), MemoryStorage()
    async with on(world, storage, max_in_flight=1) as owner:
        async with on(world, storage) as other:
            waiting = await waiting_elsewhere(owner, other)
            running = await other.follow(next(iter(storage.rows))[1])
            await other.aclose(drain=False)
        assert (running.state, waiting.state) == (S.PROCESSING, S.WAITING)
        for job, charged in ((waiting, None), (running, True)):
            assert isinstance(job.error, JobDetachedError)
            assert job.error.charged is charged
            assert "Client.follow" in str(job.error)
    assert len(world.service.ledger.charges) == 2


async def test_a_followed_job_that_is_being_submitted_is_not_reported_as_unsent(make_world: MakeWorld) -> None:
    """While the paid request of another client is under way, a client that closes says that nothing is known."""
    world, storage = make_world(faults=[Rule(Fault.SLOW, seconds=30.0)]), MemoryStorage()
    async with on(world, storage) as owner:
        sending = owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(5)
        async with on(world, storage) as other:
            job = await other.follow("mine")
            await asyncio.sleep(3)
            assert (sending.state, job.state) == (S.SUBMITTING, S.SUBMITTING)
            await other.aclose(drain=False)
        with pytest.raises(JobDetachedError) as caught:
            await job
        charged: object = caught.value.charged
        assert charged is None
        assert (await row_of(owner, "mine")).state is S.SUBMITTING


async def test_a_ref_that_turns_out_to_be_anothers_while_the_client_closes(make_world: MakeWorld) -> None:
    """The job ends with JobDetachedError: its awaiter is not left waiting."""
    world, storage = make_world(), MemoryStorage()
    async with on(world, storage) as owner:
        await owner.submit(a_request(track_id="mine")).submitted()
        journal = Paused(storage)
        async with on(world, storage, journal=journal) as other:
            job = other.submit(a_request(track_id="mine"))
            await journal.is_claiming.wait()
            closing = asyncio.create_task(other.aclose(drain=False))
            await asyncio.sleep(1)
            journal.may_go_on.set()
            await closing
        assert await job.wait(10)
        assert isinstance(job.error, JobDetachedError)
    assert len(world.service.ledger.charges) == 1


async def test_a_claim_that_is_given_while_the_client_closes_is_not_used(make_world: MakeWorld) -> None:
    """Whichever way the client closes, the job was not sent and stays WAITING for the next client."""
    ways: list[dict[str, Any]] = [{"drain": False}, {"timeout": 60.0}]
    for options in ways:
        world, storage = make_world(), MemoryStorage()
        journal = Paused(storage)
        async with on(world, storage, journal=journal) as client:
            journal.may_go_on.set()
            await client.submit(a_request()).submitted()
            journal.may_go_on.clear()
            journal.is_claiming.clear()
            job = client.submit(a_request(track_id="mine"))
            await journal.is_claiming.wait()
            closing = asyncio.create_task(client.aclose(**options))
            await asyncio.sleep(1)
            journal.may_go_on.set()
            await closing
        assert len(world.service.ledger.charges) == 1
        assert isinstance(job.error, JobDetachedError)
        row = storage.rows[client.account_id, "mine"]
        assert (row.state, row.charged) == (S.WAITING, False)


async def test_a_claim_that_is_still_under_way_when_the_client_gives_up_is_not_used(make_world: MakeWorld) -> None:
    """The row does not say SUBMITTING: that job was certainly not sent."""
    world, storage = make_world(), MemoryStorage()
    journal = Paused(storage, is_decided=True)
    async with on(world, storage, journal=journal, timeouts=Timeouts(submit=5.0)) as client:
        client.submit(a_request(track_id="mine"))
        await journal.is_claiming.wait()
        await client.aclose(drain=False)
    (row,) = storage.rows.values()
    assert (row.state, row.charged) == (S.WAITING, False)


async def test_a_job_that_is_cancelled_during_its_claim_gives_the_slot_back(make_world: MakeWorld) -> None:
    """The row says CANCELLED in the end, although the claim was given after the job was cancelled."""
    world, storage = make_world(), MemoryStorage()
    journal = Paused(storage)
    async with on(world, storage, journal=journal, max_in_flight=1) as client:
        job = client.submit(a_request(track_id="mine"))
        await journal.is_claiming.wait()
        assert job.cancel()
        journal.may_go_on.set()
        await asyncio.sleep(1)
        assert (await row_of(client, "mine")).state is S.CANCELLED
        async with on(world, storage, max_in_flight=1) as other:
            await other.submit(a_request())
    assert len(world.service.ledger.charges) == 1


async def test_a_journal_that_fails_for_a_moment_does_not_end_a_followed_job(make_world: MakeWorld) -> None:
    """The job is followed again when the journal is back."""
    world, storage = make_world(), MemoryStorage()
    journal = Away(storage)
    async with on(world, storage) as owner, on(world, storage, journal=journal) as other:
        await owner.submit(a_request(track_id="mine")).submitted()
        job = await other.follow("mine")
        await asyncio.sleep(3)
        journal.is_away = True
        await asyncio.sleep(10)
        assert not job.done()
        journal.is_away = False
        assert (await job).ref == "mine"


async def test_two_calls_at_once_take_up_a_job_that_was_never_sent_as_one(make_world: MakeWorld) -> None:
    """`ensure` returns the job that is followed, also while its picture is fetched from the journal to send it."""
    world, storage = make_world(), MemoryStorage()
    journal = SlowPicture(storage)
    async with on(world, storage, max_in_flight=1) as owner, on(world, storage, journal=journal) as other:
        await owner.submit(a_request()).submitted()
        owner.submit(a_request(track_id="mine", init_image=PNG))
        job = await other.follow("mine")
        kill(owner)
        await journal.is_asked.wait()
        assert await other.ensure(a_request(init_image=PNG), ref="mine") is job
        await job
        await owner.aclose(drain=False)
    assert len(world.service.ledger.charges) == 2


async def test_a_client_waits_for_followed_jobs_that_it_may_not_send_itself(make_world: MakeWorld) -> None:
    """Two clients follow the jobs of a dead one. Each sends some, follows the others, and waits for all of them."""
    world, storage = make_world(), MemoryStorage()
    refs = [f"r{number}" for number in range(12)]
    async with on(world, storage, max_in_flight=1) as owner:
        for ref in refs:
            owner.submit(a_request(track_id=ref))
        await asyncio.sleep(1)
        async with on(world, storage, max_in_flight=2) as one, on(world, storage, max_in_flight=2) as two:
            jobs = [await client.follow(ref) for client in (one, two) for ref in refs]
            kill(owner)
            await owner.aclose(drain=False)
    assert {job.error for job in jobs} == {None}
    assert sorted(map(str, world.service.ledger.track_ids())) == sorted(refs)


async def test_a_job_that_timed_out_elsewhere_is_polled_again(make_world: MakeWorld) -> None:
    """Its owner lives, but polls it no longer. `ensure` takes it over."""
    world, storage = make_world(), MemoryStorage()
    async with on(world, storage, timeouts=Timeouts(job=5.0)) as owner, on(world, storage) as other:
        await owner.submit(a_request(track_id="mine")).wait()
        assert (await row_of(owner, "mine")).state is S.TIMED_OUT
        assert (await (await other.ensure(a_request(), ref="mine"))).ref == "mine"
    assert len(world.service.ledger.charges) == 1


async def test_ensure_raises_the_error_of_an_uncertain_job_of_a_living_client(make_world: MakeWorld) -> None:
    """As for any other uncertain job: it is not submitted again."""
    world, storage = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), MemoryStorage()
    async with on(world, storage) as owner, on(world, storage) as other:
        await owner.submit(a_request(track_id="mine")).wait()
        with pytest.raises(SubmitUncertainError):
            await other.ensure(a_request(), ref="mine")
    assert len(world.service.ledger.charges) == 1


async def test_an_uncertain_job_that_was_taken_over_holds_its_slot(make_world: MakeWorld) -> None:
    """The service may run the job of a client that died during its submit, so the next job waits for that slot."""
    world, storage = make_world(queue_limit=1, faults=[Rule(Fault.SLOW, seconds=30.0, times=1)]), MemoryStorage()
    async with on(world, storage, max_in_flight=1) as owner, on(world, storage, max_in_flight=1) as other:
        owner.submit(a_request(track_id="lost"))
        await asyncio.sleep(5)
        kill(owner)
        found = await other.recover()
        assert [record.ref for record in found.uncertain] == ["lost"]
        job = other.submit(a_request())
        await job
        assert world.count("img2video_ultra") == 2
        await owner.aclose(drain=False)


async def test_a_change_of_one_job_is_not_read_by_all_followers(make_world: MakeWorld) -> None:
    """A hundred followed jobs, whose rows change some hundred times, are read together."""
    world, storage = make_world(), MemoryStorage()
    journal = Counted(storage)
    async with on(world, storage) as owner, on(world, storage, journal=journal) as other:
        jobs = [owner.submit(a_request(track_id=f"r{number}")) for number in range(100)]
        followed = [await other.follow(job.ref) for job in jobs]
        await asyncio.sleep(1)
        before = journal.reads
        await asyncio.gather(*followed)
        assert journal.reads - before < 30 * len(jobs)


async def test_two_clients_that_ask_in_vain_do_not_wake_each_other(make_world: MakeWorld) -> None:
    """A claim in vain changes nothing, so that the other client does not ask again because of it."""
    world, storage = make_world(queue_limit=1), MemoryStorage()
    async with asyncio.timeout(600), on(world, storage, max_in_flight=1) as one:
        await one.submit(a_request()).submitted()
        async with on(world, storage, max_in_flight=1) as two, on(world, storage, max_in_flight=1) as three:
            await asyncio.gather(*(client.submit(a_request()) for client in (two, three)))
    assert len(world.service.ledger.charges) == 3


async def test_a_job_that_was_put_back_before_its_client_died_is_sent(make_world: MakeWorld) -> None:
    """The follower read its row last when it was SUBMITTING. The job waits again, here, and is paid for once."""
    world, storage = make_world(queue_limit=5), MemoryStorage()
    async with on(world, storage) as other:
        owner = on(world, storage, max_in_flight=1)
        async with owner:
            job = await waiting_elsewhere(owner, other)
            waiting = await row_of(other, job.ref)
            storage.rows[waiting.account, job.ref] = waiting._replace(state=S.SUBMITTING)
            await asyncio.sleep(3)
            assert job.state is S.SUBMITTING
            storage.rows[waiting.account, job.ref] = waiting
            await owner.aclose(drain=False)
        assert (await job).ref == job.ref
    assert world.service.ledger.track_ids().count(job.ref) == 1


class Broken(MemoryJournal):
    """Have a bug in `claim`."""

    async def claim(self, record: JobRecord, ask: Ask) -> Claim:
        raise ZeroDivisionError


async def test_a_bug_in_a_journal_leaves_no_job_without_an_end(make_world: MakeWorld) -> None:
    """The job is refused, not charged, and so is the next one."""
    world = make_world()
    async with world.client(journal=Broken()) as client:
        for _ in range(2):
            job = client.submit(a_request())
            with pytest.raises(JobError, match="ZeroDivisionError"):
                await job
            assert (job.state, world.count("img2video_ultra")) == (S.REFUSED, 0)


async def test_a_client_that_never_reports_the_end_is_not_waited_for_without_bound(make_world: MakeWorld) -> None:
    """It is alive, and does nothing: its program hangs. The job can be followed again."""
    world, storage = make_world(), MemoryStorage()
    async with on(world, storage) as owner, on(world, storage, timeouts=Timeouts(job=100.0)) as other:
        sent = owner.submit(a_request(track_id="mine"))
        await sent.submitted()
        row = await row_of(owner, "mine")
        await sent
        for state, error in ((S.PROCESSING, JobTimeoutError), (S.SUBMITTING, JobTimeoutError)):
            storage.rows[row.account, "mine"] = row._replace(state=state)
            job = await other.follow("mine")
            begun = asyncio.get_running_loop().time()
            with pytest.raises(error, match="has not reported its end"):
                await job
            assert 300 < asyncio.get_running_loop().time() - begun < 330
