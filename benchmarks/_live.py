"""Measure polling over real HTTP: each client unchanged, on an event loop whose clock runs as fast as the emulator.

The emulator runs 20 times as fast. A client that sleeps for 60 s must then sleep for 3 s. So all clients run on an
event loop that is as fast, and all figures are in seconds of the service. The machine's own time for a request is not
scaled: one millisecond counts as 20.
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

from benchmarks._common import OpenJobs, Server
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
"""When the end of each job was detected, by its id, in seconds of the monotonic clock."""
Contender = Callable[[str, int], Awaitable[Ends]]


@attrs.frozen
class Measured:
    """Means over the jobs.

    latency, highest: seconds of the service from the end of a job until its owner was notified.
    """

    requests_per_job: float
    latency: float
    highest: float


class _Selector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / SPEED if timeout and timeout > 0 else timeout)


class AcceleratedLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock runs SPEED times as fast as the machine's."""

    def __init__(self) -> None:
        super().__init__(_Selector())

    def time(self) -> float:
        """Return the time in seconds of the service."""
        return super().time() * SPEED


# --- contenders ---


async def _ours(client: Client, params: Mapping[str, Any], jobs: int) -> Ends:
    async def run() -> tuple[str, float]:
        job = client.submit(**params)
        async for event in job.events():
            if event.state is JobState.READY:
                break
        detected = time.monotonic()
        await job
        return str(job.id), detected

    return await _in_turn(run, jobs)


async def ours(url: str, jobs: int) -> Ends:
    """This package with its defaults. It has no experience with such jobs before the first one."""
    async with Client(KEY, base_url=url, max_in_flight=jobs) as client:
        return await _ours(client, PARAMS, jobs)


async def ours_woken(url: str, jobs: int) -> Ends:
    """This package with a webhook that wakes the jobs."""
    open_jobs = OpenJobs()
    async with (
        open_jobs.webhook() as webhook,
        Client(KEY, base_url=url, max_in_flight=jobs, telemetry=open_jobs) as client,
    ):
        return await _ours(client, {**PARAMS, "webhook": webhook}, jobs)


async def fixed_loop(url: str, jobs: int) -> Ends:
    """A minimal loop that polls every 5 s."""
    async with aiohttp.ClientSession() as session:

        async def post(path: str, params: Mapping[str, Any]) -> Any:
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return await response.json()

        async def job() -> tuple[str, float]:
            reply = await post("img2video_ultra", PARAMS)
            job_id = str(reply["id"])
            while reply["status"] == "processing":
                await asyncio.sleep(5)
                reply = await post(f"fetch/{job_id}", {})
            return job_id, time.monotonic()

        return await _in_turn(job, jobs)


async def peer(url: str, jobs: int) -> Ends:
    """modelslab-py with its defaults: it polls at once and then once a minute."""
    from modelslab_py.core.apis.video import Video  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.core.client import Client as PeerClient  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.schemas.video import Image2VideoUltra  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)
        request = Image2VideoUltra(**PARAMS, resolution=480, num_inference_steps=20)

        async def job() -> tuple[str, float]:
            reply = await video.async_image_to_video_ultra(request)
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
    """Return the contenders that are installed."""
    found: dict[str, Contender] = {
        "modelslab_async": ours,
        "modelslab_async, woken by a webhook": ours_woken,
        "minimal loop, polls every 5 s": fixed_loop,
    }
    if find_spec(PEER):
        import_module(f"{PEER}.core.apis.video")  # imported here: it takes a second, which would count as 20
        found["modelslab-py"] = peer
    return found


def measure(log: Callable[[str], None]) -> dict[str, Measured]:
    """Measure each contender in turn, at the same emulator."""
    warnings.filterwarnings("ignore", module=PEER)  # it uses deprecated names of pydantic
    figures = {}
    with Server(SPEED, DEFAULT_ETA) as server:
        for name, contender in contenders().items():
            log(f"over HTTP: {name}")
            before = server.requests()
            detected = _run(contender(server.url, JOBS))
            requests, ends = server.requests() - before, server.ends()
            latencies = [(at - ends[job_id]) * SPEED for job_id, at in detected.items()]
            assert len(latencies) == JOBS
            figures[name] = Measured(requests / JOBS, fmean(latencies), max(latencies))
    return figures


def _run(work: Awaitable[Ends]) -> Ends:
    async def whole() -> Ends:
        return await work

    with asyncio.Runner(loop_factory=AcceleratedLoop) as runner:
        return runner.run(whole())
