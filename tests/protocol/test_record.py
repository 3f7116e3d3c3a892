"""Job records: how events change them, and for how long they hold a slot."""

from __future__ import annotations

import pytest
from helpers.journals import FULL, S

from modelslab_async import (
    AuthenticationError,
    JobDetachedError,
    JobFailedError,
    JobState,
    JournalError,
    ReplyLostError,
)
from modelslab_async.protocol import lifecycle
from modelslab_async.protocol.record import after


@pytest.mark.parametrize(
    ("state", "submitted_at", "accepted_at"),
    [(S.PROCESSING, 900.0, 1000.0), (S.SUBMITTING, 1000.0, None), (S.UNCERTAIN, 1000.0, None)],
)
def test_a_job_without_news_holds_its_slot_for_two_minutes(
    state: JobState, submitted_at: float, accepted_at: float | None
) -> None:
    """If its client died, other clients do not wait for the slot for ever."""
    record = FULL._replace(state=state, submitted_at=submitted_at, accepted_at=accepted_at)
    assert [record.holds_slot(at, is_alive=False) for at in (1000.0, 1119.0, 1121.0)] == [True, True, False]
    assert not record.holds_slot(-86_400.0, is_alive=False)  # the clock was a day ahead, and is right again
    assert record.holds_slot(1121.0, is_alive=True) is (state is not S.UNCERTAIN)


@pytest.mark.parametrize(
    ("state", "event", "charged"),
    [
        (S.WAITING, lifecycle.Rejected(JobDetachedError("why")), False),
        (S.PROCESSING, lifecycle.Abandoned(AuthenticationError("why")), True),
        (S.PROCESSING, lifecycle.Failed(JobFailedError("why")), None),
        (S.SUBMITTING, lifecycle.ReplyLost(ReplyLostError("why")), None),
    ],
)
def test_a_record_says_once_what_was_charged(state: JobState, event: lifecycle.Event, charged: bool | None) -> None:
    """The record's `charged` is right. What the error's text says of money need not be, so it is left out."""
    record = after(FULL._replace(state=state, charged=state is S.PROCESSING, error=None), event, 5.0)
    assert (record.error, record.charged) == ("why", charged)


def test_an_error_without_a_message_is_recorded_too() -> None:
    """A user's own journal may raise such an error: the job ends all the same."""
    record = after(FULL._replace(state=S.SUBMITTING), lifecycle.Rejected(JournalError()), 5.0)
    assert (record.state, record.charged, record.error) == (S.REFUSED, False, "")
