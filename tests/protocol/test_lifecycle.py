"""Every move that there is, and that there is no other."""

from __future__ import annotations

import itertools

import pytest

from modelslab_async import JobError, JobState, Video
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.lifecycle import Event, ImpossibleMoveError, transition

S = JobState
ERROR = JobError("why")
EVENTS: list[Event] = [
    lifecycle.Started(),
    lifecycle.PutBack(),
    lifecycle.Deferred(),
    lifecycle.Postponed(),
    lifecycle.Cancelled(),
    wire.Accepted(id="1"),
    wire.Ready(id="1"),
    lifecycle.Verified(Video(id="1", ref="r", url="u", links=("u",))),
    lifecycle.Unreadable(ERROR),
    lifecycle.Rejected(ERROR),
    lifecycle.Failed(ERROR),
    lifecycle.ReplyLost(ERROR),
    lifecycle.Abandoned(ERROR),
    lifecycle.NotFound(ERROR),
]
MOVES = {
    S.WAITING: {"Started": S.SUBMITTING, "Cancelled": S.CANCELLED, "Rejected": S.REFUSED},
    S.SUBMITTING: {
        "PutBack": S.WAITING,
        "Deferred": S.WAITING,
        "Postponed": S.WAITING,
        "Accepted": S.PROCESSING,
        "Ready": S.READY,
        "Rejected": S.REFUSED,
        "Failed": S.FAILED,
        "ReplyLost": S.UNCERTAIN,
    },
    S.UNCERTAIN: {"ReplyLost": S.UNCERTAIN, "Accepted": S.PROCESSING},
    S.PROCESSING: {"Ready": S.READY, "Failed": S.FAILED, "Abandoned": S.TIMED_OUT, "NotFound": S.REFUSED},
    S.READY: {"Verified": S.READY, "Unreadable": S.READY},
}


@pytest.mark.parametrize(
    ("state", "event"),
    list(itertools.product(S, EVENTS)),
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_every_pair(state: JobState, event: Event) -> None:
    """Each state and event either lead where the design says, or are impossible and raise."""
    expected = MOVES.get(state, {}).get(type(event).__name__)
    if expected is None:
        with pytest.raises(ImpossibleMoveError, match=state.value):
            transition(state, event)
    else:
        assert transition(state, event) is expected


def test_the_list_of_events_is_whole() -> None:
    """No event escapes the test above."""
    assert {type(event) for event in EVENTS} == set(Event.__args__)
