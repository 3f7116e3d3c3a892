"""How long such jobs take: the probability that one ends in each cell of a geometric grid of time.

A look tells only that a job ended between two looks, so an observation is an interval, and one that was never seen to
end is an interval without an end. The distribution that explains such data best is found by expectation and
maximisation: spread each observation over its interval in proportion to the present estimate, add up, repeat
(Turnbull, "The empirical distribution function with arbitrarily grouped, censored and truncated data", J. R. Statist.
Soc. B 38, 1976). After each round the sum is smoothed, which keeps the estimate from running into spikes (Silverman,
Jones, Wilson and Nychka, "A smoothed EM approach to indirect estimation problems", J. R. Statist. Soc. B 52, 1990):
each cell is spread over the nearest cells that hold 1.35 n^0.4 observations (about five of 30, eleven of 200), so that
the window is narrow in a peak and wide in a tail, and two peaks stay two.

Before there are observations there is a guess, which stays in the estimate with the weight of `_GUESS_WEIGHT`
observations and gives it a tail. It is made of log-logistic distributions, F(t) = 1 / (1 + (m / t)^b): the median is m,
the smaller b the wider, and the tail falls like t^-b, so that no time is impossible.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import mul
from typing import NamedTuple

_FIRST = 0.25
_RATIO = 1.02
_CELLS = 570
EDGES = tuple(_FIRST * _RATIO**edge for edge in range(_CELLS + 1))
"""Seconds: from a quarter of a second to five hours and a half. A cell is 2 % wide."""
_LOG_RATIO = math.log(_RATIO)

TYPICAL_SECONDS = 45.0
"""Measured by a user: 34 to 44 s for 480p and 82 frames, without a queue."""
_QUICK_SECONDS = 5.0
"""Some service may be far quicker than the one that was measured, an emulator for one."""
_ROUNDS = 3
_ROUGHLY = 1.35
_GROWTH = 0.4
_LEAST_REACH = 3
"""Cells to both sides that are smoothed over at least."""
_ROUNDING = 1e-9
"""Observations; less is what adding and taking away again leaves in a cell that none touches."""
_GUESS_WEIGHT = 1.2
_TRUST = 16.0
"""Odds that an eta is worth something, where it names the typical time. They fall as it gets stranger."""
_TRUST_IN_LITTLE = 0.3
"""Odds at least for an eta that is short: it costs one look to check."""

Cells = Sequence[float]
"""A probability for each cell. What is missing from 1 is later than all of them."""


class Observation(NamedTuple):
    """A job ended later than `after` and not later than `by` seconds from its acceptance.

    `by` is infinite for a job that was not watched to its end. `eta` is what the service said, None where it did not.
    """

    after: float
    by: float
    eta: float | None = None
    weight: float = 1.0

    @property
    def about(self) -> float:
        """One number for it."""
        return self.after if math.isinf(self.by) else (self.after + self.by) / 2


def position(seconds: float) -> float:
    """Where on the grid: the whole part is the cell, the rest how far into it. Never below 0."""
    return math.log(seconds / _FIRST) / _LOG_RATIO if seconds > _FIRST else 0.0


def guess(eta: float | None) -> Cells:
    """What is expected before a job of its kind was seen; an eta of None says nothing.

    Believed, an eta is close for most jobs, and the others take about twice as long (they queue). The odds of that
    fall with its distance from what such jobs typically take, as a log-logistic density does: ten times off is more
    often a mistake of the eta than a job of that length.
    """
    unknown = _mixed((0.9, around(TYPICAL_SECONDS)), (0.1, _log_logistic(_QUICK_SECONDS, 1.5)))
    if eta is None:
        return unknown
    strangeness = (eta / TYPICAL_SECONDS) ** 2.5
    odds = _TRUST * 4 * strangeness / (1 + strangeness) ** 2
    if eta < TYPICAL_SECONDS:
        odds = max(odds, _TRUST_IN_LITTLE)
    trust = odds / (1 + odds)
    near, late = _log_logistic(eta, 9.0), _log_logistic(2 * eta, 3.0)
    return _mixed((0.7 * trust, near), (0.3 * trust, late), (1 - trust, unknown))


def _mixed(*parts: tuple[float, Cells]) -> Cells:
    """Distributions by their shares."""
    shares = [share for share, _ in parts]
    return [sum(map(mul, shares, masses)) for masses in zip(*(cells for _, cells in parts), strict=True)]


@lru_cache(maxsize=64)
def around(center: float) -> Cells:
    """Roughly so many seconds, and no more is known."""
    return _mixed((0.5, _log_logistic(center, 4.0)), (0.5, _log_logistic(center, 2.0)))


@lru_cache(maxsize=64)
def _log_logistic(center: float, steepness: float) -> Cells:
    ended = [1 / (1 + (center / edge) ** steepness) for edge in EDGES]
    return [ended[1], *(b - a for a, b in pairwise(ended[1:]))]


def estimate(observations: Iterable[Observation], guessed: Cells, start: Cells | None = None) -> Cells:
    """The guess, corrected by what was observed. A `start` from fewer observations saves rounds."""
    spans = [_span(observation) for observation in observations]
    count = sum(weight for _, _, weight in spans)
    cells, enough = start or guessed, _ROUGHLY * count**_GROWTH
    rounds = 1 if start else _ROUNDS
    for _ in range(rounds if spans else 0):
        seen = _smoothed(_explained(cells, spans), enough)
        share = 1 / (count + _GUESS_WEIGHT)
        cells = [(a + _GUESS_WEIGHT * b) * share for a, b in zip(seen, guessed, strict=True)]
    return cells


def typical(observations: Iterable[Observation]) -> float:
    """The median of what was observed, to an edge of the grid, seconds."""
    seen = sorted(observation.about for observation in observations)
    return EDGES[min(round(position(seen[len(seen) // 2])), _CELLS)]


def _span(observation: Observation) -> tuple[int, int, float]:
    """The cells of an observation, from and to, and its weight."""
    first = min(int(position(observation.after)), _CELLS - 1)
    last = _CELLS if math.isinf(observation.by) else min(int(position(observation.by)) + 1, _CELLS)
    return first, max(last, first + 1), observation.weight


def _explained(cells: Cells, spans: Iterable[tuple[int, int, float]]) -> list[float]:
    """Each observation spread over its cells as the estimate has them, added up. Work: observations plus cells."""
    ended = [0.0, *accumulate(cells)]
    steps = [0.0] * (len(cells) + 1)
    for first, last, weight in spans:
        density = weight / (ended[last] - ended[first] + 1e-15)
        steps[first] += density
        steps[last] -= density
    return [cell * density for cell, density in zip(cells, accumulate(steps), strict=False)]


def _smoothed(seen: Sequence[float], enough: float) -> list[float]:
    """Each cell spread over the least window around it that holds `enough`. Work: cells, for a window moves by one."""
    size = len(seen)
    ended = [0.0, *accumulate(seen)]
    steps = [0.0] * (size + 1)
    reach = _LEAST_REACH
    for cell, mass in enumerate(seen):
        reach = max(_LEAST_REACH, reach - 1)
        if mass < _ROUNDING:
            continue
        first, last = max(cell - reach, 0), min(cell + reach + 1, size)
        while ended[last] - ended[first] < enough and last - first < size:
            reach += 1
            first, last = max(cell - reach, 0), min(cell + reach + 1, size)
        steps[first] += mass / (last - first)
        steps[last] -= mass / (last - first)
    return list(accumulate(steps[:-1]))
