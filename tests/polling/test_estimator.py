"""What a client learns from the jobs that end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelslab_async.polling.estimator import WARM, DurationEstimator, JobForecast, shape_of
from modelslab_async.polling.schedule import PollPlan
from modelslab_async.protocol.request import ImageToVideoUltra

SHAPE, OTHER = (81, 480), (121, 720)


def lived(
    estimator: DurationEstimator,
    times: Sequence[float],
    eta: Callable[[float], float | None],
    shape: tuple[int, int] = SHAPE,
) -> list[tuple[float, int]]:
    """Jobs that take these times, one after the other; how late each was seen, after how many looks."""
    rng, seen = random.Random(1), []
    for seconds in times:
        forecast = JobForecast(estimator, shape, eta(seconds), rng)
        after, now, looks = 0.0, 0.0, 0
        while now < seconds:
            after, now, looks = now, now + forecast.gap(now), looks + 1
        forecast.learn(after, now)
        seen.append((now - seconds, looks))
    return seen


def around(center: float, count: int, spread: float = 0.15) -> list[float]:
    rng = random.Random(2)
    return [center * math.exp(rng.gauss(0, spread)) for _ in range(count)]


def mean_cost(seen: list[tuple[float, int]]) -> float:
    return sum(late + looks for late, looks in seen) / len(seen)


def left(estimator: DurationEstimator, eta: float | None, shape: tuple[int, int] = SHAPE) -> float:
    """What is expected of a new job."""
    return JobForecast(estimator, shape, eta, random.Random(1)).left(0)


@pytest.mark.parametrize("factor", [None, 0.0, -1.0, 0.1, 1.0, 10.0, 1e300, 1e-300], ids=str)
def test_a_wrong_eta_does_no_lasting_harm(factor: float | None) -> None:
    """After thirty jobs, whatever the eta says, the next hundred cost what they do for a client with good etas."""
    times = around(60, 130)
    wrong = lived(DurationEstimator(), times, lambda _: None if factor is None else 60 * factor)
    good = lived(DurationEstimator(), times, lambda _: 60.0)
    assert mean_cost(wrong[30:]) < 1.1 * mean_cost(good[30:])


def test_learning_pays() -> None:
    """Jobs of ten minutes, without an eta: the first cost far more than those after thirty."""
    seen = lived(DurationEstimator(), around(600, 60), lambda _: None)
    assert mean_cost(seen[30:]) < 0.6 * mean_cost(seen[:3])


def test_an_eta_that_tells_long_jobs_from_short_ones_is_followed() -> None:
    """Where etas are right and differ, a warm shape's expectation is the eta of the job at hand."""
    estimator = DurationEstimator()
    times = around(60, 40, spread=0.8)
    lived(estimator, times, lambda seconds: seconds * random.Random(seconds).uniform(0.9, 1.1))
    for eta in (20.0, 60.0, 180.0):
        assert left(estimator, eta) == pytest.approx(eta, rel=0.15)


def test_an_eta_that_is_noise_is_not_followed() -> None:
    """Where etas differ and the times do not, the times count."""
    estimator, rng = DurationEstimator(), random.Random(4)
    lived(estimator, around(60, 40), lambda _: rng.uniform(10, 300))
    assert [left(estimator, eta) for eta in (15.0, 60.0, 250.0)] == pytest.approx([60] * 3, rel=0.15)


def test_other_shapes_tell_less_and_something() -> None:
    """A shape that is new is expected by its eta; where others' etas were half of the truth, later than that."""
    untaught, taught = DurationEstimator(), DurationEstimator()
    lived(taught, around(120, 30), lambda _: 60.0, OTHER)
    assert left(untaught, 50.0) == pytest.approx(50, rel=0.2)
    assert left(untaught, 50.0) * 1.2 < left(taught, 50.0) <= 100


def test_a_warm_shape_is_known_by_its_own_jobs() -> None:
    """From then on other shapes change nothing."""
    estimator = DurationEstimator()
    lived(estimator, around(60, WARM), lambda _: None)
    before = left(estimator, None)
    lived(estimator, around(600, 100), lambda _: None, OTHER)
    assert left(estimator, None) == before


def test_what_was_long_ago_is_forgotten() -> None:
    """When the service becomes three times as slow, that is what is expected, in the end."""
    estimator = DurationEstimator()
    lived(estimator, [*around(60, 300), *around(180, 260)], lambda _: None)
    assert left(estimator, None) == pytest.approx(180, rel=0.15)


def test_a_plan_is_made_seldom() -> None:
    """A thousand jobs of a shape make some fifty plans, whatever their etas: a fifth more jobs, a new plan."""
    estimator, plans = DurationEstimator(), list[PollPlan]()
    for number, seconds in enumerate(around(60, 1000)):
        lived(estimator, [seconds], lambda _: None)
        plan = estimator.plan(SHAPE, 50.0 + number % 40)
        if not any(plan is made for made in plans):
            plans.append(plan)
    assert len(plans) < 55


@settings(max_examples=25)
@given(times=st.lists(st.floats(0.1, 2000), max_size=12), seed=st.integers())
def test_the_same_life_gives_the_same_looks(times: list[float], seed: int) -> None:
    """Replaying a recorded run with the same rng gives the same looks."""

    def run() -> list[float]:
        rng, estimator, looks = random.Random(seed), DurationEstimator(), list[float]()
        for seconds in times:
            forecast, now, after = JobForecast(estimator, SHAPE, 40.0, rng), 0.0, 0.0
            while now < seconds:
                after, now = now, now + forecast.gap(now)
                looks.append(now)
            forecast.learn(after, now)
        return looks

    assert run() == run()


def test_haste_buys_earlier_looks_and_nothing_else() -> None:
    """The more jobs a late look delays, the sooner is the first look and the earlier an end is seen, and never two
    looks within the floor. What is expected stays as it is, and without haste the looks are those of before.
    """
    estimator = DurationEstimator()
    lived(estimator, around(60, 40), lambda _: None)
    forecast = JobForecast(estimator, SHAPE, None, random.Random(1))
    first, late, expected = [], [], set()
    for urgency in (1, 2, 4, 8):
        forecast.poll_value.urgency = partial(int, urgency)
        plan = forecast._plan
        first.append(plan.gap(0))
        expected.add(forecast.left(30))
        assert min(plan.gap(seconds) for seconds in range(120)) >= estimator.gaps.floor
        late.append(_mean_late(plan, around(60, 300)))
    assert first == sorted(set(first), reverse=True)
    assert late == sorted(set(late), reverse=True)
    assert len(expected) == 1
    forecast.poll_value.urgency = lambda: 1
    assert forecast._plan.gap(0) == first[0]


def _mean_late(plan: PollPlan, times: list[float]) -> float:
    """Seconds from an end to the look that sees it."""
    late = 0.0
    for seconds in times:
        now = 0.0
        while now < seconds:
            now += plan.gap(now)
        late += now - seconds
    return late / len(times)


def test_what_is_learned_is_bounded() -> None:
    """A service with a shape for each of a thousand users keeps the newest, and what they need of plans."""
    estimator = DurationEstimator()
    for frames in range(1000):
        lived(estimator, [60.0], lambda _: None, (frames, 480))
    assert len(estimator._kinds) <= 256
    assert (999, 480) in estimator._kinds
    assert len(estimator._plans) <= 64


def test_who_waited_in_vain_has_learned_something() -> None:
    """Jobs that were given up after twenty minutes: such jobs take long, and that is what is expected."""
    estimator, before = DurationEstimator(), left(DurationEstimator(), None)
    for _ in range(20):
        JobForecast(estimator, SHAPE, None, random.Random(1)).learn(1200.0, math.inf)
    assert left(estimator, None) > max(2 * before, 600.0)


def test_what_makes_a_shape() -> None:
    """Frames, resolution, steps and model; not the prompt, the picture or the seed."""
    request = ImageToVideoUltra(prompt="a", init_image="https://a.invalid/a.png", num_frames=81)
    alike = ImageToVideoUltra(prompt="b", init_image="https://a.invalid/b.png", num_frames=81, seed=5)
    longer = ImageToVideoUltra(prompt="a", init_image="https://a.invalid/a.png", num_frames=101)
    assert shape_of(request) == shape_of(alike) != shape_of(longer)
