"""What is written down of a job: a row of the journal, and how each event changes it.

A row holds all that is needed to collect the job later: the service's id, its links, and what was asked for. It holds
no key and no picture, only where the picture came from, its length and its digest.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.effects import effects_of
from modelslab_async.protocol.lifecycle import JobState, Video

SLOT_HOLD = 120.0
"""Seconds for which a job that nobody here watches is taken to fill a place at the service: three times what one was
measured to take. If it takes longer the service says so, with a 429.
"""

_S = JobState
SENT = frozenset(JobState) - {_S.WAITING, _S.REFUSED, _S.CANCELLED}
"""States of jobs that were, or may have been, taken by the service: their ref is not sent again."""
UNFINISHED = (_S.WAITING, _S.SUBMITTING, _S.PROCESSING, _S.READY, _S.UNCERTAIN, _S.TIMED_OUT)
"""States of jobs that somebody should still look after, unless their video is saved."""
_FILLING = (_S.SUBMITTING, _S.UNCERTAIN, _S.PROCESSING)


class JobRecord(NamedTuple):
    """One job. Times are unix seconds, None where it did not happen.

    account: a fingerprint of key and base URL. owner: the client that drives it, see `LivenessLock`.
    request: the parameters as they are sent, without key and picture; None for a job that was attached to.
    picture: source ("path", "url" or "bytes"), where, length_bytes and sha256, as far as they are known.
    price: USD that the service takes for it. charged: None where nobody on this side can know.
    eta, seed, links: what the service told when it took the job.
    video: what is known of the finished video; None before. error: why there is none, in words; `charged` is apart.
    saved_path: where the file was put; None before.
    target: the file or folder that the video is meant for; None if the program did not say, see `Job.target`.
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
    submitted_at: float | None = None
    accepted_at: float | None = None
    ended_at: float | None = None
    saved_path: str | None = None
    target: str | None = None

    def holds_slot(self, now: float) -> bool:
        """Whether it is taken to be queued or processing at the service."""
        since = self.accepted_at if self.state is _S.PROCESSING else self.submitted_at
        return self.state in _FILLING and abs(now - (since or 0.0)) < SLOT_HOLD


def key_of(account: str, ref: str, created_at: float) -> str:
    """Return a name for one job. Accounts may use the same ref, and an account may reuse one that was not sent."""
    return f"{account}/{ref}@{created_at!r}"


class Charge(NamedTuple):
    """A job that was charged, or may have been: its key, when (unix seconds), and its price in USD.

    `is_certain` is False where the reply to its submit was lost.
    """

    key: str
    at: float
    usd: Decimal
    is_certain: bool = True


def after(record: JobRecord, event: lifecycle.Event, now: float) -> JobRecord:
    """The record once the event has happened."""
    state = lifecycle.transition(record.state, event)
    changes = {**_changes(record, event, now), "charged": effects_of(event).charged}
    if error := getattr(event, "error", None):
        changes["error"] = Exception.__str__(error)
    return record._replace(state=state, **changes)


def _changes(record: JobRecord, event: lifecycle.Event, now: float) -> dict[str, Any]:
    match event:
        case lifecycle.Started():
            return {"submitted_at": now}
        case lifecycle.PutBack():
            return {"submitted_at": None}
        case wire.Accepted(id=job_id, eta=eta, future_links=links, meta=meta):
            known = {"eta": eta, "seed": seed_of(meta), "links": links}
            return {**known, "job_id": job_id, "accepted_at": now, "error": None}
        case wire.Ready(id=job_id, links=links, future_links=announced):
            links = tuple(dict.fromkeys((*links, *announced, *record.links)))
            taken = {"job_id": record.job_id or job_id, "accepted_at": record.accepted_at or now}
            return {**taken, "links": links, "ended_at": now}
        case lifecycle.Verified(video=video):
            return {"video": _kept(video), "links": video.links, "error": None}
        case lifecycle.Cancelled() | lifecycle.Rejected() | lifecycle.NotFound():
            return {"ended_at": now}
        case lifecycle.Failed(id=job_id):
            taken = {"job_id": record.job_id or job_id, "accepted_at": record.accepted_at or now}
            return {**taken, "ended_at": now}
        case lifecycle.ReplyLost() | lifecycle.Abandoned() | lifecycle.Unreadable():
            return {}


def seed_of(meta: Mapping[str, Any]) -> int | None:
    """The seed that the service's echo of a request names; None where it names none."""
    seed = meta.get("seed")
    return seed if isinstance(seed, int) else None


def _kept(video: Video) -> dict[str, Any]:
    plain = {name: getattr(video, name) for name in ("url", "seed", "generation_time", "is_temporary")}
    return {**plain, "meta": dict(video.meta)}


def video_of(record: JobRecord) -> Video | None:
    """The finished video, or None where there is none."""
    if record.video is None:
        return None
    return Video(id=record.job_id, ref=record.ref, links=record.links, **record.video)
