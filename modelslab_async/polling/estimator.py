"""Learn how long jobs take, and forecast each new job from what was learned."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from statistics import median

import attrs

from modelslab_async.polling import distribution, schedule
from modelslab_async.polling.distribution import Observation
from modelslab_async.protocol.request import ImageToVideoUltra

MAX_OBSERVATIONS = 256
"""Observations that are kept for each shape. Older observations may no longer hold."""
WARM = 8
"""Observations from which on a shape is forecast from its own jobs alone."""
_MAX_OTHERS = 32
_MAX_WEIGHT_OF_OTHERS = 2.0
"""Observations that all jobs of other shapes together count as at most, until the shape is warm."""
_MAX_WEIGHT_OF_OTHER = 0.25
_ETA_SPREAD_RATIO = 0.7
"""The eta is followed if the ratios of duration to eta vary by less than this share of what the durations vary."""
_LATEST = 15
"""The latest observations, from which the expected duration is taken."""
_OVERTIME = 0.25
"""The share of its age that a job which outlives its estimate is expected to take more."""
_ETA_STEP = math.log(1.1)
_MAX_PLANS = 64
_MAX_SHAPES = 256
_WEBHOOK_POLL_VALUE = 1 / 64
"""The value of a poll if webhooks are reliable, so that the first poll comes when nearly all such jobs have ended."""

Shape = tuple[object, ...]
"""The parameters of a request on which the duration of its job depends."""
_Basis = tuple[Shape, bool, int, int | None]
"""All that a forecast depends on: the shape, whether it is warm, the edition of its history, and the eta in steps."""


def shape_of(request: ImageToVideoUltra | None) -> Shape:
    """Return the shape of *request*. None, for a job whose request is unknown, gives an empty shape."""
    if request is None:
        return ()
    return request.num_frames, request.resolution, request.num_inference_steps, request.model_id


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

    A plan is made again each time the number of observed jobs has grown by a fifth.

    gaps: the bounds of the gaps between polls.
    histories: the observed jobs of each shape.
    plans: the plans that were made, by the basis of the forecast and the value of a poll.
    """

    def __init__(self, gaps: schedule.Gaps | None = None) -> None:
        self.gaps = gaps or schedule.Gaps()
        self.histories = dict[Shape, _History]()
        self._recent = _History(max_observations=_MAX_OTHERS)
        """The latest jobs of all shapes."""
        self._cells = dict[_Basis, distribution.Cells]()
        self.plans = dict[tuple[_Basis, float], schedule.PollPlan]()

    def learn(self, shape: Shape, observation: Observation) -> None:
        """Add the observation of a job of this shape."""
        if shape not in self.histories:
            if len(self.histories) >= _MAX_SHAPES:
                del self.histories[next(iter(self.histories))]
            self.histories[shape] = _History()
        self.histories[shape].learn(shape, observation)
        self._recent.learn(shape, observation)

    def plan(self, shape: Shape, eta: float | None, poll_value: float = 1.0) -> schedule.PollPlan:
        """Return the polls of a job of this shape.

        eta: the service's estimate, seconds above 0; None if it gave none.
        poll_value: what a poll is worth, as a multiple of the usual value.

        The call takes constant time, except if the plan has to be made, which takes some milliseconds.
        """
        history = self.histories.get(shape, _NO_HISTORY)
        is_warm = history.is_warm
        if is_warm and not history.follows_eta:
            eta = None
        step = None if eta is None else round(math.log(eta) / _ETA_STEP)
        key = (shape, is_warm, (history if is_warm else self._recent).edition, step), poll_value
        return self.plans.get(key) or self._make_plan(history, *key)

    def _make_plan(self, history: _History, basis: _Basis, poll_value: float) -> schedule.PollPlan:
        if len(self.plans) >= _MAX_PLANS:
            self.forget_plans()
        if basis not in self._cells:
            shape, _, _, step = basis
            self._cells[basis] = self._forecast(history, shape, step)
        gaps = self.gaps._replace(poll_cost=self.gaps.poll_cost / poll_value)  # the floor stays as it is
        plan = self.plans[basis, poll_value] = schedule.plan(self._cells[basis], gaps)
        return plan

    def expected_duration(self, shape: Shape, eta: float | None) -> float:
        """Return the seconds that a job of this shape is expected to take, as likely too many as too few.

        eta: the service's estimate, seconds above 0; None if it gave none. It is believed, corrected by how far the
        latest etas were off. If etas do not help, or there is none, the latest durations of this shape count.
        """
        history = self.histories.get(shape, _NO_HISTORY)
        own, recent = history.latest(), self._recent.latest()
        ratios = [each.midpoint / each.eta for each in own or recent if each.eta]
        if eta is not None and ratios and (history.follows_eta or not history.is_warm):
            return eta * median(ratios)
        if own or eta is None:
            return median([each.midpoint for each in own or recent] or [distribution.TYPICAL_SECONDS])
        return eta

    def forget_plans(self) -> None:
        """Drop all plans. They are made again when they are needed."""
        self._cells.clear()
        self.plans.clear()

    def _forecast(self, history: _History, shape: Shape, step: int | None) -> distribution.Cells:
        """Return the distribution of the durations of jobs of this shape and this eta."""
        eta = None if step is None else math.exp(step * _ETA_STEP)
        own = [observation for _, observation in history.jobs]
        if history.is_warm:
            return history.estimate() if eta is None else _estimate([_scaled(each, eta) for each in own if each.eta])
        others = [observation for other, observation in self._recent.jobs if other != shape]
        weight = min(_MAX_WEIGHT_OF_OTHER, _MAX_WEIGHT_OF_OTHERS / max(len(others), 1))
        scaled = [_scaled(observation, eta, weight) for observation in others]
        return distribution.estimate([*own, *scaled], distribution.prior(eta))


class _History:
    """The latest observed jobs, each with its shape."""

    def __init__(self, max_observations: int = MAX_OBSERVATIONS) -> None:
        self.jobs: deque[tuple[Shape, Observation]] = deque(maxlen=max_observations)
        self.edition = 0
        """The number of jobs that were observed when it had last grown by a fifth."""
        self._count = 0
        self._follows_eta: bool | None = None
        """None if it has to be computed."""
        self._cells: distribution.Cells | None = None
        """The latest estimate; None before the first."""

    def latest(self) -> list[Observation]:
        """Return the latest observations, which show best how long jobs take now."""
        return [observation for _, observation in self.jobs][-_LATEST:]

    @property
    def is_warm(self) -> bool:
        """Whether there are enough observations to ignore jobs of other shapes."""
        return self._count >= WARM

    @property
    def follows_eta(self) -> bool:
        """Whether the etas distinguish long jobs from short ones."""
        if self._follows_eta is None:
            self._follows_eta = _is_eta_useful([observation for _, observation in self.jobs])
        return self._follows_eta

    def estimate(self) -> distribution.Cells:
        """Return the distribution of the durations of these jobs, starting from the latest estimate."""
        self._cells = _estimate([observation for _, observation in self.jobs], self._cells)
        return self._cells

    def learn(self, shape: Shape, observation: Observation) -> None:
        self.jobs.append((shape, observation))
        self._count += 1
        if self._count >= self.edition + max(1, self.edition // 5):
            self.edition = self._count
            self._follows_eta = None


_NO_HISTORY = _History()


def _estimate(observations: list[Observation], start: distribution.Cells | None = None) -> distribution.Cells:
    """Return the distribution that these observations alone show."""
    return distribution.estimate(observations, distribution.around(distribution.typical(observations)), start)


def _scaled(observation: Observation, eta: float | None, weight: float = 1.0) -> Observation:
    """Return the observation as if the job had had this eta, assuming that its duration is proportional to its eta."""
    factor = eta / observation.eta if eta and observation.eta else 1.0
    return Observation(observation.after * factor, observation.by * factor, weight=weight)


def _is_eta_useful(observations: Iterable[Observation]) -> bool:
    """Return whether the durations vary clearly less in relation to their etas than in seconds."""
    with_eta = [observation for observation in observations if observation.eta and observation.midpoint]
    if len(with_eta) < WARM:
        return False
    in_seconds = _spread([math.log(each.midpoint) for each in with_eta])
    return _spread([math.log(each.midpoint / (each.eta or 1.0)) for each in with_eta]) < _ETA_SPREAD_RATIO * in_seconds


def _spread(values: list[float]) -> float:
    """Return the mean distance of *values* from their median."""
    median = sorted(values)[len(values) // 2]
    return sum(abs(value - median) for value in values) / len(values)


def _on_grid(eta: float | None) -> float | None:
    """Return the eta within the bounds of the grid, seconds. Return None if it is None, not above 0, or NaN."""
    return None if eta is None or not eta > 0 else min(max(eta, distribution.EDGES[0]), distribution.EDGES[-1])


@attrs.define(eq=False, repr=False, weakref_slot=False)
class JobForecast:
    """Forecast of one job, which always uses the newest plan for its shape.

    estimator: what the forecast is made from.
    shape: the shape of the job's request.
    eta: the service's estimate, seconds; None if it gave none or an unusable one.
    rng: the source of the jitter.
    poll_value: what a poll is worth now.
    has_webhook: whether the service reports the job's end to a webhook.
    """

    estimator: DurationEstimator
    shape: Shape
    eta: float | None = attrs.field(converter=_on_grid)
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
        return max(self.estimator.expected_duration(self.shape, self.eta) - elapsed, elapsed * _OVERTIME)

    def is_near_end(self, elapsed: float) -> bool:
        """Return whether the job has a fair chance of having ended."""
        return self.plan.is_near_end(elapsed)

    def learn(self, after: float, by: float) -> None:
        """Add the observed end of the job to the estimator.

        after: when the job was last seen running. by: when it was seen to have ended, infinite if never. Both are
        seconds since its acceptance.
        """
        self.estimator.learn(self.shape, Observation(after, by, self.eta))

    @property
    def plan(self) -> schedule.PollPlan:
        """The newest plan for the job's shape and the present value of a poll."""
        return self.estimator.plan(self.shape, self.eta, self.poll_value.of(has_webhook=self.has_webhook))
