"""`Client.ensure`: a job is made once, whichever client asks for it, and however often."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from helpers.left_behind import job_left_running, row_of, until_known
from helpers.world import PNG, MakeWorld, a_request

from modelslab_async import (
    ClientStateError,
    InvalidRequestError,
    JobFailedError,
    JobState,
    JobTimeoutError,
    RefInUseError,
    SubmitUncertainError,
    Timeouts,
)
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage

pytestmark = pytest.mark.looptime
S = JobState


async def test_callers_at_once_share_one_job(make_world: MakeWorld, tmp_path: Path) -> None:
    """Ten callers in each of two clients get the video of one paid job."""
    world = make_world()
    async with (
        world.client(journal=tmp_path / "jobs.db") as one,
        world.client(journal=tmp_path / "jobs.db") as two,
    ):
        calls = [client.ensure(a_request(), ref="mine") for client in (one, two) for _ in range(10)]
        jobs = await asyncio.gather(*calls)
        videos = await asyncio.gather(*jobs)
    assert len({video.url for video in videos}) == 1
    assert world.service.ledger.track_ids() == ["mine"]


async def test_a_finished_job_is_returned_as_done(make_world: MakeWorld, tmp_path: Path) -> None:
    """A later process gets the video at once, and can save it. Nothing is sent."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        video = await (await client.ensure(a_request(), ref="mine"))
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = await client.ensure(a_request(), ref="mine")
        assert job.done()
        assert (await job).url == video.url
        assert (await job.save(tmp_path / "a.mp4")).path.exists()
    assert len(world.service.ledger.charges) == 1


async def test_a_job_that_was_left_running_is_taken_up(make_world: MakeWorld, tmp_path: Path) -> None:
    """A process that died in the middle of a task paid already: the task's next run collects the video."""
    world = make_world()
    left = await job_left_running(world, tmp_path / "jobs.db")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = await client.ensure(a_request(seed=0), ref=left.ref)
        assert (await job).id == left.id
    assert len(world.service.ledger.charges) == 1


async def test_a_job_that_was_never_sent_is_sent(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job that waited when its client died, and one that was refused or cancelled, is sent under the same ref."""
    world = make_world(queue_limit=5, faults=[Rule(Fault.UNAVAILABLE_503, on="submit")])
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        refused = client.submit(a_request(track_id="refused"))
        await refused.wait()
        world.service.set_faults([])
        running = client.submit(a_request(track_id="running"))
        waiting = client.submit(a_request(track_id="waiting"))
        client.submit(a_request(track_id="cancelled")).cancel()
        await running.submitted()
        await client.aclose(drain=False)
    assert (refused.state, waiting.state) == (S.REFUSED, S.WAITING)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        for ref in ("refused", "waiting", "cancelled"):
            assert (await (await client.ensure(a_request(), ref=ref))).ref == ref
    assert sorted(map(str, world.service.ledger.track_ids())) == ["cancelled", "refused", "running", "waiting"]


@pytest.mark.parametrize(
    ("fault", "error"), [(Fault.RESET_AFTER, SubmitUncertainError), (Fault.JOB_FAILS, JobFailedError)]
)
async def test_a_job_in_doubt_or_failed_is_never_sent_again(
    make_world: MakeWorld, tmp_path: Path, fault: Fault, error: type[Exception]
) -> None:
    """`ensure` raises the job's error, in the same client and in a later one."""
    world = make_world(faults=[Rule(fault, times=1)])
    for _ in range(2):
        async with world.client(journal=tmp_path / "jobs.db") as client:
            for _ in range(2):
                with pytest.raises(error):
                    await (await client.ensure(a_request(), ref="mine"))
    assert len(world.service.ledger.charges) == 1


async def test_a_job_that_timed_out_is_polled_again(make_world: MakeWorld, tmp_path: Path) -> None:
    """The service still makes the video."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db", timeouts=Timeouts(job=5.0)) as client:
        with pytest.raises(JobTimeoutError):
            await (await client.ensure(a_request(), ref="mine"))
    async with world.client(journal=tmp_path / "jobs.db") as client:
        assert (await (await client.ensure(a_request(), ref="mine"))).ref == "mine"
    assert len(world.service.ledger.charges) == 1


async def test_another_request_with_the_ref_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    """The error names each difference, whether the job waits, runs or has ended, and the picture's content counts."""
    world = make_world()
    (tmp_path / "copy.png").write_bytes(PNG)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = await client.ensure(a_request(init_image=PNG, seed=7), ref="mine")
        fields = set[str]()
        for _ in range(3):
            with pytest.raises(RefInUseError) as caught:
                await client.ensure(a_request(init_image=PNG + b"!", seed=8, prompt="another"), ref="mine")
            fields = {problem.field for problem in caught.value.problems}
            assert fields >= {"prompt", "seed"}
            await job
        assert fields == {"prompt", "seed", "init_image"}
        same = await client.ensure(a_request(init_image=tmp_path / "copy.png", seed=7), ref="mine")
        assert (await same).id == job.id
    assert len(world.service.ledger.charges) == 1


async def test_wrong_calls(make_world: MakeWorld, tmp_path: Path) -> None:
    """Without a journal nothing can be ensured; another track_id, unknown names and wrong values are refused."""
    world = make_world()
    async with world.client() as client:
        with pytest.raises(ClientStateError, match="journal"):
            await client.ensure(a_request(), ref="mine")
    async with world.client(journal=tmp_path / "jobs.db") as client:
        for name, value in (("track_id", "other"), ("lora", "x"), ("fps", 0)):
            wrong: Any = {"prompt": "zoom", "init_image": PNG, name: value}
            with pytest.raises(InvalidRequestError, match=name):
                await client.ensure(wrong, ref="mine")
    assert world.service.ledger.charges == []


async def test_a_waiting_job_with_a_picture_in_memory_is_sent_by_another_client(make_world: MakeWorld) -> None:
    """A journal that keeps pictures has the bytes of a waiting job until the job was sent."""
    world, storage = make_world(queue_limit=5), MemoryStorage(asyncio.get_running_loop().time)
    async with world.client(journal=MemoryJournal(storage), max_in_flight=1) as first:
        running = first.submit(a_request())
        first.submit(a_request(init_image=PNG, track_id="waiting"))
        await running.submitted()
        await first.aclose(drain=False)
    async with world.client(journal=MemoryJournal(storage)) as second:
        video = await (await second.follow("waiting"))
        assert (await row_of(second, "waiting")).state is S.READY
    assert video.ref == "waiting"
    assert storage.pictures == {}


async def test_the_picture_that_was_submitted_is_sent(make_world: MakeWorld, tmp_path: Path) -> None:
    """A journal that keeps pictures has the one that the user chose. The file may be another one by now."""
    world, storage = make_world(queue_limit=5), MemoryStorage(asyncio.get_running_loop().time)
    (tmp_path / "a.png").write_bytes(PNG)
    async with world.client(journal=MemoryJournal(storage), max_in_flight=1) as first:
        running = first.submit(a_request())
        first.submit(a_request(init_image=tmp_path / "a.png", track_id="waiting"))
        await running.submitted()
        await until_known(first, "waiting")
        await first.aclose(drain=False)
    (tmp_path / "a.png").write_bytes(PNG + b"another")
    async with world.client(journal=MemoryJournal(storage)) as second:
        await (await second.follow("waiting"))
    sent = next(job for job in world.service.jobs.values() if job.track_id == "waiting")
    assert world.service.store.get(sent.picture) == PNG


async def test_pictures_in_memory_are_compared_while_the_job_waits(make_world: MakeWorld, tmp_path: Path) -> None:
    """Another picture with the ref is refused although the first one was not sent yet."""
    world, path = make_world(queue_limit=5), tmp_path / "jobs.db"
    async with world.client(journal=path, max_in_flight=1) as owner, world.client(journal=path) as other:
        await owner.submit(a_request()).submitted()
        owner.submit(a_request(init_image=PNG, track_id="mine"))
        await until_known(owner, "mine")
        with pytest.raises(InvalidRequestError, match="init_image"):
            await other.ensure(a_request(init_image=PNG + b"!"), ref="mine")
        job = await other.ensure(a_request(init_image=PNG), ref="mine")
        assert job.state is S.WAITING
        assert (await job).ref == "mine"
    assert len(world.service.ledger.charges) == 2


async def test_a_picture_that_is_gone_is_no_other_picture(make_world: MakeWorld, tmp_path: Path) -> None:
    """The video was paid for, so the same request gives it although the file was removed since."""
    world, picture = make_world(), tmp_path / "a.png"
    picture.write_bytes(PNG)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        video = await (await client.ensure(a_request(init_image=picture), ref="mine"))
    picture.unlink()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        assert (await (await client.ensure(a_request(init_image=picture), ref="mine"))).url == video.url
    assert len(world.service.ledger.charges) == 1
