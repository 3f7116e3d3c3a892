"""Tests of the plan of polls, against theory and against brute force."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling.distribution import RATIOS, Cells, prior
from modelslab_async.polling.schedule import Gaps, PollPlan, gaps_at, plan, urgency

SCALE = 50.0
EDGES = [SCALE * ratio for ratio in RATIOS]
MIDDLES = [(a + b) / 2 for a, b in pairwise(EDGES)]


def cells_of(ended: Callable[[float], float]) -> Cells:
    """Return the cells of a distribution function."""
    return [ended(EDGES[1]), *(ended(b) - ended(a) for a, b in pairwise(EDGES[1:]))]


def lognormal(seconds: float) -> float:
    return (1 + math.erf(math.log(seconds / 60) / 0.3 / math.sqrt(2))) / 2


def two_peaks(seconds: float) -> float:
    return 0.8 * (1 + math.erf((seconds - 55) / 5 / math.sqrt(2))) / 2 + 0.2 * (
        1 + math.erf((seconds - 180) / 30 / math.sqrt(2))
    ) / 2  # fmt: skip


def cost(polls: list[int], cells: Cells, poll_cost: float) -> float:
    """Return the cost of polls at these edges by its definition: the latency and the polls of each cell's jobs."""
    total, poll = 0.0, 0
    for cell, (mass, middle) in enumerate(zip(cells, MIDDLES, strict=True)):
        while polls[poll] <= cell:
            poll += 1
        total += mass * (EDGES[polls[poll]] - middle + poll_cost * (poll + 1))
    return total


def least_cost(cells: Cells, poll_cost: float) -> float:
    """Return the least cost of any polls, by trying every next poll at every edge."""
    ended = [0.0, *accumulate(cells)]
    moment = [0.0, *accumulate(cell * middle for cell, middle in zip(cells, MIDDLES, strict=True))]
    last = len(EDGES) - 1
    remaining_cost = [0.0] * (last + 1)
    for now in reversed(range(last)):
        remaining_cost[now] = poll_cost * (ended[last] - ended[now]) + min(
            EDGES[poll] * (ended[poll] - ended[now]) - moment[poll] + moment[now] + remaining_cost[poll]
            for poll in range(now + 1, last + 1)
        )
    return remaining_cost[0]


def followed(schedule: PollPlan, until: float) -> list[float]:
    """Return the times of the polls of a job that does not end."""
    polls = [0.0]
    while polls[-1] < until:
        polls.append(polls[-1] + schedule.gap(polls[-1]))
    return polls[1:]


@pytest.mark.parametrize("ended", [lognormal, two_peaks], ids=["one peak", "two peaks"])
@pytest.mark.parametrize("poll_cost", [0.5, 5.0])
def test_no_other_polls_cost_less(ended: Callable[[float], float], poll_cost: float) -> None:
    """From the start of a job, the plan's polls cost the least of all possible polls, within the grid's 1.5 %."""
    cells = cells_of(ended)
    schedule = plan(cells, Gaps(poll_cost=poll_cost, floor=1e-3, ceiling=1e6), SCALE)
    edges = [min(range(len(EDGES)), key=lambda edge: abs(EDGES[edge] - poll)) for poll in followed(schedule, 1000.0)]
    assert cost([*edges, len(EDGES) - 1], cells, poll_cost) <= 1.015 * least_cost(cells, poll_cost)


def test_a_constant_hazard_means_constant_gaps() -> None:
    """For exponential durations of mean m, the best gap g solves exp(g/m) - 1 - g/m = c/m at any elapsed time."""
    mean, poll_cost = 100.0, 2.0
    schedule = plan(cells_of(lambda seconds: 1 - math.exp(-seconds / mean)), gaps_at(poll_cost), SCALE)
    low, high = 0.0, mean
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if math.expm1(middle / mean) - middle / mean < poll_cost / mean else (low, middle)
    gaps = [schedule.gap(elapsed) for elapsed in range(20, 120)]
    assert sum(gaps) / len(gaps) == pytest.approx(low, rel=0.03)


def test_polls_are_dense_where_the_hazard_is_high() -> None:
    """Around the peak the gaps are close to sqrt(2c/h) (Keller, Management Science 21, 1974), elsewhere far longer."""
    schedule = plan(cells_of(two_peaks), Gaps(), SCALE)
    hazard = (two_peaks(57.5) - two_peaks(56.5)) / (1 - two_peaks(57))
    assert schedule.gap(57.0) == pytest.approx(math.sqrt(2 / hazard), rel=0.4)
    assert schedule.gap(0.0) > 10 * schedule.gap(57.0)
    assert schedule.gap(75.0) > 5 * schedule.gap(57.0)


def test_expensive_polls_are_rare() -> None:
    """With ten times the cost of a poll, there are fewer polls by about the root of ten."""
    few, many = (
        len(followed(plan(cells_of(lognormal), gaps_at(cost)._replace(floor=0.1), SCALE), 100.0)) for cost in (5.0, 0.5)
    )
    assert math.sqrt(10) / 1.5 < many / few < math.sqrt(10) * 1.5


@given(
    eta=st.none() | st.floats(1e-3, 1e9),
    scale=st.floats(1e-3, 1e9),
    poll_cost=st.floats(1e-3, 1e3),
    elapsed=st.lists(st.floats(0, 1e9), min_size=1, max_size=20),
    seed=st.integers(),
)
def test_no_gap_leaves_its_bounds(
    eta: float | None, scale: float, poll_cost: float, elapsed: list[float], seed: int
) -> None:
    """With any numbers, a gap is from the floor to the ceiling."""
    schedule = plan(prior(eta, scale), gaps_at(poll_cost), scale)
    rng = random.Random(seed)
    for moment in elapsed:
        assert schedule.gaps.floor <= schedule.jittered(moment, rng) <= schedule.gaps.ceiling


def test_a_job_that_outlives_the_distribution_is_polled_at_the_ceiling() -> None:
    """After the time by which all such jobs ended, the gap is the ceiling."""
    certain = [0.0] * len(MIDDLES)
    certain[300] = 1.0
    schedule = plan(certain, Gaps(), SCALE)
    for elapsed in (EDGES[302], 3600.0, EDGES[-1], 1e9):
        assert schedule.gap(elapsed) == schedule.gaps.ceiling


def test_the_end_is_near_once_one_in_ten_has_ended() -> None:
    """`is_near_end` turns True at the tenth percentile of the durations."""
    schedule = plan(cells_of(lognormal), Gaps(), SCALE)
    tenth = 60 * math.exp(-0.3 * 1.2816)
    assert not schedule.is_near_end(tenth * 0.97)
    assert schedule.is_near_end(tenth * 1.03)


@given(st.floats(0.1, 1000.0))
def test_a_plan_scales_with_the_durations(factor: float) -> None:
    """If jobs take a factor longer and a poll costs as much more, every poll comes later by the factor."""
    cells, free = cells_of(lognormal), Gaps(poll_cost=1.0, floor=1e-3, ceiling=1e6)
    longer = Gaps(*(factor * each for each in free))
    short, long = plan(cells, free, SCALE), plan(cells, longer, SCALE * factor)
    assert list(long.polls) == pytest.approx([factor * poll for poll in short.polls], rel=0.01)


@given(st.floats(0, 300), st.integers())
def test_the_jitter_is_small_where_the_moment_matters(elapsed: float, seed: int) -> None:
    """The jitter is at most 3 % of the gap, 1 s, and a quarter of the gap after it."""
    schedule = plan(cells_of(two_peaks), Gaps(floor=0.1), SCALE)
    gap = schedule.gap(elapsed)
    most = min(0.03 * gap, 1.0, schedule.gap(elapsed + gap) / 4)
    assert abs(schedule.jittered(elapsed, random.Random(seed)) - gap) <= most + 1e-9


@given(st.integers(0, 10**6), st.integers(0, 200))
def test_urgency_is_the_number_of_delayed_jobs(waiting: int, slots: int) -> None:
    """It is a power of two, at most the number of delayed jobs and more than half of it, up to eight."""
    delayed = 1 + waiting / max(slots, 1)
    found = urgency(waiting, slots)
    assert found <= delayed
    assert found > min(delayed, 8) / 2
    assert (urgency(0, slots), found.bit_count()) == (1, 1)


def test_the_floor_falls_if_polls_cost_nearly_nothing() -> None:
    """The floor is a second, or ten times the cost of a poll if that is less."""
    assert [gaps_at(cost).floor for cost in (5, 1, 0.1, 0.01)] == [1.0, 1.0, 1.0, 0.1]
