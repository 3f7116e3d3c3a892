"""Kill a program with SIGKILL at random moments and count the jobs that were charged twice or lost.

    python -m benchmarks.crash [--kills N] [--seed N] [--json] [--check]       takes about 0.3 seconds per kill

A program with a journal submits 40 jobs to an emulator in another process. It is killed at a random moment and started
again until all its jobs are done; then the next set of jobs begins. The sets alternate between four ways: one process;
one process while the emulator restarts; two processes that share the journal and the jobs; both.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

import attrs

from benchmarks._common import Target, log, parse_options, print_results, table
from benchmarks._crash import JOBS, Killer, Outcome, summed

KILLS_A_SET = 20
WAYS: dict[str, dict[str, int | bool]] = {
    "one process": {},
    "one process, emulator restarts": {"restarts": True},
    "two processes": {"children": 2},
    "two processes, emulator restarts": {"children": 2, "restarts": True},
}


async def measure(kills: int, seed: int) -> dict[str, list[Outcome]]:
    """Run sets of jobs, each way in turn, until there were at least this many kills."""
    rng = random.Random(seed)
    results: dict[str, list[Outcome]] = {name: [] for name in WAYS}
    killed = 0
    while killed < kills:
        for name, way in WAYS.items():
            outcome = await Killer(random.Random(rng.random()), **way).run(KILLS_A_SET)  # type: ignore[arg-type]
            results[name].append(outcome)
            killed += outcome.kills
            log(f"{killed} kills; {name}: {outcome}")
    return results


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--kills", type=int, default=100, metavar="N", help="least number of kills (default: 100)")
    more.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the moments of the kills (default: 1)")
    options, args = parse_options(__doc__, more)
    begun = time.monotonic()
    results = asyncio.run(measure(args.kills, args.seed))
    sums = {name: summed(outcomes) for name, outcomes in results.items()}
    whole = summed([*sums.values()])
    names = [field.name for field in attrs.fields(Outcome)]
    rows = [
        (name, str(len(results[name]) * JOBS), *(str(getattr(outcome, field)) for field in names))
        for name, outcome in sums.items()
    ]
    head = ("killed with SIGKILL", "jobs", *(name.replace("_", " ") for name in names))
    text = f"{table(head, rows)}\nseed {args.seed}, {time.monotonic() - begun:.0f} s"
    targets = [
        Target("jobs charged twice", whole.charged_twice, 0.0),
        Target("jobs forgotten", whole.forgotten, 0.0),
        Target("requested kills ÷ kills made", args.kills / max(whole.kills, 1), 1.0),
    ]
    data = {"benchmark": "crash", "figures": {name: attrs.asdict(outcome) for name, outcome in sums.items()}}
    return print_results(options, text, data, targets)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
