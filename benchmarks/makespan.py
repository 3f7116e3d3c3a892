"""Measure how long a batch of 200 jobs takes. The baseline is the least time that the account's queue limit allows.

    python -m benchmarks.makespan [--seeds N] [--plot FILE] [--json] [--check]       takes about ten minutes

The emulator runs in another process, 20 times as fast, and so do the clocks of the contenders, see `_live`. The
accounts have 5, 10 and 15 slots. The least time is that of list scheduling: the same jobs, with the durations that the
emulator recorded, in the order of their acceptance, each begun as soon as a slot is free. A client would need it to
detect each end at once and to submit in no time. One millisecond of this machine counts as 20 ms of the service in all
figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from statistics import fmean

import attrs

from benchmarks._common import PEER_NOT_INSTALLED, Options, Target, log, parse_options, print_results, table
from benchmarks._live import PEER, SPEED
from benchmarks._makespan import CONTENDERS, JOBS, Batch

LIMITS = (5, 10, 15)
OURS, OTHERS = tuple(CONTENDERS)[:2], tuple(CONTENDERS)[2:]
POLLING, WOKEN = OURS

_BEGIN_EVERY = 1.0
"""Seconds of this machine between the starts of two batches: the first requests of a process are slow."""

Run = tuple[str, int, int]
"""A contender, a limit and a seed."""
Figures = Mapping[str, Mapping[int, Sequence[Batch]]]
"""By contender and limit, one batch for each seed."""


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, seeds, plot = _arguments()
    others = [name for name in OTHERS if "modelslab-py" not in name or find_spec(PEER)]
    if len(others) < len(OTHERS):
        log(PEER_NOT_INSTALLED)
    waves = [list(product([name], LIMITS, range(seeds))) for name in OURS]  # few enough processes for two CPUs
    waves += [list(product(others, LIMITS, [seed])) for seed in range(seeds)]
    batches: dict[Run, Batch] = {}
    for wave in waves:
        batches |= _at_once(wave)
    figures = {
        name: {limit: [batches[name, limit, seed] for seed in range(seeds)] for limit in LIMITS}
        for name in (*OURS, *others)
    }
    if plot:
        from benchmarks._plot_makespan import draw  # noqa: PLC0415 - matplotlib is in the extra `bench`

        draw(figures, plot)
    data = {"benchmark": "makespan", "jobs": JOBS, "speed": SPEED, "batches": _as_dicts(figures)}
    return print_results(options, _text(figures), data, _targets(figures))


def _arguments() -> tuple[Options, int, str | None]:
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--seeds", type=int, default=3, metavar="N", help="batches of each kind (default: 3)")
    more.add_argument("--plot", metavar="FILE", help="draw the ratios into FILE (SVG or PNG)")
    options, args = parse_options(__doc__, more)
    return options, args.seeds, args.plot


def _at_once(runs: Sequence[Run]) -> dict[Run, Batch]:
    """Run batches side by side. They begin one after the other once all processes are ready."""
    log(f"{len(runs)} batches of {JOBS} jobs: {', '.join(dict.fromkeys(name for name, *_ in runs))}")
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(run)) for run in runs]
        for process in processes:
            stack.callback(process.kill)
        for process in processes:
            _line(process)
        for process in processes:
            print(file=process.stdin, flush=True)
            time.sleep(_BEGIN_EVERY)
        return {run: Batch(**json.loads(_line(process))) for run, process in zip(runs, processes, strict=True)}


def _process(run: Run) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks._makespan", *map(str, run)],
        cwd=Path(__file__).resolve().parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit("the process of a batch ended; its error is above")
    return line


def _text(figures: Figures) -> str:
    head = (f"time of {JOBS} jobs ÷ least possible", *(f"{limit} slots" for limit in LIMITS), "requests/job")
    rows = [
        (name, *(_spread(batches[limit]) for limit in LIMITS), _requests(batches)) for name, batches in figures.items()
    ]
    least = ", ".join(f"{fmean(batch.bound for batch in figures[POLLING][limit]) / 60:.1f}" for limit in LIMITS)
    count = len(figures[POLLING][LIMITS[0]])
    notes = (
        f"Mean (lowest to highest) of {count} seeds. The least possible time: {least} minutes of the service. "
        f"Emulator and clocks run {SPEED:g} times as fast."
    )
    return f"{table(head, rows)}\n{notes}"


def _spread(batches: Sequence[Batch]) -> str:
    ratios = sorted(batch.ratio for batch in batches)
    return f"{fmean(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})"


def _requests(batches: Mapping[int, Sequence[Batch]]) -> str:
    return f"{fmean(batch.requests for each in batches.values() for batch in each) / JOBS:.1f}"


def _targets(figures: Figures) -> list[Target]:
    worst = {name: max(batch.ratio for each in figures[name].values() for batch in each) for name in OURS}
    return [
        Target("worst time ÷ least possible, polling", worst[POLLING], 1.05),
        Target("worst time ÷ least possible, with a webhook", worst[WOKEN], 1.01),
    ]


def _as_dicts(figures: Figures) -> dict[str, dict[int, list[dict[str, float]]]]:
    return {
        name: {
            limit: [{**attrs.asdict(batch), "ratio": batch.ratio} for batch in each] for limit, each in batches.items()
        }
        for name, batches in figures.items()
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
