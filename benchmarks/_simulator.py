"""Jobs without a service and without an event loop: how long they take, who watches them, and the best there is.

Times are stratified: a distribution is its quantiles at (i + 1/2) / JOBS, so a mean over them has no noise of its own,
and all contenders, the optimum too, see the same jobs. Until it ends a job looks like any other, so one watch of a job
that never ends tells when all of them would have been seen.
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
    """The quantile function of a distribution function, by bisection."""

    def quantile(share: float) -> float:
        low, high = 0.0, longest
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (low, middle) if ended(middle) >= share else (middle, high)
        return high

    return quantile


def _lognormal(sigma: float) -> Quantile:
    normal = NormalDist()
    return lambda share: 45 * math.exp(sigma * normal.inv_cdf(share))


def _gamma_ended(seconds: float) -> float:
    """20 s, and three exponential steps of 10 s each."""
    steps = max(seconds - 20, 0) / 10
    return 1 - math.exp(-steps) * (1 + steps + steps**2 / 2)


def _two_peaks_ended(seconds: float) -> float:
    return 0.8 * NormalDist(55, 5).cdf(seconds) + 0.2 * NormalDist(180, 30).cdf(seconds)


DISTRIBUTIONS: Mapping[str, Quantile] = {
    "lognormal 0.25": _lognormal(0.25),
    "lognormal 0.6": _lognormal(0.6),
    "shifted gamma": _inverse(_gamma_ended, 400),
    "two peaks": _inverse(_two_peaks_ended, 400),
    "heavy tail": lambda share: 30 / (1 - share) ** (1 / 1.5),
}
"""Medians of 45, 45, 47, 57 and 48 s."""

Eta = Callable[[float, random.Random], float | None]
ETAS: Mapping[str, Eta] = {
    "exact": lambda median, _: median,
    "absent": lambda _median, _: None,
    "a tenth": lambda median, _: median / 10,
    "tenfold": lambda median, _: median * 10,
    "noisy": lambda median, rng: median * math.exp(rng.gauss(0, 0.25)),
}
"""What the service says, where half of the jobs take longer than `median`. Noisy: off by a quarter, as a rule."""


@lru_cache
def times(distribution: str) -> Sequence[float]:
    """Seconds, rising."""
    quantile = DISTRIBUTIONS[distribution]
    return tuple(quantile((job + 0.5) / JOBS) for job in range(JOBS))


# --- who watches ---


@attrs.frozen
class Score:
    """Means over jobs, and the latencies' spread: seconds from the end of a job to the look that sees it."""

    looks: float
    late: float
    p50: float
    p95: float
    p99: float

    @classmethod
    def of(cls, looks: Sequence[float], jobs: Sequence[float]) -> Score:
        """What looks at these moments, rising, the last after all jobs, mean for jobs that take so long."""
        found = [bisect_left(looks, seconds) for seconds in jobs]
        late = sorted(looks[look] - seconds for look, seconds in zip(found, jobs, strict=True))
        p50, p95, p99 = (late[int(share * len(late))] for share in (0.5, 0.95, 0.99))
        return cls(fmean(found) + 1, fmean(late), p50, p95, p99)

    @classmethod
    def mean(cls, scores: Sequence[Score]) -> Score:
        """The mean of each figure."""
        return cls(*(fmean(figures) for figures in zip(*map(attrs.astuple, scores), strict=True)))

    def cost(self, poll_cost: float) -> float:
        """Seconds: what waiting and looking cost together."""
        return self.late + poll_cost * self.looks


Case = tuple[str, float]
"""A distribution, and the cost of a look in seconds."""


@attrs.frozen
class Row:
    """One case: everybody's score. `ours` by what is known, `peers` by schedule."""

    case: Case
    best: Score
    ours: Mapping[str, Score]
    peers: Mapping[str, Score]

    def ratio(self, known: str) -> float:
        """Our cost, of the optimum's."""
        return self.ours[known].cost(self.case[1]) / self.best.cost(self.case[1])

    @property
    def best_peer(self) -> str:
        """The schedule that costs least here."""
        return min(self.peers, key=lambda name: self.peers[name].cost(self.case[1]))

    def of_best_peer(self, known: str) -> float:
        """Our cost, of the best peer's."""
        return self.ours[known].cost(self.case[1]) / self.peers[self.best_peer].cost(self.case[1])


def looks(seconds: float, schedule: Schedule, rng: random.Random) -> Sequence[float]:
    """When the package's own flow looks at a job that takes so long; a look takes no time."""

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


def score_of_gaps(distribution: str, gaps: Iterator[float]) -> Score:
    """Somebody who looks after these gaps whatever happens."""
    jobs = times(distribution)
    at: list[float] = []
    for look in accumulate(gaps):
        at.append(look)
        if look >= jobs[-1]:
            break
    return Score.of(at, jobs)


def _doubling() -> Iterator[float]:
    return (min(2.0 ** min(look, 4), 10.0) for look in count())


def _growing() -> Iterator[float]:
    return (min(0.5 * 1.5 ** min(look, 10), 5.0) for look in count())


def _uniform() -> Iterator[float]:
    """4.5 to 7.5 s in even steps that follow no order: the golden section."""
    return (4.5 + 3 * ((look * 0.618034) % 1) for look in count(1))


FIXED = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)
PEERS: Mapping[str, Callable[[], Iterator[float]]] = {
    **{f"{seconds:g} s": partial(repeat, seconds) for seconds in FIXED},
    "1, 2, 4, 8, 10 s": _doubling,
    "0.5·1.5ⁿ to 5 s": _growing,
    "4.5 to 7.5 s": _uniform,
}


# --- the best there is ---

_MOMENTS = 2000


@lru_cache
def optimum(distribution: str, poll_cost: float) -> Score:
    """The looks that cost least of all looks at 2,000 moments, by dynamic programming, knowing the distribution.

    `to_pay[i]` is what jobs that run at moment i still cost, times their number. The later one was seen running, the
    later is the best next look, so only looks up to the one found before have to be tried.
    """
    jobs = times(distribution)
    first, last = jobs[0], jobs[-1]
    moments = [0.0, *(first * (last / first) ** (step / (_MOMENTS - 1)) for step in range(_MOMENTS - 1)), last]
    ended = [bisect_right(jobs, moment) for moment in moments]
    spent = [0.0, *accumulate(jobs)]
    to_pay, then = [0.0] * len(moments), [len(moments) - 1] * len(moments)
    for now in reversed(range(len(moments) - 1)):
        running, before = JOBS - ended[now], spent[ended[now]]
        to_pay[now], then[now] = min(
            (moments[look] * (ended[look] - ended[now]) - (spent[ended[look]] - before) + to_pay[look], look)
            for look in range(now + 1, then[now + 1] + 1)
        )
        to_pay[now] += poll_cost * running
    now, at = 0, []
    while now < len(moments) - 1:
        now = then[now]
        at.append(moments[now])
    return Score.of(at, jobs)
