"""Videos of the emulator's jobs: when they are rendered, and what happens if that fails."""

from __future__ import annotations

import asyncio
import base64
import threading
from typing import Any

import pytest
from aiohttp import web
from helpers.emulator_server import BALANCE, FETCH, ROCKET, other_server, running_emulator

from modelslab_async.emulator import Fault, Rule, Work, skeleton


async def test_a_real_video_is_served() -> None:
    """The announced link serves a real mp4, whole and in ranges."""
    async with running_emulator(render=None) as running:
        _, reply = await running.submit(resolution=64, num_frames=8, num_inference_steps=100)
        await running.poll_until(reply["id"])
        (link,) = reply["future_links"] if reply["status"] == "processing" else reply["output"]
        whole = await running.wait_for_file(link)
        async with running.session.get(link) as response:
            etag = response.headers["ETag"]
            assert (response.headers["Accept-Ranges"], response.content_type) == ("bytes", "video/mp4")
        assert whole[4:8] == b"ftyp"
        assert await running.get(link, Range="bytes=100-") == (206, whole[100:])
        assert await running.get(link, **{"Range": "bytes=100-", "If-Range": etag}) == (206, whole[100:])
        assert await running.get(link, **{"Range": "bytes=100-", "If-Range": '"old"'}) == (200, whole)
        assert (await running.get(link, Range=f"bytes={len(whole)}-"))[0] == 416
        assert (await running.get(link, Range="bytes=" + "9" * 5000 + "-"))[0] in (200, 416)


async def test_a_picture_that_cannot_be_decoded_is_refused() -> None:
    """A picture that only begins like one, or is cut off, is refused at once with the reason, and nothing is charged.

    The same picture is refused again.
    """
    async with running_emulator(render=None) as running:
        for broken in (b"\x89PNG\r\n\x1a\n" + bytes(24), ROCKET[: len(ROCKET) // 2]):
            for _ in range(2):
                status, reply = await running.submit(init_image=base64.b64encode(broken).decode())
                assert (status, set(reply["message"])) == (400, {"init_image"})
                assert "0x" not in str(reply["message"])
        assert running.emulator.ledger.charges == []


async def test_a_webhook_waits_for_the_renderer() -> None:
    """If rendering takes longer than the job should, a true delivery waits for the renderer, which may fail."""
    payloads: asyncio.Queue[Any] = asyncio.Queue()
    may_fail = threading.Event()

    async def receive(request: web.Request) -> web.Response:
        await payloads.put(await request.json())
        return web.Response()

    def failing(_: Work) -> bytes:
        may_fail.wait(30)
        raise ValueError("broken")

    rules = [Rule(Fault.WEBHOOK_FORGED)]
    async with (
        other_server(hook=receive) as other,
        running_emulator(render=failing, speed=1000.0, faults=rules) as running,
    ):
        _, reply = await running.submit(webhook=f"{other}/hook")
        assert (await payloads.get())["message"] == "forged"
        # a forged delivery comes halfway; after 20 more fetches the true delivery would be due
        statuses = {(await running.post(f"{FETCH}{reply['id']}"))[1]["status"] for _ in range(20)}
        is_undelivered = payloads.empty()
        may_fail.set()
        assert is_undelivered
        assert statuses == {"processing"}
        assert "broken" in (await payloads.get())["message"]


@pytest.mark.parametrize("params", [{"num_inference_steps": 100}, {"num_frames": 8}], ids=["later", "immediate"])
async def test_a_job_is_unfinished_until_its_video_is_rendered(params: dict[str, Any]) -> None:
    """A job whose rendering takes longer than the job should is processing, and holds its slot; its link does not work.

    No reported end is taken back, and no request hangs.
    """
    may_end = threading.Event()

    def slow(work: Work) -> bytes:
        may_end.wait(30)
        return skeleton(work)

    async with running_emulator(render=slow, speed=1000.0, queue_limit=1) as running:
        first = asyncio.ensure_future(running.submit(**params))
        while not running.emulator.service.jobs:
            await running.post(BALANCE)
        (job,) = running.emulator.service.jobs.values()
        while running.emulator.now() <= job.done_at:
            await running.post(BALANCE)
        for _ in range(3):
            assert (await running.post(f"{FETCH}{job.id}"))[1]["status"] == "processing"
            assert (await running.submit())[0] == 429
            assert (await running.get(job.link(running.emulator.url)))[0] in (403, 404)
        may_end.set()
        assert (await first)[0] == 200
        await running.poll_until(job.id, ["success"])
        assert await running.wait_for_file(job.link(running.emulator.url)) == skeleton(job.work)
        assert (await running.submit())[0] == 200


async def test_a_submit_is_never_delayed_by_renders() -> None:
    """However many videos wait for a thread, a submit is answered at once, and its eta counts the videos before it."""
    may_end = threading.Event()

    def slow(work: Work) -> bytes:
        may_end.wait(30)
        return skeleton(work)

    async with running_emulator(render=slow, speed=1000.0, queue_limit=50, eta={"good": 1}) as running:
        replies = [await running.submit(seed=number, num_frames=8) for number in range(50)]
        assert {reply["status"] for _, reply in replies} == {"processing"}
        may_end.set()
        for _, reply in replies:
            await running.poll_until(reply["id"], ["success"])


async def test_an_eta_counts_the_videos_that_are_rendered_first() -> None:
    """The eta of a job is at least the time that its video and those before it take to be rendered."""
    async with running_emulator(render=None, speed=100_000.0, queue_limit=50, eta={"good": 1}) as running:
        etas = [(await running.submit(seed=number))[1].get("eta", 0) for number in range(30)]
        assert all(job.done_at > job.accepted_at + 0.1 for job in running.emulator.service.jobs.values())
        assert etas[-1] > etas[0]


async def test_equal_work_is_rendered_once() -> None:
    """Jobs with the same picture, prompt, seed and size share one rendering. Each has the video at its own link."""
    rendered: list[Work] = []

    def counting(work: Work) -> bytes:
        rendered.append(work)
        return skeleton(work)

    async with running_emulator(render=counting) as running:
        links = [(await running.finish_job(seed=1))[1] for _ in range(3)]
        await running.finish_job(seed=2)
        assert len(set(links)) == 3
        assert len({(await running.get(link))[1] for link in links}) == 1
    assert [work.seed for work in rendered] == [1, 2]


async def test_a_video_is_not_rendered_before_it_is_due() -> None:
    """A job that is far from its end costs no rendering; to finish it by hand renders its video at once."""
    rendered: list[Work] = []

    def counting(work: Work) -> bytes:
        rendered.append(work)
        return skeleton(work)

    async with running_emulator(render=counting, speed=1.0) as running:
        _, reply = await running.submit()
        assert (await running.post(f"{FETCH}{reply['id']}"))[1]["status"] == "processing"
        assert rendered == []
        running.emulator.finish_job(reply["id"])
        await running.poll_until(reply["id"], ["success"])
        assert len(rendered) == 1


async def test_closing_does_not_wait_for_a_video() -> None:
    """Closing the emulator stops the renderer instead of waiting for minutes of video."""
    async with running_emulator(render=None) as running:
        _, reply = await running.submit(num_frames=1000, resolution=1080)
        assert (await running.post(f"{FETCH}{reply['id']}"))[1]["status"] == "processing"


async def test_an_error_of_the_renderer_is_reported_as_it_is() -> None:
    """The job fails with the renderer's error, which is not blamed on the picture."""

    def on_a_full_disk(_: Work) -> bytes:
        raise OSError(28, "No space left on device")

    async with running_emulator(render=on_a_full_disk) as running:
        _, reply = await running.submit()
        end = await running.poll_until(reply["id"])
    assert (end["status"], "picture" in end["message"], "No space left" in end["message"]) == ("failed", False, True)
