"""The way of a job: states, events, and the table of which event leads where.

WAITING ─▶ SUBMITTING ─▶ PROCESSING ─▶ READY
   │   ◀──────┤              ├─▶ FAILED
   ▼ no place ├─▶ REFUSED    └─▶ TIMED_OUT
CANCELLED     ├─▶ UNCERTAIN ─▶ PROCESSING, where a webhook shows that it was taken
              └─▶ FAILED, READY
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import attrs

from modelslab_async.errors import ModelsLabError
from modelslab_async.protocol.wire import Accepted, Ready


class JobState(StrEnum):
    """Where a job is. The last five, and READY, are ends."""

    WAITING = "waiting"
    """For its turn: nothing was sent, nothing is charged."""
    SUBMITTING = "submitting"
    """The paid request is under way."""
    PROCESSING = "processing"
    """The service took it, and queues or renders it."""
    READY = "ready"
    """The service reports success; its file is looked for, or found."""
    REFUSED = "refused"
    """Not taken, not charged: the service said no, or could not be reached."""
    FAILED = "failed"
    """Taken, then failed. Whether that is charged is not documented."""
    UNCERTAIN = "uncertain"
    """The reply to the submit was lost: it may be charged. Never sent again by itself."""
    CANCELLED = "cancelled"
    """Withdrawn before it was sent: not charged."""
    TIMED_OUT = "timed_out"
    """No longer watched, while the service may still finish it: attach to it to watch on."""


@attrs.frozen
class Video:
    """A finished video. `url` is the link that reads, `links` all that were named; `seed` is None if never told.

    `meta` is the service's echo of the request, with booleans as "yes" and "no"; empty where it sent none.
    `generation_time` is the service's own figure, seconds, or None. `is_temporary` is True where the request said
    `temp`: the service deletes the file within 24 hours, so save it at once. For others it documents no time.
    """

    id: str | None
    ref: str
    url: str
    links: tuple[str, ...]
    seed: int | None = None
    meta: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    generation_time: float | None = None
    is_temporary: bool = False


class JobEvent(NamedTuple):
    """One event of a job: a new state, or a poll that found it running.

    elapsed: seconds since the job was submitted here.
    eta, progress: `Job.eta` and `Job.progress` at that moment.
    """

    state: JobState
    elapsed: float
    eta: float | None = None
    progress: float = 0.0


class Started(NamedTuple):
    """Its turn came."""


class PutBack(NamedTuple):
    """The service has no place: back to the head of the queue. `wait` in seconds and `maximum` places, where named."""

    wait: float | None = None
    maximum: int | None = None


class Cancelled(NamedTuple):
    """Withdrawn by its owner."""


class Verified(NamedTuple):
    """A link reads as an mp4."""

    video: Video


class Unreadable(NamedTuple):
    """No link became readable."""

    error: ModelsLabError


class Rejected(NamedTuple):
    """Surely not taken."""

    error: ModelsLabError


class Failed(NamedTuple):
    """Taken, then failed. `id` is the service's, where it told one only now."""

    error: ModelsLabError
    id: str | None = None


class ReplyLost(NamedTuple):
    """Nobody knows whether it was taken. `may_be_heard_of`: a webhook may tell yet, so this is not its end."""

    error: ModelsLabError
    may_be_heard_of: bool = False


class Abandoned(NamedTuple):
    """No longer watched; the job itself may go on."""

    error: ModelsLabError


class NotFound(NamedTuple):
    """The service knows no job with the id that was attached to."""

    error: ModelsLabError


Event = (
    Started
    | PutBack
    | Cancelled
    | Accepted
    | Ready
    | Verified
    | Unreadable
    | Rejected
    | Failed
    | ReplyLost
    | Abandoned
    | NotFound
)

_S = JobState
TRANSITIONS: Mapping[tuple[JobState, type[Event]], JobState] = {
    (_S.WAITING, Started): _S.SUBMITTING,
    (_S.WAITING, Cancelled): _S.CANCELLED,
    (_S.WAITING, Rejected): _S.REFUSED,
    (_S.SUBMITTING, PutBack): _S.WAITING,
    (_S.SUBMITTING, Accepted): _S.PROCESSING,
    (_S.SUBMITTING, Ready): _S.READY,
    (_S.SUBMITTING, Rejected): _S.REFUSED,
    (_S.SUBMITTING, Failed): _S.FAILED,
    (_S.SUBMITTING, ReplyLost): _S.UNCERTAIN,
    (_S.UNCERTAIN, ReplyLost): _S.UNCERTAIN,
    (_S.UNCERTAIN, Accepted): _S.PROCESSING,
    (_S.PROCESSING, Ready): _S.READY,
    (_S.PROCESSING, Failed): _S.FAILED,
    (_S.PROCESSING, Abandoned): _S.TIMED_OUT,
    (_S.PROCESSING, NotFound): _S.REFUSED,
    (_S.READY, Verified): _S.READY,
    (_S.READY, Unreadable): _S.READY,
}
"""All moves there are. What is not here is impossible."""


class ImpossibleMoveError(AssertionError):
    """An event that the state does not know: a mistake in this package."""


def transition(state: JobState, event: Event) -> JobState:
    """The state that the event leads to. Raises ImpossibleMoveError where there is none."""
    try:
        return TRANSITIONS[state, type(event)]
    except KeyError:
        raise ImpossibleMoveError(f"{type(event).__name__} cannot happen to a job that is {state.value}") from None
