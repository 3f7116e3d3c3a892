"""Measure what a client does to its event loop: how late it makes other code, and how long a `submit` blocks it.

    python -m benchmarks.loop [--json] [--check]       takes about six minutes

Lag: other code in the loop is due every 5 ms. Its lateness is measured, also for calls that were due while the loop was
blocked; printed are the 99th percentile and the highest value. The loop is first idle, then a client watches 10,000
jobs with 200 polls per second over HTTP at an emulator in another process, then the loop is idle again.

Submits: calls of `submit` per second while no slot is free, with a request object and with names and values. The
baseline is `create_task` of a coroutine that sleeps. The contenders take turns. Before any figure is printed, the
benchmark checks that each job ended with its video and was charged once.
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
from benchmarks._common import Figure, Samples, Server, Target, log, parse_options, print_figures
from modelslab_async import Client, ImageToVideoUltra, Job, RequestParams, Timeouts

JOBS, POLLS_PER_SECOND = 10_000, 200
WINDOWS, WINDOW = 5, 5.0
"""The number of windows in which the lag is measured, and the seconds of each."""
INTERVAL = 0.005
"""Seconds between two calls whose lateness is measured."""
SPEED = 0.25
"""A job then takes 160 s ± 15 %: all windows are over before the first job ends."""
SUBMITS, SUBMIT_ROUNDS = 50_000, 7
AT_ONCE = 100
IDLE, WATCHING = "idle event loop", f"modelslab_async: {JOBS:,} jobs, {POLLS_PER_SECOND} polls per second"
TASK, SUBMIT = "create_task", "submit of modelslab_async, request object"
SUBMIT_KEYWORDS = "submit of modelslab_async, names and values"
_PARAMS: Mapping[str, Any] = {"prompt": "zoom in", "init_image": PICTURE, "num_frames": 81, "resolution": 480}


def _request(number: int) -> ImageToVideoUltra:
    return ImageToVideoUltra(**_PARAMS, seed=number)


# --- lag ---


class Lag(NamedTuple):
    """The lag in one window: the 99th percentile and the highest value, in milliseconds."""

    p99: float
    worst: float


async def _lag() -> Lag:
    """Measure how late a call every INTERVAL seconds is. A blocked loop delays every call that was due meanwhile."""
    late: list[float] = []
    now = time.monotonic()
    due, end = now + INTERVAL, now + WINDOW
    while due < end:
        await asyncio.sleep(due - now)
        now = time.monotonic()
        while due <= now:
            late.append(1000 * (now - due))
            due += INTERVAL
    late.sort()
    return Lag(late[int(len(late) * 0.99)], late[-1])


async def _begin(client: Client) -> list[Job]:
    jobs: list[Job] = []
    for first in range(0, JOBS, AT_ONCE):
        jobs += [client.submit(_request(number)) for number in range(first, first + AT_ONCE)]
        await asyncio.gather(*(job.submitted() for job in jobs[first:]))
    return jobs


async def watched(server: Server) -> tuple[list[Lag], float]:
    """Return the lag of each window and the polls per second meanwhile."""
    options: dict[str, Any] = {"max_in_flight": JOBS, "max_polls_per_second": POLLS_PER_SECOND, "poll_cost": 0.01}
    async with Client("any", base_url=server.url, **options) as client:
        log(f"lag: submit {JOBS:,} jobs")
        jobs = await _begin(client)
        requests, at = server.requests(), time.monotonic()
        lags = []
        for turn in range(WINDOWS):
            log(f"lag: window {turn + 1} of {WINDOWS}")
            lags.append(await _lag())
        polls = (server.requests() - requests) / (time.monotonic() - at)
        assert not any(job.done() for job in jobs)
        log("lag: wait for the end of all jobs")
        assert len(await asyncio.gather(*jobs)) == JOBS
    charges = Counter(server.charges())
    assert charges.total() == len(charges) == JOBS, charges.total()
    return lags, polls


def lag() -> tuple[dict[str, list[Lag]], float]:
    """Return the lags with and without jobs, and the polls per second."""
    before = [asyncio.run(_lag()) for _ in range(WINDOWS)]
    with Server(SPEED) as server:
        lags, polls = asyncio.run(watched(server))
    after = [asyncio.run(_lag()) for _ in range(WINDOWS)]
    return {IDLE: before + after, WATCHING: lags}, polls


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


async def _submits(requests: Sequence[ImageToVideoUltra | RequestParams]) -> float:
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


async def submits() -> dict[str, Samples]:
    """Return the calls per second of each contender."""
    requests = [_request(number) for number in range(SUBMITS)]
    names: list[Any] = [{**_PARAMS, "seed": number} for number in range(SUBMITS)]
    rates: dict[str, list[float]] = {TASK: [], SUBMIT_KEYWORDS: [], SUBMIT: []}
    for turn in range(SUBMIT_ROUNDS):
        log(f"submits: round {turn + 1} of {SUBMIT_ROUNDS}")
        rates[TASK].append(await _tasks())
        rates[SUBMIT_KEYWORDS].append(await _submits(names))
        rates[SUBMIT].append(await _submits(requests))
    return {name: Samples(rate) for name, rate in rates.items()}


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    logging.disable(logging.WARNING)  # each cancelled job logs a warning
    rates = asyncio.run(submits())
    lags, polls = lag()
    p99 = {name: Samples([lag.p99 for lag in each]) for name, each in lags.items()}
    worst = {name: Samples([lag.worst for lag in each]) for name, each in lags.items()}
    figures = [
        Figure("lag of the event loop, 99th percentile", "ms", p99, digits=2),
        Figure("lag of the event loop, highest", "ms", worst, digits=1),
        Figure("calls while no slot is free", "calls per second", rates, digits=0),
    ]
    targets = [
        Target("lag that a client adds, 99th percentile, ms", p99[WATCHING].median - p99[IDLE].median, 10),
        Target("intended polls per second ÷ measured ones", POLLS_PER_SECOND / polls, 1.1),
        Target("submit of a request object, µs", 1e6 / rates[SUBMIT].median, 10),
    ]
    windows = f"{WINDOWS} windows of {WINDOW:.0f} s with jobs, {2 * WINDOWS} without"
    conditions = f"{windows}, {polls:.0f} polls per second; {SUBMIT_ROUNDS} rounds of {SUBMITS:,} calls"
    return print_figures(options, "loop", conditions, figures, targets)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
