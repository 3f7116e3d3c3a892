"""How long jobs take, as far as looks can tell."""

from __future__ import annotations

import math
import random
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling import distribution
from modelslab_async.polling.distribution import EDGES, Cells, Observation, estimate, guess

SECONDS = st.floats(0, 1e5)


def ended_by(cells: Cells, seconds: float) -> float:
    """The probability that a job has ended by then."""
    return [0.0, *accumulate(cells)][round(distribution.position(seconds))]


def median_of(cells: Cells) -> float:
    return next(edge for edge, ended in zip(EDGES[1:], accumulate(cells), strict=True) if ended >= 0.5)


def observed(times: list[float], every: float) -> list[Observation]:
    """Jobs that take these times, looked at so often."""
    return [Observation(time // every * every, time // every * every + every) for time in times]


@given(eta=st.none() | st.floats(EDGES[0], EDGES[-1]))
def test_a_guess_leaves_nothing_out(eta: float | None) -> None:
    """Whatever the eta: a distribution, in which no time of the grid is impossible."""
    cells = guess(eta)
    assert min(cells) > 0
    assert 0.99 < sum(cells) <= 1 + 1e-9


def test_an_eta_is_believed_the_less_the_stranger_it_is() -> None:
    """Near the typical time the eta is the median; ten times off the typical time stays likely."""
    assert median_of(guess(40.0)) == pytest.approx(40, rel=0.15)
    assert median_of(guess(80.0)) == pytest.approx(80, rel=0.2)
    for strange in (4.5, 450.0):
        likely = ended_by(guess(strange), 70) - ended_by(guess(strange), 30)
        assert likely > 0.15


@given(st.lists(st.tuples(SECONDS, st.floats(0, 1e5) | st.just(math.inf)), max_size=30), st.floats(0, 5))
def test_an_estimate_is_a_distribution(spans: list[tuple[float, float]], weight: float) -> None:
    """Whatever was observed: no probability below 0, and all together not above 1."""
    seen = [Observation(after, after + longer, weight=weight) for after, longer in spans]
    cells = estimate(seen, guess(None))
    assert min(cells) >= 0
    assert 0.9 < sum(cells) <= 1 + 1e-6


@given(st.lists(st.sampled_from((0, 0, 0, 1, 3)), min_size=1, max_size=60), st.integers(0, 12))
def test_what_was_seen_is_spread_over_the_least_window(seen: list[int], enough: int) -> None:
    """Each cell's share goes to the least window around it that holds enough, three cells to a side at least."""
    spread = [0.0] * len(seen)
    for cell, mass in enumerate(seen):
        windows = (range(max(cell - reach, 0), min(cell + reach + 1, len(seen))) for reach in range(3, 3 + len(seen)))
        window = next(w for w in windows if sum(seen[i] for i in w) > enough or len(w) == len(seen))
        for other in window:
            spread[other] += mass / len(window)
    assert distribution._smoothed(seen, enough + 0.5) == pytest.approx(spread, abs=1e-9)


@pytest.mark.parametrize("every", [2.0, 5.0, 12.0])
def test_intervals_tell_the_distribution(every: float) -> None:
    """From when looks saw 300 jobs running and ended, the distribution comes out, finer than the looks were."""
    rng = random.Random(5)
    times = [60 * math.exp(rng.gauss(0, 0.3)) for _ in range(300)]
    offset = list[Observation]()
    for seen in observed(times, every):
        shift = rng.uniform(-every, every) / 2
        offset.append(Observation(max(seen.after + shift, 0), seen.by + shift))
    cells = estimate(offset, guess(None))
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert ended_by(cells, sorted(times)[int(300 * share)]) == pytest.approx(share, abs=0.07)


def test_two_peaks_stay_two() -> None:
    """A queue in front of the service: four jobs in five are quick, and hardly any ends between the peaks."""
    rng = random.Random(6)
    times = [rng.gauss(55, 5) if rng.random() < 0.8 else rng.gauss(180, 30) for _ in range(200)]
    cells = estimate(observed(times, 3.0), guess(None))
    between = ended_by(cells, 115) - ended_by(cells, 80)
    assert between < 0.05
    assert ended_by(cells, 80) == pytest.approx(0.8, abs=0.06)


def test_a_job_that_was_not_watched_to_its_end_counts_as_longer() -> None:
    """Forty jobs of 50 s and forty that were still running after 100 s: half of all take more than 100 s."""
    short = observed([50.0] * 40, 4.0)
    cells = estimate([*short, *(Observation(100.0, math.inf) for _ in range(40))], guess(50.0))
    assert ended_by(cells, 100) == pytest.approx(0.5, abs=0.05)


def test_a_weight_counts_like_so_many() -> None:
    """One observation of weight 5 tells what five of them tell."""
    one = estimate([Observation(100.0, 110.0, weight=5.0)], guess(40.0))
    five = estimate([Observation(100.0, 110.0)] * 5, guess(40.0))
    assert list(one) == pytest.approx(list(five))
