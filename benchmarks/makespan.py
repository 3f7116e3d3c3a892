"""How long a batch of 200 jobs takes, beside the least that the account's queue limit allows.

    python -m benchmarks.makespan [--svg FILE] [--json] [--check]

An emulator in another process, 20 times as fast, as are the contenders' clocks; for accounts with 5, 10 and 15 places.
The least is what somebody would need who knew at once when a job ends, and submitted the next one in no time: the jobs'
own times, as the emulator knows them, one after the other on so many places. About six minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import attrs

from benchmarks._common import NOT_INSTALLED, Reach, conclude, options, say, table
from benchmarks._live import PEER
from benchmarks._makespan import CONTENDERS, JOBS, Batch

LIMITS = (5, 10, 15)
POLLING, WOKEN, *OTHERS = CONTENDERS
Figures = dict[str, dict[int, Batch]]


def main() -> int:
    """Measure, and print the figures."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--svg", metavar="FILE", help="draw the table there")
    wanted, given = options(__doc__, more)
    others = [name for name in OTHERS if "modelslab-py" not in name or find_spec(PEER)]
    if len(others) < len(OTHERS):
        say(NOT_INSTALLED)
    figures: dict[str, dict[int, Batch]] = {}
    for group in ((POLLING,), (WOKEN,), others):  # ours are not disturbed by the others
        say(f"{JOBS} jobs: {', '.join(group)}")
        figures |= _measured(group)
    if given.svg:
        _draw(figures, given.svg)
    return conclude(wanted, _text(figures), {"benchmark": "makespan", "batches": _told(figures)}, _reaches(figures))


def _measured(group: Iterable[str]) -> dict[str, dict[int, Batch]]:
    runs = [(name, limit) for name in group for limit in LIMITS]
    with ThreadPoolExecutor(len(runs)) as threads:
        batches = list(threads.map(lambda run: _batch(*run), runs))
    found: dict[str, dict[int, Batch]] = {}
    for (name, limit), batch in zip(runs, batches, strict=True):
        found.setdefault(name, {})[limit] = batch
    return found


def _batch(name: str, limit: int) -> Batch:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks._makespan", name, str(limit)],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return Batch(**json.loads(process.stdout.splitlines()[-1]))


def _text(figures: Figures) -> str:
    head = ("a batch's time, of the least possible", *(f"{limit} places" for limit in LIMITS), "requests/job")
    rows = [
        (
            name,
            *(f"{batches[limit].ratio:.3f}" for limit in LIMITS),
            f"{sum(batches[limit].requests for limit in LIMITS) / JOBS / len(LIMITS):.1f}",
        )
        for name, batches in figures.items()
    ]
    least = ", ".join(f"{figures[POLLING][limit].bound / 60:.1f}" for limit in LIMITS)
    return f"{table(head, rows)}\n{JOBS} jobs; the least possible: {least} minutes of the service"


def _reaches(figures: Figures) -> list[Reach]:
    worst = {name: max(batch.ratio for batch in figures[name].values()) for name in (POLLING, WOKEN)}
    return [
        Reach("batch's time, of the least possible, polling", worst[POLLING], 1.05),
        Reach("batch's time, of the least possible, with a webhook", worst[WOKEN], 1.01),
    ]


def _told(figures: Figures) -> dict[str, dict[int, dict[str, float]]]:
    return {
        name: {limit: {**attrs.asdict(batch), "ratio": batch.ratio} for limit, batch in batches.items()}
        for name, batches in figures.items()
    }


def _draw(figures: Figures, path: str) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "modelslab_async", "svg.fonttype": "none"})
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    colours = dict(zip(LIMITS, ("#90caf9", "#42a5f5", "#1565c0"), strict=True))
    for place, limit in enumerate(LIMITS):
        ratios = [batches[limit].ratio for batches in figures.values()]
        at = [row + (1 - place) * 0.26 for row in reversed(range(len(figures)))]
        bars = axis.barh(at, ratios, height=0.24, color=colours[limit], label=f"{limit} places")
        axis.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios], padding=3, fontsize=8)
    axis.axvline(1, color="#2e7d32", linewidth=1.5)
    axis.set_yticks(range(len(figures)), list(reversed(figures)))
    axis.set(xlabel="time of a batch of 200 jobs, of the least that the queue limit allows", xlim=(0, None))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.62))
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
