"""Tests of learning durations from the jobs that end."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelslab_async.polling.distribution import TYPICAL_SECONDS
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.history import MAX_OBSERVATIONS
from modelslab_async.polling.schedule import PollPlan
from modelslab_async.polling.workload import Workload

JOB, OTHER = Workload(("wan2.2",)), Workload(("ltx-2.3",))


def run_jobs(
    estimator: DurationEstimator,
    times: Sequence[float],
    eta: Callable[[float], float | None],
    workload: Workload = JOB,
) -> list[tuple[float, int]]:
    """Run jobs with these durations in turn. Return how late each end was seen, and after how many polls."""
    rng, results = random.Random(1), []
    for seconds in times:
        forecast = JobForecast(estimator, workload, eta(seconds), rng)
        after, now, polls = 0.0, 0.0, 0
        while now < seconds:
            after, now, polls = now, now + forecast.gap(now), polls + 1
        forecast.learn(after, now)
        results.append((now - seconds, polls))
    return results


def around(center: float, count: int, spread: float = 0.15) -> list[float]:
    rng = random.Random(2)
    return [center * math.exp(rng.gauss(0, spread)) for _ in range(count)]


def mean_cost(results: list[tuple[float, int]]) -> float:
    return sum(late + polls for late, polls in results) / len(results)


def left(estimator: DurationEstimator, eta: float | None, workload: Workload = JOB) -> float:
    """Return the time that a new job is expected to take, seconds."""
    return JobForecast(estimator, workload, eta, random.Random(1)).left(0)


@pytest.mark.parametrize("factor", [None, 0.0, -1.0, 0.1, 1.0, 10.0, 1e300, 1e-300], ids=str)
def test_a_wrong_eta_does_no_lasting_harm(factor: float | None) -> None:
    """After thirty jobs with any eta, the next hundred cost hardly more than with good etas."""
    times = around(60, 130)
    wrong = run_jobs(DurationEstimator(), times, lambda _: None if factor is None else 60 * factor)
    good = run_jobs(DurationEstimator(), times, lambda _: 60.0)
    assert mean_cost(wrong[30:]) < 1.1 * mean_cost(good[30:])


def test_learning_pays() -> None:
    """The first job of ten minutes without an eta costs far more than those after thirty jobs."""
    results = run_jobs(DurationEstimator(), around(600, 60), lambda _: None)
    assert mean_cost(results[30:]) < 0.6 * mean_cost(results[:1])


def test_an_eta_that_distinguishes_long_jobs_is_followed() -> None:
    """If etas are right and differ, a job is expected to take its eta."""
    estimator = DurationEstimator()
    times = around(60, 40, spread=0.8)
    run_jobs(estimator, times, lambda seconds: seconds * random.Random(seconds).uniform(0.9, 1.1))
    for eta in (20.0, 60.0, 180.0):
        assert left(estimator, eta) == pytest.approx(eta, rel=0.15)


def test_an_eta_that_is_noise_is_not_followed() -> None:
    """If etas differ and durations do not, a job is expected to take the usual duration."""
    estimator, rng = DurationEstimator(), random.Random(4)
    run_jobs(estimator, around(60, 40), lambda _: rng.uniform(10, 300))
    assert [left(estimator, eta) for eta in (15.0, 60.0, 250.0)] == pytest.approx([60] * 3, rel=0.15)


def test_the_first_job_of_a_kind_is_forecast_from_other_kinds() -> None:
    """If the etas of another model were half of the truth, the first job of a model takes twice its eta."""
    untrained, trained = DurationEstimator(), DurationEstimator()
    run_jobs(trained, around(120, 30), lambda _: 60.0, OTHER)
    assert left(untrained, 50.0) == pytest.approx(50)
    assert left(trained, 50.0) == pytest.approx(100, rel=0.15)


def test_a_kind_is_forecast_from_its_own_jobs() -> None:
    """Once a kind is known, jobs of other kinds do not change its forecast."""
    estimator = DurationEstimator()
    run_jobs(estimator, around(60, 10), lambda _: None)
    before = left(estimator, None)
    run_jobs(estimator, around(600, 100), lambda _: None, OTHER)
    assert left(estimator, None) == before


def test_plans_are_rarely_made() -> None:
    """A thousand jobs of one size need fewer than 130 plans: one for each fifth more jobs, and some after surprises."""
    estimator, plans = DurationEstimator(), list[PollPlan]()
    for seconds in around(60, 1000):
        run_jobs(estimator, [seconds], lambda _: None)
        plan = estimator.plan(JOB, None)
        if not any(plan is made for made in plans):
            plans.append(plan)
    assert len(plans) < 130


@settings(max_examples=25)
@given(times=st.lists(st.floats(0.1, 2000), max_size=12), seed=st.integers())
def test_the_same_run_gives_the_same_polls(times: list[float], seed: int) -> None:
    """The same durations and the same rng give polls at the same times."""

    def run() -> list[float]:
        rng, estimator, polls = random.Random(seed), DurationEstimator(), list[float]()
        for seconds in times:
            forecast, now, after = JobForecast(estimator, JOB, 40.0, rng), 0.0, 0.0
            while now < seconds:
                after, now = now, now + forecast.gap(now)
                polls.append(now)
            forecast.learn(after, now)
        return polls

    assert run() == run()


def test_urgency_makes_polls_earlier_and_changes_nothing_else() -> None:
    """The greater the urgency, the earlier are the first poll and the detection of an end.

    Two polls are never closer than the floor, the expected duration does not change, and without urgency the polls are
    as before.
    """
    estimator = DurationEstimator()
    run_jobs(estimator, around(60, 40), lambda _: None)
    forecast = JobForecast(estimator, JOB, None, random.Random(1))
    first, late, expected = [], [], set()
    for urgency in (1, 2, 4, 8):
        forecast.poll_value.urgency = partial(int, urgency)
        plan = forecast.plan
        first.append(plan.gap(0))
        expected.add(forecast.left(30))
        assert min(plan.gap(seconds) for seconds in range(120)) >= estimator.gaps.floor
        late.append(_mean_late(plan, around(60, 300)))
    assert first == sorted(set(first), reverse=True)
    assert late == sorted(set(late), reverse=True)
    assert len(expected) == 1
    forecast.poll_value.urgency = lambda: 1
    assert forecast.plan.gap(0) == first[0]


def _mean_late(plan: PollPlan, times: list[float]) -> float:
    """Return the mean time from an end to the poll that sees it, seconds."""
    late = 0.0
    for seconds in times:
        now = 0.0
        while now < seconds:
            now += plan.gap(now)
        late += now - seconds
    return late / len(times)


def test_what_is_learned_is_bounded() -> None:
    """After jobs of a hundred models, the newest 64 histories and at most 64 plans are kept."""
    estimator = DurationEstimator()
    for number in range(100):
        run_jobs(estimator, [60.0] * 3, lambda _: None, Workload((number,)))
    assert len(estimator.histories) <= 64
    assert ((99,), False) in estimator.histories
    assert len(estimator.plans) <= 64
    run_jobs(estimator, [60.0] * 300, lambda _: None)
    assert len(estimator.histories[JOB.kind, False].observations) == MAX_OBSERVATIONS


def test_jobs_that_were_given_up_count_as_long() -> None:
    """After jobs that still ran after twenty minutes, a new job is expected to take long."""
    estimator, before = DurationEstimator(), left(DurationEstimator(), None)
    for _ in range(20):
        JobForecast(estimator, JOB, None, random.Random(1)).learn(1200.0, math.inf)
    assert left(estimator, None) > max(2 * before, 600.0)


@given(eta=st.floats(0.5, 10_000.0), factor=st.floats(0.1, 10.0))
def test_the_first_estimates_follow_the_services_eta(eta: float, factor: float) -> None:
    """A new client believes the service, and one end corrects it: the next job's estimate is off by no more."""
    estimator = DurationEstimator()
    assert left(estimator, eta) == pytest.approx(eta)
    for workload in (JOB, OTHER):
        JobForecast(estimator, JOB, eta, random.Random(1)).learn(eta * factor, eta * factor)
        assert left(estimator, eta, workload) == pytest.approx(eta * factor)


def test_without_an_eta_the_latest_jobs_count() -> None:
    """The first estimate is the typical duration, and from the first end on it is the median of the latest."""
    estimator = DurationEstimator()
    assert left(estimator, None) == pytest.approx(TYPICAL_SECONDS)
    JobForecast(estimator, JOB, None, random.Random(1)).learn(2.0, 2.0)
    assert left(estimator, None) == pytest.approx(2.0)
    for _ in range(20):
        JobForecast(estimator, JOB, None, random.Random(1)).learn(300.0, 300.0)
    assert left(estimator, None) == pytest.approx(300.0)


@given(elapsed=st.floats(0.0, 1e6), eta=st.none() | st.floats(0.5, 10_000.0))
def test_the_time_left_is_never_over(elapsed: float, eta: float | None) -> None:
    """While a job runs some time is left, and a poll that finds it running moves the end by a quarter of its age."""
    forecast = JobForecast(DurationEstimator(), JOB, eta, random.Random(1))
    assert forecast.left(elapsed) == max(forecast.left(0.0) - elapsed, elapsed / 4)


@pytest.mark.parametrize("eta", [None, 40.0])
@pytest.mark.parametrize("age", [0.0, 0.001, 20.0])
def test_a_job_that_was_given_up_early_teaches_nothing(eta: float | None, age: float) -> None:
    """A job that was given up before its expected end leaves the estimate of the next job as it was."""
    seen: list[object] = []
    estimator, cold = DurationEstimator(), DurationEstimator()
    estimator.on_observed = lambda *observed: seen.append(observed)
    JobForecast(estimator, Workload(), eta, random.Random(0)).learn(age, math.inf)
    assert estimator.expected_duration(Workload(), eta) == cold.expected_duration(Workload(), eta)
    assert seen == []
