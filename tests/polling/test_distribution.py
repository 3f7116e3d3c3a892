"""Tests of estimating the distribution of durations from what polls saw."""

from __future__ import annotations

import math
import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling import distribution
from modelslab_async.polling.distribution import RATIOS, Cells, Span, estimate, prior, smoothed

SECONDS = st.floats(0, 1e5)
SCALE = 50.0


def ended_by(cells: Cells, seconds: float) -> float:
    """Return the probability that a job has ended by *seconds*."""
    return [0.0, *accumulate(cells)][round(distribution.position(seconds / SCALE))]


def median_of(cells: Cells) -> float:
    return SCALE * next(edge for edge, ended in zip(RATIOS[1:], accumulate(cells), strict=True) if ended >= 0.5)


def span(after: float, by: float, weight: float = 1.0) -> Span:
    return Span(after / SCALE, by / SCALE, weight)


def observed(times: list[float], every: float) -> list[Span]:
    """Return the observations of jobs with these durations that were polled *every* so many seconds."""
    return [span(after, by) for after, by in intervals(times, every)]


def intervals(times: list[float], every: float) -> list[tuple[float, float]]:
    return [(time // every * every, time // every * every + every) for time in times]


@given(eta=st.none() | st.floats(1e-3, 1e9))
def test_no_time_is_impossible_in_the_prior(eta: float | None) -> None:
    """With any eta the prior is a distribution in which every cell has a probability above 0.

    Its scale is the eta, if that is from a second to an hour.
    """
    scale = distribution.TYPICAL_SECONDS if eta is None else min(max(eta, 1.0), 3600.0)
    cells = prior(eta, scale)
    assert min(cells) > 0
    assert 0.9 < sum(cells) <= 1 + 1e-9


def test_an_unusual_eta_has_less_weight() -> None:
    """An eta near the typical time is the median; if it is ten times off, the typical time stays likely."""
    assert median_of(prior(40.0, SCALE)) == pytest.approx(40, rel=0.15)
    assert median_of(prior(80.0, SCALE)) == pytest.approx(80, rel=0.2)
    for eta in (4.5, 450.0):
        assert ended_by(prior(eta, SCALE), 70) - ended_by(prior(eta, SCALE), 30) > 0.1


@given(st.lists(st.tuples(SECONDS, st.floats(0, 1e5) | st.just(math.inf)), max_size=30), st.floats(0, 5))
def test_an_estimate_is_a_distribution(spans: list[tuple[float, float]], weight: float) -> None:
    """With any observations no probability is below 0, and their sum is not above 1."""
    observations = [span(after, after + longer, weight=weight) for after, longer in spans]
    cells = estimate(observations, prior(None, SCALE))
    assert min(cells) >= 0
    assert 0.9 < sum(cells) <= 1 + 1e-6


@given(st.lists(st.sampled_from((0, 0, 0, 1, 3)), min_size=1, max_size=60), st.integers(0, 12))
def test_counts_are_spread_over_the_smallest_window(counts: list[int], window: int) -> None:
    """Each cell is spread over the smallest window that holds enough counts, at least three cells to either side."""
    size = len(counts)
    spread = [0.0] * size
    for cell, mass in enumerate(counts):
        windows = (range(max(cell - reach, 0), min(cell + reach + 1, size)) for reach in range(3, 3 + size))
        smallest = next(each for each in windows if sum(counts[i] for i in each) > window or len(each) == size)
        for other in smallest:
            spread[other] += mass / len(smallest)
    assert smoothed(counts, window + 0.5) == pytest.approx(spread, abs=1e-9)


@pytest.mark.parametrize("every", [2.0, 5.0, 12.0])
def test_the_distribution_is_estimated_from_intervals(every: float) -> None:
    """From polls of 300 jobs the distribution is estimated more finely than the gaps between the polls."""
    rng = random.Random(5)
    times = [60 * math.exp(rng.gauss(0, 0.3)) for _ in range(300)]
    shifted = list[Span]()
    for after, by in intervals(times, every):
        shift = rng.uniform(-every, every) / 2
        shifted.append(span(max(after + shift, 0), by + shift))
    cells = estimate(shifted, prior(None, SCALE))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert ended_by(cells, sorted(times)[int(300 * share)]) == pytest.approx(share, abs=0.07)


def test_two_peaks_stay_two() -> None:
    """If four jobs in five are quick and the others queue, hardly any job is estimated to end between the peaks."""
    rng = random.Random(6)
    times = [rng.gauss(55, 5) if rng.random() < 0.8 else rng.gauss(180, 30) for _ in range(200)]
    cells = estimate(observed(times, 3.0), prior(None, SCALE))
    between = ended_by(cells, 115) - ended_by(cells, 80)
    assert between < 0.05
    assert ended_by(cells, 80) == pytest.approx(0.8, abs=0.06)


def test_a_job_whose_end_was_not_seen_counts_as_longer() -> None:
    """After forty jobs of 50 s and forty that still ran after 100 s, half of all jobs take more than 100 s."""
    short = observed([50.0] * 40, 4.0)
    cells = estimate([*short, *(span(100.0, math.inf) for _ in range(40))], prior(50.0, SCALE))
    assert ended_by(cells, 100) == pytest.approx(0.5, abs=0.05)


def test_an_observation_counts_by_its_weight() -> None:
    """One observation of weight 5 gives the same estimate as five observations."""
    one = estimate([span(100.0, 110.0, weight=5.0)], prior(40.0, SCALE))
    five = estimate([span(100.0, 110.0)] * 5, prior(40.0, SCALE))
    assert list(one) == pytest.approx(list(five))
