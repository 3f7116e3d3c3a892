"""A batch of the command that is killed three times and started again, beside one that is not.

    python -m benchmarks.batch [--jobs N] [--json] [--check]

An accelerated emulator, over real HTTP, on which one of ten submits, fetches and files fails. The kills are SIGKILL at
random moments. A job whose submit was on the wire just then is uncertain: a person looks into the account and says what
became of it, as the command asks for. About a minute and a half.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time

import attrs

from benchmarks import _batch
from benchmarks._common import Reach, conclude, options, say, table

KILLS = 3
JOB_SECONDS = 0.4
_SEED = 7


def main() -> int:
    """Measure, and print the figures."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--jobs", type=int, default=300, metavar="N", help="how many (default: 300)")
    wanted, given = options(__doc__, more)
    rng = random.Random(_SEED)
    say(f"{given.jobs} jobs, never killed")
    unbroken = asyncio.run(_batch.outcome(given.jobs, 0, 0.0, rng))
    say(f"the same, killed {KILLS} times")
    broken = asyncio.run(_batch.outcome(given.jobs, KILLS, unbroken.seconds / (KILLS + 1), rng))
    start = _start_seconds()
    lost = (broken.seconds - unbroken.seconds) / KILLS
    head = (f"{given.jobs} jobs", "never killed", f"killed {KILLS} times")
    names = [field.name for field in attrs.fields(_batch.Outcome) if field.name not in ("jobs", "kills", "seconds")]
    rows = [(name.replace("_", " "), str(getattr(unbroken, name)), str(getattr(broken, name))) for name in names]
    rows.append(("seconds", f"{unbroken.seconds:.1f}", f"{broken.seconds:.1f}"))
    times = f"a kill cost {lost:.1f} s; to start the command takes {start:.1f} s, and a job about {JOB_SECONDS} s"
    wrong = (not unbroken.is_right) + (not broken.is_right)
    reaches = [
        Reach("batches without a video and a charge for each job", wrong, 0.0),
        Reach("what a kill cost, of two starts and three jobs' time", lost / (2 * start + 3 * JOB_SECONDS), 1.0),
    ]
    figures = {"benchmark": "batch", "unbroken": attrs.asdict(unbroken), "broken": attrs.asdict(broken)}
    return conclude(wanted, f"{table(head, rows)}\n{times}", figures, reaches)


def _start_seconds() -> float:
    """From the shell to the first word, of a command that does nothing."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "modelslab_async", "batch", "--help"], check=True, capture_output=True)
    return time.monotonic() - begun


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
