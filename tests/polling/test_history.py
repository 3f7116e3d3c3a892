"""Tests of what is learned from the jobs of one kind: sizes, etas, and a service that changes."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling.history import WARM, History, Observation

Observed = tuple[float, float, float]
"""The duration, work and eta of a job."""


def learned(jobs: Iterable[Observed], *, has_eta: bool = False) -> History:
    """Return the history of jobs that were polled every two seconds."""
    history = History(has_eta=has_eta)
    for seconds, work, eta in jobs:
        learn(history, seconds, work, eta)
    return history


def learn(history: History, seconds: float, work: float = 1.0, eta: float = 0.0) -> None:
    after = seconds // 2 * 2
    history.learn(Observation(after, after + 2, work, eta if history.has_eta else None))
    assert history.model  # as if a job was planned


def expected(history: History, work: float = 1.0, eta: float | None = None) -> float:
    return math.exp(history.log_scale(work, eta) + history.latest_error)


def noise(rng: random.Random, spread: float = 0.2) -> float:
    return math.exp(rng.gauss(0, spread))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 1.5])
def test_sizes_that_were_never_seen_are_forecast(exponent: float) -> None:
    """If a duration is a power of the work, it is learned from forty jobs of mixed sizes, whatever the power."""
    rng = random.Random(1)
    works = [rng.choice((0.25, 0.5, 1.0, 2.0)) for _ in range(40)]
    history = learned((60 * work**exponent * noise(rng), work, 0.0) for work in works)
    for work in (0.25, 0.7, 4.0):
        assert expected(history, work) == pytest.approx(60 * work**exponent, rel=0.25)


@pytest.mark.parametrize("factor", [0.1, 1.0, 1000.0])
def test_an_eta_in_another_unit_serves_as_well(factor: float) -> None:
    """The factor of the eta is learned: with etas in ms, jobs of mixed sizes are forecast as with right ones."""
    rng = random.Random(1)
    times = [rng.choice((15.0, 30.0, 60.0, 120.0)) for _ in range(40)]
    history = learned(((seconds * noise(rng), 1.0, seconds * factor) for seconds in times), has_eta=True)
    for seconds in (15.0, 45.0, 120.0):
        assert expected(history, eta=seconds * factor) == pytest.approx(seconds, rel=0.2)


def test_a_constant_eta_leaves_the_work() -> None:
    """If the eta is always the same, sizes are forecast by their work."""
    rng = random.Random(1)
    works = [rng.choice((0.25, 0.5, 1.0, 2.0)) for _ in range(40)]
    history = learned(((60 * work * noise(rng), work, 60.0) for work in works), has_eta=True)
    for work in (0.25, 1.0, 3.0):
        assert expected(history, work, 60.0) == pytest.approx(60 * work, rel=0.25)


@pytest.mark.parametrize("known", [50, 300, 3000])
@pytest.mark.parametrize("factor", [4.0, 2.0, 0.25])
def test_a_change_is_followed_within_twenty_jobs(known: int, factor: float) -> None:
    """When the service becomes slower or faster, twenty jobs show it, however many jobs were known before."""
    rng = random.Random(2)
    history = learned((60 * noise(rng), 1.0, 0.0) for _ in range(known))
    for _ in range(20):
        learn(history, 60 * factor * noise(rng))
    assert expected(history) == pytest.approx(60 * factor, rel=0.2)


def test_an_eta_that_moves_is_followed_at_once() -> None:
    """If the eta was right and always the same, the first eta that differs is followed."""
    rng = random.Random(3)
    history = learned(((60 * noise(rng), 1.0, 60.0) for _ in range(300)), has_eta=True)
    assert expected(history, eta=240.0) == pytest.approx(240, rel=0.15)


def test_a_drift_is_followed() -> None:
    """While durations grow by 1.4 % a job, a forecast is off by a tenth or less in the median."""
    rng = random.Random(4)
    history, errors = learned((40 * noise(rng, 0.1), 1.0, 0.0) for _ in range(100)), list[float]()
    for number in range(100):
        center = 40 * 4 ** (number / 100)
        if number >= 40:
            errors.append(abs(math.log(expected(history) / center)))
        learn(history, center * noise(rng, 0.1))
    assert history.model.is_drifting
    assert median(errors) < 0.1


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: 60 * noise(rng, 0.25),
        lambda rng: rng.gauss(41, 0.5),
        lambda rng: 30 * rng.paretovariate(1.5),
        lambda rng: rng.gauss(55, 5) if rng.random() < 0.8 else rng.gauss(180, 30),
        lambda rng: 50 * rng.expovariate(1.0),
    ],
    ids=["lognormal", "narrow", "heavy tail", "two peaks", "exponential"],
)
def test_what_stands_still_is_hardly_ever_taken_for_a_change(draw: Callable[[random.Random], float]) -> None:
    """Of 2,000 jobs whose durations have one distribution, at most one in 200 seems to change the service."""
    rng, changes, known = random.Random(5), 0, 0
    history = History(has_eta=False)
    for _ in range(2000):
        learn(history, draw(rng))
        changes += len(history.observations) < known
        known = len(history.observations)
    assert changes <= 10
    assert not history.model.is_drifting


def test_a_run_of_early_ends_is_doubtful() -> None:
    """If jobs end before their first poll, one after the other, something may have changed; a job that runs ends it."""
    rng = random.Random(6)
    history, doubts = learned((60 * noise(rng), 1.0, 0.0) for _ in range(50)), list[bool]()
    for observation in (Observation(48.0, 50.0), *[Observation(0.0, 50.0)] * 3, Observation(48.0, 50.0)):
        history.learn(observation)
        doubts.append(history.is_doubtful)
    assert (doubts[0], doubts[3], doubts[4]) == (False, True, False)


def test_a_narrow_distribution_stays_narrow() -> None:
    """If jobs take 41 s, give or take half a second, four in five are estimated to end within two seconds."""
    rng = random.Random(7)
    history = History(has_eta=False)
    for _ in range(200):
        seconds, shift = rng.gauss(41, 0.5), rng.random()
        after = (seconds - shift) // 1 + shift
        history.learn(Observation(after, after + 1))
        assert history.model
    ended, scale = history.model.ended, math.exp(history.log_scale(1.0, None))
    shares = [history.model.share(Observation(each, each), scale) for each in (40.0, 42.0)]
    assert ended
    assert shares[1] - shares[0] > 0.8


@given(
    jobs=st.lists(
        st.tuples(st.floats(0, 1e5), st.floats(0, 1e5) | st.just(math.inf), st.floats(1e-4, 1e4), st.floats(1e-3, 1e9)),
        max_size=3 * WARM,
    ),
    has_eta=st.booleans(),
    work=st.floats(1e-4, 1e4),
)
def test_any_observations_give_a_forecast(
    jobs: list[tuple[float, float, float, float]], has_eta: bool, work: float
) -> None:
    """With any durations, sizes and etas, a job is expected to take a positive and finite time."""
    history = History(has_eta=has_eta)
    for after, longer, size, eta in jobs:
        history.learn(Observation(after, after + longer, size, eta if has_eta else None))
        assert 0 < expected(history, work, 60.0 if has_eta else None) < math.inf
        assert sum(history.model.cells or ()) <= 1 + 1e-6
