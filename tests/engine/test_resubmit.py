"""Jobs that a closed client never sent: they stay in the journal, and `Client.resubmit` sends each once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from helpers.left_behind import row_of
from helpers.webhooks import a_webhook
from helpers.world import PNG, MakeWorld, a_request

from modelslab_async import Budget, Client, ImageToVideoUltra, InvalidRequestError, JobDetachedError, JobState
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
S = JobState


async def leave_by_exception(client: Client) -> None:
    with pytest.raises(ArithmeticError):
        async with client:
            raise ArithmeticError


WAYS_TO_STOP: dict[str, Callable[[Client], Awaitable[None]]] = {
    "aclose(drain=False)": lambda client: client.aclose(drain=False),
    "aclose(timeout=0)": lambda client: client.aclose(timeout=0),
    "aclose(timeout=200)": lambda client: client.aclose(timeout=200),
    "an exception": leave_by_exception,
}


@pytest.mark.parametrize("stop", WAYS_TO_STOP.values(), ids=WAYS_TO_STOP.keys())
async def test_a_stop_leaves_waiting_jobs_to_the_next_client(
    make_world: MakeWorld, tmp_path: Path, stop: Callable[[Client], Awaitable[None]]
) -> None:
    """However a client stops, it sends no waiting job. The next client finds these jobs, and sends each once."""
    world, budget = make_world(queue_limit=5), Budget(jobs=7)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=2, budget=budget) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(7)]
        await jobs[1].submitted()
        charged = len(world.service.ledger.charges)
        await stop(client)
        assert len(world.service.ledger.charges) == charged == 2
    assert [job.state for job in jobs[2:]] == [S.WAITING] * 5
    assert {type(job.exception()) for job in jobs[2:]} == {JobDetachedError}
    assert {getattr(job.exception(), "charged", None) for job in jobs[2:]} == {False}
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=5, budget=budget) as later:
        found = await later.recover()
        assert [record.ref for record in found.unsent] == [job.ref for job in jobs[2:]]
        again = await later.resubmit(found.unsent)
        assert [job.ref for job in again] == [job.ref for job in jobs[2:]]
        await asyncio.gather(*again, *found.jobs)
    assert sorted(map(str, world.service.ledger.track_ids())) == sorted(job.ref for job in jobs)
    with pytest.raises(InvalidRequestError, match="ready"):
        async with world.client(journal=tmp_path / "jobs.db") as third:
            await third.resubmit(found.unsent)


async def test_a_job_that_was_recorded_and_not_sent_is_unsent(make_world: MakeWorld, tmp_path: Path) -> None:
    """If the client closes after it wrote the intent and before it sent the job, the job is unsent, not refused."""
    world = make_world(faults=[Rule(Fault.UNAVAILABLE_503)])
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await asyncio.sleep(1.0)
        assert job.state is S.SUBMITTING
        await client.aclose(drain=False)
    assert (job.state, world.service.ledger.charges) == (S.WAITING, [])
    async with world.client(journal=tmp_path / "jobs.db") as later:
        assert [record.ref for record in (await later.recover()).unsent] == [job.ref]


async def test_a_job_of_a_living_client_is_not_resubmitted(make_world: MakeWorld, tmp_path: Path) -> None:
    """The job's own client will send it, so `resubmit` refuses it, as it refuses a ref that is not in the journal."""
    world = make_world(queue_limit=5)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(2)]
        await jobs[0].submitted()
        async with world.client(journal=tmp_path / "jobs.db") as other:
            record = await row_of(other, jobs[1].ref)
            with pytest.raises(InvalidRequestError, match="live owner"):
                await other.resubmit([record])
            with pytest.raises(InvalidRequestError, match="is not in the journal"):
                await other.resubmit([record._replace(ref="unknown")])
    assert len(world.service.ledger.charges) == 2


async def test_a_job_whose_picture_is_gone_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    """The journal keeps no bytes, and a file may be gone. Such a job is REFUSED, not charged; the others are sent."""
    world, picture, other = make_world(queue_limit=5), tmp_path / "a.png", tmp_path / "b.png"
    picture.write_bytes(PNG)
    other.write_bytes(PNG)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        jobs = [client.submit(a_request(init_image=image)) for image in (PNG, PNG, picture, other)]
        await jobs[0].submitted()
        await client.aclose(drain=False)
    picture.unlink()
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=5) as later:
        again = await later.resubmit((await later.recover()).unsent)
        await again[2]
    assert [job.state for job in again] == [S.REFUSED, S.REFUSED, S.READY]
    assert "bytes" in str(again[0].exception())
    assert "the file is not there" in str(again[1].exception())
    assert len(world.service.ledger.charges) == 2


async def test_a_resubmitted_job_gets_its_own_clients_webhook(make_world: MakeWorld, tmp_path: Path) -> None:
    """The URL that the first client made is made anew, so that deliveries wake the job in this client."""
    world, webhook = make_world(queue_limit=5), a_webhook()
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook, max_in_flight=1) as client:
        job = [client.submit(a_request()) for _ in range(2)][1]
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db", webhook=webhook) as later:
        (again, _) = await later.resubmit((await later.recover()).unsent)
        await asyncio.sleep(1)
        fetches = world.count("fetch")
        await webhook.handle(webhook.url(again.ref, later.account_id), b"{}")
        assert world.count("fetch") == fetches + 1
        await later.aclose(drain=False)
    assert job.ref in {each.ref for each in (again, _)}


@pytest.mark.looptime
async def test_the_request_of_a_row_can_be_submitted(make_world: MakeWorld, tmp_path: Path) -> None:
    """A row keeps the picture's place and the parameters of `extra`, so that its request is sent as it was."""
    world, picture = make_world(queue_limit=5), tmp_path / "a.png"
    picture.write_bytes(PNG)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        running = client.submit(a_request())
        client.submit(a_request(init_image=picture, seed=7, portrait=True, extra={"style": "film"}))
        await running.submitted()
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        (record,) = (await client.recover()).unsent
        assert record.request is not None
        job = client.submit(record.request)
        assert isinstance(job.request, ImageToVideoUltra)
        assert (job.ref, job.request.init_image) == (record.ref, str(picture))
        assert (job.request.seed, job.request.portrait, job.request.extra) == (7, True, {"style": "film"})
        await job
    assert len(world.service.ledger.charges) == 2
