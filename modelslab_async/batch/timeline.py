"""Who ran when, as a picture: a lane for each place, a bar for each job. Pure: results in, SVG out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from heapq import heappop, heappush
from html import escape

import attrs

from modelslab_async.batch.results import Result

_WIDTH, _LEFT, _FOOT = 1000, 8, 22
_HIGHEST, _LOWEST, _MOST = 20.0, 2.0, 420.0
"""Of a lane, and of all lanes together, pixels."""
_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400]
_TICKS = 8


@attrs.frozen
class Bar:
    """A job in its lane, from 0."""

    result: Result
    begin: datetime
    end: datetime
    lane: int


def bars(results: Iterable[Result]) -> Sequence[Bar]:
    """Each job that ran, in the first lane that is free then: so many lanes as ran at a time."""
    spans = sorted(
        ((result.submitted_at, result.ended_at or result.saved_at or result.submitted_at, result.ref, result)
         for result in results if result.submitted_at),
        key=lambda span: span[0:3],
    )  # fmt: skip
    busy, free, made = list[tuple[datetime, int]](), list[int](), list[Bar]()
    for begin, told_end, _, result in spans:
        end = max(told_end, begin)
        while busy and busy[0][0] <= begin:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else len(busy)
        heappush(busy, (end, lane))
        made.append(Bar(result, begin, end, lane))
    return made


def svg(drawn: Sequence[Bar]) -> str:
    """The picture; each bar leads to its card. Empty without bars."""
    if not drawn:
        return ""
    first, last = min(bar.begin for bar in drawn), max(bar.end for bar in drawn)
    seconds = max((last - first).total_seconds(), 1.0)
    lanes = 1 + max(bar.lane for bar in drawn)
    high = min(max(_MOST / lanes, _LOWEST), _HIGHEST)
    scale = (_WIDTH - 2 * _LEFT) / seconds
    height = lanes * high

    def x(at: datetime) -> float:
        return _LEFT + (at - first).total_seconds() * scale

    parts = [
        f'<rect class="lane" x="{_LEFT}" y="{lane * high + 1:.1f}" width="{_WIDTH - 2 * _LEFT}" '
        f'height="{max(high - 2, 1):.1f}"/>'
        for lane in range(lanes)
    ]
    for after in _ticks(seconds):
        at = x(first + timedelta(seconds=after))
        parts.append(f'<path class="grid" d="M{at:.1f} 0V{height:.0f}"/>')
        parts.append(f'<text x="{at:.1f}" y="{height + 16:.0f}">{_clock(after)}</text>')
    for bar in drawn:
        told = escape(f"{bar.result.state.value}, {(bar.end - bar.begin).total_seconds():.0f} s: {_prompt(bar.result)}")
        width = max(x(bar.end) - x(bar.begin) - 0.6, 1)
        parts.append(
            f'<a href="#{anchor(bar.result)}" aria-label="{told}"><rect class="bar {bar.result.state.value}" '
            f'x="{x(bar.begin):.1f}" y="{bar.lane * high + 1:.1f}" width="{width:.1f}" '
            f'height="{max(high - 2, 1):.1f}" rx="{min(2.0, high / 4):.1f}"><title>{told}</title></rect></a>'
        )
    label = f"{len(drawn)} jobs on {lanes} places"
    box = f"0 0 {_WIDTH} {height + _FOOT:.0f}"
    return f'<svg viewBox="{box}" role="group" aria-label="{label}">{"".join(parts)}</svg>'


def anchor(result: Result) -> str:
    """The name of a result's card in the page."""
    return f"line-{result.line}"


def _prompt(result: Result) -> str:
    return str(result.request.get("prompt", ""))[:80]


def _ticks(seconds: float) -> range:
    step = next((step for step in _STEPS if seconds / step <= _TICKS), 86400 * (1 + int(seconds / 86400 / _TICKS)))
    return range(0, int(seconds) + 1, step)


def _clock(seconds: int) -> str:
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min" if seconds % 60 == 0 else f"{seconds // 60}:{seconds % 60:02} min"
    return f"{seconds // 3600} h" if seconds % 3600 == 0 else f"{seconds // 3600}:{seconds % 3600 // 60:02} h"
