"""What a client has learned of how long jobs take, and what it expects of the next one."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Iterable

import attrs

from modelslab_async.polling import distribution, schedule
from modelslab_async.polling.distribution import Observation
from modelslab_async.protocol.request import ImageToVideoUltra

REMEMBERED = 256
"""Finished jobs of a shape; older ones tell of another day."""
WARM = 8
"""Finished jobs of a shape from which on it is known by them alone."""
_STRANGERS = 32
_STRANGERS_WEIGHT = 2.0
"""All that is known of other shapes counts like so many jobs at most, until this one is warm."""
_STRANGER_WEIGHT = 0.25
_ETA_KNOWS = 0.7
"""The eta is followed where times vary by less, measured in etas, than this part of what they vary in seconds."""
_ETA_STEP = math.log(1.1)
_MOST_PLANS = 64
_MOST_SHAPES = 256

Shape = tuple[object, ...]
_Known = tuple[Shape, bool, int, int | None]
"""All that an expectation is made of: shape, whether it is warm, edition, and the eta in steps."""
_FOR_SAFETY = 1 / 64
"""What a look is worth where ends are told: the first one comes when nearly all such jobs have ended."""


def shape_of(request: ImageToVideoUltra | None) -> Shape:
    """What decides how long a job takes, as far as it is known."""
    if request is None:
        return ()
    return request.num_frames, request.resolution, request.num_inference_steps, request.model_id


class PollValue:
    """What a look is worth to a client now: `haste` times as much, see `schedule.haste`; or hardly anything, where the
    ends of jobs with a webhook are told.
    """

    def __init__(self, urgency: Callable[[], int] = lambda: 1) -> None:
        self.urgency = urgency
        self.is_reliable = False

    def of(self, *, is_called: bool) -> float:
        """Of a look at a job; `is_called` for one with a webhook."""
        return _FOR_SAFETY if is_called and self.is_reliable else self.urgency()


class DurationEstimator:
    """Learns from each job that ends. Plans are made anew when a fifth more is known, so at most so often."""

    def __init__(self, gaps: schedule.Gaps | None = None) -> None:
        self.gaps = gaps or schedule.Gaps()
        self._kinds = dict[Shape, _Kind]()
        self._all = _Kind(remembered=_STRANGERS)
        self._cells = dict[_Known, distribution.Cells]()
        self._plans = dict[tuple[_Known, float], schedule.PollPlan]()
        """By what is known, and what a look is worth: whoever waits for its place, the same is expected of a job."""

    def learn(self, shape: Shape, seen: Observation) -> None:
        """A job of this shape ended, or was watched for so long."""
        if shape not in self._kinds:
            if len(self._kinds) >= _MOST_SHAPES:
                del self._kinds[next(iter(self._kinds))]
            self._kinds[shape] = _Kind()
        self._kinds[shape].learn(shape, seen)
        self._all.learn(shape, seen)

    def plan(self, shape: Shape, eta: float | None, poll_value: float = 1.0) -> schedule.PollPlan:
        """When to look at a job of this shape for which the service says `eta` seconds, above 0, or None, where a look
        is worth so many times as much. Constant work, but for a plan that has to be made: some milliseconds.
        """
        kind = self._kinds.get(shape, _NOTHING)
        is_warm = kind.is_warm
        if is_warm and not kind.follows_eta:
            eta = None
        step = None if eta is None else round(math.log(eta) / _ETA_STEP)
        wanted = (shape, is_warm, (kind if is_warm else self._all).edition, step), poll_value
        return self._plans.get(wanted) or self._planned(kind, *wanted)

    def _planned(self, kind: _Kind, known: _Known, poll_value: float) -> schedule.PollPlan:
        if len(self._plans) >= _MOST_PLANS:
            self.forget_plans()
        if known not in self._cells:
            shape, _, _, step = known
            self._cells[known] = self._expected(kind, shape, step)
        gaps = self.gaps._replace(poll_cost=self.gaps.poll_cost / poll_value)  # the floor stays
        plan = self._plans[known, poll_value] = schedule.plan(self._cells[known], gaps)
        return plan

    def forget_plans(self) -> None:
        """They are made anew when they are needed."""
        self._cells.clear()
        self._plans.clear()

    def _expected(self, kind: _Kind, shape: Shape, step: int | None) -> distribution.Cells:
        eta = None if step is None else math.exp(step * _ETA_STEP)
        own = [seen for _, seen in kind.jobs]
        if kind.is_warm:
            return kind.corrected() if eta is None else _estimated([_by_eta(seen, eta) for seen in own if seen.eta])
        others = [seen for other, seen in self._all.jobs if other != shape]
        weight = min(_STRANGER_WEIGHT, _STRANGERS_WEIGHT / max(len(others), 1))
        strangers = [_by_eta(seen, eta, weight) for seen in others]
        return distribution.estimate([*own, *strangers], distribution.guess(eta))


class _Kind:
    """The last jobs of a kind, each with its shape."""

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self.jobs: deque[tuple[Shape, Observation]] = deque(maxlen=remembered)
        self.edition = 0
        """How many jobs were seen when there was last a fifth more than before."""
        self._count = 0
        self._follows_eta: bool | None = None
        """None before somebody asks."""
        self._cells: distribution.Cells | None = None

    @property
    def is_warm(self) -> bool:
        return self._count >= WARM

    @property
    def follows_eta(self) -> bool:
        """Whether etas tell apart the long jobs and the short ones."""
        if self._follows_eta is None:
            self._follows_eta = _knows([seen for _, seen in self.jobs])
        return self._follows_eta

    def corrected(self) -> distribution.Cells:
        """What is expected of them, corrected from edition to edition."""
        self._cells = _estimated([seen for _, seen in self.jobs], self._cells)
        return self._cells

    def learn(self, shape: Shape, seen: Observation) -> None:
        self.jobs.append((shape, seen))
        self._count += 1
        if self._count >= self.edition + max(1, self.edition // 5):
            self.edition = self._count
            self._follows_eta = None


_NOTHING = _Kind()


def _estimated(jobs: list[Observation], start: distribution.Cells | None = None) -> distribution.Cells:
    """What these jobs alone tell."""
    return distribution.estimate(jobs, distribution.around(distribution.typical(jobs)), start)


def _by_eta(seen: Observation, eta: float | None, weight: float = 1.0) -> Observation:
    """What a job would have taken with this eta, if its own told how much work it was."""
    factor = eta / seen.eta if eta and seen.eta else 1.0
    return Observation(seen.after * factor, seen.by * factor, weight=weight)


def _knows(jobs: Iterable[Observation]) -> bool:
    told = [seen for seen in jobs if seen.eta and seen.about]
    if len(told) < WARM:
        return False
    plainly = _spread([math.log(seen.about) for seen in told])
    return _spread([math.log(seen.about / (seen.eta or 1.0)) for seen in told]) < _ETA_KNOWS * plainly


def _spread(values: list[float]) -> float:
    middle = sorted(values)[len(values) // 2]
    return sum(abs(value - middle) for value in values) / len(values)


def _believable(eta: float | None) -> float | None:
    """Seconds on the grid, or None for what says nothing."""
    return None if eta is None or not eta > 0 else min(max(eta, distribution.EDGES[0]), distribution.EDGES[-1])


@attrs.define(eq=False, repr=False, weakref_slot=False)
class JobForecast:
    """One job's schedule, always by the newest plan for its kind.

    `eta` is the service's word, or None; `is_called` says whether the service was given a webhook for the job.
    """

    estimator: DurationEstimator
    shape: Shape
    eta: float | None = attrs.field(converter=_believable)
    rng: random.Random
    poll_value: PollValue = attrs.field(factory=PollValue)
    is_called: bool = False

    def gap(self, elapsed: float) -> float:
        """Seconds to the next look."""
        return self._plan.jittered(elapsed, self.rng)

    def left(self, elapsed: float) -> float:
        """Seconds until it ends, as likely less as more."""
        return self._plan.left(elapsed)

    def is_near_end(self, elapsed: float) -> bool:
        """Whether it may well have ended."""
        return self._plan.is_near_end(elapsed)

    def learn(self, after: float, by: float) -> None:
        """It was last seen running after so many seconds, and seen to have ended by then; infinite for never."""
        self.estimator.learn(self.shape, Observation(after, by, self.eta))

    @property
    def _plan(self) -> schedule.PollPlan:
        return self.estimator.plan(self.shape, self.eta, self.poll_value.of(is_called=self.is_called))
