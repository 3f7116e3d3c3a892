"""Waiting over real HTTP: each contender as it is published, on an event loop whose clock runs as fast as the emulator.

The emulator does everything in a twentieth of the time. A contender that sleeps for 60 s must then sleep for 3, so all
of them run on a loop with the same haste, unchanged, and all figures are in seconds of the service. What the machine
itself takes for a request is not hastened and so counts for twenty times as much: a millisecond as 20.
"""

from __future__ import annotations

import asyncio
import selectors
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from statistics import fmean
from typing import Any

import aiohttp
import attrs
from aiohttp import web

from benchmarks._common import Server
from benchmarks._open_jobs import OpenJobs
from modelslab_async import Client, JobState
from modelslab_async.emulator.job import DEFAULT_ETA

SPEED = 20.0
JOBS = 30
BEGIN_EVERY = 0.5
"""Seconds of the service between two submits."""
KEY, PEER = "any", "modelslab_py"
PARAMS: Mapping[str, Any] = {
    "prompt": "the rocket stands in the evening light, zoom in",
    "init_image": "https://picture.invalid/rocket.png",
    "num_frames": 81,
}

Ends = dict[str, float]
"""When each job was seen to have ended, by its id: seconds of the monotonic clock."""
Contender = Callable[[str, int], Awaitable[Ends]]


@attrs.frozen
class Seen:
    """Means over the jobs. Latency in seconds of the service, from the end of a job until its owner knew of it."""

    requests_per_job: float
    latency: float
    longest: float


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / SPEED if timeout and timeout > 0 else timeout)


class HastyLoop(asyncio.SelectorEventLoop):
    """Its clock runs SPEED times as fast as the machine's."""

    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        """Seconds of the service."""
        return super().time() * SPEED


# --- contenders ---


async def _ours(client: Client, params: Mapping[str, Any], jobs: int) -> Ends:
    async def job() -> tuple[str, float]:
        begun = client.submit(params)
        async for event in begun.events():
            if event.state is JobState.READY:
                break
        seen = time.monotonic()
        await begun
        return str(begun.id), seen

    return await _in_turn(job, jobs)


async def ours(url: str, jobs: int) -> Ends:
    """This package, with its defaults; it knows nothing of such jobs before the first."""
    async with Client(KEY, base_url=url, max_in_flight=jobs) as client:
        return await _ours(client, PARAMS, jobs)


async def ours_woken(url: str, jobs: int) -> Ends:
    """The same, and a webhook wakes the jobs."""
    open_jobs = OpenJobs()
    async with Client(KEY, base_url=url, max_in_flight=jobs, telemetry=open_jobs) as client:

        async def wake(request: web.Request) -> web.Response:
            open_jobs.wake((await request.json())["track_id"])
            return web.Response()

        app = web.Application()
        app.router.add_post("/", wake)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return await _ours(client, {**PARAMS, "webhook": f"http://127.0.0.1:{runner.addresses[0][1]}/"}, jobs)
        finally:
            await runner.cleanup()


async def fixed_loop(url: str, jobs: int) -> Ends:
    """Submit, then ask every 5 s."""
    async with aiohttp.ClientSession() as session:

        async def said(path: str, params: Mapping[str, Any]) -> Any:
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return await response.json()

        async def job() -> tuple[str, float]:
            reply = await said("img2video_ultra", PARAMS)
            job_id = str(reply["id"])
            while reply["status"] == "processing":
                await asyncio.sleep(5)
                reply = await said(f"fetch/{job_id}", {})
            return job_id, time.monotonic()

        return await _in_turn(job, jobs)


async def peer(url: str, jobs: int) -> Ends:
    """modelslab-py, with its defaults: it asks at once, and then once a minute."""
    from modelslab_py.core.apis.video import Video  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.core.client import Client as PeerClient  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.schemas.video import Image2VideoUltra  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)
        wanted = Image2VideoUltra(**PARAMS, resolution=480, num_inference_steps=20)

        async def job() -> tuple[str, float]:
            reply = await video.async_image_to_video_ultra(wanted)
            job_id = str(reply["id"])
            reply = await video.async_fetch(job_id)
            assert reply is not None
            assert reply["status"] == "success"
            return job_id, time.monotonic()

        return await _in_turn(job, jobs)


async def _in_turn(job: Callable[[], Any], jobs: int) -> Ends:
    begun = []
    for _ in range(jobs):
        begun.append(asyncio.ensure_future(job()))
        await asyncio.sleep(BEGIN_EVERY)
    return dict(await asyncio.gather(*begun))


# --- measuring ---


def contenders() -> dict[str, Contender]:
    """Who is there."""
    found: dict[str, Contender] = {
        "modelslab_async": ours,
        "modelslab_async, woken by a webhook": ours_woken,
        "a loop that asks every 5 s": fixed_loop,
    }
    if find_spec(PEER):
        import_module(f"{PEER}.core.apis.video")  # now: it takes a second, which would count for twenty
        found["modelslab-py"] = peer
    return found


def measure(tell: Callable[[str], None]) -> dict[str, Seen]:
    """Each contender in turn, at one emulator."""
    warnings.filterwarnings("ignore", module=PEER)  # pydantic's old names, once a process
    figures = {}
    with Server(SPEED, DEFAULT_ETA) as server:
        for name, contender in contenders().items():
            tell(f"over HTTP: {name}")
            before = server.requests()
            seen = _run(contender(server.url, JOBS))
            requests, ends = server.requests() - before, server.ends()
            late = [(at - ends[job_id]) * SPEED for job_id, at in seen.items()]
            assert len(late) == JOBS
            figures[name] = Seen(requests / JOBS, fmean(late), max(late))
    return figures


def _run(work: Awaitable[Ends]) -> Ends:
    async def whole() -> Ends:
        return await work

    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        return runner.run(whole())
