"""Define a job's states, its events, and the table of transitions.

WAITING ─▶ SUBMITTING ─▶ PROCESSING ─▶ READY
   │  ◀───────┤ no slot      ├─▶ FAILED
   │          │              ├─▶ TIMED_OUT
   │          │              └─▶ REFUSED, if the service does not know the id that was attached to
   │          ├─▶ REFUSED
   │          ├─▶ UNCERTAIN ─▶ PROCESSING, if a webhook shows that the service accepted the job
   │          └─▶ FAILED, READY
   ├─▶ CANCELLED
   └─▶ REFUSED, if the client or the budget refuses the job
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import attrs

from modelslab_async.errors import ModelsLabError
from modelslab_async.protocol.operations import DEFAULT_OPERATION, Container
from modelslab_async.protocol.wire import Accepted, Ready


class JobState(StrEnum):
    """State of a job.

    A job ends in READY or in one of the last five states. READY and UNCERTAIN may also come before the end.
    """

    WAITING = "waiting"
    """The job waits for a slot. Nothing was sent, and nothing is charged."""
    SUBMITTING = "submitting"
    """The paid request is under way."""
    PROCESSING = "processing"
    """The service accepted the job, and queues or renders it."""
    READY = "ready"
    """The service reports success. The client waits until the file can be read, or has read it."""
    REFUSED = "refused"
    """The job was certainly not accepted, so it is not charged.

    The service or the client refused it, no connection could be made, or the user resolved it as lost.
    """
    FAILED = "failed"
    """The service accepted the job, and then failed it. Whether a failed job is charged is not documented."""
    UNCERTAIN = "uncertain"
    """The reply to the submit was lost, so the job may be charged. The client never sends it again by itself."""
    CANCELLED = "cancelled"
    """The caller cancelled the job before it was sent. The job is not charged."""
    TIMED_OUT = "timed_out"
    """The client no longer polls the job, which the service may still finish. Attach to the job to poll it again."""


@attrs.frozen
class Video:
    """A finished video.

    id: the service's id of the job; None if the service named none.
    ref: the job's reference.
    url: the link that can be read.
    links: all links that the service named.
    seed: the seed of the video; None if neither the request nor the service named it.
    meta: the service's echo of the request, with booleans as "yes" and "no"; empty if the service sent none.
    generation_time: the service's own figure, seconds; None if it gave none.
    is_temporary: True if the request set `temp`. The service deletes such a file within 24 hours, so save it at once.
        How long the service keeps other files is not documented.
    operation: the name of the operation that made it.
    container: what the file is: "mp4" or "gif".
    """

    id: str | None
    ref: str
    url: str
    links: tuple[str, ...]
    seed: int | None = None
    meta: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False)
    generation_time: float | None = None
    is_temporary: bool = False
    operation: str = DEFAULT_OPERATION
    container: Container = "mp4"


class JobEvent(NamedTuple):
    """Report that a job entered a state, or that a poll saw it running.

    elapsed: seconds since the job was created, by whichever client.
    eta, progress: the values of `Job.eta` and `Job.progress` at that time.
    """

    state: JobState
    elapsed: float
    eta: float | None = None
    progress: float = 0.0


class Started(NamedTuple):
    """The job got a slot, and its request is about to be sent."""


class PutBack(NamedTuple):
    """The service has no free slot, so the job returns to the head of the queue.

    wait: the seconds after which the service asks to be called again; None if it names none.
    maximum: the number of the account's slots; None if the service names none.
    """

    wait: float | None = None
    maximum: int | None = None


class Deferred(NamedTuple):
    """The job was not sent, because other clients may regard this one as dead. The job asks for a slot again."""


class Postponed(NamedTuple):
    """The client closes before the job was sent. The journal keeps it for the next client."""


class Cancelled(NamedTuple):
    """The caller cancelled the job before it was sent."""


class Verified(NamedTuple):
    """One of the job's links returns the video."""

    video: Video


class Unreadable(NamedTuple):
    """None of the job's links became readable."""

    error: ModelsLabError


class Rejected(NamedTuple):
    """The service certainly did not accept the job."""

    error: ModelsLabError


class Failed(NamedTuple):
    """The service accepted the job, and then failed it.

    id: the service's id of the job, if the service named it only now; else None.
    """

    error: ModelsLabError
    id: str | None = None


class ReplyLost(NamedTuple):
    """The reply to the submit was lost, so the service may have accepted the job.

    awaits_webhook: whether a webhook may still report the job. If so, this event is not the end of the job.
    """

    error: ModelsLabError
    awaits_webhook: bool = False


class Abandoned(NamedTuple):
    """The client no longer polls the job, which may continue at the service."""

    error: ModelsLabError


class NotFound(NamedTuple):
    """The service knows no job with the id that was attached to."""

    error: ModelsLabError


Event = (
    Started
    | PutBack
    | Deferred
    | Postponed
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
    (_S.SUBMITTING, Deferred): _S.WAITING,
    (_S.SUBMITTING, Postponed): _S.WAITING,
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
"""All transitions. Every other pair of state and event is impossible."""


class ImpossibleMoveError(AssertionError):
    """The event cannot happen in the job's state. This is a bug in the package."""


def transition(state: JobState, event: Event) -> JobState:
    """Return the state after *event*. Raise ImpossibleMoveError if the event cannot happen in *state*."""
    try:
        return TRANSITIONS[state, type(event)]
    except KeyError:
        raise ImpossibleMoveError(f"{type(event).__name__} cannot happen to a job in state {state.value}") from None
