"""Take visitors through a deploy of each web framework under each server that is installed, with two workers.

    python -m benchmarks.backends [--json] [--check] [--only TEXT]        about half a minute for each line

The applications are those of docs/web.md. Four visitors watch their videos to the end. Eight more watch theirs, while
five are being made and three wait. Then the server gets SIGTERM, and is started again on the same port. The visitors
connect again as a browser does. Nothing else is called. The emulator and all processes are on loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import attrs

from benchmarks._backends import MATRIX, Served, Visit, visit
from benchmarks._common import Target, log, parse_options, print_results, table

SLOWEST_STOP = 15.0
"""Seconds within which a server has ended: 2 s for its streams, 1 s for jobs, and its own polling."""
SLOWEST_END = 20.0
"""Seconds from the new server's start to the end of the last of eight jobs; two turns of jobs of 5 s."""


def main() -> int:
    """Run the matrix and print it. Return the exit code."""
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument(
        "--only", default="", metavar="TEXT", help='run only lines with this text, such as "under uvicorn"'
    )
    options, args = parse_options(__doc__, own)
    visits = asyncio.run(_run(args.only))
    columns = {
        "framework": [each.framework for each in visits],
        "server": [each.server for each in visits],
        "streams to their end": [each.streams for each in visits],
        "webhooks": [each.webhooks for each in visits],
        "SIGTERM to exit, s": [f"{each.stopped_after:.1f}" for each in visits],
        "start to all ends, s": [f"{each.recovered_after:.1f}" for each in visits],
        "paid twice": [str(each.twice) for each in visits],
        "tracebacks of the server": [str(each.tracebacks - each.own_tracebacks) for each in visits],
    }
    targets = [
        Target("jobs whose visitor did not see one end", sum(each.lost for each in visits), 0.0),
        Target("jobs that were paid for twice", sum(each.twice for each in visits), 0.0),
        Target("bars that went back", sum(each.backwards for each in visits), 0.0),
        Target("tracebacks with a frame of the package", sum(each.own_tracebacks for each in visits), 0.0),
        Target("slowest stop, s", max((each.stopped_after for each in visits), default=0.0), SLOWEST_STOP),
        Target("slowest end after the restart, s", max((v.recovered_after for v in visits), default=0.0), SLOWEST_END),
    ]
    measured = [attrs.asdict(each) for each in visits]
    text = table(tuple(columns), list(zip(*columns.values(), strict=True)))
    return print_results(options, text, {"benchmark": "backends", "measured": measured}, targets)


async def _run(only: str) -> list[Visit]:
    visits = list[Visit]()
    for served in MATRIX:
        if only not in str(served):
            continue
        if not served.is_installed:
            log(f"{served}: not installed (hint: python -m pip install -e '.[bench]')")
            continue
        log(str(served))
        visits.append(await _visit(served))
    return visits


async def _visit(served: Served) -> Visit:
    with tempfile.TemporaryDirectory(prefix="modelslab_async-backends-") as folder:
        return await visit(served, Path(folder))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
