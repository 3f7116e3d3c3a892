"""The effects of events on money: error, journal row and budget agree after every possible move of a job."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from helpers.job_runtime import FakeRuntime
from helpers.world import a_request

from modelslab_async import Budget, JobError, JobRecord, JobState, ModelsLabError, NotFoundError, PriceList, Video
from modelslab_async.engine.recorder import Recorder
from modelslab_async.job.run import JobRun
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import effects_of
from modelslab_async.protocol.lifecycle import TRANSITIONS, Event
from modelslab_async.protocol.record import after
from modelslab_async.protocol.secret import ApiKey

S = JobState
ACCEPTED, READY = wire.Accepted(id="7"), wire.Ready(id="7", links=("https://a.invalid/v.mp4",))
AWAITS_DELIVERY = lifecycle.ReplyLost(JobError("lost"), awaits_webhook=True)
WAYS: dict[JobState, Sequence[Event]] = {
    S.WAITING: (),
    S.SUBMITTING: (lifecycle.Started(),),
    S.PROCESSING: (lifecycle.Started(), ACCEPTED),
    S.READY: (lifecycle.Started(), ACCEPTED, READY),
    S.UNCERTAIN: (lifecycle.Started(), AWAITS_DELIVERY),
}
"""The events that bring a job to each state that it can leave."""
EVENTS: dict[type[Event], Sequence[Event]] = {
    lifecycle.Started: (lifecycle.Started(),),
    lifecycle.PutBack: (lifecycle.PutBack(),),
    lifecycle.Deferred: (lifecycle.Deferred(),),
    lifecycle.Postponed: (lifecycle.Postponed(),),
    lifecycle.Cancelled: (lifecycle.Cancelled(),),
    lifecycle.Verified: (lifecycle.Verified(Video(id="7", ref="ref", url="https://a.invalid/v.mp4", links=())),),
    lifecycle.Unreadable: (lifecycle.Unreadable(JobError("no file")),),
    lifecycle.Rejected: (lifecycle.Rejected(JobError("no")),),
    lifecycle.Failed: (lifecycle.Failed(JobError("failed")),),
    lifecycle.ReplyLost: (lifecycle.ReplyLost(JobError("lost")), AWAITS_DELIVERY),
    lifecycle.Abandoned: (lifecycle.Abandoned(JobError("late")), lifecycle.Abandoned(NotFoundError("unknown"))),
    lifecycle.NotFound: (lifecycle.NotFound(NotFoundError("unknown")),),
    wire.Accepted: (ACCEPTED,),
    wire.Ready: (READY,),
}
MOVES = [(state, event) for state, kind in TRANSITIONS for event in EVENTS[kind] if kind is not lifecycle.NotFound]


class RecordingRuntime(FakeRuntime):
    """A runtime that updates the budget as the engine does."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(jobs=5)
        self.recorder = Recorder(ApiKey("any"), "https://a.invalid", None, self.budget, PriceList())

    def on_event(self, run: JobRun, event: Event) -> None:
        self.recorder.on_event(run, event)

    @property
    def counted(self) -> int:
        """Return how many jobs of the budget are reserved, held or spent."""
        jobs_left = self.budget.jobs_left(PriceList(), 0.0)
        assert jobs_left is not None
        return 5 - jobs_left


@pytest.mark.parametrize(("state", "event"), MOVES, ids=lambda each: getattr(each, "name", type(each).__name__))
def test_error_row_and_budget_agree(state: JobState, event: Event) -> None:
    """After each move the row and the error name the same charge, and the budget counts that charge."""

    async def move() -> None:
        runtime = RecordingRuntime()
        run = JobRun(runtime, a_request(), "ref")
        runtime.recorder.begin(run)
        row = JobRecord(account="a", ref="ref", owner="o", created_at=1.0, price=Decimal("0.2"))
        for each in (*WAYS[state], event):
            run.advance(each)
            row = after(row, each, 2.0)
        effects = effects_of(event)
        assert row.charged is effects.charged
        assert run.job.done() is effects.ends
        if isinstance(error := run.error, ModelsLabError):
            assert error.charged is effects.charged
        is_reserved = not effects.ends and effects.charged is False
        assert runtime.counted == (1 if is_reserved else int(effects.charged is not False))

    asyncio.run(move())


def test_an_unknown_id_costs_nothing() -> None:
    """A job attached to by an id that the service does not know ends as REFUSED, not charged, and reserves nothing."""

    async def attach() -> None:
        runtime = RecordingRuntime()
        run = JobRun(runtime, None, "ref", job_id="typo", is_unknown=True)
        run.advance(lifecycle.NotFound(NotFoundError("unknown")))
        assert isinstance(run.error, NotFoundError)
        assert (run.state, run.error.charged, runtime.counted) == (S.REFUSED, False, 0)

    asyncio.run(attach())


def test_every_event_and_every_move_is_tested() -> None:
    """Every event has effects, and every move is in the test above."""
    assert {kind for _, kind in TRANSITIONS} == set(EVENTS)
    check: Callable[[Event], object] = effects_of
    assert all(check(event) for events in EVENTS.values() for event in events)
