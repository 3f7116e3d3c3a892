"""Measure the CPU time of the client's process per HTTP exchange. The baselines are clients that do the same work.

    python -m benchmarks.overhead [--json] [--check]       takes about 25 minutes; needs the extra `bench`

All contenders talk to the same server in another process, one after the other, in several rounds; each round has
another order. Ratios are taken round by round. The jobs of a contender are begun either all at once and awaited by
`gather`, or one every 3 ms. In the second setting the process sleeps between jobs, so its code is cold.

Every job needs three exchanges: the submit, one poll after it is done, and the first bytes of its file. modelslab-py
polls right after the submit and reads no file, which are three exchanges too. Our client polls at the ticks of a clock,
20 a second, so some polls share a tick. httpx slows down with many requests at once, because its pool searches all its
connections and all waiting requests whenever a request begins or ends. So a second httpx loop sends 20 at once at most.

The first two settings use the emulator's service behind a minimal HTTP server, see `_lean`. The third uses the emulator
itself, which spends at least as much time on a request as the clients do; their CPU time then depends on their sleeps.

Our client runs with its own sessions and with a session that is passed in. Its own sessions open a new connection for
each submit, so that no other request's reply can answer it. The cost of that connection is printed per job. The client
has one slot per job and no limit of polls per second. All other options are defaults, for httpx too. `init_image` is a
URL that is never fetched, so pictures are not measured. Before any figure is printed, the benchmark checks that each
job ended with its video and was charged once, and with a journal that each job is READY in it.
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

from benchmarks._common import EMULATOR, LEAN, Figure, Samples, Server, Target, log, parse_options, print_figures
from modelslab_async import Client

ROUNDS = 5
JOBS = 1000


class Setting(NamedTuple):
    """The conditions of a lap: seconds between two submits, and the server's module."""

    pace: float
    module: str


SETTINGS = {
    "all at once": Setting(0.0, LEAN),
    "one every 3 ms": Setting(0.003, LEAN),
    "all at once, emulator's own server": Setting(0.0, EMULATOR),
}
SPEED = 28.6
"""A job then takes 1.4 s ± 15 %."""
POLL_AFTER = 2
"""Seconds between two polls of all contenders but ours; modelslab-py takes whole seconds only."""
WARM_UP_JOBS = 4

KEY = "any"
PARAMS: Mapping[str, Any] = {
    "prompt": "the rocket stands in the evening light, zoom in",
    "init_image": "https://picture.invalid/rocket.png",
    "resolution": 480,
    "num_frames": 81,
    "num_inference_steps": 20,
}
LIMITED = 20
"""Requests at once: the number of idle connections that httpx keeps open by default."""
NO_REF = "null"
"""The key in the ledger of jobs without a track_id, as JSON spells it."""
MINIMAL, PEER, HTTPX = "minimal aiohttp loop", "modelslab-py", "httpx loop"
HTTPX_LIMITED = f"httpx loop, {LIMITED} requests at once"
OURS, JOURNALED = "modelslab_async", "modelslab_async, with a journal"
OWN_SESSION = "modelslab_async, session passed in"

Contender = Callable[[str, int, float], Coroutine[Any, Any, None]]
"""Run this many jobs at the server at a URL, one begun every so many seconds, and check that each succeeded."""


# --- contenders ---


async def minimal(url: str, jobs: int, pace: float) -> None:
    """A minimal loop that does the same work: no retry, no check, no state."""
    async with aiohttp.ClientSession() as session:

        async def post(path: str, params: Mapping[str, Any]) -> Any:
            async with session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params}) as response:
                return await response.json()

        async def job() -> None:
            reply = await post("img2video_ultra", PARAMS)
            path = f"fetch/{reply['id']}"
            while reply["status"] == "processing":
                await asyncio.sleep(POLL_AFTER)
                reply = await post(path, {})
            async with session.get(reply["output"][0], headers={"Range": "bytes=0-1023"}) as response:
                assert b"ftyp" in await response.read()

        await _begin_in_turn(lambda: asyncio.create_task(job()), jobs, pace)


async def httpx_loop(url: str, jobs: int, pace: float, at_once: int = JOBS) -> None:
    """The minimal loop with httpx, with at most *at_once* requests at once."""
    limit = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(timeout=60) as session:

        async def post(path: str, params: Mapping[str, Any]) -> Any:
            async with limit:
                return (await session.post(f"{url}/api/v6/video/{path}", json={"key": KEY, **params})).json()

        async def job() -> None:
            reply = await post("img2video_ultra", PARAMS)
            path = f"fetch/{reply['id']}"
            while reply["status"] == "processing":
                await asyncio.sleep(POLL_AFTER)
                reply = await post(path, {})
            async with limit:
                file = await session.get(reply["output"][0], headers={"Range": "bytes=0-1023"})
            assert b"ftyp" in file.content

        await _begin_in_turn(lambda: asyncio.create_task(job()), jobs, pace)


async def ours(url: str, jobs: int, pace: float, **more: Any) -> None:
    """This package."""
    async with Client(KEY, base_url=url, max_in_flight=jobs, max_polls_per_second=None, **more) as client:
        await _begin_in_turn(lambda: client.submit(**PARAMS), jobs, pace)


async def ours_own_session(url: str, jobs: int, pace: float) -> None:
    """This package with a session that the application passes in."""
    async with aiohttp.ClientSession() as session:
        await ours(url, jobs, pace, session=session)


async def ours_journaled(url: str, jobs: int, pace: float) -> None:
    """This package with a journal."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "jobs.db"
        await ours(url, jobs, pace, journal=path)
        with closing(sqlite3.connect(path)) as journal:
            rows = journal.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        assert rows == [("ready", jobs)], rows


async def peer(url: str, jobs: int, pace: float) -> None:
    """modelslab-py, the service's own client, by its async methods."""
    async with PeerClient(api_key=KEY) as client:
        client.base_url = f"{url}/api/"
        video = Video(client)

        async def job() -> None:
            reply = await video.async_image_to_video_ultra(Image2VideoUltra(**PARAMS))
            client.fetch_timeout = POLL_AFTER  # first the session's timeout, from here on the pause between polls
            reply = await video.async_fetch(str(reply["id"]))
            assert reply is not None
            assert reply["status"] == "success"

        await _begin_in_turn(lambda: asyncio.create_task(job()), jobs, pace)


async def _begin_in_turn(begin: Callable[[], Awaitable[object]], jobs: int, pace: float) -> None:
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
    HTTPX_LIMITED: partial(httpx_loop, at_once=LIMITED),
    JOURNALED: ours_journaled,
    OWN_SESSION: ours_own_session,
    OURS: ours,
}


# --- measuring ---


@attrs.frozen
class Lap:
    """What one contender used in one round: CPU seconds of all its threads, and HTTP requests."""

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
    """Run each contender once, so that imports and caches are not measured."""
    for contender in CONTENDERS.values():
        await contender(url, WARM_UP_JOBS, 0.0)


def measure() -> dict[str, dict[str, list[Lap]]]:
    """Return all laps by setting and contender. Each round begins with another contender."""
    laps: dict[str, dict[str, list[Lap]]] = {setting: {name: [] for name in CONTENDERS} for setting in SETTINGS}
    names = list(CONTENDERS)
    with Server(SPEED, module=LEAN) as lean, Server(SPEED, module=EMULATOR) as emulator:
        servers = {LEAN: lean, EMULATOR: emulator}
        for server in servers.values():
            asyncio.run(_warm_up(server.url))
        for turn in range(ROUNDS):
            for title, setting in SETTINGS.items():
                log(f"round {turn + 1} of {ROUNDS}: {JOBS:,} jobs each, {title}")
                for name in names[turn:] + names[:turn]:
                    laps[title][name].append(_lap(CONTENDERS[name], servers[setting.module], setting.pace))
    return laps


def _figures(title: str, laps: Mapping[str, list[Lap]]) -> tuple[list[Figure], list[Target]]:
    exchange = {name: Samples([1e6 * lap.cpu / lap.requests for lap in ran]) for name, ran in laps.items()}
    requests = {name: Samples([lap.requests / JOBS for lap in ran]) for name, ran in laps.items()}
    job = {name: Samples([1e6 * lap.cpu / JOBS for lap in ran]) for name, ran in laps.items()}
    ratios = {name: samples.ratio_to(exchange[MINIMAL]) for name, samples in exchange.items()}
    figures = [
        Figure(f"CPU per exchange, {title}", "× that of the minimal loop", ratios, digits=2),
        Figure(f"CPU per exchange, {title}", "µs", exchange, digits=0),
        Figure(f"HTTP exchanges, {title}", "per job", requests, digits=3),
    ]
    added = {
        "own connection for each submit": job[OURS].minus(job[OWN_SESSION]),
        "journal": job[JOURNALED].minus(job[OURS]),
    }
    figures.append(Figure(f"CPU added to a job, {title}", "µs per job", added, digits=0))
    journal = Target(f"{title}: CPU that a journal adds to a job, ms", added["journal"].median / 1000, 0.5)
    return figures, [journal]


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    warnings.filterwarnings("ignore", module="modelslab_py")  # it uses deprecated names of pydantic
    figures, targets = [], []
    for title, laps in measure().items():
        more_figures, more_targets = _figures(title, laps)
        figures += more_figures
        targets += more_targets
    conditions = f"{ROUNDS} rounds of {JOBS:,} jobs; server in another process, over loopback; init_image is a URL"
    return print_figures(options, "overhead", conditions, figures, targets)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
