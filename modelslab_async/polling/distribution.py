"""Estimate the distribution of the durations of jobs, as the probability of each cell of a grid of ratios.

A ratio is a duration divided by the scale of its job, see `history`. So jobs of all sizes share one distribution. The
cells are 0.4 % wide around the ratio 1, where the estimate can be narrow. A hundred times away they are 7 % wide.

Polls show only that a job ended between two of them. So an observation is an interval, without an end if the job was
never seen to end. The most likely distribution is found by expectation and maximisation (EM): spread each observation
over its interval in proportion to the present estimate, sum up, repeat (Turnbull, "The empirical distribution function
with arbitrarily grouped, censored and truncated data", J. R. Statist. Soc. B 38, 1976).

After each round the sum is smoothed, so that the estimate does not degenerate into spikes (Silverman, Jones, Wilson and
Nychka, "A smoothed EM approach to indirect estimation problems", J. R. Statist. Soc. B 52, 1990). Each cell is spread
over the nearest cells that hold 1.35 n^0.4 observations (about five of 30, eleven of 200). So the window is narrow in a
peak and wide in a tail, and two peaks stay two.

Before there are observations there is a prior. It stays in the estimate with the weight of `PRIOR_WEIGHT` observations
and gives it a tail. It is a mixture of log-logistic distributions, F(t) = 1 / (1 + (m / t)^b). Their median is m, they
are wider the smaller b is, and their tail falls like t^-b, so that no time is impossible.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import mul
from typing import NamedTuple

_FINEST = 0.004
"""The width of the cells at the ratio 1, as a difference of logarithms."""
_BEND = 0.25
"""The distance from the ratio 1, as a difference of logarithms, from which on the width of the cells grows."""
_SPAN = 6.2
_HALF = round(math.asinh(_SPAN / _BEND) * _BEND / _FINEST)
_CELLS = 2 * _HALF
RATIOS = tuple(math.exp(_BEND * math.sinh(edge * _FINEST / _BEND)) for edge in range(-_HALF, _HALF + 1))
"""The edges of the grid's cells, from 1/500 to 500."""

TYPICAL_SECONDS = 45.0
"""A user measured 34 to 44 s for 480p and 82 frames, without a queue."""
_QUICK_SECONDS = 4.0
"""A service may be far quicker than the one that was measured, for example an emulator."""
_ROUNDS = 3
_WINDOW_FACTOR = 1.35
_WINDOW_EXPONENT = 0.4
_MIN_REACH = 3
"""The least number of cells to either side of a cell over which it is smoothed."""
_ROUNDING_ERROR = 1e-9
"""Observations. A cell with fewer holds only rounding errors of sums and differences."""
PRIOR_WEIGHT = 1.2
"""Observations."""
_ETA_ODDS = 16.0
"""Odds that an eta is right if it equals the typical time. They fall with its distance from the typical time."""
_MIN_SHORT_ETA_ODDS = 0.3
"""Least odds that a short eta is right, since checking it costs only one poll."""

Cells = Sequence[float]
"""A probability for each cell of the grid. The rest to 1 is the probability of a time after the grid."""


class Span(NamedTuple):
    """The ratio of a job that ended between two polls.

    after: the last time at which the job was seen running. by: the time at which it was seen to have ended; infinite if
    its end was not seen. Both are divided by the job's scale. weight: the number of observations that it counts as.
    """

    after: float
    by: float
    weight: float = 1.0


def position(ratio: float) -> float:
    """Return the position on the grid. Its integer part is the cell, the rest the position in the cell."""
    if ratio <= RATIOS[0]:
        return 0.0
    return min(_HALF + math.asinh(math.log(ratio) / _BEND) * _BEND / _FINEST, _CELLS)


def prior(eta: float | None, scale: float, typical: float = TYPICAL_SECONDS) -> Cells:
    """Return the distribution for a job of which no similar job was observed.

    eta: the service's estimate, seconds; None if it gave none. scale: the job's scale, seconds. typical: how long a job
    of that size takes typically, seconds.

    An eta that is right is close for most jobs. The others take about twice as long, because they queue. The odds that
    an eta is right fall with its distance from the typical time, as a log-logistic density does. If an eta is ten times
    off, a wrong eta is more likely than a job of that length. If nothing is known, any duration is possible, and cheap
    early polls find out.
    """
    usual, quick = around(typical / scale), _log_logistic(_QUICK_SECONDS / scale, 2.0)
    unknown = _mixture((0.4, usual), (0.4, anything(typical / scale)), (0.2, quick))
    if eta is None:
        return unknown
    distance = (eta / typical) ** 1.5
    odds = _ETA_ODDS * 4 * distance / (1 + distance) ** 2
    if eta < typical:
        odds = max(odds, _MIN_SHORT_ETA_ODDS)
    probability = odds / (1 + odds)
    near, late = _log_logistic(eta / scale, 9.0), _log_logistic(2 * eta / scale, 3.0)
    return _mixture((0.7 * probability, near), (0.3 * probability, late), (1 - probability, unknown))


def _mixture(*parts: tuple[float, Cells]) -> Cells:
    """Return the mixture of distributions, each with its share."""
    shares = [share for share, _ in parts]
    return [sum(map(mul, shares, masses)) for masses in zip(*(cells for _, cells in parts), strict=True)]


@lru_cache(maxsize=64)
def around(center: float) -> Cells:
    """Return a wide distribution with the median *center*."""
    return _mixture((0.5, _log_logistic(center, 4.0)), (0.5, _log_logistic(center, 2.0)))


def anything(center: float) -> Cells:
    """Return the widest distribution with the median *center*. Nothing is known of its order of magnitude."""
    return _log_logistic(center, 1.0)


@lru_cache(maxsize=64)
def _log_logistic(center: float, steepness: float) -> Cells:
    ended = [1 / (1 + (center / edge) ** steepness) for edge in RATIOS]
    return [ended[1], *(b - a for a, b in pairwise(ended[1:]))]


def mixed(first: Cells, second: Cells, share: float) -> Cells:
    """Return the mixture of two distributions, in which the second has this share."""
    return _mixture((1 - share, first), (share, second))


def estimate(
    spans: Iterable[Span], prior_cells: Cells, prior_weight: float = PRIOR_WEIGHT, start: Cells | None = None
) -> Cells:
    """Return the most likely distribution, given the observations and a prior.

    prior_weight: the number of observations that the prior counts as.
    start: an estimate from fewer observations, which saves rounds; None starts from the prior.
    """
    intervals = [_cells_of(span) for span in spans]
    count = sum(weight for _, _, weight in intervals)
    cells, window = start or prior_cells, _WINDOW_FACTOR * count**_WINDOW_EXPONENT
    rounds = 1 if start else _ROUNDS
    for _ in range(rounds if intervals else 0):
        observed = smoothed(_expected_counts(cells, intervals), window)
        share = 1 / (count + prior_weight)
        cells = [(a + prior_weight * b) * share for a, b in zip(observed, prior_cells, strict=True)]
    return cells


def _cells_of(span: Span) -> tuple[int, int, float]:
    """Return the first cell of an observation, the cell after its last one, and its weight."""
    first = min(int(position(span.after)), _CELLS - 1)
    last = _CELLS if math.isinf(span.by) else min(int(position(span.by)) + 1, _CELLS)
    return first, max(last, first + 1), span.weight


def _expected_counts(cells: Cells, spans: Iterable[tuple[int, int, float]]) -> list[float]:
    """Return the expected number of observations in each cell.

    Each observation is spread over its cells in proportion to the estimate *cells*. The time is linear in the
    observations plus the cells.
    """
    ended = [0.0, *accumulate(cells)]
    steps = [0.0] * (len(cells) + 1)
    for first, last, weight in spans:
        density = weight / (ended[last] - ended[first] + 1e-15)
        steps[first] += density
        steps[last] -= density
    return [cell * density for cell, density in zip(cells, accumulate(steps), strict=False)]


def smoothed(counts: Sequence[float], window: float) -> list[float]:
    """Return *counts* with each cell spread over the smallest window around it that holds *window* observations.

    A window reaches at least three cells to either side. The time is linear in the cells, since the reach falls by at
    most one from cell to cell.
    """
    size = len(counts)
    ended = [0.0, *accumulate(counts)]
    steps = [0.0] * (size + 1)
    reach = _MIN_REACH
    for cell, mass in enumerate(counts):
        reach = max(_MIN_REACH, reach - 1)
        if mass < _ROUNDING_ERROR:
            continue
        first, last = max(cell - reach, 0), min(cell + reach + 1, size)
        while ended[last] - ended[first] < window and last - first < size:
            reach += 1
            first, last = max(cell - reach, 0), min(cell + reach + 1, size)
        steps[first] += mass / (last - first)
        steps[last] -= mass / (last - first)
    return list(accumulate(steps[:-1]))
