"""The service's answers and webhook payloads, with the quirks of its JSON. Pure."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from enum import Enum
from typing import Any

import attrs

from modelslab_async.emulator.faults import Fault
from modelslab_async.emulator.job import EmulatedJob, parse_bool

_GATEWAY_STATUS = {fault: int(fault.name[-3:]) for fault in Fault if fault.name.startswith("HTML_5")}


class Action(Enum):
    """What the server does with an `Answer`."""

    REPLY = "send the answer after its delay"
    RESET = "reset the connection instead of a reply"
    STALL = "never answer"
    REFUSE = "reset all connections, and stop listening for the answer's delay"


@attrs.frozen(kw_only=True)
class Answer:
    """The service's answer to a POST.

    delay: seconds until the reply is sent, or for which the server does not listen.
    job: the job that the request created, or None.
    if_late: the answer to send instead, if the job's video is not rendered after the delay; None if it does not matter.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    delay: float = 0.0
    action: Action = Action.REPLY
    job: EmulatedJob | None = None
    if_late: Answer | None = None


class Kind(Enum):
    """What a webhook delivery reports."""

    OUTCOME = "what became of the job, as of the moment of the delivery"
    FORGED = "that the job failed, whatever became of it"
    PROCESSING = "that the job is processing"


@attrs.frozen
class Delivery:
    """A webhook delivery: POST `payload` to `url` at the instant `at`, in seconds on the emulator's clock.

    late: seconds after the job's end.
    """

    job: EmulatedJob
    url: str
    kind: Kind = Kind.OUTCOME
    late: float = 0.0

    @property
    def at(self) -> float:
        """When the delivery is due: after the job's end, or halfway to it. It moves if the job ends earlier."""
        if self.kind is Kind.OUTCOME:
            return self.job.done_at + self.late
        return (self.job.accepted_at + self.job.done_at) / 2

    @property
    def payload(self) -> dict[str, Any]:
        """The JSON to post. Read it when the delivery is due: it reports the job's outcome as of that moment."""
        match self.kind:
            case Kind.FORGED:
                return _failure_payload(self.job, "forged")
            case Kind.PROCESSING:
                status = {"status": "processing", "id": self.job.id, "output": []}
                return {**status, "track_id": self.job.track_id, "meta": meta(self.job)}
            case _:
                return webhook_payload(self.job)


def json_answer(
    value: dict[str, Any], status: int = 200, *, delay: float = 0.0, job: EmulatedJob | None = None
) -> Answer:
    """Return an answer with a JSON body. Its slashes are escaped, as the service escapes them."""
    try:
        text = json.dumps(value, default=float, allow_nan=False)
    except ValueError:  # a number such as 1e999, which the request contained
        text = json.dumps(_without_infinity(value), default=float)
    body = text.replace("/", "\\/").encode()
    return Answer(status=status, body=body, delay=delay, job=job)


def _without_infinity(value: Any) -> Any:
    """Return *value* with None instead of each number that JSON cannot express."""
    if isinstance(value, dict):
        return {name: _without_infinity(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_infinity(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def apply_fault(answer: Answer, fault: Fault | None, seconds: float) -> Answer:
    """Return *answer* as *fault* changes it. The request was processed already."""
    match fault:
        case Fault.RESET_AFTER:
            return attrs.evolve(answer, action=Action.RESET)
        case Fault.STALL:
            return attrs.evolve(answer, action=Action.STALL)
        case Fault.SLOW:
            return attrs.evolve(answer, delay=answer.delay + seconds)
        case Fault.TRUNCATED_JSON:
            return attrs.evolve(answer, body=answer.body[: len(answer.body) // 2], if_late=None)
        case _ if fault in _GATEWAY_STATUS:
            status = _GATEWAY_STATUS[fault]
            page = f"<html><head><title>{status}</title></head><body><h1>{status} gateway error</h1></body></html>"
            return attrs.evolve(answer, status=status, body=page.encode(), content_type="text/html", if_late=None)
        case _:
            return answer


@attrs.frozen
class Links:
    """Scheme and host of the links in an answer: of those to the API, and of those to files."""

    api: str
    files: str


def processing_answer(job: EmulatedJob, links: Links, eta: float | None, fetch_folder: str) -> Answer:
    """Return the answer to a submit whose job takes its time. The eta is absent if *eta* is None."""
    reply = {
        "status": "processing",
        "tip": "Get the video with the fetch API, or set a webhook.",
        "eta": eta,
        "message": "Try to fetch request after seconds estimated",
        "fetch_result": f"{links.api}{fetch_folder}/{job.id}",
        "id": job.id,
        "output": [],
        "future_links": [job.link(links.files)],
        "meta": meta(job),
    }
    if eta is None:
        del reply["eta"]
    return json_answer(reply, job=job)


def immediate_success_answer(job: EmulatedJob, links: Links, now: float, future_file_name: str) -> Answer:
    """Return the answer to a submit whose job is done before the reply is sent.

    As in the documentation page's sample, `future_links` name another file than `output`; that file never appears.
    """
    link = job.link(links.files)
    reply = {
        "status": "success",
        "generationTime": round(job.done_at - now, 2),
        "id": job.id,
        "output": [link],
        "proxy_links": [link],
        "meta": meta(job),
        "future_links": [link.replace(job.file_name, future_file_name)],
    }
    return json_answer(reply, delay=job.done_at - now, job=job)


def failed_answer(job: EmulatedJob) -> Answer:
    """Return the answer that reports a failed job."""
    return json_answer({"status": "failed", "id": job.id, "message": job.failure, "output": ""})


def fetch_answer(job: EmulatedJob, links: Links, now: float, fault: Fault | None, rng: random.Random) -> Answer:
    """Return the answer to a fetch of *job*."""
    if fault is Fault.TRY_AGAIN:
        return json_answer({"status": "failed", "message": "Try Again", "output": ""})
    match job.state(now):
        case "success":
            output = [] if fault is Fault.EMPTY_OUTPUT else [job.link(links.files)]
            return json_answer({"status": "success", "id": job.id, "output": output, "proxy_links": output})
        case "failed":
            return failed_answer(job)
        case _:
            message = rng.choice(("Try Again", "try again later."))
            return json_answer({"status": "processing", "message": message, "output": ""})


def assets_answer(jobs: Sequence[EmulatedJob], links: Links, page: int, per_page: int) -> Answer:
    """Return one page of an account's finished jobs."""
    rows = [{"id": job.id, "output": [job.link(links.files)]} for job in jobs]
    pagination = {"current_page": page, "per_page": per_page, "total": len(rows)}
    rows = rows[(page - 1) * per_page : page * per_page]
    return json_answer({"status": "success", "data": rows, "pagination": pagination})


def webhook_payload(job: EmulatedJob) -> dict[str, Any]:
    """Return the payload of a webhook that reports the outcome of *job*."""
    if job.failure:
        return _failure_payload(job, job.failure)
    return {
        "status": "success",
        "id": job.id,
        "output": [job.link(job.file_origin)],
        "generationTime": round(job.done_at - job.starts_at, 2),
        "track_id": job.track_id,
        "meta": meta(job),
    }


def _failure_payload(job: EmulatedJob, reason: str) -> dict[str, Any]:
    return {"status": "failed", "id": job.id, "message": reason, "track_id": job.track_id}


def meta(job: EmulatedJob) -> dict[str, Any]:
    """Return the echo of the request: booleans as "yes" and "no", the seed filled in, and an id that is not the job's.

    `shift_sample`, the spelling of the documentation page's examples, comes back as `sample_shift`.
    """
    params = {
        "sample_shift" if name == "shift_sample" else name: _yes_or_no(value) if isinstance(value, bool) else value
        for name, value in job.params.items()
    }
    flags = {name: _yes_or_no(parse_bool(job.params.get(name))) for name in ("base64", "portrait", "temp")}
    model, models = params.get("model_id"), job.operation.models
    return {
        "instant_response": "no",
        "output_type": job.work.container,
        "watermark": "no",
        "rescale": "yes",
        "scale_down": 6,
        "opacity": 0.8,
        "padding_down": 10,
        "padding_right": 10,
        "webhook": None,
        "track_id": None,
        **params,
        **flags,
        "id": None,
        "file_prefix": job.file_name.rpartition(".")[0],
        "fps": job.work.fps,
        "num_frames": job.work.frames,
        "seed": job.work.seed,
        "model_id": model if not models or model in models else models[0],
    }


def _yes_or_no(flag: bool) -> str:
    return "yes" if flag else "no"


def plan_deliveries(job: EmulatedJob, url: str, fault: Fault | None, seconds: float) -> list[Delivery]:
    """Return the webhook deliveries of *job* under *fault*; `WEBHOOK_LATE` delays the delivery by *seconds*."""
    delivery = Delivery(job, url, late=seconds if fault is Fault.WEBHOOK_LATE else 0.0)
    match fault:
        case Fault.WEBHOOK_MISSING:
            return []
        case Fault.WEBHOOK_TWICE:
            return [delivery, delivery]
        case Fault.WEBHOOK_FORGED:
            return [Delivery(job, url, Kind.FORGED), delivery]
        case Fault.WEBHOOK_PROCESSING:
            return [Delivery(job, url, Kind.PROCESSING), delivery]
        case _:
            return [delivery]
