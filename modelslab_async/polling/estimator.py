"""Learn how long jobs take, and forecast each new job from what was learned."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable

import attrs

from modelslab_async.polling import distribution, schedule
from modelslab_async.polling.history import History, Model, Observation
from modelslab_async.polling.workload import Kind, Workload

_MAX_OTHERS = 32
"""The latest jobs of all kinds, from which the first jobs of a new kind are forecast."""
_OVERTIME = 0.25
"""The share of its age that a job which outlives its estimate is expected to take more."""
_MAX_PLANS = 64
_MAX_HISTORIES = 64
_WEBHOOK_POLL_VALUE = 1 / 64
"""The value of a poll if webhooks are reliable, so that the first poll comes when nearly all such jobs have ended."""
_DOUBTFUL_SHARE = 0.3
"""The share that any duration has in a doubtful distribution."""
_CEILING_SHARE = 1.0
"""The greatest gap between two polls, as a share of the expected duration, if that is more than the usual ceiling."""
_MIN_ETA, _MAX_ETA = 1e-3, 1e9
_MIN_FIRST_SCALE, _MAX_FIRST_SCALE = 1.0, 3600.0
"""Seconds. The first eta of a service that is not between them is hardly one in seconds."""

_PlanKey = tuple[Model, int, float, bool]
"""The model, the logarithm of the scale in steps, the value of a poll, and whether the model is doubtful."""


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
    plans: the plans that were made last.
    """

    def __init__(self, gaps: schedule.Gaps | None = None) -> None:
        self.gaps = gaps or schedule.Gaps()
        self.histories = dict[tuple[Kind, bool], History]()
        self.plans = dict[_PlanKey, schedule.PollPlan]()
        self._recent = deque[tuple[Kind, Observation]](maxlen=_MAX_OTHERS)
        """The latest jobs of all kinds."""
        self._remembered = dict[Kind, list[Observation]]()
        """What an earlier process observed. A history takes it when its first job comes."""
        self.on_observed: Callable[[Kind, Observation], object] | None = None
        """Is called with each observation of a forecast; None for no call."""

    def remember(self, kind: Kind, observation: Observation) -> None:
        """Add an observation of an earlier process, the oldest first, before any job of this kind."""
        self._remembered.setdefault(kind, []).append(observation)
        self._recent.append((kind, observation))

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
        log_scale = self._log_scale(history, workload, eta)
        if not history.observations:
            log_scale = min(max(log_scale, math.log(_MIN_FIRST_SCALE)), math.log(_MAX_FIRST_SCALE))
        key = history.model, round(log_scale / history.model.step), poll_value, history.is_doubtful
        return self.plans.get(key) or self._make_plan(history, workload.kind, key)

    def expected_duration(self, workload: Workload, eta: float | None) -> float:
        """Return the seconds that a job with this workload is expected to take, as likely too many as too few.

        eta: the service's estimate, seconds above 0; None if it gave none.
        """
        history = self._history(workload.kind, eta)
        return math.exp(self._log_scale(history, workload, eta) + history.latest_error)

    def _make_plan(self, history: History, kind: Kind, key: _PlanKey) -> schedule.PollPlan:
        model, step, poll_value, is_doubtful = key
        while len(self.plans) >= _MAX_PLANS:
            del self.plans[next(iter(self.plans))]
        scale, ceiling = math.exp(step * model.step), self.gaps.ceiling
        if model.cells is None:
            cells = history.first_cells(scale, self._others(history, kind))
        else:
            cells, ceiling = model.cells, max(ceiling, _CEILING_SHARE * scale)
        if is_doubtful:
            cells = distribution.mixed(cells, distribution.anything(1.0), _DOUBTFUL_SHARE)
        gaps = self.gaps._replace(poll_cost=self.gaps.poll_cost / poll_value, ceiling=ceiling)  # the floor stays
        plan = self.plans[key] = schedule.plan(cells, gaps, scale)
        return plan

    def _log_scale(self, history: History, workload: Workload, eta: float | None) -> float:
        """Return the logarithm of the job's scale. The first job of a kind inherits the factor of other kinds."""
        log_scale = history.log_scale(workload.work, eta)
        if history.observations or not self._recent:
            return log_scale
        return log_scale + history.factor_of(self._others(history, workload.kind))

    def _others(self, history: History, kind: Kind) -> list[Observation]:
        """Return the latest jobs of other kinds, which have an eta if those of the history have one."""
        return [each for other, each in self._recent if other != kind and (each.eta is not None) == history.has_eta]

    def _history(self, kind: Kind, eta: float | None) -> History:
        key = kind, eta is not None
        if key not in self.histories:
            if len(self.histories) >= _MAX_HISTORIES:
                del self.histories[next(iter(self.histories))]
            self.histories[key] = history = History(has_eta=eta is not None)
            history.replay(each for each in self._remembered.get(kind, ()) if (each.eta is not None) == history.has_eta)
        return self.histories[key]


def _usable(eta: float | None) -> float | None:
    """Return the eta within sensible bounds, seconds. Return None if it is None, not above 0, or NaN."""
    return None if eta is None or not eta > 0 else min(max(eta, _MIN_ETA), _MAX_ETA)


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
        seconds since its acceptance. A job whose end was not seen says something only if it outlived its estimate.
        """
        if math.isinf(by) and after < self.estimator.expected_duration(self.workload, self.eta):
            return
        kind, observation = self.workload.kind, Observation(after, by, self.workload.work, self.eta)
        self.estimator.learn(kind, observation)
        if self.estimator.on_observed:
            self.estimator.on_observed(kind, observation)

    @property
    def plan(self) -> schedule.PollPlan:
        """The newest plan for the job's workload and the present value of a poll."""
        return self.estimator.plan(self.workload, self.eta, self.poll_value.of(has_webhook=self.has_webhook))
