"""Measure how the CPU cost of 10, 100, 1,000 and 10,000 jobs grows. The baseline is a straight line.

    python -m benchmarks.growth [--json] [--check]       takes about 20 minutes

All jobs of a batch are submitted at once, through 500 slots, to a server in another process, see `_lean`. The CPU of a
virtual machine can be half as fast for seconds while another one works. So batches of few jobs are repeated, and each
value is their mean. Each round runs in another process, because one process can be faster than another throughout. The
line of a round has the least relative error. The target applies to the median of the deviations.

The target holds for the first batch of a new client and for later batches. The first one is measured apart because a
client opens up to 100 connections, one for each of its first jobs: that cost is neither constant nor proportional.
Before any figure is printed, the benchmark checks that each job ended with its video and was charged once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks._common import LEAN, Figure, Samples, Server, Target, log, parse_options, print_figures
from modelslab_async import Client

Points = Mapping[int, float]
"""Milliseconds of CPU per job, by the number of jobs."""
COUNTS = {10: 10, 100: 10, 1000: 6, 10_000: 1}
"""The number of jobs in a batch, and the number of batches whose mean is one measurement."""
ROUNDS = 5
SLOTS = 500
SPEED = 200.0
"""A job then takes 0.2 s."""
PARAMS: Mapping[str, Any] = {"prompt": "zoom in", "init_image": "https://picture.invalid/rocket.png"}


async def _batch(client: Client, jobs: int) -> float:
    """Run a batch of jobs. Return the milliseconds of CPU per job."""
    gc.collect()
    at = time.process_time()
    assert len(await asyncio.gather(*(client.submit(**PARAMS) for _ in range(jobs)))) == jobs
    return 1000 * (time.process_time() - at) / jobs


def _client(url: str) -> Client:
    return Client("any", base_url=url, max_in_flight=SLOTS, max_polls_per_second=None)


async def _first(url: str, jobs: int) -> float:
    """Return the milliseconds of CPU per job in the first batch of a new client."""
    async with _client(url) as client:
        return await _batch(client, jobs)


async def _later(url: str, jobs: int, batches: int) -> float:
    """Return the mean milliseconds of CPU per job in batches of a client that has opened its connections."""
    async with _client(url) as client:
        await _batch(client, SLOTS)
        return mean([await _batch(client, jobs) for _ in range(batches)])


def _round(url: str) -> tuple[list[float], list[float]]:
    """Return the milliseconds of CPU per job for each batch size: in new clients, and in later batches."""
    asyncio.run(_later(url, SLOTS, 1))  # warms up what only the first client of a process does
    new, later = [], []
    for jobs, batches in COUNTS.items():
        log(f"{jobs:,} jobs")
        new.append(mean(asyncio.run(_first(url, jobs)) for _ in range(batches)))
        later.append(asyncio.run(_later(url, jobs, batches)))
    return new, later


def _round_in_process(url: str) -> tuple[Points, Points]:
    """Run a round in another process."""
    command = [sys.executable, "-m", "benchmarks.growth", "--round", url]
    output = subprocess.run(command, cwd=Path(__file__).resolve().parents[1], check=True, stdout=subprocess.PIPE).stdout
    new, later = (dict(zip(COUNTS, each, strict=True)) for each in json.loads(output))
    return new, later


def measure() -> list[tuple[Points, Points]]:
    """Return the points of each round: in new clients, and in later batches."""
    rounds = []
    with Server(SPEED, module=LEAN) as server:
        for turn in range(ROUNDS):
            log(f"round {turn + 1} of {ROUNDS}")
            rounds.append(_round_in_process(server.url))
        charges = Counter(server.charges())
    expected = ROUNDS * (2 * SLOTS + sum(SLOTS + 2 * batches * jobs for jobs, batches in COUNTS.items()))
    assert charges.total() == len(charges) == expected, charges.total()
    return rounds


def line(points: Points) -> tuple[float, float]:
    """Return the constant and the slope of the line with the least sum of squared relative errors."""
    a = b = c = d = e = 0.0
    for x, y in points.items():
        weight = 1 / y**2
        a, b, c = a + weight, b + weight * x, c + weight * x * x
        d, e = d + weight * y, e + weight * x * y
    slope = (a * e - b * d) / (a * c - b * b)
    return (d - slope * b) / a, slope


def shares(each: Points) -> Points:
    """Return the cost of each batch size as a share of the line through all of them."""
    constant, slope = line({jobs: jobs * ms for jobs, ms in each.items()})
    return {jobs: jobs * ms / (constant + slope * jobs) for jobs, ms in each.items()}


def _figures(title: str, rounds: Sequence[Points]) -> tuple[list[Figure], Target]:
    """Return the figures of all rounds, and the target for the largest deviation from the line."""
    line_shares = _named([shares(each) for each in rounds])
    worst = max(abs(samples.median - 1) for samples in line_shares.values())
    figures = [
        Figure(title, "× the straight line of the round", line_shares, digits=3),
        Figure(f"{title}, CPU per job", "ms", _named(rounds), digits=2),
    ]
    return figures, Target(f"{title}: largest deviation from the line, as a share", worst, 0.1)


def _named(rounds: Sequence[Points]) -> dict[str, Samples]:
    return {f"{jobs:,} jobs": Samples([each[jobs] for each in rounds]) for jobs in COUNTS}


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    new, later = zip(*measure(), strict=True)
    first_figures, first = _figures("first batch of a new client", new)
    figures, target = _figures("later batches", later)
    conditions = f"CPU of the client; {ROUNDS} rounds; {SLOTS} slots; server in another process, over loopback"
    return print_figures(options, "growth", conditions, [*figures, *first_figures], [target, first])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--round"]:
        print(json.dumps(_round(sys.argv[2])))
    else:
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            sys.exit(130)
