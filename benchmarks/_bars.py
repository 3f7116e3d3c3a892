"""Draw a benchmark's figures, one panel for each with one bar per contender, and one picture of all targets.

A thin line spans the lowest to the highest value. A dashed line marks the target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]

_OURS, _OTHERS, _MISSED = "#1565c0", "#b0a8a0", "#c62828"
_BAR, _HEAD = 0.32, 1.15
"""Height in inches of a bar, and of the rest of a panel."""
_STYLE: Any = {"font.size": 9, "svg.hashsalt": "modelslab_async", "svg.fonttype": "none"}


def draw(figures: Sequence[Mapping[str, Any]], source: str, path: Path) -> None:
    """Draw `Figure`s. `source` is written below them: the conditions and the machine."""
    plt.rcParams.update(_STYLE)
    heights = [_HEAD + _BAR * len(figure["measured"]) for figure in figures]
    picture, axes = plt.subplots(
        len(figures), 1, figsize=(8, sum(heights) + 0.4), layout="constrained", squeeze=False, height_ratios=heights
    )
    for figure, axis in zip(figures, axes.flat, strict=True):
        _panel(axis, figure)
    picture.supxlabel(source, fontsize=7, color="#606060", wrap=True)
    _save(picture, path)


def draw_targets(targets: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw each measured value as a share of its target: blue is met, red is missed."""
    plt.rcParams.update(_STYLE)
    picture, axis = plt.subplots(figsize=(12, _HEAD + 0.8 * _BAR * len(targets)), layout="constrained")
    names = [target["name"] for target in targets]
    shares = [max(target["measured"], 0) / target["at_most"] for target in targets]
    bars = axis.barh(names, shares, color=[_MISSED if target["missed"] else _OURS for target in targets], height=0.7)
    labels = [f"{target['measured']:.3g} of {target['at_most']:.3g}" for target in targets]
    axis.bar_label(bars, labels, padding=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axis.axvline(1, color="#404040", linestyle="--", linewidth=1, zorder=0)
    picture.suptitle("Measured value as a share of its target", fontsize=10)
    axis.set_xlim(0, 1.3 * max(shares))
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    _save(picture, path)


def _save(picture: Any, path: Path) -> None:
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(picture)


def _panel(axis: Any, figure: Mapping[str, Any]) -> None:
    names = list(figure["measured"])
    rounds = [figure["measured"][name]["values"] for name in names]
    middles = [median(values) for values in rounds]
    spread = [
        [max(middle - min(values), 0) for middle, values in zip(middles, rounds, strict=True)],
        [max(max(values) - middle, 0) for middle, values in zip(middles, rounds, strict=True)],
    ]
    colors = [_OURS if _is_ours(name) or len(names) == 1 else _OTHERS for name in names]
    axis.barh(names, middles, color=colors, height=0.7)
    axis.errorbar(middles, names, xerr=spread, fmt="none", ecolor="#404040", elinewidth=1, capsize=3)
    for row, (middle, values) in enumerate(zip(middles, rounds, strict=True)):
        at = (max(middle, *values), row)
        axis.annotate(f"{middle:,.{figure['digits']}f}", at, xytext=(5, 0), textcoords="offset points", va="center")
    if figure["target"] is not None:
        axis.axvline(figure["target"], color=_MISSED, linestyle="--", linewidth=1)
    axis.set_title(f"{figure['title']}, {figure['unit']}", loc="left", fontsize=10)
    axis.set_xlim(0, 1.12 * max(*(max(values) for values in rounds), figure["target"] or 0))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)


def _is_ours(name: str) -> bool:
    return "modelslab_async" in name
