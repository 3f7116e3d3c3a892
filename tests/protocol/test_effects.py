"""Tests that the error, the journal row and the budget of a job agree after every transition."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from helpers.world import a_request
from test_lifecycle import FakeRuntime

from modelslab_async import Budget, Job, JobError, JobRecord, JobState, ModelsLabError, NotFoundError, PriceList, Video
from modelslab_async.engine.recorder import Recorder
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import effects_of
from modelslab_async.protocol.lifecycle import TRANSITIONS, Event
from modelslab_async.protocol.record import after
from modelslab_async.protocol.secret import ApiKey

S = JobState
ACCEPTED, READY = wire.Accepted(id="7"), wire.Ready(id="7", links=("https://a.invalid/v.mp4",))
MAY_BE_REPORTED = lifecycle.ReplyLost(JobError("lost"), awaits_webhook=True)
EVENTS_BEFORE: dict[JobState, Sequence[Event]] = {
    S.WAITING: (),
    S.SUBMITTING: (lifecycle.Started(),),
    S.PROCESSING: (lifecycle.Started(), ACCEPTED),
    S.READY: (lifecycle.Started(), ACCEPTED, READY),
    S.UNCERTAIN: (lifecycle.Started(), MAY_BE_REPORTED),
}
"""The events that bring a job to each state in which an event can happen to it."""
EVENTS: dict[type[Event], Sequence[Event]] = {
    lifecycle.Started: (lifecycle.Started(),),
    lifecycle.PutBack: (lifecycle.PutBack(),),
    lifecycle.Cancelled: (lifecycle.Cancelled(),),
    lifecycle.Verified: (lifecycle.Verified(Video(id="7", ref="ref", url="https://a.invalid/v.mp4", links=())),),
    lifecycle.Unreadable: (lifecycle.Unreadable(JobError("no file")),),
    lifecycle.Rejected: (lifecycle.Rejected(JobError("no")),),
    lifecycle.Failed: (lifecycle.Failed(JobError("failed")),),
    lifecycle.ReplyLost: (lifecycle.ReplyLost(JobError("lost")), MAY_BE_REPORTED),
    lifecycle.Abandoned: (lifecycle.Abandoned(JobError("late")), lifecycle.Abandoned(NotFoundError("unknown"))),
    wire.Accepted: (ACCEPTED,),
    wire.Ready: (READY,),
}
TRANSITIONS_AND_EVENTS = [(state, event) for state, kind in TRANSITIONS for event in EVENTS[kind]]


class RecordingRuntime(FakeRuntime):
    """A job's runtime that keeps a budget as the client does."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(jobs=5)
        self.recorder = Recorder(ApiKey("any"), "https://a.invalid", None, self.budget, PriceList())

    def moved(self, job: Job, event: Event) -> None:
        self.recorder.moved(job, event)

    @property
    def counted(self) -> int:
        left = self.budget.jobs_left(PriceList(), 0.0)
        assert left is not None
        return 5 - left


@pytest.mark.parametrize(
    ("state", "event"), TRANSITIONS_AND_EVENTS, ids=lambda each: getattr(each, "name", type(each).__name__)
)
def test_error_row_and_budget_agree(state: JobState, event: Event) -> None:
    """After each transition the row and the error say the same of the charge, and the budget counts accordingly."""

    async def run() -> None:
        runtime = RecordingRuntime()
        job = Job(runtime, a_request(), "ref")
        runtime.recorder.begin(job)
        row = JobRecord(account="a", ref="ref", owner="o", created_at=1.0, price=Decimal("0.2"))
        for each in (*EVENTS_BEFORE[state], event):
            job._advance(each)
            row = after(row, each, 2.0)
        effects = effects_of(event)
        assert row.charged is effects.charged
        assert job.done() is effects.ends
        if isinstance(error := job._error(), ModelsLabError):
            assert error.charged is effects.charged
        is_reserved = not effects.ends and effects.charged is False
        assert runtime.counted == (1 if is_reserved else int(effects.charged is not False))

    asyncio.run(run())


def test_every_event_has_a_row() -> None:
    """Every event has effects, and every transition is tested above."""
    assert {kind for _, kind in TRANSITIONS} == set(EVENTS)
    check: Callable[[Event], object] = effects_of
    assert all(check(event) for events in EVENTS.values() for event in events)
