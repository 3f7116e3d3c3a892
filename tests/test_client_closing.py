"""Leaving a client's block, and `Client.aclose`, on virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.inside import events_of
from helpers.transports import PassOn, intercepted
from helpers.world import MakeWorld, a_request

from modelslab_async import ClientStateError, Job, JobDetachedError, JobState, SubmitUncertainError
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol.reply import HttpReply

pytestmark = pytest.mark.looptime
S = JobState


async def test_leaving_normally_waits_for_all_jobs(make_world: MakeWorld) -> None:
    """Leaving the block waits for every job, including those that wait for their slot."""
    world = make_world()
    async with world.client(max_in_flight=2) as client:
        jobs = [client.submit(a_request()) for _ in range(5)]
    assert [job.state for job in jobs] == [S.READY] * 5
    assert len(world.service.ledger.charges) == 5


async def test_leaving_normally_waits_for_downloads(make_world: MakeWorld, tmp_path: Path) -> None:
    """A download under way ends before the client is closed."""
    world = make_world(faults=[Rule(Fault.BROKEN_DOWNLOAD, times=4)])
    async with world.client() as client:
        job = client.submit(a_request())
        await job
        saving = asyncio.create_task(job.save(tmp_path / "video.mp4"))
        await asyncio.sleep(0)
    assert saving.done()
    assert saving.result().size_bytes > 0


@pytest.mark.parametrize("timeout", [None, 500.0])
async def test_leaving_normally_waits_for_a_task_that_is_about_to_save(
    make_world: MakeWorld, tmp_path: Path, timeout: float | None
) -> None:
    """A task that awaits a job in order to save its video can save it while the client closes."""
    path = tmp_path / "video.mp4"
    async with make_world().client() as client:
        job = client.submit(a_request())

        async def keep() -> None:
            if timeout is None:
                await job.save(path)
            else:
                await client.download(await asyncio.wait_for(job, timeout), path)

        keeping = asyncio.create_task(keep())
    await keeping
    assert path.stat().st_size > 0


async def test_leaving_by_an_exception_detaches(make_world: MakeWorld) -> None:
    """A running job ends with an error that says it is charged, a waiting one is cancelled, and none is submitted."""
    world = make_world()
    client = world.client(max_in_flight=1)
    running, waiting = client.submit(a_request()), client.submit(a_request())
    with pytest.raises(KeyError):
        async with client:
            await running.submitted()
            raise KeyError
    error = running.exception()
    assert isinstance(error, JobDetachedError)
    assert (error.charged, error.job_id, error.ref) == (True, running.id, running.ref)
    assert waiting.cancelled()
    assert len(world.service.ledger.charges) == 1


async def test_a_close_waits_for_the_reply_to_a_submit(make_world: MakeWorld) -> None:
    """The reply to a paid request is awaited, because it says whether there is something to pay for."""
    world = make_world(faults=[Rule(Fault.SLOW, seconds=20.0)])
    client = world.client()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await client.aclose(drain=False)
    states = [event.state for event in await events_of(job)]
    assert states == [S.WAITING, S.SUBMITTING, S.PROCESSING, S.PROCESSING]  # the last event is the detachment
    assert job.elapsed >= 20.0
    assert isinstance(job.exception(), JobDetachedError)
    assert job.id is not None


async def test_a_job_that_gets_a_429_during_the_close_is_cancelled(make_world: MakeWorld) -> None:
    """The service did not accept the job, so it is not reported as charged."""
    world = make_world(faults=[Rule(Fault.RATE_LIMIT)])

    async def slow_connection(_: str, pass_on: PassOn) -> HttpReply:
        await asyncio.sleep(5.0)
        return await pass_on()

    client = world.client(transport=intercepted(world, slow_connection))
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await client.aclose(drain=False)
    assert (job.state, job.cancelled(), world.service.ledger.charges) == (S.CANCELLED, True, [])


async def test_a_close_with_a_timeout_waits_for_running_jobs(make_world: MakeWorld, tmp_path: Path) -> None:
    """Within the timeout running jobs may end, and no other job is sent. The rest stays for `recover`."""
    world = make_world(queue_limit=5)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=2) as client:
        first, slow, third = (client.submit(a_request(seed=1, num_frames=frames)) for frames in (81, 300, 81))
        await asyncio.sleep(1)
        await client.aclose(timeout=60)
        assert asyncio.get_running_loop().time() == pytest.approx(61, abs=1)
    assert (first.state, slow.state, third.state) == (S.READY, S.PROCESSING, S.WAITING)
    assert [type(job.exception()) for job in (first, slow, third)] == [type(None), JobDetachedError, JobDetachedError]
    assert len(world.service.ledger.charges) == 2
    async with world.client(journal=tmp_path / "jobs.db") as client:
        found = await client.recover()
        assert {job.ref for job in found.jobs} == {first.ref, slow.ref}
        assert [record.ref for record in found.unsent] == [third.ref]
        await client.aclose(drain=False)


async def test_a_close_ends_the_wait_between_two_attempts(make_world: MakeWorld) -> None:
    """Between two attempts of a submit nothing is under way, so the close ends at once and nothing was charged."""
    world = make_world(faults=[Rule(Fault.UNAVAILABLE_503, times=4)])
    client = world.client()
    job = client.submit(a_request())
    await asyncio.sleep(2.0)
    started = asyncio.get_running_loop().time()
    await client.aclose(drain=False)
    assert asyncio.get_running_loop().time() - started < 0.1
    assert (job.state, world.service.ledger.charges) == (S.REFUSED, [])


async def test_a_second_close_waits_for_the_first(make_world: MakeWorld) -> None:
    """When any close returns, the reply to the paid request is known, and the program may leave the event loop."""
    world = make_world(faults=[Rule(Fault.SLOW, seconds=20.0)])
    client = world.client()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    first = asyncio.create_task(client.aclose(drain=False))
    await asyncio.sleep(1.0)
    await client.aclose()
    assert first.done()
    assert job.id is not None


def test_a_loop_that_stops_during_a_submit_leaves_it_uncertain(make_world: MakeWorld) -> None:
    """`asyncio.run` cancels every task at its end, so a job that was being submitted may be charged."""
    world, sending = make_world(), asyncio.Event()
    jobs: list[Job] = []

    async def silent(url: str, _: PassOn) -> HttpReply:
        sending.set()
        await asyncio.Event().wait()
        raise AssertionError(url)

    async def leave() -> None:
        client = world.client(transport=intercepted(world, silent), max_in_flight=1)
        jobs.extend([client.submit(a_request()), client.submit(a_request())])
        await sending.wait()

    asyncio.run(leave())
    sent, waiting = jobs
    assert (sent.state, waiting.state) == (S.UNCERTAIN, S.WAITING)
    error = sent.exception()
    assert isinstance(error, SubmitUncertainError)
    assert error.charged is None


async def test_a_closed_client_refuses_calls(make_world: MakeWorld) -> None:
    """After the close nothing is submitted. Closing twice is allowed."""
    client = make_world().client()
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientStateError, match="closed"):
        client.submit(a_request())
    with pytest.raises(ClientStateError, match="closed"):
        await client.balance()


async def test_a_closed_account_can_be_opened_again(make_world: MakeWorld) -> None:
    """`account` returns a new client if the account's earlier client was closed."""
    async with make_world().client() as client:
        await (await client.account("the key of one user")).aclose()
        assert (await (await client.account("the key of one user")).generate(a_request())).url
