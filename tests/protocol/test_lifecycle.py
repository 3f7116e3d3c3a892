"""Tests of the table of transitions, and of a job that goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import Job, JobError, JobState, SavedVideo, Video
from modelslab_async.media.saved import Progress
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.lifecycle import Event, ImpossibleMoveError, transition
from modelslab_async.protocol.secret import ApiKey

S = JobState
ERROR = JobError("why")
EVENTS: list[Event] = [
    lifecycle.Started(),
    lifecycle.PutBack(),
    lifecycle.Cancelled(),
    wire.Accepted(id="1"),
    wire.Ready(id="1"),
    lifecycle.Verified(Video(id="1", ref="r", url="u", links=("u",))),
    lifecycle.Unreadable(ERROR),
    lifecycle.Rejected(ERROR),
    lifecycle.Failed(ERROR),
    lifecycle.ReplyLost(ERROR),
    lifecycle.Abandoned(ERROR),
]
NEXT_STATES = {
    S.WAITING: {"Started": S.SUBMITTING, "Cancelled": S.CANCELLED, "Rejected": S.REFUSED},
    S.SUBMITTING: {
        "PutBack": S.WAITING,
        "Accepted": S.PROCESSING,
        "Ready": S.READY,
        "Rejected": S.REFUSED,
        "Failed": S.FAILED,
        "ReplyLost": S.UNCERTAIN,
    },
    S.UNCERTAIN: {"ReplyLost": S.UNCERTAIN, "Accepted": S.PROCESSING},
    S.PROCESSING: {"Ready": S.READY, "Failed": S.FAILED, "Abandoned": S.TIMED_OUT},
    S.READY: {"Verified": S.READY, "Unreadable": S.READY},
}


@pytest.mark.parametrize(
    ("state", "event"),
    list(itertools.product(S, EVENTS)),
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_every_pair_of_state_and_event(state: JobState, event: Event) -> None:
    """Each pair leads to the state of the table above, or is impossible and raises."""
    expected = NEXT_STATES.get(state, {}).get(type(event).__name__)
    if expected is None:
        with pytest.raises(ImpossibleMoveError, match=state.value):
            transition(state, event)
    else:
        assert transition(state, event) is expected


def test_every_event_is_tested() -> None:
    """The test above covers every class of event."""
    assert {type(event) for event in EVENTS} == set(Event.__args__)


class FakeRuntime:
    """A job's runtime that counts the ends."""

    price = Decimal("0.2")
    api_key = ApiKey("any")

    def __init__(self) -> None:
        self.ends = 0

    def forecast(self, job: Job, eta: float | None) -> JobForecast:
        return JobForecast(DurationEstimator(), (), eta, random.Random(1))

    def moved(self, job: Job, event: Event) -> None:
        """Do nothing."""

    def ended(self, job: Job) -> None:
        self.ends += 1

    async def save(
        self, job: Job, /, path: str | os.PathLike[str], progress: Progress | None, *, overwrite: bool, max_bytes: int
    ) -> SavedVideo:
        raise NotImplementedError


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_no_order_of_events_resolves_a_job_twice(events: list[Event]) -> None:
    """Any events, in any order and any number, give a job at most one result, which stays."""

    async def live() -> None:
        runtime = FakeRuntime()
        job, result = Job(runtime, None, "ref"), None
        for event in events:
            with contextlib.suppress(ImpossibleMoveError):
                job._advance(event)
            if job.done():
                result = result or (job.state, job._future)
                assert (job.state, job._future) == result
        assert runtime.ends == int(job.done())

    asyncio.run(live())
