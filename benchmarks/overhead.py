"""CPU of the client's process: a hand-written loop, this package, and the service's own client, as ratios.

    python -m benchmarks.overhead [--json] [--check]

All talk to one emulator in another process, in turn, several rounds; the median counts. A job is begun every few
milliseconds, so no contender gains by replies that come in a batch, as they would not with a service that takes 40 s.
Each job is submitted and asked after about once a second, which finds it done the second time as a rule. The loop and
this package then read the first bytes of the file; modelslab-py does not, and asks once more, right after the submit:
four exchanges each. init_image is a URL that the emulator does not fetch, so the picture is not what is measured.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from importlib.util import find_spec
from statistics import median
from typing import Any

import aiohttp
import attrs

from benchmarks._common import NOT_INSTALLED, Reach, Server, conclude, options, say, table
from modelslab_async import Client

ROUNDS = 4
JOBS = 150
BEGIN_EVERY = 0.005
"""Seconds between two submits."""
SPEED = 28.6
"""A job takes 1.4 s, give or take 15 %: between the looks after 1 and after 2 seconds."""
LOOK_EVERY = 1
"""Seconds; this package looks no more often, and an eta of 1 or 2 s lets it look no less."""
WARM_UP_JOBS = 4

KEY = "any"
PARAMS: Mapping[str, Any] = {
    "prompt": "the rocket stands in the evening light, zoom in",
    "init_image": "https://picture.invalid/rocket.png",
    "resolution": 480,
    "num_frames": 81,
    "num_inference_steps": 20,
}
MINIMAL, OURS, PEER = "minimal aiohttp loop", "modelslab_async", "modelslab-py"

Contender = Callable[[str, int], Coroutine[Any, Any, None]]
"""Has so many jobs done by the emulator at a URL."""


# --- contenders ----------------------------------------------------------------------------------------------------


async def minimal(url: str, jobs: int) -> None:
    """The least that does the same on a good day: no retry, no check, no state."""
    async with aiohttp.ClientSession() as session:

        async def said(path: str, params: Mapping[str, Any]) -> Any:
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return await response.json()

        async def job() -> None:
            reply = await said("img2video_ultra", PARAMS)
            path = f"fetch/{reply['id']}"
            while reply["status"] == "processing":
                await asyncio.sleep(LOOK_EVERY)
                reply = await said(path, {})
            async with session.get(reply["output"][0], headers={"Range": "bytes=0-1023"}) as response:
                assert b"ftyp" in await response.read()

        await _begun_in_turn(lambda: asyncio.create_task(job()), jobs)


async def ours(url: str, jobs: int) -> None:
    """This package, with its defaults."""
    async with Client(KEY, base_url=url, max_in_flight=jobs, max_polls_per_second=None) as client:
        await _begun_in_turn(lambda: client.submit(PARAMS), jobs)


async def peer(url: str, jobs: int) -> None:
    """The service's own client, async."""
    from modelslab_py.core.apis.video import Video  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.core.client import Client as PeerClient  # noqa: PLC0415 # pyright: ignore[reportMissingImports]
    from modelslab_py.schemas.video import Image2VideoUltra  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)

        async def job() -> None:
            reply = await video.async_image_to_video_ultra(Image2VideoUltra(**PARAMS))
            client.fetch_timeout = LOOK_EVERY  # the pause between looks; before, it was the session's timeout
            reply = await video.async_fetch(str(reply["id"]))
            assert reply is not None
            assert reply["status"] == "success"

        await _begun_in_turn(lambda: asyncio.create_task(job()), jobs)


async def _begun_in_turn(begin: Callable[[], Awaitable[object]], jobs: int) -> None:
    begun = []
    for _ in range(jobs):
        begun.append(begin())
        await asyncio.sleep(BEGIN_EVERY)
    for job in begun:
        await job


# --- measuring -----------------------------------------------------------------------------------------------------


@attrs.frozen
class Lap:
    """What one contender used for all jobs of one round."""

    cpu: float
    requests: int


@attrs.frozen(kw_only=True)
class Figures:
    """Medians over the rounds. CPU in seconds; ratios to the minimal loop."""

    requests_per_job: float
    cpu_per_exchange: float
    cpu_per_job: float
    exchange_ratio: float
    job_ratio: float


def contenders() -> dict[str, Contender]:
    """Who is there."""
    found: dict[str, Contender] = {MINIMAL: minimal, OURS: ours}
    return {**found, PEER: peer} if find_spec("modelslab_py") else found


async def _cpu(contender: Contender, url: str) -> float:
    gc.collect()
    before = time.process_time()
    await contender(url, JOBS)
    return time.process_time() - before


def _lap(contender: Contender, server: Server) -> Lap:
    before = server.requests()
    cpu = asyncio.run(_cpu(contender, server.url))
    return Lap(cpu, server.requests() - before)


async def _warm_up(there: Mapping[str, Contender], url: str) -> None:
    """Imports, and all that is built once."""
    await asyncio.gather(*[contender(url, WARM_UP_JOBS) for contender in there.values()])


def measure(there: Mapping[str, Contender]) -> dict[str, list[Lap]]:
    """All laps of each: one after the other, round by round."""
    laps: dict[str, list[Lap]] = {name: [] for name in there}
    with Server(SPEED) as server:
        asyncio.run(_warm_up(there, server.url))
        for turn in range(ROUNDS):
            say(f"round {turn + 1} of {ROUNDS}: {JOBS} jobs each")
            for name, contender in there.items():
                laps[name].append(_lap(contender, server))
    return laps


def figures_of(laps: Mapping[str, list[Lap]]) -> dict[str, Figures]:
    """Medians, and their ratios to the minimal loop's."""
    exchange = {name: median(lap.cpu / lap.requests for lap in ran) for name, ran in laps.items()}
    job = {name: median(lap.cpu / JOBS for lap in ran) for name, ran in laps.items()}
    return {
        name: Figures(
            requests_per_job=median(lap.requests / JOBS for lap in ran),
            cpu_per_exchange=exchange[name],
            cpu_per_job=job[name],
            exchange_ratio=exchange[name] / exchange[MINIMAL],
            job_ratio=job[name] / job[MINIMAL],
        )
        for name, ran in laps.items()
    }


def reaches_of(figures: Mapping[str, Figures]) -> list[Reach]:
    """What this package may cost."""
    mine = figures[OURS]
    return [
        Reach("CPU per exchange, of the minimal loop's", mine.exchange_ratio, 2.0),
        Reach("CPU per job, of the minimal loop's", mine.job_ratio, 2.0),
    ]


def shown(figures: Mapping[str, Figures]) -> str:
    """The table."""
    head = ("client's CPU", "requests/job", "µs/exchange", "× minimal", "µs/job", "× minimal")
    rows = [
        (
            name,
            f"{row.requests_per_job:.2f}",
            f"{row.cpu_per_exchange * 1e6:.0f}",
            f"{row.exchange_ratio:.2f}",
            f"{row.cpu_per_job * 1e6:.0f}",
            f"{row.job_ratio:.2f}",
        )
        for name, row in figures.items()
    ]
    conditions = (
        f"median of {ROUNDS} rounds of {JOBS} jobs, one begun every {BEGIN_EVERY * 1e3:.0f} ms; "
        "an emulator in another process, over loopback; init_image is a URL"
    )
    return "\n".join((conditions, table(head, rows)))


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    warnings.filterwarnings("ignore", module="modelslab_py")  # pydantic's old names, once a process
    there = contenders()
    if PEER not in there:
        say(NOT_INSTALLED)
    figures = figures_of(measure(there))
    told = {"benchmark": "overhead", "figures": {name: attrs.asdict(row) for name, row in figures.items()}}
    return conclude(wanted, shown(figures), told, reaches_of(figures))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
