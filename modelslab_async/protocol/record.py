"""Define a job's row in the journal, and how each event changes it.

A row holds all that is needed to collect the job later: the service's id, the links and the request. It holds neither
the key nor the picture, only the picture's source, length and digest.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import effects_of
from modelslab_async.protocol.lifecycle import JobState, Video
from modelslab_async.protocol.operations import DEFAULT_OPERATION

SLOT_HOLD = 120.0
"""Seconds for which a job that this client does not poll is assumed to hold a slot at the service.

The time is three times as long as users measured a job to take. If the job takes longer, the service answers with 429.
"""

_S = JobState
SENT = frozenset(JobState) - {_S.WAITING, _S.REFUSED, _S.CANCELLED}
"""States of jobs that the service accepted, or may have accepted. Their ref is not sent again."""
UNSENT = frozenset({_S.REFUSED, _S.CANCELLED})
"""States of jobs that ended without being sent. Their ref is free."""
UNFINISHED = (_S.WAITING, _S.SUBMITTING, _S.PROCESSING, _S.READY, _S.UNCERTAIN, _S.TIMED_OUT)
"""States of jobs that a client should still handle, unless their video is saved or acknowledged."""
HOLDING = (_S.SUBMITTING, _S.UNCERTAIN, _S.PROCESSING)
"""States of jobs that may be queued or processing at the service."""


class JobRecord(NamedTuple):
    """A job's row in the journal.

    account: a fingerprint of the key and the base URL, and for a dedicated server of the deployment too.
    ref: the job's reference, which is sent as track_id.
    owner: the client that runs the job, see `LivenessLock`.
    state: the job's state.
    job_id: the service's id; None if the service has named none.
    request: what was asked for, as `Client.submit` takes it; None for a job that was attached to by its id. It has
        init_image if the picture came from a URL or a path; a path is absolute. Other inputs that were passed as bytes
        are named by their digest.
    picture: source ("path", "url" or "bytes"), where, length_bytes and sha256 of the picture that travels inside the
        request, as far as they are known; None if nothing is known, or if the operation has no such picture.
    price: USD that the service charges for the job; 0 if that is unknown, see `usd`.
    charged: whether the job was charged: False, True, or None if the client cannot know.
    eta: the service's estimate when it accepted the job, seconds; None if it gave none.
    seed: the seed that the service named when it accepted the job; None if it named none.
    links: the links that the service named.
    video: the fields of the finished video; None before the job has one.
    error: why the job has no video, as text without the charge; None if there is no error.
    error_kind: the name of the error's class, such as "AuthenticationError"; None if there is no error.
    created_at, submitted_at, accepted_at: unix seconds; None if the event has not happened.
    ended_at: when the service ended the job, or the job was refused or cancelled, unix seconds; None before that, and
        for a job that timed out or is uncertain.
    delivered_at: when the application acknowledged the video, see `Job.delivered`, unix seconds; None before that.
    saved_path: the path to which the video was saved; None if it was not saved.
    target: the file or folder that the video is meant for; None if the program did not say, see `Job.target`.
    operation: the name of the operation.
    is_unpriced: True if the price is unknown; None if it is known.
    """

    account: str
    ref: str
    owner: str
    created_at: float
    state: JobState = JobState.WAITING
    job_id: str | None = None
    request: Mapping[str, Any] | None = None
    picture: Mapping[str, Any] | None = None
    price: Decimal = Decimal(0)
    charged: bool | None = False
    eta: float | None = None
    seed: int | None = None
    links: tuple[str, ...] = ()
    video: Mapping[str, Any] | None = None
    error: str | None = None
    error_kind: str | None = None
    submitted_at: float | None = None
    accepted_at: float | None = None
    ended_at: float | None = None
    delivered_at: float | None = None
    saved_path: str | None = None
    target: str | None = None
    operation: str = DEFAULT_OPERATION
    is_unpriced: bool | None = None

    @property
    def usd(self) -> Decimal | None:
        """USD that the service charges for the job; None if that is unknown."""
        return None if self.is_unpriced else self.price

    @property
    def is_unfinished(self) -> bool:
        """Whether a client should still handle the job: its video may come, or was neither saved nor acknowledged."""
        return self.state in UNFINISHED and self.saved_path is None and self.delivered_at is None

    def holds_slot(self, now: float, *, is_alive: bool) -> bool:
        """Return whether the job is assumed to be queued or processing at the service at *now* (unix seconds).

        *is_alive* says whether the client that owns the row is alive. Such a client sees when the job ends. Any other
        job is assumed to end within `SLOT_HOLD`.
        """
        if is_alive and self.state in (_S.SUBMITTING, _S.PROCESSING):
            return True
        since = self.accepted_at if self.state is _S.PROCESSING else self.submitted_at
        return self.state in HOLDING and abs(now - (since or 0.0)) < SLOT_HOLD


def belongs_to(row: JobRecord, claim: JobRecord) -> bool:
    """Return whether the job of *claim* may be sent although its ref has a row: the row is its own, or the ref is free.

    The ref is free if the row's job was certainly not sent.
    """
    return row.state not in SENT or (row.owner, row.created_at) == (claim.owner, claim.created_at)


def key_of(account: str, ref: str, created_at: float) -> str:
    """Return a key that is unique to one job.

    A ref alone is not: accounts may use the same ref, and an account may reuse a ref that was not sent.
    """
    return f"{account}/{ref}@{created_at!r}"


def ref_and_time_of(account: str, key: str) -> tuple[str, float]:
    """Return the ref and `created_at` of an account's job from its key."""
    ref, _, created_at = key.removeprefix(f"{account}/").rpartition("@")
    return ref, float(created_at)


class Charge(NamedTuple):
    """A job that was charged, or may have been charged.

    key: the job's key, see `key_of`.
    at: when the job was charged, unix seconds.
    usd: the job's price.
    is_certain: False if the reply to the job's submit was lost.
    """

    key: str
    at: float
    usd: Decimal
    is_certain: bool = True


class Charges(NamedTuple):
    """What an account was charged, or may have been.

    storage: the name of the storage that the journal's clients share.
    counts: how many accepted jobs were, or may have been, charged, by price in USD.
    in_doubt: the jobs that may have been accepted and charged: the reply to their submit is not known.
    """

    storage: str
    counts: Mapping[Decimal, int]
    in_doubt: Sequence[Charge]


def after(record: JobRecord, event: lifecycle.Event, now: float) -> JobRecord:
    """Return *record* as it is after *event*, which happened at *now* (unix seconds)."""
    state = lifecycle.transition(record.state, event)
    changes = {**_changes(record, event, now), "charged": effects_of(event).charged}
    if error := getattr(event, "error", None):
        changes["error"], changes["error_kind"] = Exception.__str__(error), type(error).__name__
    return record._replace(state=state, **changes)


_NO_ERROR: Mapping[str, None] = {"error": None, "error_kind": None}


def _changes(record: JobRecord, event: lifecycle.Event, now: float) -> dict[str, Any]:
    match event:
        case lifecycle.Started():
            return {"submitted_at": now}
        case lifecycle.PutBack() | lifecycle.Deferred() | lifecycle.Postponed():
            return {"submitted_at": None}
        case wire.Accepted(id=job_id, eta=eta, future_links=links, meta=meta):
            known = {"eta": eta, "seed": seed_of(meta), "links": links}
            return {**known, "job_id": job_id, "accepted_at": now, **_NO_ERROR}
        case wire.Ready(id=job_id, links=links, future_links=announced):
            links = tuple(dict.fromkeys((*links, *announced, *record.links)))
            acceptance = {"job_id": record.job_id or job_id, "accepted_at": record.accepted_at or now}
            return {**acceptance, "links": links, "ended_at": now}
        case lifecycle.Verified(video=video):
            return {"video": _video_row(video), "links": video.links, **_NO_ERROR}
        case lifecycle.Cancelled() | lifecycle.Rejected() | lifecycle.NotFound():
            return {"ended_at": now}
        case lifecycle.Failed(id=job_id):
            acceptance = {"job_id": record.job_id or job_id, "accepted_at": record.accepted_at or now}
            return {**acceptance, "ended_at": now}
        case lifecycle.ReplyLost() | lifecycle.Abandoned() | lifecycle.Unreadable():
            return {}


def seed_of(meta: Mapping[str, Any]) -> int | None:
    """Return the seed that the service's echo of a request names; None if it names none."""
    seed = meta.get("seed")
    return seed if isinstance(seed, int) else None


def _video_row(video: Video) -> dict[str, Any]:
    plain = {name: getattr(video, name) for name in ("url", "seed", "generation_time", "is_temporary")}
    container = {} if video.container == "mp4" else {"container": video.container}
    return {**plain, **container, "meta": dict(video.meta)}


def video_of(record: JobRecord) -> Video | None:
    """Return the finished video, or None if the job has none."""
    if record.video is None:
        return None
    return Video(id=record.job_id, ref=record.ref, links=record.links, operation=record.operation, **record.video)
