"""Tests of when a job is polled."""

from __future__ import annotations

import heapq
import itertools
import random
from typing import Any

import pytest
from helpers.flows import CEILING, DELAYS, ETAS, FLOOR, READY, TIMES, Driver, Every, ends_after, polling
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import errors
from modelslab_async.polling import flow
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.flow import ActionResult, Fetch, PollPolicy, Wait
from modelslab_async.polling.schedule import RateLimiter
from modelslab_async.polling.workload import Workload
from modelslab_async.protocol import wire


@pytest.mark.parametrize("eta", [None, 0.0, 4.0, 40.0, 400.0])
def test_success_is_detected_soon(eta: float | None) -> None:
    """With any eta, the end of a job of 40 s is detected within 20 s and with at most 25 polls."""
    driver = Driver(ends_after(40))
    assert driver.run(polling(eta)) == READY
    assert 1040 <= driver.now <= 1060
    assert len(driver.times(Fetch)) <= 25


@given(eta=ETAS, seconds=st.floats(0, 3000), rate=st.none() | st.floats(0.05, 50), seed=st.integers())
def test_an_end_is_detected_within_the_ceiling_and_the_rate_limit(
    eta: float | None, seconds: float, rate: float | None, seed: int
) -> None:
    """With any duration and eta, the end is detected within a ceiling, a tick and a poll of the rate limit."""
    driver = Driver(ends_after(seconds))
    assert driver.run(polling(eta, per_second=rate, seed=seed)) == READY
    assert 0 <= driver.now - 1000 - seconds <= CEILING + flow.TICK + (1 / rate if rate else 0) + 1e-6


@given(eta=ETAS, seconds=st.floats(0, 1000), wakes=TIMES, rate=st.none() | st.floats(0.1, 50), seed=st.integers())
def test_no_poll_before_the_floor_unless_woken(
    eta: float | None, seconds: float, wakes: list[float], rate: float | None, seed: int
) -> None:
    """Polls are at least a floor apart, except after a wake-up: the first comes at once, whatever the rate limit."""
    driver = Driver(ends_after(seconds), wakes=wakes)
    driver.run(polling(eta, per_second=rate, seed=seed))
    polls = [1000.0, *driver.times(Fetch)]
    early = {poll for last, poll in itertools.pairwise(polls) if poll - last < FLOOR - 1e-6}
    least = flow.DELAYS_AFTER_WAKE[0]
    assert all(poll in wakes or any(wake <= poll - least + 1e-6 for wake in wakes) for poll in early)
    assert {wake for wake in wakes if wake < driver.now} <= set(polls)


@given(seconds=st.floats(0, 500), gap=st.floats(0.5, 0.9), wakes=TIMES)
def test_a_wake_up_costs_at_most_five_requests(seconds: float, gap: float, wakes: list[float]) -> None:
    """Each wake-up costs at most one request and four more, and one after the end detects the end at once."""
    plain, woken = Driver(ends_after(seconds)), Driver(ends_after(seconds), wakes=list(wakes))
    for driver in (plain, woken):
        driver.run(flow.poll_until_done(PollPolicy(), Every(gap), RateLimiter(None), DELAYS, now=1000.0))
    most = 1 + len(flow.DELAYS_AFTER_WAKE)
    assert len(woken.times(Fetch)) <= len(plain.times(Fetch)) + most * len(wakes)
    assert all(woken.now <= wake for wake in wakes if wake >= 1000 + seconds)


def test_a_delivery_before_the_fetch_reports_success_is_followed_up() -> None:
    """After a wake-up that finds the job running, polls follow after 0.5, 1, 2 and 4 s, then as planned."""
    driver = Driver(ends_after(1000), wakes=[1010.0])
    driver.run(flow.poll_until_done(PollPolicy(), Every(50.0), RateLimiter(None), DELAYS, now=1000.0))
    offsets = [poll - 1010 for poll in driver.times(Fetch)[:6]]
    assert offsets == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 57.5], abs=4 * flow.TICK)


@given(early=st.floats(0.0, 7.4), eta=ETAS, seed=st.integers())
def test_an_early_delivery_costs_little_time(early: float, eta: float | None, seed: int) -> None:
    """However early a delivery comes, the end is seen late by at most that time and half a second."""
    driver = Driver(ends_after(100.0), wakes=[1100.0 - early])
    assert driver.run(polling(eta, seed=seed)) == READY
    assert driver.now - 1100 <= early + 0.5 + 4 * flow.TICK


@given(eta=ETAS, timeout=st.floats(0.5, 5000), wakes=TIMES, seed=st.integers())
def test_a_deadline_bounds_the_number_of_polls(
    eta: float | None, timeout: float, wakes: list[float], seed: int
) -> None:
    """With a deadline there is at most one poll for each floor, and five for each wake-up."""
    driver = Driver(lambda *_: wire.NotReady(), wakes=wakes)
    driver.run(polling(eta, timeout=timeout, seed=seed))
    most = 1 + len(flow.DELAYS_AFTER_WAKE)
    assert len(driver.times(Fetch)) <= timeout / FLOOR + most * len(wakes) + 1


@given(eta=ETAS, seconds=st.floats(0, 2000), wakes=TIMES, rate=st.none() | st.floats(0.1, 50), seed=st.integers())
def test_a_replay_gives_the_same_polls(
    eta: float | None, seconds: float, wakes: list[float], rate: float | None, seed: int
) -> None:
    """The same replies, wake-ups and rng give the same polls at the same times."""
    runs = [Driver(ends_after(seconds), wakes=wakes) for _ in range(2)]
    for driver in runs:
        driver.run(polling(eta, per_second=rate, seed=seed))
    assert runs[0].actions == runs[1].actions


@pytest.mark.parametrize("eta", [20.0, 1000.0])
def test_there_is_a_last_poll_before_the_deadline(eta: float) -> None:
    """The end of a job shortly before the deadline is detected by a poll that leaves time for its reply."""
    driver = Driver(ends_after(94))
    assert driver.run(polling(eta, timeout=100.0)) == READY
    assert driver.now <= 1100 - flow.LAST_POLL + 1e-6


@pytest.mark.parametrize("timeout", [0.5, 1.0, 3.0, 5.5, 6.5])
def test_a_job_is_polled_however_short_its_time_is(timeout: float) -> None:
    """A job that ended is not reported as one that timed out, although its end was expected later."""
    driver = Driver(ends_after(timeout / 10))
    assert driver.run(polling(300.0, timeout=timeout)) == READY
    assert len(driver.times(Fetch)) == 1


def test_a_job_of_unknown_age_is_polled_at_once() -> None:
    """With `at_once`, the first poll is sent without a wait, because the job may have ended long ago."""
    driver = Driver(ends_after(0))
    assert driver.run(polling(at_once=True)) == READY
    assert driver.now == 1000.0


@given(begun=st.floats(0, 1e6), gap=st.floats(0, 100), timeout=st.none() | st.floats(0.5, 200))
def test_polls_are_aligned_to_ticks(begun: float, gap: float, timeout: float | None) -> None:
    """A poll is never early and at most a tick late. If it is due in a second or more, it comes at a tick.

    A poll that is due sooner comes when it is due, and so does a poll at the deadline.
    """
    first = next(flow.poll_until_done(PollPolicy(timeout=timeout), Every(gap), RateLimiter(), DELAYS, now=begun))
    assert isinstance(first, Wait)
    due = gap
    if timeout is not None:  # the only poll of a short time comes in its middle
        due = min(gap, timeout - flow.LAST_POLL if timeout >= flow.LAST_POLL + 1 else timeout / 2)
    assert due - 1e-6 <= first.seconds <= due + (flow.TICK if due >= 1 else 0.0) + 1e-6
    ticks = (begun + first.seconds) / flow.TICK
    assert due < 1 or first.seconds == pytest.approx(timeout) or abs(ticks - round(ticks)) < 1e-6


def test_ten_thousand_jobs_keep_the_rate_limit() -> None:
    """10,000 jobs are polled at most 200 times a second, and each job in turn, none of them twice as late."""
    rate_limiter, schedule = RateLimiter(200.0), JobForecast(DurationEstimator(), Workload(), 40.0, random.Random(1))
    polls: dict[int, list[float]] = {job: [] for job in range(10_000)}
    flows = [flow.poll_until_done(PollPolicy(), schedule, rate_limiter, DELAYS, now=0.0) for _ in polls]
    queue = []
    for job, steps in enumerate(flows):
        wait = next(steps)
        assert isinstance(wait, Wait)
        queue.append((wait.seconds, job))
    heapq.heapify(queue)
    while queue[0][0] < 400:
        now, job = heapq.heappop(queue)
        action = flows[job].send(ActionResult(now))
        while not isinstance(action, Wait):
            polls[job].append(now)
            action = flows[job].send(ActionResult(now, wire.NotReady()))
        heapq.heappush(queue, (now + action.seconds, job))
    every = sorted(itertools.chain.from_iterable(polls.values()))
    assert all(later - earlier > 1 / 200 - 1e-6 for earlier, later in itertools.pairwise(every))
    assert all(5 <= len(times) <= 10 for times in polls.values())
    assert max(later - earlier for times in polls.values() for earlier, later in itertools.pairwise(times)) < 2 * 50


@given(timeout=st.floats(0.5, 5000), fetch_timeout=st.none() | st.floats(0.1, 60), slow=st.floats(0, 40))
def test_the_deadline_bounds_waits_and_requests(timeout: float, fetch_timeout: float | None, slow: float) -> None:
    """No wait and no request goes beyond the deadline, at which the polling ends with a timeout."""
    driver = Driver(lambda *_: wire.NotReady())

    def poll(action: Fetch, now: float) -> Any:
        assert now + action.timeout <= 1000 + timeout + 1e-6
        assert fetch_timeout is None or action.timeout <= fetch_timeout
        driver.now += min(slow, action.timeout)
        return errors.ReplyLostError("slow") if slow > action.timeout else wire.NotReady()

    driver.poll = poll
    outcome = driver.run(polling(timeout=timeout, fetch_timeout=fetch_timeout))
    assert isinstance(outcome.error, errors.JobTimeoutError)
    assert driver.now == pytest.approx(1000 + timeout)
