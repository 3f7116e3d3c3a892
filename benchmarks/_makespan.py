"""A batch by one contender, in a process of its own: `python -m benchmarks._makespan CONTENDER LIMIT`.

Everybody runs on a loop whose clock is as fast as the emulator, see `_live`; all times are seconds of the service.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import attrs
from aiohttp import web

from benchmarks._common import Server
from benchmarks._live import KEY, PARAMS, PEER, SPEED, HastyLoop
from modelslab_async import Client
from modelslab_async.emulator.order import DEFAULT_ETA

JOBS = 200
LOOK_EVERY = 5.0
Contender = Callable[[str, int], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Batch:
    """What became of a batch: seconds of the service, and HTTP requests. `bound` is what no client can beat."""

    seconds: float
    bound: float
    requests: int

    @property
    def ratio(self) -> float:
        """How many times as long as it had to."""
        return self.seconds / self.bound


def lower_bound(lengths: Iterable[float], places: int) -> float:
    """Jobs of these lengths on so many places, in their order, each begun in the moment in which a place is free."""
    ends = [0.0] * places
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


# --- contenders ----------------------------------------------------------------------------------------------------


async def ours(url: str, limit: int) -> None:
    """This package, with its defaults."""
    async with Client(KEY, base_url=url, max_in_flight=limit) as client:
        await _map(client, PARAMS)


async def ours_woken(url: str, limit: int) -> None:
    """The same, and a webhook wakes the jobs."""
    async with Client(KEY, base_url=url, max_in_flight=limit) as client, AsyncExitStack() as stack:

        async def wake(request: web.Request) -> web.Response:
            if job := client._dispatcher.jobs.get((await request.json())["track_id"]):
                job.wake()
            return web.Response()

        app = web.Application()
        app.router.add_post("/", wake)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await _map(client, {**PARAMS, "webhook": f"http://127.0.0.1:{runner.addresses[0][1]}/"})


async def _map(client: Client, params: Mapping[str, Any]) -> None:
    async for job in client.map([params] * JOBS, lookahead=JOBS):
        job.result()


async def gathered(url: str, limit: int) -> None:  # noqa: ARG001 - it does not know of one
    """All at once; who is refused tries again, after twice the time, up to a minute."""
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(_naive(session, url, None) for _ in range(JOBS)))


async def semaphore(url: str, limit: int) -> None:
    """So many *requests* at a time; who is refused tries again."""
    requests = asyncio.Semaphore(limit)
    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(_naive(session, url, requests) for _ in range(JOBS)))


async def _naive(session: aiohttp.ClientSession, url: str, requests: asyncio.Semaphore | None) -> None:
    async def said(path: str, params: Mapping[str, Any]) -> Any:
        async with AsyncExitStack() as stack:
            if requests:
                await stack.enter_async_context(requests)
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return response.status, await response.json()

    pause = 1.0
    status, reply = await said("img2video_ultra", PARAMS)
    while status == 429:
        await asyncio.sleep(pause)
        pause = min(2 * pause, 60.0)
        status, reply = await said("img2video_ultra", PARAMS)
    job_id = reply["id"]
    while reply["status"] == "processing":
        await asyncio.sleep(LOOK_EVERY)
        _, reply = await said(f"fetch/{job_id}", {})


async def peer(url: str, limit: int) -> None:
    """modelslab-py, with its defaults, and a semaphore around each job."""
    from modelslab_py.core.apis.video import Video  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.core.client import Client as PeerClient  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.schemas.video import Image2VideoUltra  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    warnings.filterwarnings("ignore", module=PEER)  # pydantic's old names
    jobs = asyncio.Semaphore(limit)
    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)
        wanted = Image2VideoUltra(**PARAMS, resolution=480, num_inference_steps=20)

        async def job() -> None:
            async with jobs:
                reply = await video.async_image_to_video_ultra(wanted)
                reply = await video.async_fetch(str(reply["id"]))
                assert reply is not None
                assert reply["status"] == "success"

        await asyncio.gather(*(job() for _ in range(JOBS)))


CONTENDERS: Mapping[str, Contender] = {
    "modelslab_async": ours,
    "modelslab_async, woken by a webhook": ours_woken,
    "gather, and again after a 429": gathered,
    "a semaphore around the requests": semaphore,
    "modelslab-py, a semaphore around the jobs": peer,
}


# --- measuring -----------------------------------------------------------------------------------------------------


def measure(contender: Contender, limit: int) -> Batch:
    """One batch, from the first submit until the last end is known."""

    async def whole(url: str) -> None:
        await contender(url, limit)

    with Server(SPEED, DEFAULT_ETA, queue_limit=limit) as server:
        with asyncio.Runner(loop_factory=HastyLoop) as runner:
            runner.run(whole(server.url))
        end = time.monotonic()
        spans = list(server.spans().values())
        charges = server.charges()
        assert len(spans) == sum(charges.values()) == JOBS
        seconds = (end - min(begin for begin, _ in spans)) * SPEED
        bound = lower_bound(((end - begin) * SPEED for begin, end in spans), limit)
        return Batch(seconds=seconds, bound=bound, requests=server.requests())


if __name__ == "__main__":
    print(json.dumps(attrs.asdict(measure(CONTENDERS[sys.argv[1]], int(sys.argv[2])))))
