"""Draw a batch's timeline: a lane for each slot of each host, a bar for each job. Pure: results in, HTML out.

All bars of one state are one SVG path: the picture of 20,000 jobs has as few elements as that of 20.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from html import escape
from itertools import groupby
from statistics import median

import attrs

from modelslab_async.batch.results import Result, counted
from modelslab_async.protocol.lifecycle import JobState

_WIDTH = 10_000
"""Units of the picture's width. The page stretches the picture to its own width; heights stay pixels."""
_MAX_LANE_HEIGHT, _MAX_HEIGHT = 20.0, 420.0
"""In pixels: of one lane, and of all lanes together."""
_GAP = 5
"""Units between a bar and the next bar in its lane."""
_MIN_BAR, _MIN_CONSPICUOUS_BAR = 5, 60
"""Least width of a bar in units: of a ready job, and of any other job, which must not be overlooked."""
_OPEN_BAR = 0.015
"""Length of the bar of a job whose end is unknown, as a share of the whole time."""
_LATE_TICK, _LAST_TICK = 80, 94
"""Percent of the width from which on a tick's label stands before the tick: on a phone, and on any page."""
_TICK_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400]
_MAX_TICKS = 8


_Span = tuple[float, float | None, Result]
"""A job's begin and end in seconds since the first job was sent, and its result. The end is None if it is unknown."""


@attrs.frozen
class Bar:
    """A job's bar in its lane.

    begin, end: seconds since the first job was sent.
    lane: the lane's number, from 0.
    is_open: whether the job's end is unknown, as that of an uncertain job is; *end* is then only where the bar ends.
    """

    result: Result
    begin: float
    end: float
    lane: int
    is_open: bool = False


def bars(results: Iterable[Result]) -> Sequence[Bar]:
    """Return the bars of all jobs that were sent, by their begin, each in the first free lane of its host.

    A host has as many lanes as it had jobs that ran at once. The hosts come in the order of their names.
    """
    sent = [(result.submitted_at, result) for result in results if result.submitted_at]
    if not sent:
        return []
    first = min(at for at, _ in sent)
    spans = list[_Span]()
    for at, result in sent:
        ended_at = result.ended_at or result.saved_at
        begin = (at - first).total_seconds()
        spans.append((begin, None if ended_at is None else max((ended_at - first).total_seconds(), begin), result))
    open_seconds = _open_seconds(spans)
    spans.sort(key=lambda span: (span[0], span[0] + open_seconds if span[1] is None else span[1], span[2].ref))
    drawn = list[Bar]()
    for _, of_host in groupby(sorted(spans, key=lambda span: span[2].host or ""), key=lambda span: span[2].host):
        drawn += _bars_of_host(of_host, open_seconds, 1 + max((bar.lane for bar in drawn), default=-1))
    return sorted(drawn, key=lambda bar: (bar.begin, bar.lane))


def _bars_of_host(spans: Iterable[_Span], open_seconds: float, first_lane: int) -> Iterator[Bar]:
    busy, free = list[tuple[float, int]](), list[int]()
    for begin, known_end, result in spans:
        end = begin + open_seconds if known_end is None else known_end
        while busy and busy[0][0] <= begin:
            heappush(free, heappop(busy)[1])
        lane = heappop(free) if free else len(busy)
        heappush(busy, (end, lane))
        yield Bar(result, begin, end, first_lane + lane, is_open=known_end is None)


def _open_seconds(spans: Sequence[_Span]) -> float:
    """Return the length of a bar whose end is unknown. It is less than a job takes, so that no lane is added for it."""
    share = _OPEN_BAR * max((1.0, *(begin if end is None else end for begin, end, _ in spans)))
    known = [end - begin for begin, end, _ in spans if end is not None]
    return min(share, median(known) / 2) if known else share


def seconds_of(drawn: Sequence[Bar]) -> float:
    """Return the seconds from the first job's begin to the last job's end, at least 1."""
    return max((1.0, *(bar.end for bar in drawn)))


def picture(drawn: Sequence[Bar]) -> str:
    """Return the timeline as HTML: the bars, the ticks of the time axis, and a caption. Empty without bars."""
    if not drawn:
        return ""
    seconds, lanes = seconds_of(drawn), 1 + max(bar.lane for bar in drawn)
    lane_height = min(_MAX_HEIGHT / lanes, _MAX_LANE_HEIGHT)
    height = f"{lanes * lane_height:.0f}"
    ticks = [(100 * after / seconds, after) for after in _ticks(seconds)]
    grid = "".join(f"M{_WIDTH * percent / 100:.0f} 0v{height}" for percent, _ in ticks)
    hosts = _hosts(drawn)
    on_hosts = f" on {counted(len(hosts), 'host')}" if len(hosts) > 1 else ""
    caption = f"{counted(len(drawn), 'job')} in {counted(lanes, 'slot')}{on_hosts}"
    return (
        f'<div class="lanes" data-seconds="{seconds:.3f}" data-lanes="{lanes}">'
        f'<svg viewBox="0 0 {_WIDTH} {height}" height="{height}" preserveAspectRatio="none" role="img" '
        f'aria-label="{caption}"><path class="lane" d="{_lanes(lanes, lane_height)}"/><path class="grid" d="{grid}"/>'
        f"{''.join(_paths(drawn, _WIDTH / seconds, lane_height))}</svg>{_host_names(hosts, lanes)}</div>"
        f'<ol class="ticks" aria-hidden="true">{"".join(_tick(*tick) for tick in ticks)}</ol>'
        f'<p class="caption soft">{caption}</p>'
    )


def _hosts(drawn: Iterable[Bar]) -> Mapping[str, int]:
    """Return the first lane of each host, by the host's name. Bars without a host are of an unknown one."""
    first = dict[str, int]()
    for bar in sorted(drawn, key=lambda bar: bar.lane):
        first.setdefault(bar.result.host or "unknown host", bar.lane)
    return first


def _host_names(hosts: Mapping[str, int], lanes: int) -> str:
    """Return the names of several hosts, each at its first lane. Empty for one host."""
    if len(hosts) < 2:
        return ""
    names = (f'<li style="top:{100 * lane / lanes:.2f}%">{escape(name)}</li>' for name, lane in hosts.items())
    return f'<ol class="hosts">{"".join(names)}</ol>'


def _lanes(lanes: int, lane_height: float) -> str:
    return "".join(_rectangle(0, lane, _WIDTH, lane_height) for lane in range(lanes))


def _paths(drawn: Sequence[Bar], scale: float, lane_height: float) -> Iterator[str]:
    """Yield a path for each state. Ready jobs are first, so that the others are drawn over them."""
    by_state = sorted(drawn, key=lambda bar: (bar.result.state is not JobState.READY, bar.result.state))
    for state, group in groupby(by_state, key=lambda bar: bar.result.state):
        least = _MIN_BAR if state is JobState.READY else _MIN_CONSPICUOUS_BAR
        shapes = (
            _rectangle(bar.begin * scale, bar.lane, max((bar.end - bar.begin) * scale - _GAP, least), lane_height)
            for bar in group
        )
        yield f'<path class="bar {state.value}" d="{"".join(shapes)}"/>'


def _rectangle(x: float, lane: int, width: float, lane_height: float) -> str:
    """Return the path of a bar that fills its lane, but for a margin where the lane has room for one."""
    margin = 1 if lane_height > 4 else 0
    x, height = min(x, _WIDTH - width), f"{lane_height - 2 * margin:g}"
    return f"M{x:.0f} {lane * lane_height + margin:g}h{width:.0f}v{height}h-{width:.0f}z"


def _tick(percent: float, seconds: int) -> str:
    place = "" if percent <= _LATE_TICK else ' class="late"' if percent <= _LAST_TICK else ' class="last"'
    return f'<li{place} style="left:{percent:.2f}%">{_format_tick(seconds)}</li>'


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
