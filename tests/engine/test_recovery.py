"""`Client.recover`: what a new client takes up of the jobs that an earlier client left."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.interfering_journals import FailingJournal
from helpers.left_behind import job_left_running, jobs_left_running, row_of
from helpers.world import MakeWorld, a_request

from modelslab_async import InvalidRequestError, JobRecord, JobState, ModelsLabError, SubmitUncertainError
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.sqlite import SqliteJournal

pytestmark = pytest.mark.looptime
LOST_REPLY = Rule(Fault.RESET_AFTER, times=1)


class SlowJournal(SqliteJournal):
    """Answer a take-over only ten seconds after it was written."""

    async def take_over(self, records: Sequence[JobRecord], owners: Sequence[str]) -> Sequence[bool]:
        written = await super().take_over(records, owners)
        await asyncio.sleep(10.0)
        return written


async def test_a_new_client_collects_the_jobs_of_a_closed_one(make_world: MakeWorld, tmp_path: Path) -> None:
    """Jobs that ran when their client was closed go on under the next client, and are not paid for again."""
    world = make_world()
    earlier = await jobs_left_running(world, tmp_path / "jobs.db", 3)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        found = await client.recover()
        assert {job.ref for job in found.jobs} == {job.ref for job in earlier}
        assert {job.request.seed for job in found.jobs if job.request} == {0, 1, 2}
        for job in found.jobs:
            await job.save(tmp_path / f"{job.ref}.mp4")
        assert (await client.recover()).jobs == ()
    assert len(world.service.ledger.charges) == 3
    async with world.client(journal=tmp_path / "jobs.db") as client:
        assert (await client.recover()).jobs == ()


async def test_a_video_that_was_not_saved_can_be_saved_later(make_world: MakeWorld, tmp_path: Path) -> None:
    """A later client knows the video from the journal. If its links have died, the service is asked for new ones."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await job
        assert client.journal is not None
        record = await row_of(client, job.ref)
        assert record.video is not None
        expired = {**record.video, "url": "https://files.invalid/gone"}
        await client.journal.append(record._replace(links=("https://files.invalid/gone",), video=expired))
    async with world.client(journal=tmp_path / "jobs.db") as client:
        (found,) = (await client.recover()).jobs
        assert found.result().url == "https://files.invalid/gone"
        saved = await found.save(tmp_path / "a.mp4")
        assert saved.path.exists()


async def test_a_video_without_an_id_is_found_by_its_links(make_world: MakeWorld, tmp_path: Path) -> None:
    """If the service reported success at once and named no id, a later client finds the video by its links."""
    path = tmp_path / "jobs.db"
    world = make_world()
    async with world.client(journal=path) as client:
        video = await client.generate(a_request())
    with sqlite3.connect(path) as other:
        (details,) = other.execute("SELECT details FROM jobs").fetchone()
        known = {name: value for name, value in json.loads(details).items() if name != "video"}
        other.execute(
            "UPDATE jobs SET job_id = NULL, owner = 'gone', checksum = NULL, details = ?", (json.dumps(known),)
        )
    other.close()
    async with world.client(journal=path) as client:
        (job,) = (await client.recover()).jobs
        assert (await job).url == video.url
        assert client.statistics().in_flight == 0


async def test_concurrent_recoveries_return_each_job_once(make_world: MakeWorld, tmp_path: Path) -> None:
    """If two parts of an application call `recover` at once, each job is returned to one of them."""
    world = make_world()
    earlier = await jobs_left_running(world, tmp_path / "jobs.db", 3)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        one, other = await asyncio.gather(client.recover(), client.recover())
        assert sorted(job.ref for job in (*one.jobs, *other.jobs)) == sorted(job.ref for job in earlier)


async def test_a_job_that_is_named_twice_is_returned_once(make_world: MakeWorld, tmp_path: Path) -> None:
    """One job may be named by its ref and by its id in one call."""
    world = make_world()
    earlier = await job_left_running(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        assert [job.ref for job in (await client.recover([earlier.ref, earlier.id or ""])).jobs] == [earlier.ref]


@pytest.mark.parametrize("search", [False, True])
async def test_a_recovery_after_a_failed_one_returns_its_jobs(
    make_world: MakeWorld, tmp_path: Path, search: bool
) -> None:
    """Whatever made a recovery fail, the next one returns the jobs that the failed one took up."""
    world, journal = make_world(), FailingJournal(tmp_path / "jobs.db")
    earlier = await jobs_left_running(world, tmp_path / "jobs.db", 3)
    if search:
        world.service.set_faults([Rule(Fault.RESET_BEFORE, on="call", times=4)])
    async with world.client(journal=journal) as client:
        journal.is_full = not search
        with pytest.raises(ModelsLabError):
            await client.recover(search=search)
        journal.is_full = False
        assert {job.ref for job in (await client.recover()).jobs} == {job.ref for job in earlier}


async def test_a_recovery_after_a_cancelled_one_returns_its_jobs(make_world: MakeWorld, tmp_path: Path) -> None:
    """The next recovery returns the jobs that were taken over before the cancellation."""
    world, journal = make_world(), SlowJournal(tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        await asyncio.gather(*[client.generate(a_request()) for _ in range(3)])
    async with world.client(journal=journal) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5.0):
                await client.recover()
        assert {(await row_of(client, row.ref)).owner for row in await client.history()} == {journal.owner}
        assert len((await client.recover()).jobs) == 3


async def test_a_stale_row_of_an_own_job_is_not_taken_up(make_world: MakeWorld, tmp_path: Path) -> None:
    """If a job of this client ends after its row was read, its newer row stays: the video is still known as saved."""
    world = make_world()
    await job_left_running(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        own = client.submit(a_request())
        await own.submitted()
        stale = await row_of(client, own.ref)
        await own.save(tmp_path / "own.mp4")
        assert await engine_of(client).recoverer.restore(stale) is None
        assert (await row_of(client, own.ref)).saved_path == str(tmp_path / "own.mp4")


async def test_a_new_job_becomes_the_earlier_one_with_its_ref(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job with the ref and the request of a job that was paid for is that job, and is not paid for again."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        paid = await client.generate(a_request(track_id="paid"))
        running = client.submit(a_request(track_id="running"))
        await running.submitted()
        world.service.set_faults([LOST_REPLY])
        await client.submit(a_request(track_id="uncertain")).wait()
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        new = {ref: client.submit(a_request(track_id=ref)) for ref in ("paid", "running", "uncertain")}
        assert await new["paid"] == paid
        assert (await new["running"]).id == running.id
        with pytest.raises(SubmitUncertainError):
            await new["uncertain"]
        with pytest.raises(InvalidRequestError, match="prompt='another': must be"):
            await client.submit(a_request(track_id="paid", prompt="another"))
        assert await client.resolve("uncertain", id=world.charged_id(2))
    assert len(world.service.ledger.charges) == 3


async def test_a_journal_under_another_path_has_the_same_clients(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a symbolic link or a relative path, a living client is still seen as alive."""
    world, folder = make_world(), tmp_path / "other"
    folder.mkdir()
    (folder / "link.db").symlink_to(tmp_path / "jobs.db")
    monkeypatch.chdir(tmp_path)
    async with world.client(journal="jobs.db") as one:
        job = one.submit(a_request())
        await job.submitted()
        async with world.client(journal=folder / "link.db") as other:
            monkeypatch.chdir(folder)
            found = await other.recover()
            assert (found.jobs, [record.ref for record in found.owned_elsewhere]) == ((), [job.ref])


async def test_a_row_of_an_operation_of_a_later_version_stays(make_world: MakeWorld, tmp_path: Path) -> None:
    """Another version of the library may know more operations. The error names the operation, and the row is kept."""
    world, path = make_world(), tmp_path / "jobs.db"
    left = await job_left_running(world, path)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE jobs SET checksum = NULL, details = json_set(details, '$.operation', 'of-tomorrow')")
    async with world.client(journal=path) as client:
        (job,) = (await client.recover()).jobs
        with pytest.raises(InvalidRequestError, match=r"of-tomorrow.*unknown operation"):
            await job
        assert (await row_of(client, left.ref)).job_id == left.id
        assert (await row_of(client, left.ref)).state is JobState.TIMED_OUT
