"""The timeline of a batch's report: lanes, bars and ticks."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from helpers.reports import a_result, at, many_results
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import JobState
from modelslab_async.batch.timeline import bars, picture, seconds_of

S = JobState


def shapes_of(html: str, state: JobState) -> list[tuple[float, float]]:
    """The bars that are drawn for jobs in a state: where each begins, and its width."""
    [path] = re.findall(rf'class="bar {state.value}" d="([^"]*)"', html)
    return [(float(x), float(width)) for x, width in re.findall(r"M([\d.]+) [\d.]+h([\d.]+)", path)]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), max_size=60))
def test_lanes_are_slots(spans: list[tuple[int, int]]) -> None:
    """Two jobs that ran at once are in different lanes, and there are no more lanes than jobs that ran at once."""
    results = [
        a_result(line, submitted_at=at(begin), ended_at=at(begin + length))
        for line, (begin, length) in enumerate(spans, 1)
    ]
    drawn = bars(results)
    assert Counter(bar.result.line for bar in drawn) == Counter(range(1, len(spans) + 1))
    for bar in drawn:
        others = [other for other in drawn if other is not bar and other.lane == bar.lane]
        assert all(other.end <= bar.begin or bar.end <= other.begin for other in others)
    most = max((sum(b.begin <= bar.begin < b.end or b is bar for b in drawn) for bar in drawn), default=0)
    assert len({bar.lane for bar in drawn}) <= max(most, 0)
    assert len(shapes_of(picture(drawn), S.READY) if drawn else []) == len(drawn)


@pytest.mark.parametrize("state", [S.UNCERTAIN, S.TIMED_OUT])
def test_a_job_without_a_known_end_is_drawn(state: JobState) -> None:
    """Its bar is wide enough to be seen on a phone, and does not hide another one in its lane."""
    results = [*many_results(100, slots=2), a_result(101, state, submitted_at=at(0), ended_at=None)]
    drawn = bars(results)
    [bar] = [bar for bar in drawn if bar.result.state is state]
    assert bar.is_open
    assert all(other is bar or other.lane != bar.lane or other.begin >= bar.end for other in drawn)
    [(x, width)] = shapes_of(picture(drawn), state)
    assert x == 0
    assert width >= 0.005 * 10_000


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_all_jobs_that_were_sent_are_drawn(are_known: list[bool]) -> None:
    """Every job with a time of its submit has a bar within the picture, whether or not its end is known."""
    results = [
        a_result(line, S.FAILED, submitted_at=at(line), ended_at=at(line + 5) if is_known else None)
        for line, is_known in enumerate(are_known, 1)
    ]
    drawn = bars(results)
    shapes = shapes_of(picture(drawn), S.FAILED)
    assert len(shapes) == len(results)
    assert all(x >= 0 and x + width <= 10_000 for x, width in shapes)
    assert all(bar.end <= seconds_of(drawn) for bar in drawn)


def test_the_picture_does_not_grow_in_elements() -> None:
    """20,000 jobs need as many elements as 20: the bars of a state are one path."""
    few, many = picture(bars(many_results(20, slots=2))), picture(bars(many_results(20_000)))
    assert few.count("<path") == many.count("<path") == 3
    assert many.count("<li") <= 9
    assert len(shapes_of(many, S.READY)) == 20_000


def test_a_failed_job_among_many_is_seen() -> None:
    """Its bar keeps a width that shows on a phone, and is drawn over the ready ones."""
    results = [*many_results(20_000), a_result(20_001, S.FAILED, submitted_at=at(5), ended_at=at(6))]
    html = picture(bars(results))
    [(_, width)] = shapes_of(html, S.FAILED)
    assert width >= 0.005 * 10_000
    assert html.index('class="bar ready"') < html.index('class="bar failed"')


@pytest.mark.parametrize("seconds", [0, 1, 59, 61, 3599, 7201, 86_400, 40 * 86_400])
def test_ticks(seconds: int) -> None:
    """There are one to nine ticks, all within the picture, from 0 s on."""
    html = picture(bars([a_result(1, submitted_at=at(0), ended_at=at(seconds))]))
    places = [float(place) for place in re.findall(r"left:([\d.]+)%", html)]
    assert places[0] == 0
    assert len(places) <= 9
    assert max(places) <= 100


def test_a_batch_that_sent_nothing_has_no_picture() -> None:
    """Without bars there is nothing to draw."""
    assert picture(bars([a_result(1, S.REFUSED, submitted_at=None)])) == ""


def test_each_host_has_its_lanes() -> None:
    """Jobs of two hosts are never in one lane, and each host's name is at its first lane, as text."""
    results = [
        a_result(line, submitted_at=at(line), ended_at=at(line + 3), host=host)
        for line, host in enumerate(["b<2>", "a", "b<2>", "a", None, "a"], 1)
    ]
    drawn = bars(results)
    lanes = {host: {bar.lane for bar in drawn if bar.result.host == host} for host in ("a", "b<2>", None)}
    assert sum(len(each) for each in lanes.values()) == len(set.union(*lanes.values())) == 5
    html = picture(drawn)
    names = re.findall(r'<li style="top:([\d.]+)%">(.*?)</li>', html)
    assert names == [("0.00", "unknown host"), ("20.00", "a"), ("60.00", "b&lt;2&gt;")]
    assert "on 3 hosts" in html
    one_host = [result for result in results if result.host == "a"]
    assert 'class="hosts"' not in picture(bars(one_host))
