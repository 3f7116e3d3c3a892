"""When to look next, so that waiting and looking together cost the least.

A job ends at an unknown time T with distribution F. A look costs as much as `poll_cost` seconds of not knowing that
the job ended. Which looks x1 < x2 < ... make E[x_N - T] + poll_cost E[N] least, where N is the first look that finds
the job ended? That is the inspection problem of Barlow and Proschan ("Mathematical Theory of Reliability", 1965,
chapter 4; first in Barlow, Hunter and Proschan, "Optimum checking procedures", J. SIAM 11, 1963). The answer is sparse
while an end is unlikely, dense around the expected one, sparse again in the tail.

It is found exactly, for looks at the edges x_0 < x_1 < ... of the grid. Let W_i be what is still to be paid by a job
that was seen running at x_i, times the probability 1 - F_i that there is such a job. Then

    W_i = min over j > i of   poll_cost (1 - F_i)  +  integral from x_i to x_j of (x_j - t) dF(t)  +  W_j

With M_i the integral of t dF(t) from 0 to x_i, the middle term is x_j (F_j - F_i) - (M_j - M_i), and all that
depends on j is (x_j F_j - M_j + W_j) - x_j F_i: for each j a straight line in F_i. Going down from the last edge, lines
come with falling slope and are asked at falling F_i, so the lowest one is at hand in constant time (the convex hull
trick), and a plan costs as many steps as there are edges. It gives the best next look for *every* moment at which a job
may be seen running, so a look that comes late, early or by a wake-up is planned on like any other.
"""

import math
import random
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple, Protocol

from modelslab_async.polling.distribution import EDGES, Cells, position

DEFAULT_POLL_COST = 1.0
"""Seconds."""
_JITTER = 0.03
_MOST_JITTER = 1.0
_NEAR = 0.1
"""An end is near once so many of such jobs have ended."""
_CERTAIN = 1e-9
_MOST_HASTE = 3
"""As a power of two: a look is worth at most eight times as much."""


class Gaps(NamedTuple):
    """Between two looks at a job, in seconds. The floor and the ceiling hold whatever the numbers say; the look
    then waits for the next tick, see `flow.TICK`.
    """

    poll_cost: float = DEFAULT_POLL_COST
    floor: float = 1.0
    ceiling: float = 60.0


def gaps_at(poll_cost: float) -> Gaps:
    """The floor is a second, or ten times the cost of a look where that is less. The ceiling is a minute at the default
    cost, and rises with its root, as the best gaps do.
    """
    return Gaps(poll_cost, min(1.0, 10 * poll_cost), 60.0 * max(1.0, math.sqrt(poll_cost)))


def urgency(waiting: int, places: int) -> int:
    """How many jobs it delays when an end is seen late: the job itself, and those that wait for its place.

    A second of lateness is a second for each of them, so a look at it is worth so many times as much. In powers of two,
    so that plans are few, and at most eight: beyond, the floor of the gaps leaves hardly anything to gain.
    """
    delayed = 1 + waiting // max(places, 1)
    return 1 << min(delayed.bit_length() - 1, _MOST_HASTE)


class Schedule(Protocol):
    """Answers two questions about a job that was seen running `elapsed` seconds after its acceptance."""

    def gap(self, elapsed: float) -> float:
        """Seconds to the next look."""
        ...

    def is_near_end(self, elapsed: float) -> bool:
        """Whether it may well have ended."""
        ...


class PollPlan(NamedTuple):
    """A schedule for all jobs of one kind. Each answer is constant work (`left` bisects the grid)."""

    gaps: Gaps
    ended: Sequence[float]
    """For each edge, the probability that a job has ended by then."""
    looks: Sequence[float]
    """For each edge, when to look next, had the job been seen running at that edge."""

    def gap(self, elapsed: float) -> float:
        """Seconds to the next look: between those of the two edges, within floor and ceiling."""
        edge, part = divmod(position(elapsed), 1)
        if edge + 1 >= len(EDGES):
            return self.gaps.ceiling
        here, there = self.looks[int(edge)], self.looks[int(edge) + 1]
        return self._held(here + part * (there - here) - elapsed)

    def jittered(self, elapsed: float, rng: random.Random) -> float:
        """The gap, up to 3 % or 1 s longer or shorter: jobs that were submitted together drift apart."""
        gap = self.gap(elapsed)
        return self._held(gap + (2 * rng.random() - 1) * min(_JITTER * gap, _MOST_JITTER))

    def left(self, elapsed: float) -> float:
        """The median of the time that is left, seconds; at least the floor, since nothing ends before it is seen."""
        half = (1 + self._ended_by(elapsed)) / 2
        edge = min(bisect_left(self.ended, half), len(EDGES) - 1)
        return max(EDGES[edge] - elapsed, self.gaps.floor)

    def is_near_end(self, elapsed: float) -> bool:
        """Whether one in ten of such jobs has ended by now."""
        return self._ended_by(elapsed) >= _NEAR

    def _ended_by(self, elapsed: float) -> float:
        return self.ended[min(int(position(elapsed)), len(EDGES) - 1)]

    def _held(self, gap: float) -> float:
        return min(max(gap, self.gaps.floor), self.gaps.ceiling)


def plan(cells: Cells, gaps: Gaps) -> PollPlan:
    """The best looks for jobs that end as `cells` say."""
    ended = array("d", (0.0, *accumulate(cells)))
    return PollPlan(gaps, ended, array("d", _looks(cells, ended, gaps)))


def _looks(cells: Cells, ended: Sequence[float], gaps: Gaps) -> list[float]:
    """The recursion of the module's docstring, from the last edge down."""
    middles = ((a + b) / 2 for a, b in pairwise(EDGES))
    moment = (0.0, *accumulate(cell * middle for cell, middle in zip(cells, middles, strict=True)))
    to_pay = [0.0] * len(EDGES)
    looks = [0.0] * len(EDGES)
    lines = _LowerEnvelope()
    candidate = len(EDGES) - 1
    for edge in reversed(range(len(EDGES))):
        at, by_now = EDGES[edge], ended[edge]
        while EDGES[candidate] >= at + gaps.floor:
            then = EDGES[candidate]
            lines.push(then, then * ended[candidate] - moment[candidate] + to_pay[candidate])
            candidate -= 1
        line = lines.lowest_at(by_now) if by_now < 1 - _CERTAIN else None
        if line is None:
            looks[edge] = at + gaps.ceiling
        else:
            looks[edge], rest = line
            to_pay[edge] = gaps.poll_cost * (1 - by_now) + rest - looks[edge] * by_now + moment[edge]
    return looks


class _LowerEnvelope:
    """Lines `rest - slope f`: pushed with falling slope, and asked for the lowest at a falling f."""

    def __init__(self) -> None:
        self._lines: deque[tuple[float, float]] = deque()

    def push(self, slope: float, rest: float) -> None:
        """Add a line, and forget those that it hides for good."""
        lines = self._lines
        while len(lines) > 1:
            (steep, high), (middle, rest_of_middle) = lines[-2], lines[-1]
            if (rest_of_middle - rest) * (steep - middle) < (high - rest_of_middle) * (middle - slope):
                break
            lines.pop()
        lines.append((slope, rest))

    def lowest_at(self, f: float) -> tuple[float, float] | None:
        """Slope and rest of the lowest line, or None where there is no line."""
        lines = self._lines
        while len(lines) > 1 and lines[0][1] - lines[0][0] * f >= lines[1][1] - lines[1][0] * f:
            lines.popleft()
        return lines[0] if lines else None


class RateLimiter:
    """Grants polls in the order in which they are requested, so that no job starves.

    per_second: how many polls a second all jobs of a client may use; None for no limit.
    """

    def __init__(self, per_second: float | None = None) -> None:
        self.per_second = per_second
        self._free_at = -math.inf

    def reserve(self, now: float) -> float:
        """Return when the poll that is due now may be sent. That moment is taken, even if it is sent earlier."""
        if self.per_second is None:
            return now
        at = max(now, self._free_at)
        self._free_at = at + 1 / self.per_second
        return at
