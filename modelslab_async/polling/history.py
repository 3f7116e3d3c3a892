"""Learn from the jobs of one kind how long the next one will take.

The duration of a job is its scale times a ratio. The scale is what is known before the job ends:

    scale = factor * work^a * eta^b

The ratios of all jobs have one distribution, see `distribution`. So a size that was never seen is forecast from the
others, and an eta in another unit, or off by a factor, serves as well as a right one. The exponents are fitted to the
logarithms, by least absolute deviations, because durations have heavy tails. Before there are observations, a job takes
its eta; without an eta, it takes as long as its work.

A service changes. Three things follow it:

- If durations drift, the factor is an exponential average of the latest jobs, and the ratios are the errors of the
  forecasts that it would have made. So a lag does no harm, because the distribution contains it (Holt, "Forecasting
  seasonals and trends by exponentially weighted moving averages", 1957; Int. J. Forecasting 20, 2004). The average is
  used only while its errors are clearly less than those of a constant factor.
- If the latest ends together were too surprising, the service changed at once, and older jobs are forgotten. Each end
  has a normal score, and the sum of the latest k scores is tested for each k (Page, "Continuous inspection schemes",
  Biometrika 41, 1954; Willsky and Jones, "A generalized likelihood ratio approach", IEEE Trans. Automatic Control 21,
  1976). The old distribution of the ratios stays as a prior, because a service that becomes slower mostly does so by a
  factor. So a false alarm costs little.
- If a run of jobs ended before their first poll, nothing shows how long before. Then the next job is polled early:
  after a short run if that is surprising, and else after a dozen jobs.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice
from operator import mul, sub
from statistics import NormalDist, fmean, median
from typing import NamedTuple

import attrs

from modelslab_async.polling import distribution
from modelslab_async.polling.distribution import Cells, Span

MAX_OBSERVATIONS = 128
"""Observations that are kept. Older observations may no longer hold."""
_REPLAY_STEP = 32
"""Observations of an earlier process after which the model is made again."""
WARM = 8
"""Observations from which on jobs of other kinds and the service's eta do not add to the distribution."""
_WEIGHT_OF_OTHER, _WEIGHT_OF_OTHERS = 0.25, 2.0
"""Observations that a job of another kind counts as, and all of them together at most."""
_LATEST = 15
"""The latest jobs, from which the expected duration is taken."""
_LATER_END = 1.25
"""The duration of a job whose end was not seen, as a multiple of its age, if a single number is needed."""
_LEAST_SECONDS = 1e-3

_EXPONENT_DEVIATION = 0.5
"""The standard deviation of an exponent from its value before there are observations."""
_MAX_EXPONENT = 2.0
_FIT_ROUNDS = 2
_LEAST_DEVIATION = 0.02
"""Differences of logarithms below this count alike in a fit, and are no drift."""
_SAME_CENTER = 0.05
"""A center that moved by less is kept, so that the distribution of the ratios can be improved instead of made anew."""
_UNSETTLED = 64
"""The number of jobs up to which the durations within the observed intervals are estimated anew with each model."""
_STEP_RATIO, _MIN_STEP, _MAX_STEP = 0.25, 0.002, 0.1
"""Scales share a plan if their logarithms differ by less than this share of the median error, within bounds."""

_GAIN = 0.2
"""The weight of the latest job in the average of a drifting factor."""
_MAX_ERRORS = 3.0
"""An error of more mean errors than this moves the average no further."""
_DRIFT_RATIO = 0.85
"""Durations drift if the errors of the average are less than this share of the errors of a constant."""
_ERROR_MEMORY = 32
"""The latest jobs whose errors are compared."""

_CHANGE = 3.8
"""Standard deviations of a sum of scores from which on the service has changed."""
_MAX_RUN = 16
"""The latest jobs whose scores are summed."""
_LEAST_SHARE = 1e-3
"""No end is more surprising than one in a thousand."""
_DOUBT = 0.05
"""The probability of a run of ends before the first poll below which an early poll finds out why."""
_IMPOSSIBLE = 1e-4
"""The probability of such a run below which the service has changed."""
_MAX_EARLY = 12
"""The number of such ends after which an early poll finds out why in any case."""
_WEIGHT_OF_PAST, _SHARE_OF_NEW = 8.0, 0.3
"""Observations that the distribution before a change counts as, and its share that is replaced by a wide one."""
_NORMAL = NormalDist()


class Observation(NamedTuple):
    """A job that ended between two polls.

    after: the last time at which the job was seen running, seconds since its acceptance.
    by: the time at which it was seen to have ended, seconds since its acceptance; infinite if its end was not seen.
    work: of its workload. eta: the service's estimate, seconds; None if it gave none.
    """

    after: float
    by: float
    work: float = 1.0
    eta: float | None = None

    @property
    def log_middle(self) -> float:
        """The logarithm of the middle of the interval, or of a later time if it has no end."""
        middle = self.after * _LATER_END if math.isinf(self.by) else (self.after + self.by) / 2
        return math.log(max(middle, _LEAST_SECONDS))


@attrs.frozen(eq=False)
class Model:
    """What was learned of the jobs of one kind.

    work_exponent, eta_exponent: of the scale.
    center: the logarithm of the factor of the scale.
    is_drifting: whether the factor also follows the latest jobs.
    step: the difference of the logarithms of two scales that do not share a plan.
    cells: the distribution of the ratios. None until there are enough observations; then it depends on the scale.
    ended: for each edge of the grid, the probability that a job has ended by then; empty without `cells`.
    """

    work_exponent: float
    eta_exponent: float
    center: float
    is_drifting: bool = False
    step: float = _MAX_STEP
    cells: Cells | None = None
    ended: Sequence[float] = ()

    def log_scale(self, work: float, eta: float | None) -> float:
        """Return the logarithm of the scale of a job, without the drift."""
        log_scale = self.center + self.work_exponent * math.log(work)
        return log_scale if eta is None else log_scale + self.eta_exponent * math.log(eta)

    def share(self, observation: Observation, scale: float) -> float:
        """Return the share of jobs of this scale that end before the middle of the observed interval."""
        after = self.ended[int(distribution.position(observation.after / scale))]
        by = 1.0 if math.isinf(observation.by) else self.ended[int(distribution.position(observation.by / scale))]
        return min(max((after + by) / 2, _LEAST_SHARE), 1 - _LEAST_SHARE)

    def log_duration(self, observation: Observation, level: float = 0.0) -> float:
        """Return the logarithm of the likely duration of an observed job: the median of its interval.

        level: of the drift when the job was observed.
        """
        if not self.ended:
            return observation.log_middle
        log_scale = self.log_scale(observation.work, observation.eta) + level
        edge = bisect_left(self.ended, self.share(observation, math.exp(log_scale)))
        likely = math.exp(log_scale) * distribution.RATIOS[min(edge, len(self.ended) - 1)]
        return math.log(max(min(max(likely, observation.after), observation.by), _LEAST_SECONDS))


class History:
    """The latest jobs of one kind, all with an eta or all without."""

    def __init__(self, *, has_eta: bool) -> None:
        self.has_eta = has_eta
        self.observations = deque[Observation](maxlen=MAX_OBSERVATIONS)
        self._log_durations = deque[float](maxlen=MAX_OBSERVATIONS)
        self._errors = deque[float](maxlen=MAX_OBSERVATIONS)
        """The error of the forecast of each job, as a difference of logarithms."""
        self._scores = deque[float](maxlen=_MAX_RUN)
        self._average = _Average()
        self._early_run = _EarlyRun()
        self._past: Cells | None = None
        """The distribution before the last change; None if there was none."""
        self._model, self._is_stale = self._first_model(), False
        self._count = self._edition = 0
        """The number of jobs since the last change, and what it was when the model was made."""

    @property
    def model(self) -> Model:
        """The newest model. It is made again if the number of jobs has grown by a fifth, and after a change."""
        self._update()
        return self._model

    def _update(self) -> None:
        if self._is_stale:
            self._model = self._fit()
            self._is_stale, self._edition = False, self._count

    def log_scale(self, work: float, eta: float | None) -> float:
        """Return the logarithm of the scale of the next job."""
        return self.model.log_scale(work, eta) + (self._average.value if self.model.is_drifting else 0.0)

    @property
    def latest_error(self) -> float:
        """The median error of the latest forecasts, as a difference of logarithms; 0 if there are none."""
        if not self.observations:
            return 0.0
        self._update()  # a fit computes the errors anew
        return median(islice(reversed(self._errors), _LATEST))

    @property
    def is_doubtful(self) -> bool:
        """Whether the latest jobs may have ended long before their first poll."""
        return self._early_run.is_doubtful

    def replay(self, observations: Iterable[Observation]) -> None:
        """Add the observations of an earlier process. The model is made now and then, so that changes are noticed."""
        for number, observation in enumerate(observations, 1):
            self.learn(observation)
            if number % _REPLAY_STEP == 0:
                self._update()

    def learn(self, observation: Observation) -> None:
        """Add the observation of a job that ended."""
        model = self._model
        level = self._average.value if model.is_drifting else 0.0
        log_scale = model.log_scale(observation.work, observation.eta)
        self.observations.append(observation)
        self._log_durations.append(model.log_duration(observation, level))
        self._errors.append(self._log_durations[-1] - log_scale - level)
        self._average.follow(self._log_durations[-1] - log_scale)
        self._count += 1
        if model.ended:
            share = model.share(observation, math.exp(log_scale + level))
            self._scores.append(_NORMAL.inv_cdf(share))
            self._early_run.follow(0.0 if observation.after else 2 * share)
            if run := _surprising(self._scores) or self._early_run.surprising:
                self._forget_all_but(run)
        grown = self._count - self._edition
        if grown >= max(1, self._edition // 5) or (grown >= WARM and model.is_drifting != self._average.is_better):
            self._is_stale = True

    def _forget_all_but(self, run: int) -> None:
        """Keep only the latest *run* jobs, because the service changed before them."""
        self._past = self._model.cells
        latest = list(self.observations)[-run:]
        self.observations.clear()
        self.observations.extend(latest)
        self._log_durations.clear()
        self._log_durations.extend(each.log_middle for each in latest)
        self._scores.clear()
        self._early_run = _EarlyRun()
        self._model, self._count, self._edition = self._first_model(), run, 0

    def factor_of(self, others: Sequence[Observation]) -> float:
        """Return the logarithm of the factor by which jobs of other kinds took longer than forecast here."""
        errors = [each.log_middle - self.model.log_scale(each.work, each.eta) for each in others[-_LATEST:]]
        return median(errors) if errors else 0.0

    def first_cells(self, scale: float, others: Sequence[Observation]) -> Cells:
        """Return the distribution of the ratios while there are few observations.

        scale: of the job, seconds. others: jobs of other kinds, which have an eta as the jobs here do.
        """
        model, count = self.model, len(self.observations)
        usual = scale / math.exp(model.center)  # the eta; without an eta, the work
        if self.has_eta:
            prior = distribution.prior(usual, scale)
        else:
            prior = distribution.prior(None, scale, usual * distribution.TYPICAL_SECONDS)
        prior = distribution.mixed(prior, distribution.around(1.0), count / (1 + count))
        level = 0.0 if count else self.factor_of(others)
        weight = min(_WEIGHT_OF_OTHER, _WEIGHT_OF_OTHERS / max(len(others), 1))
        spans = [_span(model, each) for each in self.observations]
        return distribution.estimate([*spans, *(_span(model, each, level, weight) for each in others)], prior)

    def _fit(self) -> Model:
        """Return the model that the observations show."""
        previous = self._model
        if previous.ended and not previous.is_drifting and self._count <= _UNSETTLED:
            self._log_durations = deque(map(previous.log_duration, self.observations), maxlen=MAX_OBSERVATIONS)
        durations = self._log_durations
        works = [math.log(each.work) for each in self.observations]
        etas = [math.log(each.eta or 1.0) for each in self.observations]
        a, b = _exponents(durations, works, etas, previous, self._first_model())
        factors = [y - a * work - b * eta for y, work, eta in zip(durations, works, etas, strict=True)]
        center, start = median(factors), None
        if previous.cells and abs(center - previous.center) < _SAME_CENTER:
            center, start = previous.center, previous.cells
        errors = [factor - center for factor in factors]
        levels = self._follow(errors)
        if self._average.is_better:
            errors = list(map(sub, errors, levels))
        self._errors = deque(errors, maxlen=MAX_OBSERVATIONS)
        model = Model(a, b, center, self._average.is_better)
        if self._count < WARM and not self._past:
            return model
        prior, weight = distribution.around(1.0), distribution.PRIOR_WEIGHT
        if self._past:
            prior, weight = distribution.mixed(self._past, prior, _SHARE_OF_NEW), _WEIGHT_OF_PAST
        scales = map(math.exp, map(sub, durations, errors))
        spans = [
            Span(each.after / scale, each.by / scale) for each, scale in zip(self.observations, scales, strict=True)
        ]
        cells = array("d", distribution.estimate(spans, prior, weight, start))
        step = min(max(_STEP_RATIO * median(map(abs, errors)), _MIN_STEP), _MAX_STEP)
        return attrs.evolve(model, step=step, cells=cells, ended=array("d", (0.0, *accumulate(cells))))

    def _follow(self, errors: Iterable[float]) -> list[float]:
        """Return the average before each of these errors, and keep the average after them."""
        self._average, levels = _Average(), list[float]()
        for error in errors:
            levels.append(self._average.value)
            self._average.follow(error)
        return levels

    def _first_model(self) -> Model:
        """Return the model without observations: a job takes its eta; without an eta, it takes as long as its work."""
        return Model(0.0, 1.0, 0.0) if self.has_eta else Model(1.0, 0.0, math.log(distribution.TYPICAL_SECONDS))


class _EarlyRun:
    """The latest jobs, as far as each ended before its first poll, and how probable that is."""

    def __init__(self) -> None:
        self._jobs, self._probability = 0, 1.0

    def follow(self, probability: float) -> None:
        """Add the probability that the next job ends before its first poll; 0 if it did not."""
        if probability:
            self._jobs, self._probability = self._jobs + 1, self._probability * probability
        else:
            self._jobs, self._probability = 0, 1.0

    @property
    def is_doubtful(self) -> bool:
        """Whether the run is so long that these jobs may have ended long before their first poll."""
        return self._probability < _DOUBT or self._jobs >= _MAX_EARLY

    @property
    def surprising(self) -> int:
        """The number of these jobs if they are too many for chance; 0 if not."""
        return self._jobs if self._probability < _IMPOSSIBLE else 0


class _Average:
    """An exponential average, and whether it forecasts the next value better than the constant 0 does."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0
        self._error = self._error_of_constant = 0.0

    def follow(self, value: float) -> None:
        """Add the next value."""
        error = value - self.value
        self._count += 1
        most = _MAX_ERRORS * max(self._error, _LEAST_DEVIATION) if self._count > _LATEST else math.inf
        self.value += _GAIN * min(max(error, -most), most)
        share = 1 / min(self._count, _ERROR_MEMORY)
        self._error += share * (abs(error) - self._error)
        self._error_of_constant += share * (abs(value) - self._error_of_constant)

    @property
    def is_better(self) -> bool:
        """Whether the average is clearly better."""
        constant = self._error_of_constant
        return self._count > _LATEST and constant > _LEAST_DEVIATION and self._error < _DRIFT_RATIO * constant


def _span(model: Model, observation: Observation, level: float = 0.0, weight: float = 1.0) -> Span:
    scale = math.exp(model.log_scale(observation.work, observation.eta) + level)
    return Span(observation.after / scale, observation.by / scale, weight)


def _surprising(scores: Sequence[float]) -> int:
    """Return the least number of the latest scores, two or more, that are too surprising together; 0 if none are.

    A sum of k normal scores has a standard deviation of the root of k.
    """
    sums = enumerate(accumulate(reversed(scores)), 1)
    return next((run for run, total in sums if run > 1 and abs(total) > _CHANGE * math.sqrt(run)), 0)


def _exponents(
    log_durations: Iterable[float], works: Sequence[float], etas: Sequence[float], previous: Model, prior: Model
) -> tuple[float, float]:
    """Return the exponents of work and eta that fit best. *works* and *etas* are logarithms.

    previous: a model whose exponents are near the best ones. prior: the model without observations.

    The sum of the absolute errors is made least by least squares whose weights come from the errors of the round
    before. A penalty keeps an exponent near its prior value as long as the data say little.
    """
    a, b = prior.work_exponent, prior.eta_exponent
    if all(work == works[0] for work in works) and all(eta == etas[0] for eta in etas):
        return a, b
    rests = [y - a * work - b * eta for y, work, eta in zip(log_durations, works, etas, strict=True)]
    change_a, change_b = previous.work_exponent - a, previous.eta_exponent - b
    weights = [1.0] * len(rests)
    for _ in range(_FIT_ROUNDS):
        ys, ws, es = (_centered(values, weights) for values in (rests, works, etas))
        errors = [abs(y - change_a * w - change_b * e) for y, w, e in zip(ys, ws, es, strict=True)]
        weights = [1 / max(error, _LEAST_DEVIATION) for error in errors]
        penalty = fmean(weights) * max(fmean(errors) / _EXPONENT_DEVIATION, _LEAST_DEVIATION) ** 2
        weighted_ws, weighted_es = list(map(mul, weights, ws)), list(map(mul, weights, es))
        ww, ee = _dot(weighted_ws, ws) + penalty, _dot(weighted_es, es) + penalty
        we, wy, ey = _dot(weighted_ws, es), _dot(weighted_ws, ys), _dot(weighted_es, ys)
        determinant = ww * ee - we * we
        change_a, change_b = (wy * ee - ey * we) / determinant, (ey * ww - wy * we) / determinant
    return _clamped(a + change_a), _clamped(b + change_b)


def _centered(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    mean = _dot(values, weights) / sum(weights)
    return [value - mean for value in values]


def _dot(first: Sequence[float], second: Sequence[float]) -> float:
    total: float = sum(map(mul, first, second))
    return total


def _clamped(exponent: float) -> float:
    return min(max(exponent, 0.0), _MAX_EXPONENT)
