"""Read a job's row: the error that ended the job, and the events that bring a job to the state of its row."""

from collections.abc import Callable, Mapping

from modelslab_async.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ConnectError,
    InsufficientCreditsError,
    InvalidRequestError,
    InvalidVideoError,
    JobDetachedError,
    JobError,
    JobFailedError,
    JobTimeoutError,
    JournalError,
    ModelsLabError,
    NotFoundError,
    RateLimitError,
    ServerError,
    SubmitUncertainError,
)
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import effects_of
from modelslab_async.protocol.lifecycle import Event, JobState
from modelslab_async.protocol.record import JobRecord, video_of

_S = JobState


_REFUSALS: Mapping[str, Callable[[], ModelsLabError]] = {
    kind.__name__: kind
    for kind in (
        AuthenticationError,
        BadRequestError,
        BudgetExceededError,
        ConnectError,
        InsufficientCreditsError,
        InvalidRequestError,
        JournalError,
        NotFoundError,
        RateLimitError,
        ServerError,
    )
}
"""The errors of jobs that are certainly not charged, by the name that a row has."""


def error_of(record: JobRecord) -> ModelsLabError | None:
    """Return the error that ended a row's job without a video; None if the job was withdrawn.

    The error of a refusal has the class and the text of the first one, and nothing else.
    """
    why = record.error
    match record.state:
        case _S.CANCELLED:
            return None
        case _S.WAITING:
            return JobDetachedError("the client was closed before this job was sent (hint: Client.resubmit sends it)")
        case _S.UNCERTAIN:
            lost = "its process ended while the submit was under way"
            return SubmitUncertainError(f"{why or lost} (hint: Client.resolve({record.ref!r}, ...) decides)")
        case _S.FAILED:
            return JobFailedError(why or "the service failed the job")
        case _S.TIMED_OUT:
            return JobTimeoutError(why or "the job did not end in time")
        case _S.READY:
            return InvalidVideoError(why or "no link returns the video")
        case _:
            error = _REFUSALS.get(record.error_kind or "", JobError)()
            error.args = (why or "the service refused the job",)
            return error


def events_to(state: JobState, record: JobRecord) -> list[Event]:
    """Return the events that bring a job from *state* to where its row is. Return none if it is there, or further."""
    error = error_of(record) or JobError("the job was cancelled")
    events: list[Event] = []
    while step := _STEPS.get((state, record.state)):
        event = step(record, error)
        if event is None:
            break
        events.append(event)
        state = lifecycle.transition(state, event)
        if effects_of(event).ends:
            break
    return events


def _accepted(record: JobRecord, _: ModelsLabError) -> Event:
    meta = {} if record.seed is None else {"seed": record.seed}
    return wire.Accepted(id=record.job_id or "", eta=record.eta, future_links=record.links, meta=meta)


def _read(record: JobRecord, error: ModelsLabError) -> Event | None:
    video = video_of(record)
    return lifecycle.Verified(video) if video else lifecycle.Unreadable(error) if record.error else None


_Step = Callable[[JobRecord, ModelsLabError], Event | None]
_SENT_ON = (_S.SUBMITTING, _S.UNCERTAIN, _S.PROCESSING, _S.READY, _S.FAILED, _S.TIMED_OUT)
_STEPS: Mapping[tuple[JobState, JobState], _Step] = {
    **{(_S.WAITING, target): lambda *_: lifecycle.Started() for target in _SENT_ON},
    (_S.WAITING, _S.CANCELLED): lambda *_: lifecycle.Cancelled(),
    (_S.WAITING, _S.REFUSED): lambda _, error: lifecycle.Rejected(error),
    (_S.SUBMITTING, _S.WAITING): lambda *_: lifecycle.Deferred(),
    (_S.SUBMITTING, _S.CANCELLED): lambda *_: lifecycle.Deferred(),
    (_S.SUBMITTING, _S.REFUSED): lambda _, error: lifecycle.Rejected(error),
    (_S.SUBMITTING, _S.UNCERTAIN): lambda _, error: lifecycle.ReplyLost(error),
    **{(_S.SUBMITTING, target): _accepted for target in (_S.PROCESSING, _S.READY, _S.FAILED, _S.TIMED_OUT)},
    (_S.PROCESSING, _S.REFUSED): lambda _, error: lifecycle.NotFound(error),
    (_S.PROCESSING, _S.FAILED): lambda record, error: lifecycle.Failed(error, record.job_id),
    (_S.PROCESSING, _S.TIMED_OUT): lambda _, error: lifecycle.Abandoned(error),
    (_S.PROCESSING, _S.READY): lambda record, _: wire.Ready(id=record.job_id, links=record.links),
    (_S.READY, _S.READY): _read,
}
"""The next event, by the job's state and the state of its row."""
