"""CPU of the client's process for each HTTP exchange, beside clients that do the same work.

    python -m benchmarks.overhead [--json] [--check]       takes about 25 minutes; needs the extra `bench`

All talk to one server in another process, in turn, several rounds, each in another order; ratios are taken round by
round. Jobs are begun all at once and awaited by `gather`; and then one every few milliseconds: the process sleeps
between them, and all code is cold. Our looks go with the ticks of a clock, twenty a second, so that some go together;
that is a part of what is seen. The server is the emulator's service behind the least HTTP that will do, see `_lean`;
and then the emulator itself, which takes as long for a request as the clients do, or longer: what they cost then
depends on how long they sleep. Each job is submitted, asked after once it is done, and the first bytes of its file are
read: three exchanges. modelslab-py asks right after the submit too, and reads no file: three as well. httpx suffers
from many requests at once: its pool searches all connections and all waiting requests whenever one begins or ends. So
there is also a loop with at most twenty of them under way.

Ours runs with its own sessions and with one that is passed in. Its own open a new connection for each submit, so that
no other request's reply can answer it; the difference is printed apart, for a job. It has a slot for each job, and no
limit of polls a second; all else is as by default, httpx too. init_image is a URL that is never fetched, so the picture
is not what is measured. Before anything is printed: each job ended with its video, and was charged once; with a
journal, each is READY in it. None of this is tuned for: a job costs $0.20 and takes half a minute.
"""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import attrs
import httpx  # pyright: ignore[reportMissingImports]
from modelslab_py.core.apis.video import Video  # pyright: ignore[reportMissingImports]
from modelslab_py.core.client import Client as PeerClient  # pyright: ignore[reportMissingImports]
from modelslab_py.schemas.video import Image2VideoUltra  # pyright: ignore[reportMissingImports]

from benchmarks._common import EMULATOR, LEAN, Figure, Reach, Seen, Server, options, say, tell
from modelslab_async import Client

ROUNDS = 5
JOBS = 1000


class Setting(NamedTuple):
    """What the jobs of a lap meet: seconds between two submits, and the server."""

    pace: float
    module: str


SETTINGS = {
    "all at once": Setting(0.0, LEAN),
    "one every 3 ms": Setting(0.003, LEAN),
    "all at once, the emulator": Setting(0.0, EMULATOR),
}
SPEED = 28.6
"""A job takes 1.4 s, give or take 15 %."""
LOOK_AFTER = 2
"""Seconds, whole ones: modelslab-py takes no others. This package finds out by itself when to look."""
WARM_UP_JOBS = 4

KEY = "any"
PARAMS: Mapping[str, Any] = {
    "prompt": "the rocket stands in the evening light, zoom in",
    "init_image": "https://picture.invalid/rocket.png",
    "resolution": 480,
    "num_frames": 81,
    "num_inference_steps": 20,
}
CALM = 20
"""Requests under way, as many as there are connections that httpx keeps."""
NO_REF = "null"
"""What a job without a track_id is charged under, as JSON names it."""
MINIMAL, PEER, HTTPX = "minimal aiohttp loop", "modelslab-py", "httpx loop"
HTTPX_CALM = f"httpx loop, {CALM} requests at once"
OURS, KEPT = "modelslab_async", "modelslab_async, with a journal"
PASSED = "modelslab_async, a session passed in"

Contender = Callable[[str, int, float], Coroutine[Any, Any, None]]
"""Has so many jobs done by the emulator at a URL, one begun every so many seconds, and makes sure that they are."""


# --- contenders ---


async def minimal(url: str, jobs: int, pace: float) -> None:
    """The least that does the same on a good day: no retry, no check, no state."""
    async with aiohttp.ClientSession() as session:

        async def said(path: str, params: Mapping[str, Any]) -> Any:
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return await response.json()

        async def job() -> None:
            reply = await said("img2video_ultra", PARAMS)
            path = f"fetch/{reply['id']}"
            while reply["status"] == "processing":
                await asyncio.sleep(LOOK_AFTER)
                reply = await said(path, {})
            async with session.get(reply["output"][0], headers={"Range": "bytes=0-1023"}) as response:
                assert b"ftyp" in await response.read()

        await _begun_in_turn(lambda: asyncio.create_task(job()), jobs, pace)


async def httpx_loop(url: str, jobs: int, pace: float, at_once: int = JOBS) -> None:
    """The minimal loop by httpx, with so many requests under way at most."""
    room = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(timeout=60) as session:

        async def said(path: str, params: Mapping[str, Any]) -> Any:
            async with room:
                return (await session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params})).json()

        async def job() -> None:
            reply = await said("img2video_ultra", PARAMS)
            path = f"fetch/{reply['id']}"
            while reply["status"] == "processing":
                await asyncio.sleep(LOOK_AFTER)
                reply = await said(path, {})
            async with room:
                file = await session.get(reply["output"][0], headers={"Range": "bytes=0-1023"})
            assert b"ftyp" in file.content

        await _begun_in_turn(lambda: asyncio.create_task(job()), jobs, pace)


async def ours(url: str, jobs: int, pace: float, **more: Any) -> None:
    """This package."""
    async with Client(KEY, base_url=url, max_in_flight=jobs, max_polls_per_second=None, **more) as client:
        await _begun_in_turn(lambda: client.submit(PARAMS), jobs, pace)


async def passed(url: str, jobs: int, pace: float) -> None:
    """The same with a session of the application's."""
    async with aiohttp.ClientSession() as session:
        await ours(url, jobs, pace, session=session)


async def kept(url: str, jobs: int, pace: float) -> None:
    """The same with a journal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        await ours(url, jobs, pace, journal=path)
        with closing(sqlite3.connect(path)) as journal:
            rows = journal.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        assert rows == [("ready", jobs)], rows


async def peer(url: str, jobs: int, pace: float) -> None:
    """The service's own client, async."""
    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)

        async def job() -> None:
            reply = await video.async_image_to_video_ultra(Image2VideoUltra(**PARAMS))
            client.fetch_timeout = LOOK_AFTER  # the pause between looks; before, it was the session's timeout
            reply = await video.async_fetch(str(reply["id"]))
            assert reply is not None
            assert reply["status"] == "success"

        await _begun_in_turn(lambda: asyncio.create_task(job()), jobs, pace)


async def _begun_in_turn(begin: Callable[[], Awaitable[object]], jobs: int, pace: float) -> None:
    begun = []
    for _ in range(jobs):
        begun.append(begin())
        if pace:
            await asyncio.sleep(pace)
    await asyncio.gather(*begun)


CONTENDERS: Mapping[str, Contender] = {
    MINIMAL: minimal,
    PEER: peer,
    HTTPX: httpx_loop,
    HTTPX_CALM: partial(httpx_loop, at_once=CALM),
    KEPT: kept,
    PASSED: passed,
    OURS: ours,
}


# --- measuring ---


@attrs.frozen
class Lap:
    """What one contender used for all jobs of one round: CPU in seconds of all threads."""

    cpu: float
    requests: int


async def _cpu(contender: Contender, url: str, pace: float) -> float:
    gc.collect()
    before = time.process_time()
    await contender(url, JOBS, pace)
    return time.process_time() - before


def _lap(contender: Contender, server: Server, pace: float) -> Lap:
    requests, charges = server.requests(), Counter(server.charges())
    cpu = asyncio.run(_cpu(contender, server.url, pace))
    charged = Counter(server.charges()) - charges
    assert charged.total() == JOBS, charged.total()
    assert max(charged.values()) == 1 or NO_REF in charged, charged.most_common(3)
    return Lap(cpu, server.requests() - requests)


async def _warm_up(url: str) -> None:
    """Imports, and all that is built once."""
    for contender in CONTENDERS.values():
        await contender(url, WARM_UP_JOBS, 0.0)


def measure() -> dict[str, dict[str, list[Lap]]]:
    """All laps of each, in each setting: one after the other, round by round, beginning with another each time."""
    laps: dict[str, dict[str, list[Lap]]] = {setting: {name: [] for name in CONTENDERS} for setting in SETTINGS}
    names = list(CONTENDERS)
    with Server(SPEED, module=LEAN) as lean, Server(SPEED, module=EMULATOR) as emulator:
        servers = {LEAN: lean, EMULATOR: emulator}
        for server in servers.values():
            asyncio.run(_warm_up(server.url))
        for turn in range(ROUNDS):
            for title, setting in SETTINGS.items():
                say(f"round {turn + 1} of {ROUNDS}: {JOBS:,} jobs each, {title}")
                for name in names[turn:] + names[:turn]:
                    laps[title][name].append(_lap(CONTENDERS[name], servers[setting.module], setting.pace))
    return laps


def _figures(title: str, laps: Mapping[str, list[Lap]]) -> tuple[list[Figure], list[Reach]]:
    exchange = {name: Seen([1e6 * lap.cpu / lap.requests for lap in ran]) for name, ran in laps.items()}
    requests = {name: Seen([lap.requests / JOBS for lap in ran]) for name, ran in laps.items()}
    job = {name: Seen([1e6 * lap.cpu / JOBS for lap in ran]) for name, ran in laps.items()}
    ratios = {name: seen.over(exchange[MINIMAL]) for name, seen in exchange.items()}
    figures = [
        Figure(f"CPU per exchange, {title}", "of the minimal loop's", ratios, digits=2),
        Figure(f"CPU per exchange, {title}", "µs", exchange, digits=0),
        Figure(f"exchanges, {title}", "a job", requests, digits=3),
    ]
    added = {"a submit's own connection": job[OURS].beyond(job[PASSED]), "a journal": job[KEPT].beyond(job[OURS])}
    figures.append(Figure(f"CPU for a job that is added, {title}", "µs", added, digits=0))
    journal = Reach(
        f"{title}: milliseconds of CPU for a job that a journal adds", added["a journal"].median / 1000, 0.5
    )
    return figures, [journal]


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    warnings.filterwarnings("ignore", module="modelslab_py")  # pydantic's old names, once a process
    figures, reaches = [], []
    for title, laps in measure().items():
        seen, meant = _figures(title, laps)
        figures += seen
        reaches += meant
    conditions = f"{ROUNDS} rounds of {JOBS:,} jobs; a server in another process, over loopback; init_image is a URL"
    return tell(wanted, "overhead", conditions, figures, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
