"""Draw latency against polls, one panel for each distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt  # pyright: ignore[reportMissingImports]
from matplotlib.ticker import FixedLocator, NullLocator  # pyright: ignore[reportMissingImports]

from benchmarks._simulator import PEERS, PLOTTED, Row, optimum

_OPTIMUM_COSTS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
_LABELS = {
    "2 s": (5, 0),
    "5 s": (-4, -11),
    "10 s": (-22, 4),
    "60 s": (6, -3),
    "1, 2, 4, 8, 10 s": (3, 5),
    "0.5·1.5ⁿ to 5 s": (5, -3),
    "4.5 to 7.5 s": (5, 2),
}
"""The offset of a schedule's name from its mark, in points."""
_OURS, _PEERS, _BEST = "#1565c0", "#8d6e63", "#2e7d32"


def draw(rows: Sequence[Row], path: str) -> None:
    """Draw ours as a curve over c, the peers as points and the optimum as a line. Lower and further left is better."""
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "modelslab_async", "svg.fonttype": "none"})
    figure, axes = plt.subplots(2, 3, figsize=(12, 7.2), layout="constrained")
    for distribution, axis in zip(PLOTTED, axes.flat, strict=False):
        _panel(axis, distribution, [row for row in rows if row.case[0] == distribution])
    legend = axes.flat[-1]
    legend.axis("off")
    legend.legend(*axes.flat[0].get_legend_handles_labels(), loc="center left", frameon=False, fontsize=10)
    figure.suptitle("Detecting that a job ended: latency and polls per job. Lower and further left is better.")
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None, dpi=150)
    plt.close(figure)


def _panel(axis: Any, distribution: str, rows: Sequence[Row]) -> None:
    best = [optimum(distribution, poll_cost) for poll_cost in _OPTIMUM_COSTS]
    axis.plot(
        [s.polls for s in best], [s.latency for s in best], color=_BEST, label="optimum, which knows the distribution"
    )
    for known, style in (("after 200, exact", "o-"), ("cold, exact", "s:")):
        ours = [row.ours[known] for row in rows]
        label = f"modelslab_async, {known} (c = 0.5 to 5 s)"
        axis.plot([s.polls for s in ours], [s.latency for s in ours], style, color=_OURS, markersize=5, label=label)
    peers = rows[0].peers
    axis.plot(
        [peers[n].polls for n in PEERS], [peers[n].latency for n in PEERS], "x", color=_PEERS, label="published clients"
    )
    for name, offset in _LABELS.items():
        at = (peers[name].polls, peers[name].latency)
        axis.annotate(name, at, xytext=offset, textcoords="offset points", fontsize=7.5, color=_PEERS)
    axis.set(xscale="log", yscale="log", title=distribution, xlabel="polls per job", ylabel="mean latency, s")
    axis.set(xlim=(0.95, 60), ylim=(0.8, 40))  # peers that poll every second or more often are beyond the right edge
    for scale in (axis.xaxis, axis.yaxis):
        scale.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50]))
        scale.set_minor_locator(NullLocator())
        scale.set_major_formatter("{x:g}")
    axis.grid(visible=True, alpha=0.2)
