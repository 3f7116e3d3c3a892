"""With a webhook: how soon after the mp4 can be read `await job` returns, in round trips of loopback.

    python -m benchmarks.latency [--json] [--check]       takes about two minutes

An emulator in another process posts each end to a `Webhook` in an aiohttp application in this one; the job is woken,
asks what became of it, and reads the first bytes of the file. So there are three trips: one of the emulator's, which
begins to the instant and not when a timer comes, up to a millisecond late; and two of ours. A round trip is one fetch
of a job that is done, by a bare aiohttp session from this process to the same emulator, as many a second as there are
jobs; rounds of jobs and of round trips take turns. Before anything is printed: each job ended with its video, and was
charged once.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import aiohttp
from aiohttp import web

from benchmarks._common import Figure, Reach, Seen, Server, options, say, tell
from modelslab_async import Client, Video
from modelslab_async.webhook import Webhook

ROUNDS, JOBS, TRIPS = 7, 100, 100
SPEED = 80.0
"""A job takes half a second, give or take 15 %."""
BEGIN_EVERY = 0.02
TRIP, HEARD, OURS = "one round trip", "since the delivery came", "modelslab_async, since the mp4 can be read"


@asynccontextmanager
async def _served(webhook: Webhook, port: int) -> AsyncIterator[dict[str, float]]:
    """The application; gives when the delivery of each ref came."""
    came: dict[str, float] = {}

    async def hook(request: web.Request) -> web.Response:
        at = time.monotonic()
        came[(await request.json())["track_id"]] = at
        return await webhook.aiohttp(request)

    app = web.Application()
    app.router.add_post("/hooks/{name}", hook)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield came
    finally:
        await runner.cleanup()


async def _awaited(client: Client) -> list[tuple[Video, float]]:
    """When each job was awaited, on the monotonic clock."""

    async def job() -> tuple[Video, float]:
        return await client.submit(prompt="zoom", init_image="https://picture.invalid/a.png"), time.monotonic()

    jobs = []
    for _ in range(JOBS):
        jobs.append(asyncio.create_task(job()))
        await asyncio.sleep(BEGIN_EVERY)
    return await asyncio.gather(*jobs)


async def _trip(url: str) -> float:
    """Milliseconds."""
    taken = []
    async with aiohttp.ClientSession() as session:
        for _ in range(TRIPS):
            at = time.monotonic()
            async with session.post(url, json={"key": "any"}) as response:
                assert (await response.json())["status"] == "success"
            taken.append(1000 * (time.monotonic() - at))
            await asyncio.sleep(BEGIN_EVERY)
    return median(taken)


async def measure(server: Server) -> dict[str, Seen]:
    """Milliseconds: of each round, the median."""
    seen: dict[str, list[float]] = {TRIP: [], HEARD: [], OURS: []}
    port = _free_port()
    webhook = Webhook(public_url=f"http://127.0.0.1:{port}/hooks", secret="a secret of the benchmark")
    client = Client("any", base_url=server.url, webhook=webhook, max_in_flight=JOBS)
    async with client, _served(webhook, port) as came:
        for turn in range(-1, ROUNDS):  # the first one proves that deliveries come
            say(f"round {turn + 1} of {ROUNDS}")
            awaited = await _awaited(client)
            ends = server.ends()
            trip = await _trip(f"{server.url}/api/v6/video/fetch/{awaited[0][0].id}")
            if turn >= 0:
                seen[TRIP].append(trip)
                seen[HEARD].append(median(1000 * (at - came[video.ref]) for video, at in awaited))
                seen[OURS].append(median(1000 * (at - ends[str(video.id)]) for video, at in awaited))
    charges = Counter(server.charges())
    assert charges.total() == len(charges) == (1 + ROUNDS) * JOBS, charges.total()
    return {name: Seen(values) for name, values in seen.items()}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    with Server(SPEED) as server:
        seen = asyncio.run(measure(server))
    trips = {name: each.over(seen[TRIP]) for name, each in seen.items()}
    figures = [
        Figure("until a job is awaited, webhook on", "round trips", trips, 3.0, 2),
        Figure("until a job is awaited, webhook on", "ms", seen, digits=2),
    ]
    conditions = (
        f"{ROUNDS} rounds of {JOBS} jobs and {TRIPS} round trips, one job begun every {1e3 * BEGIN_EVERY:.0f} ms"
    )
    return tell(wanted, "latency", conditions, figures, [Reach("round trips", trips[OURS].median, 3.0)])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
