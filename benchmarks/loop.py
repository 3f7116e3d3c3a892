"""What a client does to the event loop it lives in: how late it makes others, and how long a submit holds it.

    python -m benchmarks.loop [--json] [--check]       takes about six minutes

Lag: something else in the loop is to be called every 5 ms, and how late each of these instants is met is counted, also
of those that pass while the loop is held; at the 99th percentile, and at worst. First with nothing beside it, then
while a client watches 10,000 jobs with 200 looks a second, over HTTP, at an emulator in another process, and then with
nothing again. All jobs are seen to their ends. Submits: calls of `submit` while no place is free, with a request that
is there and with names and values, beside `create_task` of a coroutine that sleeps, in turn. Before anything is
printed: each job ended with its video, and was charged once.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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
IDLE, WATCHING = "nothing beside it", f"modelslab_async: {JOBS:,} jobs, {LOOKS_PER_SECOND} looks a second"
TASK, SUBMIT = "create_task", "submit of modelslab_async"
SUBMIT_NAMES = f"{SUBMIT}, of names and values"
_NAMES: Mapping[str, Any] = {"prompt": "zoom in", "init_image": PICTURE, "num_frames": 81, "resolution": 480}


def _request(number: int) -> ImageToVideoUltra:
    return ImageToVideoUltra(**_NAMES, seed=number)


# --- lag ---


class Lag(NamedTuple):
    """Milliseconds, of one window."""

    p99: float
    worst: float


async def _lag() -> Lag:
    """How late each instant is met; those that passed while the loop was held are as late as the loop was."""
    late: list[float] = []
    now = time.monotonic()
    due, end = now + EVERY, now + WINDOW
    while due < end:
        await asyncio.sleep(due - now)
        now = time.monotonic()
        while due <= now:
            late.append(1000 * (now - due))
            due += EVERY
    late.sort()
    return Lag(late[int(len(late) * 0.99)], late[-1])


async def _begun(client: Client) -> list[Job]:
    jobs: list[Job] = []
    for begun in range(0, JOBS, AT_ONCE):
        jobs += [client.submit(_request(number)) for number in range(begun, begun + AT_ONCE)]
        await asyncio.gather(*(job.submitted() for job in jobs[begun:]))
    return jobs


async def watched(server: Server) -> tuple[list[Lag], float]:
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


def lag() -> tuple[dict[str, list[Lag]], float]:
    """The lags of each, and the looks a second."""
    before = [asyncio.run(_lag()) for _ in range(WINDOWS)]
    with Server(SPEED) as server:
        lags, looks = asyncio.run(watched(server))
    after = [asyncio.run(_lag()) for _ in range(WINDOWS)]
    return {IDLE: before + after, WATCHING: lags}, looks


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


async def _submits(requests: Sequence[ImageToVideoUltra | Mapping[str, Any]]) -> float:
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
    names = [{**_NAMES, "seed": number} for number in range(SUBMITS)]
    rates: dict[str, list[float]] = {TASK: [], SUBMIT_NAMES: [], SUBMIT: []}
    for turn in range(SUBMIT_ROUNDS):
        say(f"submits: round {turn + 1} of {SUBMIT_ROUNDS}")
        rates[TASK].append(await _tasks())
        rates[SUBMIT_NAMES].append(await _submits(names))
        rates[SUBMIT].append(await _submits(requests))
    return {name: Seen(rate) for name, rate in rates.items()}


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    logging.disable(logging.WARNING)  # a cancelled job says so
    rates = asyncio.run(submits())
    lags, looks = lag()
    late = {name: Seen([lag.p99 for lag in seen]) for name, seen in lags.items()}
    worst = {name: Seen([lag.worst for lag in seen]) for name, seen in lags.items()}
    figures = [
        Figure("event loop, late at the 99th percentile", "ms", late, digits=2),
        Figure("event loop, late at worst", "ms", worst, digits=1),
        Figure("calls with no place free", "a second", rates, digits=0),
    ]
    reaches = [
        Reach("ms of lag that a client adds", late[WATCHING].median - late[IDLE].median, 10),
        Reach("looks a second, of those that were meant (as 1/x)", LOOKS_PER_SECOND / looks, 1.1),
        Reach("microseconds of a submit", 1e6 / rates[SUBMIT].median, 10),
    ]
    windows = f"{WINDOWS} windows of {WINDOW:.0f} s, {2 * WINDOWS} with nothing beside"
    conditions = f"{windows}, {looks:.0f} looks a second; {SUBMIT_ROUNDS} rounds of {SUBMITS:,} calls"
    return tell(wanted, "loop", conditions, figures, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
