"""How the cost of 10, 100, 1,000 and 10,000 jobs grows: CPU of the client's process, beside a straight line.

    python -m benchmarks.growth [--json] [--check]       takes about ten minutes

All jobs of a batch are submitted at once, through 500 places, to a server in another process, see `_lean`. Few jobs are
done many times over, so that each measurement is long enough. The line is the one that misses the medians by the least
share; the reach is on that share. It holds for the first batch of a new client, and for later ones, when the client has
its connections: it opens a hundred at most, one for each of the first jobs, which is neither a part of the constant nor
of each job. Before anything is printed: each job ended with its video, and was charged once.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter
from collections.abc import Mapping
from statistics import mean
from typing import Any

from benchmarks._common import LEAN, Figure, Reach, Seen, Server, options, say, tell
from modelslab_async import Client

COUNTS = {10: 16, 100: 4, 1000: 2, 10_000: 1}
"""Jobs, and how many batches of so many are one measurement."""
ROUNDS = 5
PLACES = 500
SPEED = 200.0
"""A job takes 0.2 s."""
PARAMS: Mapping[str, Any] = {"prompt": "zoom in", "init_image": "https://picture.invalid/rocket.png"}


async def _batch(client: Client, jobs: int) -> float:
    """Milliseconds of CPU for each job."""
    gc.collect()
    at = time.process_time()
    assert len(await asyncio.gather(*(client.submit(PARAMS) for _ in range(jobs)))) == jobs
    return 1000 * (time.process_time() - at) / jobs


async def _life(url: str, jobs: int, batches: int) -> tuple[float, float]:
    """The first batch of a client, and the mean of later ones."""
    async with Client("any", base_url=url, max_in_flight=PLACES, max_polls_per_second=None) as client:
        first = await _batch(client, jobs)
        await _batch(client, PLACES)
        return first, mean([await _batch(client, jobs) for _ in range(batches)])


def measure() -> tuple[dict[int, Seen], dict[int, Seen]]:
    """Milliseconds of CPU for each of so many jobs: in a new client, and later."""
    new: dict[int, list[float]] = {jobs: [] for jobs in COUNTS}
    later: dict[int, list[float]] = {jobs: [] for jobs in COUNTS}
    with Server(SPEED, module=LEAN) as server:
        asyncio.run(_life(server.url, 10, 1))
        for turn in range(ROUNDS):
            for jobs, batches in COUNTS.items():
                say(f"round {turn + 1} of {ROUNDS}: {jobs:,} jobs")
                first, mean_later = asyncio.run(_life(server.url, jobs, batches))
                new[jobs].append(first)
                later[jobs].append(mean_later)
        charges = Counter(server.charges())
    meant = 20 + PLACES + ROUNDS * sum(PLACES + jobs * (1 + batches) for jobs, batches in COUNTS.items())
    assert charges.total() == len(charges) == meant, charges.total()
    return {jobs: Seen(values) for jobs, values in new.items()}, {n: Seen(values) for n, values in later.items()}


def line(points: Mapping[int, float]) -> tuple[float, float]:
    """The constant and the slope of the line with the least sum of squares of relative misses."""
    a = b = c = d = e = 0.0
    for x, y in points.items():
        weight = 1 / y**2
        a, b, c = a + weight, b + weight * x, c + weight * x * x
        d, e = d + weight * y, e + weight * x * y
    slope = (a * e - b * d) / (a * c - b * b)
    return (d - slope * b) / a, slope


def _figures(title: str, each: Mapping[int, Seen]) -> tuple[list[Figure], Reach]:
    """Beside the line, and each job's; the farthest from the line."""
    constant, slope = line({jobs: jobs * seen.median for jobs, seen in each.items()})
    of_line = {n: Seen([v * n / (constant + slope * n) for v in seen.values]) for n, seen in each.items()}
    worst = max(abs(seen.median - 1) for seen in of_line.values())
    figures = [
        Figure(title, f"of the line {constant:.1f} ms and {slope:.2f} ms a job", _named(of_line), digits=3),
        Figure(f"{title}, each job", "ms", _named(each), digits=2),
    ]
    return figures, Reach(f"{title}: farthest from the line, of it", worst, 0.1)


def _named(seen: Mapping[int, Seen]) -> dict[str, Seen]:
    return {f"{jobs:,} jobs": values for jobs, values in seen.items()}


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    new, later = measure()
    first_figures, first = _figures("a new client's first batch", new)
    figures, reach = _figures("later batches", later)
    conditions = f"CPU of the client; {ROUNDS} rounds; {PLACES} places; a server in another process, over loopback"
    return tell(wanted, "growth", conditions, [*figures, *first_figures], [reach, first])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
