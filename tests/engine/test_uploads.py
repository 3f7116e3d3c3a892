"""Local files that do not travel inside the request: uploaded before the paid request, and never with it."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any

import pytest
from helpers.left_behind import row_of
from helpers.operations import CLIP, a_request_for
from helpers.transports import PassOn, intercepted
from helpers.world import PNG, MakeWorld, World, a_request

from modelslab_async import (
    InvalidRequestError,
    JobDetachedError,
    JobError,
    JobState,
    RateLimitError,
    ServerError,
    Timeouts,
)
from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.files import skeleton
from modelslab_async.emulator.job import Work
from modelslab_async.protocol.reply import HttpReply

pytestmark = pytest.mark.looptime
PICTURE_UPLOAD, VIDEO_UPLOAD = "/api/v6/base64_to_url", "/api/v6/video/base64_to_url"
MP4 = skeleton(Work(picture=b"", prompt="p", seed=1, width=2, height=2, frames=1, fps=1))


@pytest.mark.parametrize("journal", ["jobs.db", None])
async def test_local_files_are_uploaded_once(make_world: MakeWorld, tmp_path: Path, journal: str | None) -> None:
    """Each file has its upload, before the only paid request. The service gets URLs."""
    (tmp_path / "a.mp4").write_bytes(MP4)
    world = make_world()
    async with world.client(journal=journal and tmp_path / journal) as client:
        job = client.submit(a_request_for("motion-control", init_image=[PNG, PNG], init_video=tmp_path / "a.mp4"))
        await job
        if journal:
            row = await row_of(client, job.ref)
            assert row.request is not None
            assert row.request["init_video"] == str(tmp_path / "a.mp4")
            assert all(each.startswith("sha256:") for each in row.request["init_image"])
    paths = [path for path in world.transport.requests if "/fetch/" not in path and path.startswith("/api/")]
    assert paths == [PICTURE_UPLOAD, PICTURE_UPLOAD, VIDEO_UPLOAD, "/api/v7/video-fusion/motion-control"]
    (emulated,) = world.service.jobs.values()
    assert emulated.source.startswith(world.service.origin)


async def test_a_job_that_is_put_back_uploads_nothing_again(make_world: MakeWorld) -> None:
    """The service keeps an upload for a day, so a request that is sent again names the same URL."""
    world = make_world(faults=[Rule(Fault.RATE_LIMIT, times=2)])
    async with world.client() as client:
        await client.generate(a_request_for("image-to-video", init_image=PNG))
    assert world.count(PICTURE_UPLOAD) == 1
    assert world.count("/video-fusion/image-to-video") == 3


async def test_a_failed_upload_costs_nothing(make_world: MakeWorld) -> None:
    """The job is refused, not charged, and its paid request is never sent."""
    world = make_world(faults=[Rule(Fault.ERROR_500, on="call")])
    async with world.client() as client:
        job = client.submit(a_request_for("image-to-video", init_image=PNG))
        await job.wait()
    assert isinstance(job.error, ServerError)
    assert (job.state, job.error.charged) == (JobState.REFUSED, False)
    assert world.count("/video-fusion/") == 0
    assert world.service.ledger.charges == []


def with_hanging_uploads(world: World) -> World:
    """Let no upload of this world end."""

    async def hang(url: str, pass_on: PassOn) -> HttpReply:
        if url.endswith(PICTURE_UPLOAD):
            await asyncio.sleep(math.inf)
        return await pass_on()

    world.transport = intercepted(world, hang)
    return world


@pytest.mark.parametrize("journal", ["jobs.db", None])
async def test_a_client_that_closes_waits_for_no_upload(
    make_world: MakeWorld, tmp_path: Path, journal: str | None
) -> None:
    """The job waits in the journal for the next client. Without a journal it is refused, not charged."""
    world = with_hanging_uploads(make_world())
    async with world.client(journal=journal and tmp_path / journal) as client:
        job = client.submit(a_request_for("image-to-video", init_image=PNG))
        await asyncio.sleep(1.0)
        async with asyncio.timeout(1.0):
            await client.aclose(drain=False)
    if journal:
        assert isinstance(job.exception(), JobDetachedError)
    else:
        assert job.cancelled() or job.state is JobState.REFUSED
    assert world.service.ledger.charges == []


async def test_a_cancelled_job_delays_no_other(make_world: MakeWorld, tmp_path: Path) -> None:
    """Its upload ends, so that the next job of the queue has its turn."""
    world = with_hanging_uploads(make_world())
    async with world.client(journal=tmp_path / "jobs.db") as client:
        first, second = client.submit(a_request_for("image-to-video", init_image=PNG)), client.submit(a_request())
        await asyncio.sleep(1.0)
        first.cancel()
        async with asyncio.timeout(1.0):
            await second.submitted()
        assert (first.cancelled(), second.state) == (True, JobState.PROCESSING)
        await client.aclose(drain=False)
    assert world.service.ledger.track_ids() == [second.ref]


async def test_all_uploads_of_a_job_have_one_bound(make_world: MakeWorld) -> None:
    """An upload that hangs ends the job after `Timeouts.submit`, not charged."""
    world = with_hanging_uploads(make_world())
    async with world.client(timeouts=Timeouts(submit=20.0)) as client, asyncio.timeout(20.5):
        with pytest.raises(JobError, match="took longer than 20 s") as caught:
            await client.submit(a_request_for("motion-control", init_image=[PNG, PNG], init_video=CLIP))
    assert caught.value.charged is False


async def test_an_upload_that_may_come_much_later_is_not_waited_for(make_world: MakeWorld) -> None:
    """If the service asks for half an hour of patience, the job is refused at once, and says why."""
    world = make_world()

    async def refuse(url: str, pass_on: PassOn) -> HttpReply:
        if url.endswith(PICTURE_UPLOAD):
            return HttpReply(429, b'{"status": "error", "message": "busy"}', retry_after="1800")
        return await pass_on()

    world.transport = intercepted(world, refuse)
    async with world.client() as client, asyncio.timeout(1.0):
        with pytest.raises(RateLimitError, match="busy"):
            await client.submit(a_request_for("image-to-video", init_image=PNG))


async def test_bytes_of_another_process_are_gone(make_world: MakeWorld, tmp_path: Path) -> None:
    """The next client sends a job whose files are at URLs or paths. It refuses one whose files were bytes."""
    (tmp_path / "a.png").write_bytes(PNG)
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path, max_in_flight=1) as client:
        first = client.submit(a_request_for("image-to-video"))
        for picture in (tmp_path / "a.png", PNG):
            client.submit(a_request_for("image-to-video", init_image=picture))
        await first.submitted()
        await client.aclose(drain=False)
    async with world.client(journal=path) as client:
        kept, gone = await client.resubmit((await client.recover()).unsent)
        await kept
        assert isinstance(gone.error, InvalidRequestError)
        assert "passed as bytes" in str(gone.error)
    assert len(world.service.ledger.charges) == 2


async def test_ensure_compares_files_by_where_they_are(make_world: MakeWorld, tmp_path: Path) -> None:
    """The same URL, path or bytes are the same file. Another one under the same ref is refused."""
    (tmp_path / "a.mp4").write_bytes(MP4)
    world = make_world()
    files: dict[str, Any] = {"init_video": tmp_path / "a.mp4", "init_image": PNG}
    async with world.client(journal=tmp_path / "jobs.db") as client:
        await (await client.ensure(a_request_for("video-to-video", **files), ref="a"))
        await client.ensure(a_request_for("video-to-video", **files), ref="a")
        with pytest.raises(InvalidRequestError) as caught:
            await client.ensure(a_request_for("video-to-video", **{**files, "init_image": PNG + b"x"}), ref="a")
    assert [problem.field for problem in caught.value.problems] == ["init_image"]
    assert len(world.service.ledger.charges) == 1


async def test_ensure_notices_a_file_that_was_added_or_dropped(make_world: MakeWorld, tmp_path: Path) -> None:
    """A request with one file more or less is another request."""
    world = make_world()
    files = {"init_image": "https://files.invalid/a.png"}
    more = {**files, "init_audio": "https://files.invalid/a.mp3"}
    async with world.client(journal=tmp_path / "jobs.db") as client:
        for ref, first, second in (("a", files, more), ("b", more, files)):
            await (await client.ensure(a_request_for("image-to-video", **first), ref=ref))
            with pytest.raises(InvalidRequestError) as caught:
                await client.ensure(a_request_for("image-to-video", **second), ref=ref)
            assert [problem.field for problem in caught.value.problems] == ["init_audio"]
    assert len(world.service.ledger.charges) == 2


async def test_an_upload_by_hand(make_world: MakeWorld) -> None:
    """`Client.upload` takes a picture or an mp4, and returns a URL that a request may name."""
    world = make_world()
    async with world.client() as client:
        for content, path in ((PNG, PICTURE_UPLOAD), (MP4, VIDEO_UPLOAD)):
            url = await client.upload(content)
            assert url.startswith(world.service.origin)
            assert world.transport.requests[-1] == path
