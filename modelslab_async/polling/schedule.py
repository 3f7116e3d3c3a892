"""Plan the polls of a job so that their number and the delay in seeing its end cost the least together.

A job ends at an unknown time T with distribution F. A poll costs as much as `poll_cost` seconds of not knowing that the
job ended. Which polls x1 < x2 < ... minimise E[x_N - T] + poll_cost E[N], where N is the first poll that finds the job
ended? This is the inspection problem of Barlow and Proschan ("Mathematical Theory of Reliability", 1965, chapter 4;
first in Barlow, Hunter and Proschan, "Optimum checking procedures", J. SIAM 11, 1963). Polls are sparse while an end is
unlikely, dense around the expected end, and sparse again in the tail.

The plan is exact for polls at the edges x_0 < x_1 < ... of the grid. Let W_i be the expected remaining cost of a job
that was seen running at x_i, times the probability 1 - F_i that the job still runs then. Then

    W_i = min over j > i of   poll_cost (1 - F_i)  +  integral from x_i to x_j of (x_j - t) dF(t)  +  W_j

With M_i the integral of t dF(t) from 0 to x_i, the middle term is x_j (F_j - F_i) - (M_j - M_i). The part that depends
on j is (x_j F_j - M_j + W_j) - x_j F_i, which is a straight line in F_i for each j. From the last edge down, the lines
come with falling slope and are evaluated at falling F_i. So the lowest line is found in constant time (the convex hull
trick), and a plan takes as many steps as there are edges. It has the best next poll for *every* time at which a job may
be seen running. So the polls after a late, early or woken poll are planned like any other.
"""

import math
import random
from array import array
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

from modelslab_async.polling.distribution import RATIOS, Cells, position

DEFAULT_POLL_COST = 1.0
"""The cost of a poll, as seconds of delay in seeing the end of a job."""
_JITTER = 0.03
_MAX_JITTER = 1.0
_JITTER_BY_NEXT = 0.25
_NEAR_END = 0.1
"""The end of a job is near once this share of such jobs has ended."""
_CERTAIN = 1e-9
_MAX_URGENCY_EXPONENT = 3
"""An exponent of 2, so a poll is worth at most eight times as much."""


class Gaps(NamedTuple):
    """Bounds of the gap between two polls of a job, in seconds.

    poll_cost: the cost of a poll, as seconds of delay in seeing the end.
    floor, ceiling: the least and the greatest gap, whatever the plan says. After the gap, the poll is aligned to the
        next tick, see `flow.TICK`.
    """

    poll_cost: float = DEFAULT_POLL_COST
    floor: float = 1.0
    ceiling: float = 60.0


def gaps_at(poll_cost: float) -> Gaps:
    """Return the gaps for a poll that costs *poll_cost* seconds.

    The floor is a second, or ten times the cost if that is less. The ceiling is a minute at the default cost, and rises
    with the root of the cost, as the best gaps do.
    """
    return Gaps(poll_cost, min(1.0, 10 * poll_cost), 60.0 * max(1.0, math.sqrt(poll_cost)))


def urgency(waiting: int, slots: int) -> int:
    """Return how many jobs are delayed if the end of a job is seen late: the job, and the jobs that wait for its slot.

    A second of delay is a second for each of these jobs, so a poll is worth that many times as much. The number is
    rounded down to a power of two, so that there are few plans. It is at most eight, because beyond that the floor of
    the gaps leaves hardly anything to gain.
    """
    delayed = 1 + waiting // max(slots, 1)
    return 1 << min(delayed.bit_length() - 1, _MAX_URGENCY_EXPONENT)


class Schedule(Protocol):
    """When to poll a job that was seen running `elapsed` seconds after its acceptance."""

    def gap(self, elapsed: float) -> float:
        """Return the seconds to the next poll."""
        ...

    def is_near_end(self, elapsed: float) -> bool:
        """Return whether the job has a fair chance of having ended."""
        ...


class PollPlan(NamedTuple):
    """A schedule for all jobs of one scale. Every method takes constant time.

    gaps: the bounds of the gap between two polls.
    scale: the scale of the jobs, seconds. The edges of the plan are the grid's ratios times the scale.
    ended: for each edge, the probability that a job has ended by then.
    polls: for each edge, the time of the next poll of a job that was seen running at that edge, seconds.
    """

    gaps: Gaps
    scale: float
    ended: Sequence[float]
    polls: Sequence[float]

    def gap(self, elapsed: float) -> float:
        """Return the seconds to the next poll, interpolated between two edges, within floor and ceiling."""
        edge, part = divmod(position(elapsed / self.scale), 1)
        if edge + 1 >= len(RATIOS):
            return self.gaps.ceiling
        here, there = self.polls[int(edge)], self.polls[int(edge) + 1]
        return self._bounded(here + part * (there - here) - elapsed)

    def jittered(self, elapsed: float, rng: random.Random) -> float:
        """Return the gap, changed a little, so that the polls of jobs submitted together drift apart.

        The change is at most 3 % of the gap, 1 s, and a quarter of the gap after it, which is short if much depends on
        the moment of the poll.
        """
        gap = self.gap(elapsed)
        most = min(_JITTER * gap, _MAX_JITTER, _JITTER_BY_NEXT * self.gap(elapsed + gap))
        return self._bounded(gap + (2 * rng.random() - 1) * most)

    def is_near_end(self, elapsed: float) -> bool:
        """Return whether one in ten of such jobs has ended by now."""
        return self.ended[int(position(elapsed / self.scale))] >= _NEAR_END

    def _bounded(self, gap: float) -> float:
        return min(max(gap, self.gaps.floor), self.gaps.ceiling)


def plan(cells: Cells, gaps: Gaps, scale: float) -> PollPlan:
    """Return the best polls of jobs of this scale, seconds, if their ratios have the distribution *cells*."""
    ended = array("d", (0.0, *accumulate(cells)))
    return PollPlan(gaps, scale, ended, array("d", _best_polls(cells, ended, gaps, scale)))


def _best_polls(cells: Cells, ended: Sequence[float], gaps: Gaps, scale: float) -> list[float]:
    """Return the next poll for each edge, by the recursion of the module's docstring, from the last edge down."""
    edges = [scale * ratio for ratio in RATIOS]
    middles = ((a + b) / 2 for a, b in pairwise(edges))
    moment = (0.0, *accumulate(cell * middle for cell, middle in zip(cells, middles, strict=True)))
    remaining_cost = [0.0] * len(edges)
    polls = [0.0] * len(edges)
    lines = _LowerEnvelope()
    candidate = len(edges) - 1
    for edge in reversed(range(len(edges))):
        at, by_now = edges[edge], ended[edge]
        while edges[candidate] >= at + gaps.floor:
            then = edges[candidate]
            lines.push(then, then * ended[candidate] - moment[candidate] + remaining_cost[candidate])
            candidate -= 1
        line = lines.lowest_at(by_now) if by_now < 1 - _CERTAIN else None
        if line is None:
            polls[edge] = at + gaps.ceiling
        else:
            polls[edge], intercept = line
            remaining_cost[edge] = gaps.poll_cost * (1 - by_now) + intercept - polls[edge] * by_now + moment[edge]
    return polls


class _LowerEnvelope:
    """The lowest of many lines `intercept - slope f`.

    Lines must be pushed with falling slope, and the lowest line must be asked for at falling f.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[float, float]] = deque()

    def push(self, slope: float, intercept: float) -> None:
        """Add a line, and drop the lines that will never be the lowest again."""
        lines = self._lines
        while len(lines) > 1:
            (slope_1, intercept_1), (slope_2, intercept_2) = lines[-2], lines[-1]
            if (intercept_2 - intercept) * (slope_1 - slope_2) < (intercept_1 - intercept_2) * (slope_2 - slope):
                break
            lines.pop()
        lines.append((slope, intercept))

    def lowest_at(self, f: float) -> tuple[float, float] | None:
        """Return slope and intercept of the lowest line at *f*, or None if there is no line."""
        lines = self._lines
        while len(lines) > 1 and lines[0][1] - lines[0][0] * f >= lines[1][1] - lines[1][0] * f:
            lines.popleft()
        return lines[0] if lines else None


class RateLimiter:
    """Limit how many polls a client sends in a second.

    Polls are allowed in the order in which they are requested, so that no job starves.

    per_second: the number of polls that all jobs of a client may send in a second; None for no limit.
    """

    def __init__(self, per_second: float | None = None) -> None:
        self.per_second = per_second
        self._free_at = -math.inf

    def reserve(self, now: float) -> float:
        """Return when the poll that is due now may be sent. The time is used up even if the poll is sent earlier."""
        if self.per_second is None:
            return now
        at = max(now, self._free_at)
        self._free_at = at + 1 / self.per_second
        return at
