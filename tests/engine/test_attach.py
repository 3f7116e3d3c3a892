"""`Client.attach`: a ref or an id leads to the job that has it, open, ended, or in the journal. Nothing is paid."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import pytest
from helpers.inside import inner_state_of
from helpers.interfering_journals import InterruptedJournal
from helpers.left_behind import job_left_running, row_of
from helpers.world import PNG, MakeWorld, a_request

from modelslab_async import (
    InvalidRequestError,
    JobDetachedError,
    JobFailedError,
    JobState,
    JobTimeoutError,
    NotFoundError,
    SubmitUncertainError,
    Timeouts,
)
from modelslab_async.emulator import Fault, Rule
from modelslab_async.web import EventStream

pytestmark = pytest.mark.looptime
S = JobState


@pytest.mark.parametrize("journal", ["jobs.db", None])
async def test_an_ended_job_is_found_by_ref_and_id(make_world: MakeWorld, tmp_path: Path, journal: str | None) -> None:
    """A job that ended in this client is returned without a request, and its event stream ends at once."""
    world = make_world()
    async with world.client(journal=journal and tmp_path / journal) as client:
        job = client.submit(a_request())
        await job
        requests = len(world.transport.requests)
        for name in (job.ref, job.id or ""):
            assert await client.attach(name) is job
        stream = [part async for part in EventStream(await client.attach(job.ref))]
        assert b"event: end" in stream[-1]
        assert len(world.transport.requests) == requests


async def test_a_failed_job_keeps_its_error(make_world: MakeWorld) -> None:
    """A job that failed in this client is returned unchanged, and the service is not asked again."""
    world = make_world(faults=[Rule(Fault.JOB_FAILS)])
    async with world.client() as client:
        job = client.submit(a_request())
        await job.wait()
        assert await client.attach(job.ref) is job
        assert isinstance(job.error, JobFailedError)


async def test_a_job_that_timed_out_is_polled_again(make_world: MakeWorld) -> None:
    """A timeout ends the wait, not the job: `attach` returns a new job with the same ref, and polls the service."""
    world = make_world()
    async with world.client(timeouts=Timeouts(job=5.0)) as client:
        job = client.submit(a_request())
        await job.wait()
        assert isinstance(job.error, JobTimeoutError)
        await asyncio.sleep(60)
        again = await client.attach(job.ref)
        assert again is not job
        assert (await again).ref == job.ref
    assert len(world.service.ledger.charges) == 1


async def test_an_open_job_is_found_by_its_ref(make_world: MakeWorld, tmp_path: Path) -> None:
    """The ref of an open job, submitted or taken up by this client, is not mistaken for an id of the service."""
    world = make_world()
    earlier = await job_left_running(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        (found,) = (await client.recover()).jobs
        assert await client.attach(earlier.ref) is found
        own = client.submit(a_request())
        assert await client.attach(own.ref) is own


async def test_a_job_of_a_closed_client_is_found_by_its_ref(make_world: MakeWorld, tmp_path: Path) -> None:
    """The ref of a job that another client left is as good as its id."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(track_id="mine"))
        await job.submitted()
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        found = await client.attach("mine")
        assert (found.id, found.request is not None) == (job.id, True)
        assert (await found).ref == "mine"


async def test_attach_and_recover_at_once_return_one_job(make_world: MakeWorld, tmp_path: Path) -> None:
    """Both calls return the same job, which is polled by one task."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        await client.submit(a_request(track_id="mine")).submitted()
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        recovering = asyncio.create_task(client.recover(["mine"]))
        await asyncio.sleep(0)
        attached = await client.attach("mine")
        assert {*(await recovering).jobs} <= {attached}
        await attached


async def test_a_job_of_the_journal_is_found_in_any_state(make_world: MakeWorld, tmp_path: Path) -> None:
    """A running job of a closed client is resumed. An ended one is done, and its error says what to do."""
    world = make_world(queue_limit=5, faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=2) as client:
        uncertain, saved = (client.submit(a_request(track_id=ref)) for ref in ("uncertain", "saved"))
        await uncertain.wait()
        video = await saved
        await saved.save(tmp_path / "saved.mp4")
        running = client.submit(a_request(track_id="running"))
        await running.submitted()
        waiting = [client.submit(a_request(track_id=f"waiting {number}")) for number in range(2)]
        assert waiting[-1].cancel()
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        found = await client.attach("saved")
        assert (found.done(), found.result(), found.progress) == (True, video, 1.0)
        assert (await (await client.attach("running"))).id == running.id
        lost = await client.attach("uncertain")
        assert (lost.state, isinstance(lost.error, SubmitUncertainError)) == (S.UNCERTAIN, True)
        unsent = await client.attach("waiting 0")
        assert isinstance(unsent.error, JobDetachedError)
        assert unsent.error.charged is False
        assert (await client.attach("waiting 1")).cancelled()
    assert len(world.service.ledger.charges) == 3


async def test_a_job_of_a_living_client_is_followed(make_world: MakeWorld, tmp_path: Path) -> None:
    """The row keeps its owner, and the job gets its end from the row, whether it ran or waited at first."""
    world = make_world(queue_limit=5)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=1) as owner:
        job, waiting = owner.submit(a_request()), owner.submit(a_request())
        await job.submitted()
        async with world.client(journal=tmp_path / "jobs.db") as other:
            followed = await other.attach(job.ref)
            assert (await followed).url == (await job).url
            row = await row_of(owner, job.ref)
            assert owner.journal is not None
            assert row.owner == owner.journal.owner
            assert (await other.attach(job.ref)).done()
            assert (await (await other.attach(waiting.ref))).id == waiting.id
    assert len(world.service.ledger.charges) == 2


async def test_a_job_that_another_client_takes_first_is_followed(make_world: MakeWorld, tmp_path: Path) -> None:
    """If two clients take up a dead client's job at once, the slower one follows it, instead of raising."""
    here, path = make_world(), tmp_path / "jobs.db"
    left = await job_left_running(here, path)
    async with here.client(journal=path) as quick, here.client(journal=InterruptedJournal(path)) as slow:
        assert isinstance(slow.journal, InterruptedJournal)
        slow.journal.after_find = quick.recover
        job = await slow.follow(left.ref)
        await job
    assert job.state is JobState.READY
    assert len(here.service.ledger.charges) == 1


async def test_an_unknown_name_is_polled_once(make_world: MakeWorld, tmp_path: Path) -> None:
    """The job ends with NotFoundError at its first poll, not charged, with and without a journal."""
    world = make_world()
    for options in ({}, {"journal": tmp_path / "jobs.db"}):
        async with world.client(**options) as client:
            job = await client.attach("typo")
            with pytest.raises(NotFoundError, match="not found") as caught:
                await job
            assert (job.state, caught.value.charged, job.polls) == (S.REFUSED, False, 1)


async def test_concurrent_calls_share_one_job(make_world: MakeWorld) -> None:
    """If two callers attach to one id at once, both get the same job, and the service is polled once for both."""
    world = make_world()
    async with world.client() as payer, world.client() as client:
        job_id = await payer.submit(a_request()).submitted()
        one, other = await asyncio.gather(client.attach(job_id), client.attach(job_id))
        assert one is other
        await one


async def test_the_pictures_of_ended_jobs_are_not_kept(make_world: MakeWorld) -> None:
    """A job with a picture in memory is forgotten once the program drops it, so that memory does not grow."""
    async with make_world().client() as client:
        job = client.submit(a_request(init_image=PNG + bytes(20_000)))
        ref = job.ref
        await job
        assert await client.attach(ref) is job
        await asyncio.get_running_loop().shutdown_default_executor()  # its thread may still hold what it encoded
        del job
        gc.collect()
        with pytest.raises(NotFoundError):
            await (await client.attach(ref))


@pytest.mark.parametrize("end", ["refused", "cancelled", "ready"])
async def test_a_job_that_ended_holds_no_files(make_world: MakeWorld, end: str) -> None:
    """The program may keep the job, but its picture and its body are of no use any more."""
    world = make_world(keys=["another"] if end == "refused" else None)
    async with world.client(max_in_flight=1) as client:
        if end == "cancelled":
            client.submit(a_request())
        job = client.submit(a_request(init_image=PNG))
        if end == "cancelled":
            job.cancel()
        await job.wait()
        assert (inner_state_of(job)["media"], inner_state_of(job)["body"]) == (None, None)
        assert str(job.state) == end


async def test_a_job_of_a_closed_client_is_polled_to_its_end(make_world: MakeWorld) -> None:
    """The video of a job that another client submitted costs nothing more."""
    world = make_world()
    client = world.client()
    job_id = await client.submit(a_request()).submitted()
    await client.aclose(drain=False)
    async with world.client() as other:
        video = await (await other.attach(job_id))
    assert video.id == job_id
    assert len(world.service.ledger.charges) == 1


async def test_an_unknown_id_is_polled_again_by_the_next_call(make_world: MakeWorld) -> None:
    """An id that the service does not know costs nothing, and the next `attach` polls it again."""
    world = make_world()
    async with world.client() as client:
        for polls in (1, 2):
            job = await client.attach(4711)
            with pytest.raises(NotFoundError) as caught:
                await job
            assert (job.state, caught.value.charged, world.count("fetch")) == (S.REFUSED, False, polls)
            assert "pass its operation=" in str(caught.value)  # ids of other operations are unknown there


async def test_resume_takes_only_what_was_sent(make_world: MakeWorld, tmp_path: Path) -> None:
    """A row that is uncertain or was never sent stays what it is, so that `resolve` and `resubmit` still work."""
    world = make_world(queue_limit=5, faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        uncertain = client.submit(a_request())
        await uncertain.wait()
        unsent = [client.submit(a_request()) for _ in range(2)]
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        found = await client.recover()
        for record in (*found.uncertain, *found.unsent):
            assert await client.resume(record) is None
        assert (await client.find(uncertain.ref)) == found.uncertain[0]
        assert await client.resolve(uncertain.ref, lost=True) is None
        (again, *_) = await client.resubmit(found.unsent)
        assert (await again).ref in {job.ref for job in unsent}


async def test_a_followed_job_counts_once(make_world: MakeWorld, tmp_path: Path) -> None:
    """A slot of another live client, whose job is followed here, is used once: all other slots stay usable."""
    world = make_world(queue_limit=3)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=3) as owner:
        job = owner.submit(a_request())
        await job.submitted()
        async with world.client(journal=tmp_path / "jobs.db", max_in_flight=3) as other:
            followed = await other.attach(job.ref)
            own = [other.submit(a_request()) for _ in range(2)]
            await asyncio.sleep(5)
            assert [each.state for each in own] == [S.PROCESSING] * 2
            await asyncio.gather(followed, *own)


async def test_a_refused_job_does_not_hide_the_paid_one_with_its_ref(make_world: MakeWorld, tmp_path: Path) -> None:
    """After another request with its ref was refused, `attach` gives the paid job, with and without a row."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        paid = await client.generate(a_request(track_id="paid"))
        running = client.submit(a_request(track_id="running"))
        await running.submitted()
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        for ref in ("paid", "running"):
            with pytest.raises(InvalidRequestError, match="as in the earlier request"):
                await client.submit(a_request(track_id=ref, prompt="another"))
        assert (await client.attach("paid")).result() == paid
        assert (await (await client.attach("running"))).id == running.id
    async with world.client() as client:
        made = client.submit(a_request(track_id="mine"))
        await made
        refused = [job async for job in client.map([a_request(track_id="mine", prompt="")])]
        assert [job.state for job in refused] == [S.REFUSED]
        assert await client.attach("mine") is made
    assert len(world.service.ledger.charges) == 3


async def test_a_followed_job_can_be_attached_to_again(make_world: MakeWorld, tmp_path: Path) -> None:
    """While it is polled here, its ref and its id give the same job."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as owner:
        job = owner.submit(a_request())
        job_id = await job.submitted()
        async with world.client(journal=tmp_path / "jobs.db") as other:
            followed = await other.attach(job.ref)
            assert await other.attach(job.ref) is await other.attach(job_id) is followed
            await followed


async def test_an_id_that_was_seen_running_is_not_called_unpaid(make_world: MakeWorld) -> None:
    """If the service forgets a job after a poll found it running, whether it was charged is not known."""
    world = make_world()
    async with world.client() as payer, world.client() as client:
        job = await client.attach(await payer.submit(a_request()).submitted())
        async for _ in job.events():
            if job.polls:
                break
        world.service.forget_jobs()
        with pytest.raises(NotFoundError) as caught:
            await job
        assert (job.state, caught.value.charged) == (S.TIMED_OUT, None)
        await payer.aclose(drain=False)
