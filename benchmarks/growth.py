"""How the cost of 10, 100, 1,000 and 10,000 jobs grows: CPU of the client's process, beside a straight line.

    python -m benchmarks.growth [--json] [--check]       takes about eight minutes

All jobs of a batch are submitted at once, through 500 places, to an emulator in another process. Few jobs are done many
times over, so that each measurement is long enough. The line is the one that misses the medians by the least share; the
reach is on that share. Before anything is printed: each job ended with its video, and was charged once.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchmarks._common import Figure, Reach, Seen, Server, options, say, tell
from modelslab_async import Client

COUNTS = {10: 8, 100: 3, 1000: 2, 10_000: 1}
"""Jobs, and how many batches of so many are one measurement."""
ROUNDS = 5
PLACES = 500
SPEED = 200.0
"""A job takes 0.2 s."""
PARAMS: Mapping[str, Any] = {"prompt": "zoom in", "init_image": "https://picture.invalid/rocket.png"}


async def _batch(url: str, jobs: int) -> float:
    """Seconds of CPU."""
    gc.collect()
    at = time.process_time()
    async with Client("any", base_url=url, max_in_flight=PLACES, max_polls_per_second=None) as client:
        assert len(await asyncio.gather(*(client.submit(PARAMS) for _ in range(jobs)))) == jobs
    return time.process_time() - at


def measure() -> dict[int, Seen]:
    """Milliseconds of CPU for so many jobs."""
    taken: dict[int, list[float]] = {jobs: [] for jobs in COUNTS}
    with Server(SPEED) as server:
        asyncio.run(_batch(server.url, 100))
        for turn in range(ROUNDS):
            for jobs, batches in COUNTS.items():
                say(f"round {turn + 1} of {ROUNDS}: {jobs:,} jobs")
                cpu = sum(asyncio.run(_batch(server.url, jobs)) for _ in range(batches))
                taken[jobs].append(1000 * cpu / batches)
        charges = Counter(server.charges())
    meant = 100 + ROUNDS * sum(jobs * batches for jobs, batches in COUNTS.items())
    assert charges.total() == len(charges) == meant, charges.total()
    return {jobs: Seen(values) for jobs, values in taken.items()}


def line(points: Mapping[int, float]) -> tuple[float, float]:
    """The constant and the slope of the line with the least sum of squares of relative misses."""
    a = b = c = d = e = 0.0
    for x, y in points.items():
        weight = 1 / y**2
        a, b, c = a + weight, b + weight * x, c + weight * x * x
        d, e = d + weight * y, e + weight * x * y
    slope = (a * e - b * d) / (a * c - b * b)
    return (d - slope * b) / a, slope


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    taken = measure()
    constant, slope = line({jobs: seen.median for jobs, seen in taken.items()})
    of_line = {f"{n:,} jobs": Seen([v / (constant + slope * n) for v in seen.values]) for n, seen in taken.items()}
    each = {f"{n:,} jobs": Seen([v / n for v in seen.values]) for n, seen in taken.items()}
    worst = max(abs(seen.median - 1) for seen in of_line.values())
    figures = [
        Figure("CPU of a batch", "of a straight line's", of_line, digits=3),
        Figure("CPU of a batch, each job", "ms", each, digits=2),
    ]
    conditions = (
        f"{ROUNDS} rounds; {PLACES} places; the line: {constant:.1f} ms and {slope:.2f} ms a job; "
        "an emulator in another process, over loopback"
    )
    return tell(wanted, "growth", conditions, figures, [Reach("farthest from the line, of it", worst, 0.1)])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
