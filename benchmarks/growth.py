"""How the cost of 10, 100, 1,000 and 10,000 jobs grows: CPU of the client's process, beside a straight line.

    python -m benchmarks.growth [--json] [--check]       takes about twenty minutes

All jobs of a batch are submitted at once, through 500 places, to a server in another process, see `_lean`. A virtual
machine's CPU may be half as fast while a neighbour works, for seconds: so few jobs are done many times over, for about
as long as many take, and each value is a mean. The line of a round is the one that misses its values by the least
share; the reach is on the median of the shares. It holds for the first batch of a new client, and for later ones, when
the client has its connections: it opens a hundred at most, one for each of the first jobs, which is neither a part of
the constant nor of each job. Before anything is printed: each job ended with its video, and was charged once.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks._common import LEAN, Figure, Reach, Seen, Server, options, say, tell
from modelslab_async import Client

Points = Mapping[int, float]
"""By the number of jobs."""
COUNTS = {10: 10, 100: 10, 1000: 6, 10_000: 1}
"""Jobs, and for how many clients a measurement is the mean."""
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


async def _life(url: str, jobs: int) -> tuple[float, float]:
    """The first batch of a client, and one when it has its connections."""
    async with Client("any", base_url=url, max_in_flight=PLACES, max_polls_per_second=None) as client:
        first = await _batch(client, jobs)
        await _batch(client, PLACES)
        return first, await _batch(client, jobs)


def _round(url: str) -> Iterator[tuple[float, float]]:
    """Milliseconds of CPU for each of so many jobs: in a new client, and later."""
    for jobs, clients in COUNTS.items():
        say(f"{jobs:,} jobs")
        lives = [asyncio.run(_life(url, jobs)) for _ in range(clients)]
        yield mean(first for first, _ in lives), mean(later for _, later in lives)


def measure() -> tuple[list[Points], list[Points]]:
    """What each of so many jobs took, in each round: in new clients, and later."""
    new, later = [], []
    with Server(SPEED, module=LEAN) as server:
        asyncio.run(_life(server.url, 10))
        for turn in range(ROUNDS):
            say(f"round {turn + 1} of {ROUNDS}")
            firsts, laters = zip(*_round(server.url), strict=True)
            new.append(dict(zip(COUNTS, firsts, strict=True)))
            later.append(dict(zip(COUNTS, laters, strict=True)))
        charges = Counter(server.charges())
    meant = 20 + PLACES + ROUNDS * sum(clients * (2 * jobs + PLACES) for jobs, clients in COUNTS.items())
    assert charges.total() == len(charges) == meant, charges.total()
    return new, later


def line(points: Points) -> tuple[float, float]:
    """The constant and the slope of the line with the least sum of squares of relative misses."""
    a = b = c = d = e = 0.0
    for x, y in points.items():
        weight = 1 / y**2
        a, b, c = a + weight, b + weight * x, c + weight * x * x
        d, e = d + weight * y, e + weight * x * y
    slope = (a * e - b * d) / (a * c - b * b)
    return (d - slope * b) / a, slope


def shares(each: Points) -> Points:
    """What so many jobs took, as a share of the line through all of them."""
    constant, slope = line({jobs: jobs * ms for jobs, ms in each.items()})
    return {jobs: jobs * ms / (constant + slope * jobs) for jobs, ms in each.items()}


def _figures(title: str, rounds: Sequence[Points]) -> tuple[list[Figure], Reach]:
    """Beside the line of its round, and each job's; the farthest from the line."""
    of_line = _named([shares(each) for each in rounds])
    worst = max(abs(seen.median - 1) for seen in of_line.values())
    figures = [
        Figure(title, "of its round's straight line", of_line, digits=3),
        Figure(f"{title}, each job", "ms", _named(rounds), digits=2),
    ]
    return figures, Reach(f"{title}: farthest from the line, of it", worst, 0.1)


def _named(rounds: Sequence[Points]) -> dict[str, Seen]:
    return {f"{jobs:,} jobs": Seen([each[jobs] for each in rounds]) for jobs in COUNTS}


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
