"""`Client.attach`: a ref or an id gives the job that is known by it, wherever it is, and never invents one."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.world import PNG, World, a_request

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
from modelslab_async.web import server_sent_events

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]
S = JobState


@pytest.mark.parametrize("journal", ["jobs.db", None])
async def test_a_job_that_ended_here_is_given_as_it_is(world: MakeWorld, tmp_path: Path, journal: str | None) -> None:
    """By its ref and by its id, without a request; its stream of events ends at once."""
    here = world()
    async with here.client(journal=journal and tmp_path / journal) as client:
        job = client.submit(a_request())
        await job
        requests = len(here.transport.requests)
        for name in (job.ref, job.id or ""):
            assert await client.attach(name) is job
        stream = [part async for part in server_sent_events(await client.attach(job.ref))]
        assert b"event: end" in stream[-1]
        assert len(here.transport.requests) == requests


async def test_a_failed_job_that_ended_here_is_given_as_it_is(world: MakeWorld) -> None:
    """Its error is not changed by asking again."""
    here = world(faults=[Rule(Fault.JOB_FAILS)])
    async with here.client() as client:
        job = client.submit(a_request())
        await job.wait()
        assert await client.attach(job.ref) is job
        assert isinstance(job.error, JobFailedError)


async def test_a_job_of_the_journal_is_given_in_any_state(world: MakeWorld, tmp_path: Path) -> None:
    """Of a client that is gone: what runs is resumed, what ended is done, and its error says what to do."""
    here = world(queue_limit=5, faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=2) as client:
        uncertain, saved = (client.submit(a_request(track_id=ref)) for ref in ("uncertain", "saved"))
        await uncertain.wait()
        video = await saved
        await saved.save(tmp_path / "saved.mp4")
        running = client.submit(a_request(track_id="running"))
        await running.submitted()
        waiting = [client.submit(a_request(track_id=f"waiting {number}")) for number in range(2)]
        assert waiting[-1].cancel()
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        found = await client.attach("saved")
        assert (found.done(), found.result(), found.progress) == (True, video, 1.0)
        assert (await (await client.attach("running"))).id == running.id
        lost = await client.attach("uncertain")
        assert (lost.state, isinstance(lost.error, SubmitUncertainError)) == (S.UNCERTAIN, True)
        unsent = await client.attach("waiting 0")
        assert isinstance(unsent.error, JobDetachedError)
        assert unsent.error.charged is False
        assert (await client.attach("waiting 1")).cancelled()
    assert len(here.service.ledger.charges) == 3


async def test_a_job_of_a_live_client_is_followed(world: MakeWorld, tmp_path: Path) -> None:
    """It stays the other client's in the journal; here it is polled too, or its video is read from the row."""
    here = world(queue_limit=5)
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=1) as owner:
        job, waiting = owner.submit(a_request()), owner.submit(a_request())
        await job.submitted()
        async with here.client(journal=tmp_path / "jobs.db") as other:
            followed = await other.attach(job.ref)
            assert (await followed).url == (await job).url
            row = await owner.find(job.ref)
            assert row is not None
            assert owner.journal is not None
            assert row.owner == owner.journal.owner
            assert (await other.attach(job.ref)).done()
            if waiting.state is S.WAITING:
                with pytest.raises(InvalidRequestError, match="has no id"):
                    await other.attach(waiting.ref)
    assert len(here.service.ledger.charges) == 2


async def test_a_job_that_timed_out_here_is_polled_again(world: MakeWorld) -> None:
    """A timeout ends the wait, not the job: the next attach asks the service, under the same ref."""
    here = world()
    async with here.client(timeouts=Timeouts(job=5.0)) as client:
        job = client.submit(a_request())
        await job.wait()
        assert isinstance(job.error, JobTimeoutError)
        await asyncio.sleep(60)
        again = await client.attach(job.ref)
        assert again is not job
        assert (await again).ref == job.ref
    assert len(here.service.ledger.charges) == 1


async def test_a_name_that_nobody_knows_is_asked_for_once(world: MakeWorld, tmp_path: Path) -> None:
    """It ends at the first poll, not charged, with and without a journal."""
    here = world()
    for options in ({}, {"journal": tmp_path / "jobs.db"}):
        async with here.client(**options) as client:
            job = await client.attach("typo")
            with pytest.raises(NotFoundError, match="not found") as caught:
                await job
            assert (job.state, caught.value.charged, job.polls) == (S.REFUSED, False, 1)


async def test_two_who_attach_to_one_id_share_its_job(world: MakeWorld) -> None:
    """The service is asked once for both."""
    here = world()
    async with here.client() as payer, here.client() as client:
        job_id = await payer.submit(a_request()).submitted()
        one, other = await asyncio.gather(client.attach(job_id), client.attach(job_id))
        assert one is other
        await one


async def test_pictures_of_jobs_that_ended_are_not_kept(world: MakeWorld) -> None:
    """A job with a picture in memory is forgotten with its last user, so that a long run does not grow."""
    async with world().client() as client:
        job = client.submit(a_request(init_image=PNG + bytes(20_000)))
        ref = job.ref
        await job
        assert await client.attach(ref) is job
        del job
        gc.collect()
        with pytest.raises(NotFoundError):
            await (await client.attach(ref))
