"""Pictures: of a benchmark's figures, a panel for each with a bar for each contender; and of all reaches.

A thin line goes from the lowest to the highest value, a dashed one stands where the reach is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]

_OURS, _OTHERS, _MISSED = "#1565c0", "#b0a8a0", "#c62828"
_BAR, _HEAD = 0.32, 1.15
"""Inches, of a bar and of what is around the bars of a panel."""
_STYLE: Any = {"font.size": 9, "svg.hashsalt": "modelslab_async", "svg.fonttype": "none"}


def draw(figures: Sequence[Mapping[str, Any]], source: str, path: Path) -> None:
    """Draw what `Figure`s say; `source` is written below: machine and conditions."""
    plt.rcParams.update(_STYLE)
    heights = [_HEAD + _BAR * len(figure["seen"]) for figure in figures]
    picture, axes = plt.subplots(
        len(figures), 1, figsize=(8, sum(heights) + 0.4), layout="constrained", squeeze=False, height_ratios=heights
    )
    for figure, axis in zip(figures, axes.flat, strict=True):
        _panel(axis, figure)
    picture.supxlabel(source, fontsize=7, color="#606060", wrap=True)
    _save(picture, path)


def draw_reaches(reaches: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw each figure as a share of what it may be at most: blue is kept, red is missed."""
    plt.rcParams.update(_STYLE)
    picture, axis = plt.subplots(figsize=(8, _HEAD + 0.8 * _BAR * len(reaches)), layout="constrained")
    names = [reach["name"] for reach in reaches]
    shares = [max(reach["value"], 0) / reach["at_most"] for reach in reaches]
    bars = axis.barh(names, shares, color=[_MISSED if reach["missed"] else _OURS for reach in reaches], height=0.7)
    words = [f"{reach['value']:.3g} of {reach['at_most']:.3g}" for reach in reaches]
    axis.bar_label(bars, words, padding=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})
    axis.axvline(1, color="#404040", linestyle="--", linewidth=1, zorder=0)
    picture.suptitle("What was seen, as a share of what it may be at most", fontsize=10)
    axis.set_xlim(0, 1.6 * max(shares))
    axis.margins(y=0.01)
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    _save(picture, path)


def _save(picture: Any, path: Path) -> None:
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=110)
    plt.close(picture)


def _panel(axis: Any, figure: Mapping[str, Any]) -> None:
    names = list(figure["seen"])
    rounds = [figure["seen"][name]["values"] for name in names]
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
    if figure["limit"] is not None:
        axis.axvline(figure["limit"], color=_MISSED, linestyle="--", linewidth=1)
    axis.set_title(f"{figure['title']}, {figure['unit']}", loc="left", fontsize=10)
    axis.set_xlim(0, 1.12 * max(*(max(values) for values in rounds), figure["limit"] or 0))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)


def _is_ours(name: str) -> bool:
    return "modelslab_async" in name
