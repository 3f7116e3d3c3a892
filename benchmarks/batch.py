"""Kill a batch of the command three times and start it again. The baseline is a batch that is never killed.

    python -m benchmarks.batch [--jobs N | --finished N] [--json] [--check]       takes about 90 seconds

The batch runs over HTTP against an accelerated emulator on which one of ten submits, fetches and files fails. The kills
are SIGKILL at random moments. A job whose submit was on the wire at that moment is uncertain; the benchmark then does
what the command asks the user to do, and resolves the job from the account's data.

With --finished, a batch of N lines that an earlier run finished is run again instead, beside a bare loop.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attrs

from benchmarks import _again, _batch
from benchmarks._common import Target, log, parse_options, print_results, table

KILLS = 3
JOB_SECONDS = 0.4
_SEED = 7


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--jobs", type=int, default=300, metavar="N", help="number of jobs (default: 300)")
    more.add_argument("--finished", type=int, default=0, metavar="N", help="run N finished lines again")
    options, args = parse_options(__doc__, more)
    if args.finished:
        with tempfile.TemporaryDirectory() as name:
            found, again = asyncio.run(_again.measure(Path(name), args.finished))
        text = table((f"{args.finished:,} finished lines", "measured"), found)
        return print_results(options, text, {"benchmark": "batch", "figures": dict(found)}, again)
    rng = random.Random(_SEED)
    log(f"{args.jobs} jobs, never killed")
    unbroken = asyncio.run(_batch.outcome(args.jobs, 0, 0.0, rng))
    log(f"the same, killed {KILLS} times")
    broken = asyncio.run(_batch.outcome(args.jobs, KILLS, unbroken.seconds / (KILLS + 1), rng))
    start = _start_seconds()
    lost = (broken.seconds - unbroken.seconds) / KILLS
    head = (f"{args.jobs} jobs", "never killed", f"killed {KILLS} times")
    fields = [field.name for field in attrs.fields(_batch.Outcome) if field.name not in ("jobs", "kills", "seconds")]
    rows = [(name.replace("_", " "), str(getattr(unbroken, name)), str(getattr(broken, name))) for name in fields]
    rows.append(("duration, s", f"{unbroken.seconds:.1f}", f"{broken.seconds:.1f}"))
    times = f"Each kill cost {lost:.1f} s. The command starts in {start:.1f} s; a job takes about {JOB_SECONDS} s."
    wrong = (not unbroken.is_right) + (not broken.is_right)
    targets = [
        Target("batches in which a job lacks its video or its one charge", wrong, 0.0),
        Target("time that a kill cost ÷ time of two starts and three jobs", lost / (2 * start + 3 * JOB_SECONDS), 1.0),
    ]
    figures = {"benchmark": "batch", "unbroken": attrs.asdict(unbroken), "broken": attrs.asdict(broken)}
    return print_results(options, f"{table(head, rows)}\n{times}", figures, targets)


def _start_seconds() -> float:
    """Return how long the command takes to print its help."""
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "modelslab_async", "batch", "--help"], check=True, capture_output=True)
    return time.monotonic() - begun


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
