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


async def test_a_job_whose_picture_cannot_be_decoded_fails() -> None:
    """The job is accepted and charged, then fails. Its webhook reports the failure, and its link is never found."""
    payloads: asyncio.Queue[Any] = asyncio.Queue()

    async def receive(request: web.Request) -> web.Response:
        await payloads.put(await request.json())
        return web.Response()

    async with other_server(hook=receive) as other, running_emulator(render=None, speed=100.0) as running:
        broken = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
        _, reply = await running.submit(init_image=broken, webhook=f"{other}/hook", track_id="mine")
        end = await running.poll_until(reply["id"], ["failed"])
        assert "could not be read" in end["message"]
        assert (await running.get(reply["future_links"][0]))[0] == 404
        payload = await payloads.get()
        assert (payload["status"], payload["id"], payload["track_id"]) == ("failed", reply["id"], "mine")
        assert len(running.emulator.ledger.charges) == 1


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


async def test_a_broken_picture_never_gives_success() -> None:
    """A job with a broken picture never reports success, even if it would be done before the renderer fails."""
    async with running_emulator(render=None, speed=100_000.0) as running:
        broken = base64.b64encode(ROCKET[: len(ROCKET) // 2]).decode()
        for params in ({"num_frames": 4}, {"num_inference_steps": 100}):
            _, reply = await running.submit(init_image=broken, **params)
            end = await running.poll_until(reply["id"])
            assert (end["status"], "could not be read" in end["message"]) == ("failed", True)
            (job,) = [job for job in running.emulator.service.jobs.values() if job.id == reply["id"]]
            assert (await running.get(job.link(running.emulator.url)))[0] == 404


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
