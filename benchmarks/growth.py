"""How the cost of 10, 100, 1,000 and 10,000 jobs grows: CPU of the client's process, beside a straight line.

    python -m benchmarks.growth [--json] [--check]       takes about twenty minutes

All jobs of a batch are submitted at once, through 500 places, to a server in another process, see `_lean`. A virtual
machine's CPU may be half as fast while a neighbour works, for seconds: so batches of few jobs are done several times
over, and each value is their mean. Each round is a process of its own, since one is quicker than another
from its beginning to its end. The line of a round is the one that misses its values by the least share; the reach is on
the median of the shares. It holds for the first batch of a new client, and for later ones, when the client has its
connections: it opens a hundred at most, one for each of the first jobs, which is neither a part of the constant nor of
each job. Before anything is printed: each job ended with its video, and was charged once.
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

from benchmarks._common import LEAN, Figure, Reach, Seen, Server, options, say, tell
from modelslab_async import Client

Points = Mapping[int, float]
"""By the number of jobs."""
COUNTS = {10: 10, 100: 10, 1000: 6, 10_000: 1}
"""Jobs, and of how many batches a measurement is the mean."""
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


def _client(url: str) -> Client:
    return Client("any", base_url=url, max_in_flight=PLACES, max_polls_per_second=None)


async def _first(url: str, jobs: int) -> float:
    """What a new client's first batch takes."""
    async with _client(url) as client:
        return await _batch(client, jobs)


async def _later(url: str, jobs: int, batches: int) -> float:
    """What batches take in a client that has its connections: the mean."""
    async with _client(url) as client:
        await _batch(client, PLACES)
        return mean([await _batch(client, jobs) for _ in range(batches)])


def _round(url: str) -> tuple[list[float], list[float]]:
    """Milliseconds of CPU for each of so many jobs: in new clients, and later."""
    asyncio.run(_later(url, PLACES, 1))  # what only the first client of a process does
    new, later = [], []
    for jobs, batches in COUNTS.items():
        say(f"{jobs:,} jobs")
        new.append(mean(asyncio.run(_first(url, jobs)) for _ in range(batches)))
        later.append(asyncio.run(_later(url, jobs, batches)))
    return new, later


def _of_its_own(url: str) -> tuple[Points, Points]:
    """A round in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.growth", "--round", url]
    told = subprocess.run(words, cwd=Path(__file__).resolve().parents[1], check=True, stdout=subprocess.PIPE).stdout
    new, later = (dict(zip(COUNTS, each, strict=True)) for each in json.loads(told))
    return new, later


def measure() -> list[tuple[Points, Points]]:
    """What each of so many jobs took, in each round: in new clients, and later."""
    rounds = []
    with Server(SPEED, module=LEAN) as server:
        for turn in range(ROUNDS):
            say(f"round {turn + 1} of {ROUNDS}")
            rounds.append(_of_its_own(server.url))
        charges = Counter(server.charges())
    meant = ROUNDS * (2 * PLACES + sum(PLACES + 2 * batches * jobs for jobs, batches in COUNTS.items()))
    assert charges.total() == len(charges) == meant, charges.total()
    return rounds


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
    new, later = zip(*measure(), strict=True)
    first_figures, first = _figures("a new client's first batch", new)
    figures, reach = _figures("later batches", later)
    conditions = f"CPU of the client; {ROUNDS} rounds; {PLACES} places; a server in another process, over loopback"
    return tell(wanted, "growth", conditions, [*figures, *first_figures], [reach, first])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--round"]:
        print(json.dumps(_round(sys.argv[2])))
    else:
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            sys.exit(130)
