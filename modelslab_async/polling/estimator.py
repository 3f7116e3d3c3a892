"""Learn how long jobs take, and forecast each new job from what was learned.

The duration of a job is its scale times a ratio. The scale is what is known before the job ends:

    scale = factor * work^a * eta^b

The ratios of all jobs have one distribution, see `distribution`. So a size that was never seen is forecast from the
others, and an eta in another unit, or off by a factor, serves as well as a right one. The exponents are fitted to the
logarithms, by least absolute deviations, because durations have heavy tails. Before there are observations, a job takes
its eta; without an eta, it takes as long as its work.

A service changes. Two things follow it:

- If durations drift, the factor is an exponential average of the latest jobs, and the ratios are the errors of the
  forecasts that it would have made. So a lag does no harm, because the distribution contains it (Holt, "Forecasting
  seasonals and trends by exponentially weighted moving averages", 1957; Int. J. Forecasting 20, 2004). The average is
  used only while its errors are clearly less than those of a constant factor.
- If the latest ends together were too surprising, the service changed at once: older jobs are forgotten. Each end has a
  normal score, and the sum of the latest k scores is tested for each k (Page, "Continuous inspection schemes",
  Biometrika 41, 1954; Willsky and Jones, "A generalized likelihood ratio approach", IEEE Trans. Automatic Control 21,
  1976). The old distribution of the ratios stays as a prior, because a service that is slower is mostly slower by a
  factor. So a false alarm costs little.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import mul
from statistics import NormalDist, fmean, median
from typing import NamedTuple

import attrs

from modelslab_async.polling import distribution, schedule
from modelslab_async.polling.distribution import Span
from modelslab_async.protocol.request import ImageToVideoUltra

MAX_OBSERVATIONS = 256
"""Observations that are kept for each kind of job."""
WARM = 8
"""Observations from which on a kind is forecast from its own jobs alone."""
_MAX_OTHERS = 32
_MAX_WEIGHT_OF_OTHERS = 2.0
"""Observations that all jobs of other kinds together count as at most, until the kind is warm."""
_MAX_WEIGHT_OF_OTHER = 0.25
_WEIGHT_OF_PAST = 8.0
"""Observations that the distribution from before a change counts as."""
_CHANGED_SHARE = 0.3
"""The share of another distribution after a change."""
_LATEST = 15
"""The latest observations, from which the expected duration is taken."""
_OVERTIME = 0.25
"""The share of its age that a job which outlives its estimate is expected to take more."""
_LATER_END = 1.25
"""A job whose end was not seen is taken to last so many times its age, where one number is needed."""
_MAX_PLANS = 64
_MAX_KINDS = 64
_WEBHOOK_POLL_VALUE = 1 / 64
"""The value of a poll if webhooks are reliable, so that the first poll comes when nearly all such jobs have ended."""

_EXPONENT_DEVIATION = 0.5
"""The standard deviation of an exponent from its prior value."""
_MAX_EXPONENT = 2.0
_FIT_ROUNDS = 4
_LEAST_DEVIATION = 0.02
"""Differences of logarithms below this count alike in a fit."""
_GAIN = 0.2
"""The weight of the latest job in the average of a drifting factor."""
_MAX_ERROR = 3.0
"""Errors above this many mean errors move the average no further."""
_DRIFT_RATIO = 0.85
"""Durations drift if the errors of the average are less than this share of the errors of a constant."""
_ERROR_MEMORY = 32
"""The latest jobs whose errors are compared."""
_CHANGE = 3.6
"""Standard deviations of the sum of scores from which on the service has changed."""
_DOUBT = 0.05
"""The probability of a run of ends before the first poll below which an early poll finds out why."""
_DOUBTFUL_SHARE = 0.3
"""The share that any duration has in a doubtful distribution."""
_MAX_RUN = 16
"""The latest jobs whose scores are tested."""
_PLAN_ERROR = 1 / 4
"""The difference between scales that share a plan, as a share of the median error of a forecast."""
_STEPS = (0.002, 0.1)
"""The least and the greatest such difference."""
_COLD_LOG_SCALES = (0.0, math.log(3600.0))
"""A first eta of less than a second or more than an hour is hardly one in seconds."""
_ETAS = (1e-3, 1e9)
_SAME_CENTER = 0.05
"""A center that moved by less is kept, so that the distribution of the new ratios is like the one before."""
_LEAST_SECONDS = 1e-3
_LEAST_SHARE = 1e-3
_MAX_PARAMETER = 1e6
_CEILING = 0.5
"""The greatest gap between two polls, as a share of the expected duration, if that is more than the usual ceiling."""

Kind = tuple[object, ...]
"""What two jobs must have in common so that one is forecast from the other."""
_NORMAL = NormalDist()


class Workload(NamedTuple):
    """What the duration of a job depends on.

    kind: only jobs of the same kind are compared. work: how much the service has to compute; 1 for a typical request.
    """

    kind: Kind = ()
    work: float = 1.0


def work_of(request: ImageToVideoUltra) -> float:
    """Return how much the service has to compute: the pixels of all frames times the steps; 1 for a typical request."""
    frames, steps = _relative(request.num_frames, 81), _relative(request.num_inference_steps, 20)
    return frames * steps * _relative(request.resolution, 480) ** 2


def _relative(value: object, usual: int) -> float:
    """Return *value* as a multiple of the usual value. Return 1 if it is no positive number of a sensible size."""
    return value / usual if isinstance(value, int | float) and 0 < value < _MAX_PARAMETER else 1.0


def workload_of(request: ImageToVideoUltra | None) -> Workload:
    """Return the workload of *request*. None, for a job whose request is unknown, gives a kind of its own."""
    if request is None:
        return Workload()
    ratio = request.resolution if isinstance(request.resolution, str) else None
    return Workload((request.model_id, ratio), work_of(request))


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


class PollValue:
    """What a poll is worth to a client now, as a multiple of the usual value.

    urgency: returns the value of a poll, see `schedule.urgency`.
    is_reliable: whether webhooks arrive reliably. If so, a poll of a job with a webhook is worth hardly anything.
    """

    def __init__(self, urgency: Callable[[], int] = lambda: 1) -> None:
        self.urgency = urgency
        self.is_reliable = False

    def of(self, *, has_webhook: bool) -> float:
        """Return the value of a poll of a job. `has_webhook` says whether the service reports its end to a webhook."""
        return _WEBHOOK_POLL_VALUE if has_webhook and self.is_reliable else self.urgency()


class DurationEstimator:
    """Learn from each job that ends, and plan the polls of new jobs.

    gaps: the bounds of the gaps between polls.
    histories: the observed jobs of each kind, those with an eta and those without apart.
    plans: the plans that were made, by the model of the history, the scale in steps and the value of a poll.
    """

    def __init__(self, gaps: schedule.Gaps | None = None) -> None:
        self.gaps = gaps or schedule.Gaps()
        self.histories = dict[tuple[Kind, bool], _History]()
        self._recent = deque[tuple[Kind, Observation]](maxlen=_MAX_OTHERS)
        """The latest jobs of all kinds."""
        self.plans = dict[_PlanKey, schedule.PollPlan]()

    def learn(self, kind: Kind, observation: Observation) -> None:
        """Add the observation of a job of this kind."""
        self._history(kind, observation.eta).learn(observation)
        self._recent.append((kind, observation))

    def plan(self, workload: Workload, eta: float | None, poll_value: float = 1.0) -> schedule.PollPlan:
        """Return the polls of a job with this workload.

        eta: the service's estimate, seconds above 0; None if it gave none.
        poll_value: what a poll is worth, as a multiple of the usual value.

        The call takes constant time, except if the plan has to be made, which takes some milliseconds.
        """
        history = self._history(workload.kind, eta)
        model, log_scale = history.model, self._log_scale(history, workload, eta)
        if not history.observations:
            log_scale = min(max(log_scale, _COLD_LOG_SCALES[0]), _COLD_LOG_SCALES[1])
        key = model, round(log_scale / model.step), poll_value, history.is_doubtful
        return self.plans.get(key) or self._make_plan(history, workload.kind, key)

    def _make_plan(self, history: _History, kind: Kind, key: _PlanKey) -> schedule.PollPlan:
        model, step, poll_value, is_doubtful = key
        while len(self.plans) >= _MAX_PLANS:
            del self.plans[next(iter(self.plans))]
        scale, ceiling, cells = math.exp(step * model.step), self.gaps.ceiling, model.cells
        if cells is None:
            others = [each for other, each in self._recent if other != kind]
            cells = history.first_cells(scale, others)
        else:
            ceiling = max(ceiling, _CEILING * scale)
        if is_doubtful:
            cells = distribution.mixed(cells, distribution.anything(1.0), _DOUBTFUL_SHARE)
        gaps = self.gaps._replace(poll_cost=self.gaps.poll_cost / poll_value, ceiling=ceiling)  # the floor stays
        plan = self.plans[key] = schedule.plan(cells, gaps, scale)
        return plan

    def expected_duration(self, workload: Workload, eta: float | None) -> float:
        """Return the seconds that a job with this workload is expected to take, as likely too many as too few.

        eta: the service's estimate, seconds above 0; None if it gave none.
        """
        history = self._history(workload.kind, eta)
        return math.exp(self._log_scale(history, workload, eta) + history.latest_error)

    def _log_scale(self, history: _History, workload: Workload, eta: float | None) -> float:
        """Return the logarithm of the job's scale. The first job of a kind inherits the factor of the other kinds."""
        log_scale = history.model.log_scale(workload.work, eta) + history.level
        if history.observations or not self._recent:
            return log_scale
        return log_scale + history.factor_of([each for _, each in self._recent])

    def _history(self, kind: Kind, eta: float | None) -> _History:
        key = kind, eta is not None
        if key not in self.histories:
            while len(self.histories) >= _MAX_KINDS:
                del self.histories[next(iter(self.histories))]
            self.histories[key] = _History(has_eta=eta is not None)
        return self.histories[key]


@attrs.frozen(eq=False)
class _Model:
    """What was learned of the jobs of one kind.

    work_exponent, eta_exponent: of the scale.
    center: the logarithm of the factor of the scale.
    is_drifting: whether the factor also follows the latest jobs.
    step: the difference of the logarithms of two scales that do not share a plan.
    cells: the distribution of the ratios. None until there are enough observations; then it depends on the scale.
    """

    work_exponent: float
    eta_exponent: float
    center: float
    is_drifting: bool = False
    step: float = _STEPS[1]
    cells: distribution.Cells | None = None
    ended: Sequence[float] = ()

    def log_scale(self, work: float, eta: float | None) -> float:
        """Return the logarithm of the scale of a job. An eta without which the model was made does not count."""
        log_eta = math.log(eta) if eta is not None and self.eta_exponent else 0.0
        return self.center + self.work_exponent * math.log(work) + self.eta_exponent * log_eta

    def share(self, observation: Observation, scale: float) -> float:
        """Return the share of jobs of this scale that end before the middle of the observed interval."""
        after = self.ended[int(distribution.position(observation.after / scale))]
        by = 1.0 if math.isinf(observation.by) else self.ended[int(distribution.position(observation.by / scale))]
        return min(max((after + by) / 2, _LEAST_SHARE), 1 - _LEAST_SHARE)

    def ratio(self, share: float) -> float:
        """Return the ratio that this share of jobs does not exceed."""
        return distribution.RATIOS[min(bisect_left(self.ended, share), len(self.ended) - 1)]

    def log_duration(self, observation: Observation, level: float = 0.0) -> float:
        """Return the logarithm of the likely duration of an observed job."""
        if not self.ended:
            return observation.log_middle
        log_scale = self.log_scale(observation.work, observation.eta) + level
        return log_scale + math.log(self.ratio(self.share(observation, math.exp(log_scale))))


_PlanKey = tuple[_Model, int, float, bool]
"""The model, the logarithm of the scale in steps, the value of a poll, and whether the model is doubtful."""


class _History:
    """The latest jobs of one kind, all with an eta or all without."""

    def __init__(self, *, has_eta: bool) -> None:
        self.has_eta = has_eta
        self.observations = deque[Observation](maxlen=MAX_OBSERVATIONS)
        self._errors = deque[float](maxlen=MAX_OBSERVATIONS)
        """The error of each forecast, as a difference of logarithms, in the order of the observations."""
        self._scores = deque[float](maxlen=_MAX_RUN)
        self._average = _Average()
        self._doubt = 1.0
        """The probability that so many of the latest jobs ended before their first poll."""
        self._count = self._edition = 0
        """The number of jobs since the last change, and what it was when the model was made."""
        self._previous: _Model | None = None
        """The model before the present one; None if there was none since the last change."""
        self._past: distribution.Cells | None = None
        """The distribution before the last change; None if there was none."""
        self._model: _Model | None = self._first_model()
        """None if it has to be made anew."""

    @property
    def model(self) -> _Model:
        """The newest model. It is made again when the number of jobs has grown by a fifth, and after a change."""
        if self._model is None:
            self._model = self._fit()
        return self._model

    @property
    def level(self) -> float:
        """The logarithm of the factor by which jobs take longer now than at the model's center."""
        return self._average.value if self.model.is_drifting else 0.0

    @property
    def latest_error(self) -> float:
        """The median of the latest errors of the forecasts; 0 if there are none."""
        latest = list(self._errors)[-_LATEST:]
        return median(latest) if self.model and latest else 0.0

    @property
    def is_doubtful(self) -> bool:
        """Whether the latest jobs may have ended long before they were polled."""
        return self._doubt < _DOUBT

    def learn(self, observation: Observation) -> None:
        """Add the observation of a job that ended."""
        model, level = self._model, self.level if self._model else 0.0
        self.observations.append(observation)
        self._count += 1
        if model is not None and self._edition:
            log_scale = model.log_scale(observation.work, observation.eta)
            error = model.log_duration(observation, level) - log_scale
            self._errors.append(error - level)
            self._average.follow(error)
            if model.ended:
                share = model.share(observation, math.exp(log_scale + level))
                self._scores.append(_NORMAL.inv_cdf(share))
                self._doubt = self._doubt * 2 * share if observation.after == 0 else 1.0
                if run := _surprising(self._scores):
                    self._forget(run)
                    return
        if self._count >= self._edition + max(1, self._edition // 5) or (
            model and model.is_drifting != self._average.is_better
        ):
            self._previous, self._model = model or self._previous, None

    def _forget(self, run: int) -> None:
        """Keep only the latest *run* jobs: the service changed before them."""
        self._past, self._previous = self.model.cells, None
        for _ in range(len(self.observations) - run):
            self.observations.popleft()
        self._scores.clear()
        self._doubt = 1.0
        self._count, self._edition, self._model = run, 0, None

    def factor_of(self, observations: Sequence[Observation]) -> float:
        """Return the logarithm of the factor by which these jobs, of other kinds, took longer than forecast here."""
        alike = [each for each in observations if (each.eta is not None) == self.has_eta]
        errors = [each.log_middle - self.model.log_scale(each.work, each.eta) for each in alike[-_LATEST:]]
        return median(errors) if errors else 0.0

    def first_cells(self, scale: float, others: Sequence[Observation]) -> distribution.Cells:
        """Return the distribution of the ratios while there are few observations, for jobs of this scale."""
        count, model = len(self.observations), self.model
        expected = scale / math.exp(model.center)
        if not self.has_eta:
            prior = distribution.prior(None, scale, expected * distribution.TYPICAL_SECONDS)
        else:
            prior = distribution.prior(expected, scale)
        if count:
            prior = distribution.mixed(prior, distribution.around(1.0), count / (1 + count))
        weight = min(_MAX_WEIGHT_OF_OTHER, _MAX_WEIGHT_OF_OTHERS / max(len(others), 1))
        foreign = [each for each in others if (each.eta is not None) == self.has_eta]
        offset = 0.0 if count else self.factor_of(others)
        spans = [self._span(each, offset, weight) for each in foreign]
        return distribution.estimate([*self._spans(), *spans], prior)

    def _fit(self) -> _Model:
        """Return the model that the observations show."""
        self._edition = self._count
        first = self._first_model()
        previous = self._previous or first
        points = [(previous.log_duration(each), math.log(each.work), math.log(each.eta or 1.0)) for each in self.observations]
        exponents = _exponents(points, (first.work_exponent, first.eta_exponent))
        rests = [y - exponents[0] * work - exponents[1] * eta for y, work, eta in points]
        center = median(rests)
        start = None
        if previous.cells and abs(center - previous.center) < _SAME_CENTER:
            center, start = previous.center, previous.cells
        average = self._average = _Average()
        errors = list[float]()
        levels = list[float]()
        for rest in rests:
            levels.append(average.value)
            average.follow(rest - center)
        is_drifting = average.is_better
        errors = [rest - center - (level if is_drifting else 0.0) for rest, level in zip(rests, levels, strict=True)]
        self._errors = deque(errors, maxlen=MAX_OBSERVATIONS)
        step = min(max(_PLAN_ERROR * median(map(abs, errors)), _STEPS[0]), _STEPS[1])
        model = _Model(*exponents, center, is_drifting)
        self._model = model
        if self._count < WARM and self._past is None:
            return model
        prior, weight = distribution.around(1.0), distribution.PRIOR_WEIGHT
        if self._past:
            prior, weight = distribution.mixed(self._past, prior, _CHANGED_SHARE), _WEIGHT_OF_PAST
        spans = [
            self._span(each, level if is_drifting else 0.0)
            for each, level in zip(self.observations, levels, strict=True)
        ]
        cells = distribution.estimate(spans, prior, weight, start)
        return attrs.evolve(model, step=step, cells=cells, ended=(0.0, *accumulate(cells)))

    def _spans(self) -> list[Span]:
        return [self._span(each) for each in self.observations]

    def _span(self, observation: Observation, offset: float = 0.0, weight: float = 1.0) -> Span:
        scale = math.exp(self.model.log_scale(observation.work, observation.eta) + offset)
        return Span(observation.after / scale, observation.by / scale, weight)

    def _first_model(self) -> _Model:
        """Return the model without observations: a job takes its eta; without an eta, it takes as long as its work."""
        if self.has_eta:
            return _Model(0.0, 1.0, 0.0)
        return _Model(1.0, 0.0, math.log(distribution.TYPICAL_SECONDS))


class _Average:
    """An exponential average of the logarithms of durations, compared with a constant 0."""

    def __init__(self) -> None:
        self.value = 0.0
        self._count = 0
        self._error = self._error_of_constant = 0.0

    def follow(self, value: float) -> None:
        """Add the value of the next job."""
        error = value - self.value
        self._count += 1
        share = 1 / min(self._count, _ERROR_MEMORY)
        limit = _MAX_ERROR * max(self._error, _LEAST_DEVIATION) if self._count > _LATEST else math.inf
        self.value += _GAIN * min(max(error, -limit), limit)
        self._error += share * (abs(error) - self._error)
        self._error_of_constant += share * (abs(value) - self._error_of_constant)

    @property
    def is_better(self) -> bool:
        """Whether the average forecasts the next job clearly better than the constant."""
        return self._count > _LATEST and self._error < _DRIFT_RATIO * self._error_of_constant


def _surprising(scores: Sequence[float]) -> int:
    """Return the least number of the latest scores, two or more, that are too surprising together; 0 if none are.

    A sum of k scores has a standard deviation of the root of k.
    """
    sums = enumerate(accumulate(reversed(scores)), 1)
    return next((run for run, total in sums if run > 1 and abs(total) > _CHANGE * math.sqrt(run)), 0)


def _exponents(points: Sequence[tuple[float, float, float]], prior: tuple[float, float]) -> tuple[float, float]:
    """Return the exponents of work and eta that fit best.

    points: the logarithms of duration, work and eta of each job. prior: the exponents that are likely beforehand.

    The sum of the absolute errors is made least by weighted least squares, with weights from the errors of the round
    before. A penalty keeps an exponent near its prior as long as the data say little.
    """
    if all(point[1:] == points[0][1:] for point in points):
        return prior
    works, etas = [work for _, work, _ in points], [eta for _, _, eta in points]
    ys = [y - prior[0] * work - prior[1] * eta for y, work, eta in points]
    weights = [1.0] * len(points)
    a = b = 0.0
    for _ in range(_FIT_ROUNDS):
        total = sum(weights)
        y0, w0, e0 = (sum(map(mul, weights, values)) / total for values in (ys, works, etas))
        rests = [y - y0 - a * (w - w0) - b * (e - e0) for y, w, e in zip(ys, works, etas, strict=True)]
        deviation = max(fmean(map(abs, rests)), _LEAST_DEVIATION)
        penalty = (deviation / _EXPONENT_DEVIATION) ** 2
        ww = we = ee = wy = ey = 0.0
        for weight, y, w, e in zip(weights, ys, works, etas, strict=True):
            dy, dw, de = y - y0, w - w0, e - e0
            ww += weight * dw * dw
            we += weight * dw * de
            ee += weight * de * de
            wy += weight * dw * dy
            ey += weight * de * dy
        scaled = penalty * total / len(points)
        ww, ee = ww + scaled, ee + scaled
        determinant = ww * ee - we * we
        a, b = (wy * ee - ey * we) / determinant, (ey * ww - wy * we) / determinant
        weights = [
            deviation / max(abs(y - y0 - a * (w - w0) - b * (e - e0)), _LEAST_DEVIATION)
            for y, w, e in zip(ys, works, etas, strict=True)
        ]
    return tuple(min(max(each, 0.0), _MAX_EXPONENT) for each in (prior[0] + a, prior[1] + b))  # type: ignore[return-value]


def _usable(eta: float | None) -> float | None:
    """Return the eta within sensible bounds, seconds. Return None if it is None, not above 0, or NaN."""
    return None if eta is None or not eta > 0 else min(max(eta, _ETAS[0]), _ETAS[1])


@attrs.define(eq=False, repr=False, weakref_slot=False)
class JobForecast:
    """Forecast of one job, which always uses the newest plan for its workload.

    estimator: what the forecast is made from.
    workload: of the job's request.
    eta: the service's estimate, seconds; None if it gave none or an unusable one.
    rng: the source of the jitter.
    poll_value: what a poll is worth now.
    has_webhook: whether the service reports the job's end to a webhook.
    """

    estimator: DurationEstimator
    workload: Workload
    eta: float | None = attrs.field(converter=_usable)
    rng: random.Random
    poll_value: PollValue = attrs.field(factory=PollValue)
    has_webhook: bool = False

    def gap(self, elapsed: float) -> float:
        """Return the seconds to the next poll of the job, which was accepted *elapsed* seconds ago."""
        return self.plan.jittered(elapsed, self.rng)

    def left(self, elapsed: float) -> float:
        """Return the expected seconds until the job ends.

        A job that takes longer than expected is expected to take a quarter of its present age more: the remaining time
        of jobs with a heavy tail grows in proportion to their age.
        """
        return max(self.estimator.expected_duration(self.workload, self.eta) - elapsed, elapsed * _OVERTIME)

    def is_near_end(self, elapsed: float) -> bool:
        """Return whether the job has a fair chance of having ended."""
        return self.plan.is_near_end(elapsed)

    def learn(self, after: float, by: float) -> None:
        """Add the observed end of the job to the estimator.

        after: when the job was last seen running. by: when it was seen to have ended, infinite if never. Both are
        seconds since its acceptance.
        """
        self.estimator.learn(self.workload.kind, Observation(after, by, self.workload.work, self.eta))

    @property
    def plan(self) -> schedule.PollPlan:
        """The newest plan for the job's workload and the present value of a poll."""
        return self.estimator.plan(self.workload, self.eta, self.poll_value.of(has_webhook=self.has_webhook))
