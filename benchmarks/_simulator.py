"""Simulate jobs without a service and an event loop: their times, the schedules that watch them, and an optimum.

The times are stratified: a distribution is its quantiles at (i + 1/2) / JOBS. So a mean over them has no noise of its
own, and all contenders and the optimum see the same jobs. A job looks the same at every poll until it ends. So one
simulated watch of a job that never ends shows when every job would have been detected.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from itertools import accumulate, count, repeat
from statistics import NormalDist, fmean

import attrs

from modelslab_async.polling import flow
from modelslab_async.polling.schedule import RateLimiter, Schedule
from modelslab_async.protocol import retry, wire

JOBS = 4000

Quantile = Callable[[float], float]
"""From a probability to seconds."""


# --- how long jobs take ---


def _inverse(ended: Callable[[float], float], longest: float) -> Quantile:
    """Return the quantile function of a distribution function, by bisection."""

    def quantile(share: float) -> float:
        low, high = 0.0, longest
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if ended(middle) >= share else (middle, high)
        return high

    return quantile


def _lognormal(sigma: float, median: float = 45.0) -> Quantile:
    normal = NormalDist()
    return lambda share: median * math.exp(sigma * normal.inv_cdf(share))


def _gamma_ended(seconds: float) -> float:
    """Return the share of jobs that ended: 20 s, then three exponential steps with a mean of 10 s each."""
    steps = max(seconds - 20, 0) / 10
    return 1 - math.exp(-steps) * (1 + steps + steps**2 / 2)


def _two_peaks_ended(seconds: float) -> float:
    return 0.8 * NormalDist(55, 5).cdf(seconds) + 0.2 * NormalDist(180, 30).cdf(seconds)


def _narrow_with_tail_ended(seconds: float) -> float:
    return 0.85 * NormalDist(41, 0.5).cdf(seconds) + 0.15 * (1 - math.exp(-max(seconds - 41, 0) / 40))


DISTRIBUTIONS: Mapping[str, Quantile] = {
    "lognormal 0.25": _lognormal(0.25),
    "lognormal 0.6": _lognormal(0.6),
    "shifted gamma": _inverse(_gamma_ended, 400),
    "two peaks": _inverse(_two_peaks_ended, 400),
    "heavy tail": lambda share: 30 / (1 - share) ** (1 / 1.5),
    "narrow": lambda share: NormalDist(41, 0.5).inv_cdf(share),
    "narrow with a tail": _inverse(_narrow_with_tail_ended, 1000),
    "Weibull 0.8": lambda share: 50 * (-math.log1p(-share)) ** (1 / 0.8),
    "900 s": _lognormal(0.3, 900),
    "300 s": _lognormal(0.25, 300),
    "15 s": _lognormal(0.25, 15),
    "3 s": _lognormal(0.25, 3),
}
"""The first five have medians of 45, 45, 47, 57 and 48 s; Weibull's is 32 s."""
PLOTTED = tuple(DISTRIBUTIONS)[:5]
"""The distributions that are drawn, and over which means are taken."""

Eta = Callable[[float, random.Random], float | None]
ETAS: Mapping[str, Eta] = {
    "exact": lambda median, _: median,
    "absent": lambda _median, _: None,
    "noisy": lambda median, rng: median * math.exp(rng.gauss(0, 0.25)),
    "constant": lambda _median, _: 60.0,
    "a tenth": lambda median, _: median / 10,
    "tenfold": lambda median, _: median * 10,
    "in ms": lambda median, _: median * 1000,
}
"""The eta that the service reports if a job takes `median` seconds in the median. "noisy" has a sigma of 0.25."""


@lru_cache
def times(distribution: str) -> Sequence[float]:
    """Return the jobs' times in seconds, in rising order."""
    quantile = DISTRIBUTIONS[distribution]
    return tuple(quantile((job + 0.5) / JOBS) for job in range(JOBS))


# --- watching jobs ---


@attrs.frozen
class Score:
    """The polls and latencies of a schedule.

    polls: mean polls per job.
    latency: mean seconds from the end of a job to the poll that detects it; p50, p95 and p99 are its quantiles.
    """

    polls: float
    latency: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, poll_times: Sequence[float], jobs: Sequence[float]) -> Score:
        """Score polls at these times for jobs with these times. Both rise; the last poll is after all jobs."""
        found = [bisect_left(poll_times, seconds) for seconds in jobs]
        late = sorted(poll_times[poll] - seconds for poll, seconds in zip(found, jobs, strict=True))
        p50, p95, p99 = (late[int(share * len(late))] for share in (0.5, 0.95, 0.99))
        return cls(fmean(found) + 1, fmean(late), p50, p95, p99)

    @classmethod
    def mean(cls, scores: Sequence[Score]) -> Score:
        """Return the mean of each value."""
        return cls(*(fmean(figures) for figures in zip(*map(attrs.astuple, scores), strict=True)))

    def cost(self, poll_cost: float) -> float:
        """Return the cost in seconds: the latency plus *poll_cost* for each poll."""
        return self.latency + poll_cost * self.polls


Case = tuple[str, float]
"""A distribution, and the cost of a poll in seconds."""


@attrs.frozen
class Row:
    """The scores of one case: `ours` by state of knowledge, `peers` by schedule."""

    case: Case
    best: Score
    ours: Mapping[str, Score]
    peers: Mapping[str, Score]

    def ratio(self, known: str) -> float:
        """Return our cost as a multiple of the optimum's."""
        return self.ours[known].cost(self.case[1]) / self.best.cost(self.case[1])

    @property
    def best_peer(self) -> str:
        """The peer's schedule with the lowest cost."""
        return min(self.peers, key=lambda name: self.peers[name].cost(self.case[1]))

    def of_best_peer(self, known: str) -> float:
        """Return our cost as a multiple of the best peer's."""
        return self.ours[known].cost(self.case[1]) / self.peers[self.best_peer].cost(self.case[1])


def poll_times(seconds: float, schedule: Schedule, rng: random.Random) -> Sequence[float]:
    """Return when the package's own flow polls a job that takes this many seconds. A poll itself takes no time."""

    def backoff() -> Iterator[float]:
        return retry.delays(rng)

    steps = flow.poll_until_done(flow.PollPolicy(), schedule, RateLimiter(), backoff, now=0.0)
    now, at = 0.0, list[float]()
    action = next(steps)
    while not at or at[-1] < seconds:
        if isinstance(action, flow.Wait):
            now += action.seconds
            action = steps.send(flow.ActionResult(now))
        else:
            at.append(now)
            action = steps.send(flow.ActionResult(now, wire.NotReady()))
    return at


def lateness_after_delivery(early: float, forecast: Schedule, rng: random.Random) -> tuple[float, int]:
    """Return how late the end of a job is seen if a delivery comes *early* seconds before it, and after how many polls.

    The job takes 45 s.
    """
    end = 45.0
    steps = flow.poll_until_done(flow.PollPolicy(), forecast, RateLimiter(), lambda: retry.delays(rng), now=0.0)
    now, polls, delivered_at = 0.0, 0, end - early
    action = next(steps)
    while now < end or isinstance(action, flow.Wait):
        if isinstance(action, flow.Wait):
            woken = now < delivered_at < now + action.seconds
            now = delivered_at if woken else now + action.seconds
            action = steps.send(flow.ActionResult(now, woken=woken))
        else:
            polls += 1
            action = steps.send(flow.ActionResult(now, wire.NotReady()))
    return now - end, polls + 1


def score_of_gaps(distribution: str, gaps: Iterator[float]) -> Score:
    """Return the score of a client that polls after these gaps, whatever the answers are."""
    jobs = times(distribution)
    at: list[float] = []
    for poll in accumulate(gaps):
        at.append(poll)
        if poll >= jobs[-1]:
            break
    return Score.of(at, jobs)


def _doubling() -> Iterator[float]:
    return (min(2.0 ** min(poll, 4), 10.0) for poll in count())


def _growing() -> Iterator[float]:
    return (min(0.5 * 1.5 ** min(poll, 10), 5.0) for poll in count())


def _uniform() -> Iterator[float]:
    """Yield gaps spread evenly over 4.5 to 7.5 s, in a scattered order (multiples of the golden section)."""
    return (4.5 + 3 * ((poll * 0.618034) % 1) for poll in count(1))


FIXED = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
PEERS: Mapping[str, Callable[[], Iterator[float]]] = {
    **{f"{seconds:g} s": partial(repeat, seconds) for seconds in FIXED},
    "1, 2, 4, 8, 10 s": _doubling,
    "0.5·1.5ⁿ to 5 s": _growing,
    "4.5 to 7.5 s": _uniform,
}


# --- the optimum ---

_MOMENTS = 2000


@lru_cache
def optimum(distribution: str, poll_cost: float) -> Score:
    """Return the score of the optimal polls for this distribution."""
    return optimum_of(times(distribution), poll_cost)


def optimum_of(jobs: Sequence[float], poll_cost: float, moments: int = _MOMENTS) -> Score:
    """Return the score of the optimal polls at some of *moments* times, by dynamic programming over the known times.

    `remaining[i]` is the cost still to come of all jobs that run at moment i. The later a job was seen running, the
    later is its best next poll. So for each moment only polls up to the best one of the next moment are tried.
    """
    first, last = jobs[0], jobs[-1]
    at = [0.0, *(first * (last / first) ** (step / (moments - 1)) for step in range(moments - 1)), last]
    ended = [bisect_right(jobs, moment) for moment in at]
    spent = [0.0, *accumulate(jobs)]
    remaining, then = [0.0] * len(at), [len(at) - 1] * len(at)
    for now in reversed(range(len(at) - 1)):
        running, before = len(jobs) - ended[now], spent[ended[now]]
        remaining[now], then[now] = min(
            (at[poll] * (ended[poll] - ended[now]) - (spent[ended[poll]] - before) + remaining[poll], poll)
            for poll in range(now + 1, then[now + 1] + 1)
        )
        remaining[now] += poll_cost * running
    now, polls = 0, list[float]()
    while now < len(at) - 1:
        now = then[now]
        polls.append(at[now])
    return Score.of(polls, jobs)
