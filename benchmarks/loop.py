"""What a client does to the event loop it lives in: how late it makes others, and how long a submit holds it.

    python -m benchmarks.loop [--json] [--check]       takes about six minutes

Lag: something else in the loop asks to be called every 5 ms, and how late it is called is counted, at the 99th
percentile; first with nothing beside it, then while a client watches 10,000 jobs with 200 looks a second, over HTTP,
at an emulator in another process. All jobs are then seen to their ends. Submits: calls of `submit` while no place is
free, beside `create_task` of a coroutine that sleeps, in turn. Before anything is printed: each job ended with its
video, and was charged once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections import Counter
from typing import Any

from benchmarks._canned import PICTURE, URL, Canned
from benchmarks._common import Figure, Reach, Seen, Server, options, say, tell
from modelslab_async import Client, ImageToVideoUltra, Job, Timeouts

JOBS, LOOKS_PER_SECOND = 10_000, 200
WINDOWS, WINDOW = 5, 5.0
"""How often the lag is taken for so many seconds, with jobs and without."""
EVERY = 0.005
SPEED = 0.25
"""Jobs take 160 s, give or take 15 %: they begin, and all windows pass, before the first one ends."""
SUBMITS, SUBMIT_ROUNDS = 50_000, 7
AT_ONCE = 100
IDLE, WATCHING = "nothing beside it", f"{JOBS:,} jobs watched, {LOOKS_PER_SECOND} looks a second"
TASK, SUBMIT = "create_task", "submit"


def _request(number: int) -> ImageToVideoUltra:
    return ImageToVideoUltra(prompt="zoom in", init_image=PICTURE, seed=number, num_frames=81, resolution=480)


# --- lag ---


async def _lag() -> float:
    """Milliseconds at the 99th percentile of one window."""
    late: list[float] = []
    end = time.monotonic() + WINDOW
    while (at := time.monotonic()) < end:
        await asyncio.sleep(EVERY)
        late.append(1000 * (time.monotonic() - at - EVERY))
    return sorted(late)[int(len(late) * 0.99)]


async def _begun(client: Client) -> list[Job]:
    jobs: list[Job] = []
    for begun in range(0, JOBS, AT_ONCE):
        jobs += [client.submit(_request(number)) for number in range(begun, begun + AT_ONCE)]
        await asyncio.gather(*(job.submitted() for job in jobs[begun:]))
    return jobs


async def watched(server: Server) -> tuple[list[float], float]:
    """The lag of each window, and the looks a second meanwhile."""
    options: dict[str, Any] = {"max_in_flight": JOBS, "max_polls_per_second": LOOKS_PER_SECOND, "poll_cost": 0.01}
    async with Client("any", base_url=server.url, **options) as client:
        say(f"lag: {JOBS:,} jobs are submitted")
        jobs = await _begun(client)
        requests, at = server.requests(), time.monotonic()
        lags = []
        for turn in range(WINDOWS):
            say(f"lag: window {turn + 1} of {WINDOWS}")
            lags.append(await _lag())
        looks = (server.requests() - requests) / (time.monotonic() - at)
        assert not any(job.done() for job in jobs)
        say("lag: all jobs are seen to their ends")
        assert len(await asyncio.gather(*jobs)) == JOBS
    charges = Counter(server.charges())
    assert charges.total() == len(charges) == JOBS, charges.total()
    return lags, looks


def lag() -> tuple[dict[str, Seen], float]:
    """Milliseconds of each, and the looks a second."""
    idle = [asyncio.run(_lag()) for _ in range(WINDOWS)]
    with Server(SPEED) as server:
        lags, looks = asyncio.run(watched(server))
    return {IDLE: Seen(idle), WATCHING: Seen(lags)}, looks


# --- submits ---


async def _tasks() -> float:
    gc.collect()
    at = time.perf_counter()
    tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(SUBMITS)]
    rate = SUBMITS / (time.perf_counter() - at)
    await asyncio.sleep(0)
    assert sum(task.cancel() for task in tasks) == SUBMITS
    await asyncio.wait(tasks)
    return rate


async def _submits(requests: list[ImageToVideoUltra]) -> float:
    service = Canned()
    async with Client("any", base_url=URL, transport=service, max_in_flight=1, timeouts=Timeouts(submit=1)) as client:
        await client.submit(requests[0]).submitted()
        gc.collect()
        at = time.perf_counter()
        jobs = [client.submit(request) for request in requests]
        rate = SUBMITS / (time.perf_counter() - at)
        assert sum(job.cancel() for job in jobs) == SUBMITS
        service.release()
        await client.aclose(drain=False)
    assert service.submits == 1
    return rate


async def submits() -> dict[str, Seen]:
    """Calls a second of each."""
    requests = [_request(number) for number in range(SUBMITS)]
    rates: dict[str, list[float]] = {TASK: [], SUBMIT: []}
    for turn in range(SUBMIT_ROUNDS):
        say(f"submits: round {turn + 1} of {SUBMIT_ROUNDS}")
        rates[TASK].append(await _tasks())
        rates[SUBMIT].append(await _submits(requests))
    return {name: Seen(rate) for name, rate in rates.items()}


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    logging.disable(logging.WARNING)  # a cancelled job says so
    rates = asyncio.run(submits())
    lags, looks = lag()
    figures = [
        Figure("event loop, late at the 99th percentile", "ms", lags, digits=2),
        Figure("calls with no place free", "a second", rates, digits=0),
    ]
    reaches = [
        Reach("ms of lag that a client adds", lags[WATCHING].median - lags[IDLE].median, 10),
        Reach("looks a second, of those that were meant (as 1/x)", LOOKS_PER_SECOND / looks, 1.1),
        Reach("microseconds of a submit", 1e6 / rates[SUBMIT].median, 10),
    ]
    conditions = (
        f"{WINDOWS} windows of {WINDOW:.0f} s, {looks:.0f} looks a second; {SUBMIT_ROUNDS} rounds of {SUBMITS:,} calls"
    )
    return tell(wanted, "loop", conditions, figures, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
