"""Measure, with a webhook, how soon after the mp4 is readable `await job` returns, in round trips over loopback.

    python -m benchmarks.latency [--json] [--check]       takes about two minutes

An emulator in another process posts the end of each job to a `Webhook` in an aiohttp application in this process. The
delivery wakes the job; the client then fetches its status and reads the first bytes of the file. That makes three round
trips, one by the emulator and two by the client. The emulator delivers on time and does not wait for a timer of the
event loop, which is up to 1 ms late. The baseline is one fetch of a finished job by a bare aiohttp session of this
process at the same emulator, as many per second as there are jobs. Rounds of jobs and of round trips alternate. Before
any figure is printed, the benchmark checks that each job ended with its video and was charged once.
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

from benchmarks._common import Figure, Samples, Server, Target, log, parse_options, print_figures
from modelslab_async import Client, Video
from modelslab_async.webhook import Webhook

ROUNDS, JOBS, TRIPS = 7, 100, 100
SPEED = 80.0
"""A job then takes 0.5 s ± 15 %."""
BEGIN_EVERY = 0.02
"""Seconds between two submits, and between two round trips."""
TRIP, DELIVERED, OURS = "one round trip", "since the delivery arrived", "modelslab_async, since the mp4 is readable"


@asynccontextmanager
async def _served(webhook: Webhook, port: int) -> AsyncIterator[dict[str, float]]:
    """Serve the application. Yield the time at which the delivery for each ref arrived."""
    arrivals: dict[str, float] = {}

    async def hook(request: web.Request) -> web.Response:
        at = time.monotonic()
        arrivals[(await request.json())["track_id"]] = at
        return await webhook.aiohttp(request)

    app = web.Application()
    app.router.add_post("/hooks/{name}", hook)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield arrivals
    finally:
        await runner.cleanup()


async def _awaited(client: Client) -> list[tuple[Video, float]]:
    """Run the jobs. Return each video and when `await job` returned, in seconds of the monotonic clock."""

    async def job() -> tuple[Video, float]:
        return await client.submit(prompt="zoom", init_image="https://picture.invalid/a.png"), time.monotonic()

    jobs = []
    for _ in range(JOBS):
        jobs.append(asyncio.create_task(job()))
        await asyncio.sleep(BEGIN_EVERY)
    return await asyncio.gather(*jobs)


async def _trip(url: str) -> float:
    """Return the median time of a round trip in milliseconds."""
    taken = []
    async with aiohttp.ClientSession() as session:
        for _ in range(TRIPS):
            at = time.monotonic()
            async with session.post(url, json={"key": "any"}) as response:
                assert (await response.json())["status"] == "success"
            taken.append(1000 * (time.monotonic() - at))
            await asyncio.sleep(BEGIN_EVERY)
    return median(taken)


async def measure(server: Server) -> dict[str, Samples]:
    """Return the median of each round in milliseconds, by contender."""
    milliseconds: dict[str, list[float]] = {TRIP: [], DELIVERED: [], OURS: []}
    port = _free_port()
    webhook = Webhook(public_url=f"http://127.0.0.1:{port}/hooks", secret="a secret of the benchmark")
    client = Client("any", base_url=server.url, webhook=webhook, max_in_flight=JOBS)
    async with client, _served(webhook, port) as arrivals:
        for turn in range(-1, ROUNDS):  # in the first round the client learns that deliveries arrive
            log(f"round {turn + 1} of {ROUNDS}")
            awaited = await _awaited(client)
            ends = server.ends()
            trip = await _trip(f"{server.url}/api/v6/video/fetch/{awaited[0][0].id}")
            if turn >= 0:
                milliseconds[TRIP].append(trip)
                milliseconds[DELIVERED].append(median(1000 * (at - arrivals[video.ref]) for video, at in awaited))
                milliseconds[OURS].append(median(1000 * (at - ends[str(video.id)]) for video, at in awaited))
    charges = Counter(server.charges())
    assert charges.total() == len(charges) == (1 + ROUNDS) * JOBS, charges.total()
    return {name: Samples(values) for name, values in milliseconds.items()}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    with Server(SPEED) as server:
        milliseconds = asyncio.run(measure(server))
    trips = {name: each.ratio_to(milliseconds[TRIP]) for name, each in milliseconds.items()}
    figures = [
        Figure("time until `await job` returns, with a webhook", "round trips", trips, 3.0, 2),
        Figure("time until `await job` returns, with a webhook", "ms", milliseconds, digits=2),
    ]
    conditions = (
        f"{ROUNDS} rounds of {JOBS} jobs and {TRIPS} round trips; a job begins every {1e3 * BEGIN_EVERY:.0f} ms"
    )
    return print_figures(
        options,
        "latency",
        conditions,
        figures,
        [Target("from the readable mp4 to `await job`, round trips", trips[OURS].median, 3.0)],
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
