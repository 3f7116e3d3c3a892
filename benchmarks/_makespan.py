"""Run a batch by one contender in another process: `python -m benchmarks._makespan CONTENDER LIMIT SEED`.

The process prints "ready", begins at the next line of its stdin, and prints the figures as JSON. Every contender runs
on an event loop whose clock is as fast as the emulator, see `_live`; all times are seconds of the service. No job has
an eta, because the emulator would report it in its own seconds.
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
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import aiohttp
import attrs

from benchmarks._common import OpenJobs, Server
from benchmarks._live import KEY, PARAMS, PEER, SPEED, AcceleratedLoop
from modelslab_async import Client, ImageToVideoUltra, JobState

JOBS = 200
POLL_EVERY = 5.0
_LONGEST_PAUSE = 60.0
Contender = Callable[[str, int], Awaitable[None]]
Pauses = Callable[[float], float]
"""A function from the backoff, which doubles with each refusal, to the pause before the next try."""


@attrs.frozen(kw_only=True)
class Batch:
    """The outcome of a batch: seconds of the service and HTTP requests. No client can be faster than `bound`."""

    seconds: float
    bound: float
    requests: int

    @property
    def ratio(self) -> float:
        """The time as a multiple of the bound."""
        return self.seconds / self.bound


def lower_bound(lengths: Iterable[float], slots: int) -> float:
    """Return the time of jobs of these lengths, in their order, each begun as soon as one of the slots is free."""
    ends = [0.0] * slots
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


# --- contenders ---


def _params(job: int) -> dict[str, Any]:
    return {**PARAMS, "track_id": f"job {job}"}


async def ours(url: str, limit: int) -> None:
    """This package with its defaults."""
    async with Client(KEY, base_url=url, max_in_flight=limit) as client:
        await _map(client, {})


async def ours_woken(url: str, limit: int) -> None:
    """This package with a webhook that wakes the jobs."""
    open_jobs = OpenJobs()
    async with (
        open_jobs.webhook() as webhook,
        Client(KEY, base_url=url, max_in_flight=limit, telemetry=open_jobs) as client,
    ):
        await _map(client, {"webhook": webhook})


async def _map(client: Client, more: Mapping[str, Any]) -> None:
    requests = (ImageToVideoUltra(**{**_params(job), **more}) for job in range(JOBS))
    states = [job.state async for job in client.map(requests, lookahead=JOBS)]
    assert states == [JobState.READY] * JOBS


async def gathered(url: str, limit: int) -> None:  # noqa: ARG001 - this contender does not use it
    """Submit all jobs at once. After a 429 wait 1, 2, 4 and up to 60 s."""
    await _all_at_once(url, lambda pause: pause)


async def gathered_jittered(url: str, limit: int) -> None:  # noqa: ARG001 - this contender does not use it
    """Submit all jobs at once. After a 429 wait a random share of that time: the default of retry libraries."""
    await _all_at_once(url, _jittered)


async def semaphore(url: str, limit: int) -> None:
    """Limit the submits at once with a semaphore. A job releases it when it is accepted."""
    await _all_at_once(url, _jittered, asyncio.Semaphore(limit))


def _jittered(pause: float) -> float:
    return random.uniform(0, pause)


async def _all_at_once(url: str, pauses: Pauses, submits: asyncio.Semaphore | None = None) -> None:
    async with aiohttp.ClientSession() as session:

        async def post(path: str, params: Mapping[str, Any]) -> Any:
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return response.status, await response.json()

        async def submit(params: Mapping[str, Any]) -> Any:
            pause = 1.0
            status, reply = await post("img2video_ultra", params)
            while status == 429:
                await asyncio.sleep(pauses(pause))
                pause = min(2 * pause, _LONGEST_PAUSE)
                status, reply = await post("img2video_ultra", params)
            return reply

        async def job(params: Mapping[str, Any]) -> None:
            async with submits or nullcontext():
                reply = await submit(params)
            job_id = reply["id"]
            while reply["status"] == "processing":
                await asyncio.sleep(POLL_EVERY)
                _, reply = await post(f"fetch/{job_id}", {})
            assert reply["status"] == "success"

        await asyncio.gather(*(job(_params(each)) for each in range(JOBS)))


async def peer(url: str, limit: int) -> None:
    """modelslab-py with its defaults, and a semaphore around each job."""
    from modelslab_py.core.apis.video import Video  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.core.client import Client as PeerClient  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.schemas.video import Image2VideoUltra  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    jobs = asyncio.Semaphore(limit)
    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)

        async def job(params: Mapping[str, Any]) -> None:
            request = Image2VideoUltra(**params, resolution=480, num_inference_steps=20)
            async with jobs:
                reply = await video.async_image_to_video_ultra(request)
                reply = await video.async_fetch(str(reply["id"]))
                assert reply is not None
                assert reply["status"] == "success"

        await asyncio.gather(*(job(_params(each)) for each in range(JOBS)))


CONTENDERS: Mapping[str, Contender] = {
    "modelslab_async": ours,
    "modelslab_async, woken by a webhook": ours_woken,
    "gather, retries a 429 after 1, 2, 4 … 60 s": gathered,
    "gather, retries a 429 after a random share of that": gathered_jittered,
    "semaphore around such submits": semaphore,
    "modelslab-py, semaphore around the jobs": peer,
}


# --- measuring ---


def measure(contender: Contender, limit: int, seed: int) -> Batch:
    """Measure one batch, from the first submit until the last end is detected, and check its charges."""
    if contender is peer:
        warnings.filterwarnings("ignore", module=PEER)  # it uses deprecated names of pydantic
        import_module(f"{PEER}.core.apis.video")  # imported here: it takes a second, which would count as 20

    async def timed(url: str) -> float:
        begun = time.monotonic()
        await contender(url, limit)
        return time.monotonic() - begun

    with Server(SPEED, {"absent": 1}, queue_limit=limit, seed=seed) as server:
        print("ready", flush=True)
        if not sys.stdin.readline():
            raise SystemExit("stdin is closed: the parent process ended")
        with asyncio.Runner(loop_factory=AcceleratedLoop) as runner:
            seconds = runner.run(timed(server.url)) * SPEED
        assert list(server.charges().values()) == [1] * JOBS
        lengths = [(end - begin) * SPEED for begin, end in server.spans().values()]
        assert len(lengths) == JOBS
        return Batch(seconds=seconds, bound=lower_bound(lengths, limit), requests=server.requests())


if __name__ == "__main__":
    print(json.dumps(attrs.asdict(measure(CONTENDERS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])))))
