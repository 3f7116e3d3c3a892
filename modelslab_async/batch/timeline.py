"""Draw a batch's timeline as SVG: a lane for each slot, a bar for each job. Pure: results in, SVG out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from heapq import heappop, heappush
from html import escape

import attrs

from modelslab_async.batch.results import Result, counted

_WIDTH, _MARGIN, _FOOT = 1000, 8, 22
"""In pixels: the whole width, the margin on both sides, and the height of the time axis."""
_LABEL_WIDTH = 60
"""In pixels: room for the label of a tick."""
_MAX_LANE_HEIGHT, _MIN_LANE_HEIGHT, _MAX_HEIGHT = 20.0, 2.0, 420.0
"""In pixels: of one lane, and of all lanes together."""
_TICK_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400]
_MAX_TICKS = 8


@attrs.frozen
class Bar:
    """A job's bar in its lane. Lanes are numbered from 0."""

    result: Result
    begin: datetime
    end: datetime
    lane: int


def bars(results: Iterable[Result]) -> Sequence[Bar]:
    """Return the bars of all jobs that ran, each in the first free lane: as many lanes as jobs that ran at once."""
    spans = sorted(
        ((result.submitted_at, result.ended_at or result.saved_at or result.submitted_at, result.ref, result)
         for result in results if result.submitted_at),
        key=lambda span: span[0:3],
    )  # fmt: skip
    busy, free, drawn = list[tuple[datetime, int]](), list[int](), list[Bar]()
    for begin, recorded_end, _, result in spans:
        end = max(recorded_end, begin)
        while busy and busy[0][0] <= begin:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else len(busy)
        heappush(busy, (end, lane))
        drawn.append(Bar(result, begin, end, lane))
    return drawn


def svg(drawn: Sequence[Bar]) -> str:
    """Return the picture, in which each bar links to its card. Return an empty string without bars."""
    if not drawn:
        return ""
    first, last = min(bar.begin for bar in drawn), max(bar.end for bar in drawn)
    seconds = max((last - first).total_seconds(), 1.0)
    lanes = 1 + max(bar.lane for bar in drawn)
    lane_height = min(max(_MAX_HEIGHT / lanes, _MIN_LANE_HEIGHT), _MAX_LANE_HEIGHT)
    scale = (_WIDTH - 2 * _MARGIN) / seconds
    height = lanes * lane_height

    def x(at: datetime) -> float:
        return _MARGIN + (at - first).total_seconds() * scale

    parts = [
        f'<rect class="lane" x="{_MARGIN}" y="{lane * lane_height + 1:.1f}" width="{_WIDTH - 2 * _MARGIN}" '
        f'height="{max(lane_height - 2, 1):.1f}"/>'
        for lane in range(lanes)
    ]
    for after in _ticks(seconds):
        at = x(first + timedelta(seconds=after))
        parts.append(f'<path class="grid" d="M{at:.1f} 0V{height:.0f}"/>')
        anchor_end = ' text-anchor="end"' if at > _WIDTH - _LABEL_WIDTH else ""
        parts.append(f'<text x="{at:.1f}" y="{height + 16:.0f}"{anchor_end}>{_format_tick(after)}</text>')
    for bar in drawn:
        duration = (bar.end - bar.begin).total_seconds()
        title = escape(f"{bar.result.state.value.replace('_', ' ')}, {duration:.0f} s: {_prompt(bar.result)}")
        width = max(x(bar.end) - x(bar.begin) - 0.6, 1)
        parts.append(
            f'<a href="#{anchor(bar.result)}" aria-label="{title}"><rect class="bar {bar.result.state.value}" '
            f'x="{x(bar.begin):.1f}" y="{bar.lane * lane_height + 1:.1f}" width="{width:.1f}" '
            f'height="{max(lane_height - 2, 1):.1f}" rx="{min(2.0, lane_height / 4):.1f}"><title>{title}</title>'
            "</rect></a>"
        )
    label = f"{counted(len(drawn), 'job')} in {counted(lanes, 'slot')}"
    box = f"0 0 {_WIDTH} {height + _FOOT:.0f}"
    return f'<svg viewBox="{box}" role="group" aria-label="{label}">{"".join(parts)}</svg>'


def anchor(result: Result) -> str:
    """Return the id of a result's card in the page."""
    return f"line-{result.line}"


def _prompt(result: Result) -> str:
    return str(result.request.get("prompt", ""))[:80]


def _ticks(seconds: float) -> range:
    too_long = 86400 * (1 + int(seconds / 86400 / _MAX_TICKS))
    step = next((step for step in _TICK_SECONDS if seconds / step <= _MAX_TICKS), too_long)
    return range(0, int(seconds) + 1, step)


def _format_tick(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds // 60}:{seconds % 60:02} min"
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds // 3600}:{seconds % 3600 // 60:02} h"
