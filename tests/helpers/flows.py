"""Drive the flows of polling/ without an event loop and without a clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import attrs
from hypothesis import strategies as st

from modelslab_async.polling import flow
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.flow import ActionResult, PollPolicy, Wait
from modelslab_async.polling.schedule import Gaps, RateLimiter
from modelslab_async.polling.workload import Workload
from modelslab_async.protocol import retry, wire

READY = wire.Ready(id="1", links=("https://files.invalid/a.mp4",))
LINKS = ("https://files.invalid/a.mp4", "https://files.invalid/b.mp4")
DELAYS = partial(retry.delays, random.Random(1))


def _ascending(times: list[float]) -> list[float]:
    return sorted(times)


@attrs.define
class Driver:
    """Drives a flow on a clock of its own.

    poll: returns the result of an action at a time. wakes: when a webhook wakes the flow. actions: the actions so far,
    each with its time.
    """

    poll: Callable[[Any, float], Any]
    now: float = 1000.0
    wakes: list[float] = attrs.field(factory=list[float], converter=_ascending)
    actions: list[tuple[float, Any]] = attrs.field(factory=list[tuple[float, Any]])

    def run(self, steps: Generator[flow.Action, ActionResult, Any]) -> Any:
        try:
            action = next(steps)
            while True:
                self.actions.append((self.now, action))
                if isinstance(action, Wait):
                    action = steps.send(self._wait(action))
                else:
                    value = self.poll(action, self.now)
                    action = steps.send(ActionResult(self.now, value))
        except StopIteration as end:
            return end.value

    def _wait(self, wait: Wait) -> ActionResult:
        assert wait.seconds >= 0
        due = self.now + wait.seconds
        woken = wait.wakeable and bool(self.wakes) and self.wakes[0] < due
        self.now = max(self.now, self.wakes[0]) if woken else due
        while self.wakes and self.wakes[0] <= self.now:  # all wake-ups until now count as one
            self.wakes.pop(0)
        return ActionResult(self.now, woken=woken)

    def times(self, kind: type) -> list[float]:
        return [at for at, action in self.actions if isinstance(action, kind)]


@attrs.frozen
class Every:
    """A schedule in which all gaps are equal."""

    seconds: float

    def gap(self, elapsed: float) -> float:
        return self.seconds

    def is_near_end(self, elapsed: float) -> bool:
        return False


FLOOR, CEILING = Gaps().floor, Gaps().ceiling
ETAS = st.none() | st.floats(0, 1e4)
TIMES = st.lists(st.floats(1000, 1500), max_size=8)


def polling(
    eta: float | None = 40.0,
    links: tuple[str, ...] = (),
    *,
    per_second: float | None = None,
    seed: int = 1,
    **policy: Any,
) -> Generator[flow.Action, ActionResult, Any]:
    """Return the flow of a job that was accepted at 1000 s."""
    schedule = JobForecast(DurationEstimator(), Workload(), eta, random.Random(seed))
    return flow.poll_until_done(
        PollPolicy(**policy), schedule, RateLimiter(per_second), DELAYS, now=1000.0, links=links
    )


def ends_after(seconds: float) -> Callable[[Any, float], Any]:
    """Return a service whose job ends after *seconds*."""
    return lambda _, now: READY if now >= 1000 + seconds else wire.NotReady()
