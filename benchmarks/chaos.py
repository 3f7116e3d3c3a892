"""Everything goes wrong: ten thousand jobs, and the account of what became of them.

    python -m benchmarks.chaos [--jobs N] [--json] [--check]

An emulator in another process, over real HTTP, where on three of ten submits, fetches, files and webhooks something
fails: each fault that the emulator knows. The client keeps a journal, and saves each video. Linux only: it counts open
files in /proc. About half a minute for each 1,000 jobs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time

import attrs

from benchmarks import _chaos
from benchmarks._common import Reach, conclude, options, say, table


def main() -> int:
    """Measure, and print the figures."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--jobs", type=int, default=2000, metavar="N", help="how many (default: 2000)")
    wanted, given = options(__doc__, more)
    logging.disable()  # thousands of failures, as ordered
    begun = time.monotonic()
    account = asyncio.run(_chaos.run(given.jobs, say))
    grown = account.late_bytes / max(account.early_bytes, 1)
    rows = [(f"ended {state}", str(count)) for state, count in sorted(account.ends.items())]
    counts = attrs.asdict(account, filter=lambda field, _: field.name not in ("ends", "early_bytes", "late_bytes"))
    rows += [(name.replace("_", " "), str(value)) for name, value in counts.items()]
    rows.append(("memory at the end, of that after a fifth of the jobs", f"{grown:.2f}"))
    reaches = [
        Reach("jobs without an end", given.jobs - sum(account.ends.values()), 0.0),
        Reach("charges without an accepted job, or the other way", abs(account.charges - account.accepted), 0.0),
        Reach("jobs charged twice", account.charged_twice, 0.0),
        Reach("paid jobs that nobody knows of", account.lost, 0.0),
        Reach("leaked tasks", account.leaked_tasks, 0.0),
        Reach("leaked sockets and files", account.leaked_files, 0.0),
        Reach("memory at the end, of that after a fifth", grown, 1.25),
    ]
    text = f"{table((f'{given.jobs} jobs', ''), rows)}\n{time.monotonic() - begun:.0f} s"
    return conclude(wanted, text, {"benchmark": "chaos", "account": attrs.asdict(account)}, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
