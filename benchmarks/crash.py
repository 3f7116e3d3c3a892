"""Kill -9 at random instants: what was paid twice, and what was forgotten.

    python -m benchmarks.crash [--kills N] [--seed N] [--json] [--check]

A program submits 40 jobs with a journal to an emulator in another process. It is killed at a random instant, started
again, killed again, until all of its jobs are done; then the next set. In turn: one process; the emulator going away in
between; two processes on one journal with the same jobs; both. Each run takes about a third of a second per kill.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

import attrs

from benchmarks._common import Reach, conclude, options, say, table
from benchmarks._crash import JOBS, Killer, Toll, summed

KILLS_A_SET = 20
WAYS: dict[str, dict[str, int | bool]] = {
    "one process": {},
    "the emulator goes away": {"restarts": True},
    "two processes": {"children": 2},
    "two, and the emulator goes away": {"children": 2, "restarts": True},
}


async def measure(kills: int, seed: int) -> dict[str, list[Toll]]:
    """Sets of jobs, each way in turn, until there were so many kills."""
    rng = random.Random(seed)
    seen: dict[str, list[Toll]] = {name: [] for name in WAYS}
    killed = 0
    while killed < kills:
        for name, way in WAYS.items():
            toll = await Killer(random.Random(rng.random()), **way).run(KILLS_A_SET)  # type: ignore[arg-type]
            seen[name].append(toll)
            killed += toll.kills
            say(f"{killed} kills; {name}: {toll}")
    return seen


def main() -> int:
    """Measure, and print the figures."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--kills", type=int, default=100, metavar="N", help="at least so many (default: 100)")
    more.add_argument("--seed", type=int, default=1, metavar="N", help="of the instants (default: 1)")
    wanted, given = options(__doc__, more)
    begun = time.monotonic()
    seen = asyncio.run(measure(given.kills, given.seed))
    sums = {name: summed(tolls) for name, tolls in seen.items()}
    whole = summed([*sums.values()])
    names = [field.name for field in attrs.fields(Toll)]
    rows = [
        (name, str(len(seen[name]) * JOBS), *(str(getattr(toll, field)) for field in names))
        for name, toll in sums.items()
    ]
    head = ("killed with SIGKILL", "jobs", *(name.replace("_", " ") for name in names))
    text = f"{table(head, rows)}\nseed {given.seed}, {time.monotonic() - begun:.0f} s"
    reaches = [
        Reach("jobs charged twice", whole.charged_twice, 0.0),
        Reach("jobs forgotten", whole.forgotten, 0.0),
        Reach("kills asked for, of those made", given.kills / max(whole.kills, 1), 1.0),
    ]
    told = {"benchmark": "crash", "figures": {name: attrs.asdict(toll) for name, toll in sums.items()}}
    return conclude(wanted, text, told, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
