"""Draw the time of a batch of each contender: one row per contender, one mark per queue limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]

from benchmarks._makespan import JOBS, Batch

_MARKS = ("o", "s", "D")
_OURS, _OTHERS, _BEST = "#1565c0", "#8d6e63", "#2e7d32"
_OFFSET = 0.22
"""Distance between the marks of one contender, in rows."""


def draw(figures: Mapping[str, Mapping[int, Sequence[Batch]]], path: str) -> None:
    """Draw the mean over the seeds, with a line over their range. Further left is better."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "modelslab_async", "svg.fonttype": "none"})
    figure, axis = plt.subplots(figsize=(9, 3.9), layout="constrained")
    axis.axvline(1, color=_BEST, linewidth=1.5, label="least possible")
    for row, (name, batches) in enumerate(figures.items()):
        _row(axis, row, batches, _OURS if name.startswith("modelslab_async") else _OTHERS)
    names = [f"{name}\n{_requests(batches):.1f} requests per job" for name, batches in figures.items()]
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="time of a batch ÷ the least time that the queue limit allows", xlim=(0.98, None))
    axis.grid(visible=True, axis="x", alpha=0.2)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(*_legend(axis), frameon=False, loc="upper right")
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, dpi=150)
    plt.close(figure)


def _row(axis: Any, row: int, batches: Mapping[int, Sequence[Batch]], color: str) -> None:
    for index, (mark, (limit, each)) in enumerate(zip(_MARKS, batches.items(), strict=True)):
        ratios, at = [batch.ratio for batch in each], row + (index - 1) * _OFFSET
        axis.hlines(at, min(ratios), max(ratios), color=color, linewidth=1)
        axis.plot(fmean(ratios), at, mark, color=color, markersize=5, label=f"{limit} slots")


def _requests(batches: Mapping[int, Sequence[Batch]]) -> float:
    return fmean(batch.requests for each in batches.values() for batch in each) / JOBS


def _legend(axis: Any) -> tuple[list[Any], list[str]]:
    """Return the legend with each label once."""
    found = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    return list(found.values()), list(found)
