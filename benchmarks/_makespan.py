"""A batch by one contender, in a process of its own: `python -m benchmarks._makespan CONTENDER LIMIT SEED`.

It says "ready", begins at the next line of its input, and ends with the figures as JSON.
Everybody runs on a loop whose clock is as fast as the emulator, see `_live`; all times are seconds of the service. No
job has an eta: the emulator would tell it in seconds of its own.
"""

from __future__ import annotations

import asyncio
import heapq
import json
import random
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, nullcontext
from importlib import import_module
from typing import Any

import aiohttp
import attrs
from aiohttp import web

from benchmarks._common import Server
from benchmarks._live import KEY, PARAMS, PEER, SPEED, HastyLoop
from benchmarks._open_jobs import OpenJobs
from modelslab_async import Client, JobState

JOBS = 200
LOOK_EVERY = 5.0
_LONGEST_PAUSE = 60.0
Contender = Callable[[str, int], Awaitable[None]]
Pauses = Callable[[float], float]
"""From what has doubled with each refusal to the pause before the next try."""


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


# --- contenders ---


def _params(job: int) -> dict[str, Any]:
    return {**PARAMS, "track_id": f"job {job}"}


async def ours(url: str, limit: int) -> None:
    """This package, with its defaults."""
    async with Client(KEY, base_url=url, max_in_flight=limit) as client:
        await _map(client, {})


async def ours_woken(url: str, limit: int) -> None:
    """The same, and a webhook wakes the jobs."""
    jobs = OpenJobs()
    async with Client(KEY, base_url=url, max_in_flight=limit, telemetry=jobs) as client, AsyncExitStack() as stack:

        async def wake(request: web.Request) -> web.Response:
            jobs.wake((await request.json())["track_id"])
            return web.Response()

        app = web.Application()
        app.router.add_post("/", wake)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        await _map(client, {"webhook": f"http://127.0.0.1:{runner.addresses[0][1]}/"})


async def _map(client: Client, more: Mapping[str, Any]) -> None:
    requests = ({**_params(job), **more} for job in range(JOBS))
    states = [job.state async for job in client.map(requests, lookahead=JOBS)]
    assert states == [JobState.READY] * JOBS


async def gathered(url: str, limit: int) -> None:  # noqa: ARG001 - it does not know of one
    """All at once; who is refused tries again, after twice the time, up to a minute."""
    await _all_at_once(url, lambda pause: pause)


async def gathered_jittered(url: str, limit: int) -> None:  # noqa: ARG001 - it does not know of one
    """The same, after any time up to that, as libraries for retries do unless told otherwise."""
    await _all_at_once(url, _jittered)


async def semaphore(url: str, limit: int) -> None:
    """So many *submits* at a time, each until it is taken; what is taken needs no permit any more."""
    await _all_at_once(url, _jittered, asyncio.Semaphore(limit))


def _jittered(pause: float) -> float:
    return random.uniform(0, pause)


async def _all_at_once(url: str, pauses: Pauses, submits: asyncio.Semaphore | None = None) -> None:
    async with aiohttp.ClientSession() as session:

        async def said(path: str, params: Mapping[str, Any]) -> Any:
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return response.status, await response.json()

        async def taken(params: Mapping[str, Any]) -> Any:
            pause = 1.0
            status, reply = await said("img2video_ultra", params)
            while status == 429:
                await asyncio.sleep(pauses(pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
                status, reply = await said("img2video_ultra", params)
            return reply

        async def job(params: Mapping[str, Any]) -> None:
            async with submits or nullcontext():
                reply = await taken(params)
            job_id = reply["id"]
            while reply["status"] == "processing":
                await asyncio.sleep(LOOK_EVERY)
                _, reply = await said(f"fetch/{job_id}", {})
            assert reply["status"] == "success"

        await asyncio.gather(*(job(_params(each)) for each in range(JOBS)))


async def peer(url: str, limit: int) -> None:
    """modelslab-py, with its defaults, and a semaphore around each job."""
    from modelslab_py.core.apis.video import Video  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.core.client import Client as PeerClient  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.schemas.video import Image2VideoUltra  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    jobs = asyncio.Semaphore(limit)
    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)

        async def job(params: Mapping[str, Any]) -> None:
            wanted = Image2VideoUltra(**params, resolution=480, num_inference_steps=20)
            async with jobs:
                reply = await video.async_image_to_video_ultra(wanted)
                reply = await video.async_fetch(str(reply["id"]))
                assert reply is not None
                assert reply["status"] == "success"

        await asyncio.gather(*(job(_params(each)) for each in range(JOBS)))


CONTENDERS: Mapping[str, Contender] = {
    "modelslab_async": ours,
    "modelslab_async, woken by a webhook": ours_woken,
    "gather, a 429 again after 1, 2, 4 to 60 s": gathered,
    "gather, a 429 again after a random part of that": gathered_jittered,
    "a semaphore around such submits": semaphore,
    "modelslab-py, a semaphore around the jobs": peer,
}


# --- measuring ---


def measure(contender: Contender, limit: int, seed: int) -> Batch:
    """One batch, from before the first submit until the last end is known, and what was paid for is right."""
    if contender is peer:
        warnings.filterwarnings("ignore", module=PEER)  # pydantic's old names
        import_module(f"{PEER}.core.apis.video")  # now: it takes a second, which would count for twenty

    async def timed(url: str) -> float:
        begun = time.monotonic()
        await contender(url, limit)
        return time.monotonic() - begun

    with Server(SPEED, {"absent": 1}, queue_limit=limit, seed=seed) as server:
        print("ready", flush=True)
        if not sys.stdin.readline():
            raise SystemExit("nobody waits for the figures any more")
        with asyncio.Runner(loop_factory=HastyLoop) as runner:
            seconds = runner.run(timed(server.url)) * SPEED
        assert list(server.charges().values()) == [1] * JOBS
        lengths = [(end - begin) * SPEED for begin, end in server.spans().values()]
        assert len(lengths) == JOBS
        return Batch(seconds=seconds, bound=lower_bound(lengths, limit), requests=server.requests())


if __name__ == "__main__":
    print(json.dumps(attrs.asdict(measure(CONTENDERS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])))))
