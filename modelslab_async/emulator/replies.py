"""The service's answers and webhook payloads, with the quirks of its JSON. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from enum import Enum
from typing import Any

import attrs

from modelslab_async.emulator.faults import Fault
from modelslab_async.emulator.job import EmulatedJob
from modelslab_async.emulator.params import parse_bool

_GATEWAY_STATUS = {Fault.HTML_502: 502, Fault.HTML_520: 520, Fault.HTML_524: 524}


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
    reports_success: whether the body says that the job succeeded already.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    delay: float = 0.0
    action: Action = Action.REPLY
    job: EmulatedJob | None = None
    reports_success: bool = False


@attrs.frozen
class Delivery:
    """A webhook delivery: POST `payload` to `url` at the instant `at`, in seconds on the emulator's clock."""

    at: float
    url: str
    job: EmulatedJob
    forged: bool = False
    """Whether the payload says that the job failed, whatever happened to it."""

    @property
    def payload(self) -> dict[str, Any]:
        """The JSON to post. Read it when the delivery is due: it reports the job's outcome as of that moment."""
        if not self.forged:
            return webhook_payload(self.job)
        track_id = self.job.params.get("track_id")
        return {"status": "failed", "id": self.job.id, "message": "forged", "track_id": track_id}


def json_answer(
    value: dict[str, Any], status: int = 200, *, delay: float = 0.0, job: EmulatedJob | None = None
) -> Answer:
    """Return an answer with a JSON body. Its slashes are escaped, as the service escapes them."""
    body = json.dumps(value, default=float).replace("/", "\\/").encode()
    return Answer(status=status, body=body, delay=delay, job=job)


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
            return attrs.evolve(answer, body=answer.body[: len(answer.body) // 2], reports_success=False)
        case Fault.HTML_502 | Fault.HTML_520 | Fault.HTML_524:
            status = _GATEWAY_STATUS[fault]
            page = f"<html><head><title>{status}</title></head><body><h1>{status} gateway error</h1></body></html>"
            return attrs.evolve(
                answer, status=status, body=page.encode(), content_type="text/html", reports_success=False
            )
        case _:
            return answer


def processing_answer(job: EmulatedJob, origin: str, eta: float | None) -> Answer:
    """Return the answer to a submit whose job takes its time. The eta is absent if *eta* is None."""
    reply = {
        "status": "processing",
        "tip": "Get the video with the fetch API, or set a webhook.",
        "eta": eta,
        "message": "Try to fetch request after seconds estimated",
        "fetch_result": f"{origin}{job.endpoint.fetch}{job.id}",
        "id": job.id,
        "output": [],
        "future_links": [job.link(origin)],
        "meta": meta(job),
    }
    if eta is None:
        del reply["eta"]
    return json_answer(reply, job=job)


def immediate_success_answer(job: EmulatedJob, origin: str, now: float, future_file_name: str) -> Answer:
    """Return the answer to a submit whose job is done before the reply is sent.

    As in the documentation page's sample, `future_links` name another file than `output`; that file never appears.
    """
    reply = {
        "status": "success",
        "generationTime": round(job.done_at - now, 2),
        "id": job.id,
        "output": [job.link(origin)],
        "proxy_links": [job.link(origin)],
        "meta": meta(job),
        "future_links": [f"{origin}/generations/{future_file_name}"],
    }
    return attrs.evolve(json_answer(reply, delay=job.done_at - now, job=job), reports_success=True)


def failed_answer(job: EmulatedJob) -> Answer:
    """Return the answer that reports a failed job."""
    return json_answer({"status": "failed", "id": job.id, "message": job.failure, "output": ""})


def fetch_answer(job: EmulatedJob, origin: str, now: float, fault: Fault | None, rng: random.Random) -> Answer:
    """Return the answer to a fetch of *job*."""
    if fault is Fault.TRY_AGAIN:
        return json_answer({"status": "failed", "message": "Try Again", "output": ""})
    match job.state(now):
        case "success":
            links = [] if fault is Fault.EMPTY_OUTPUT else [job.link(origin)]
            return json_answer({"status": "success", "id": job.id, "output": links, "proxy_links": links})
        case "failed":
            return failed_answer(job)
        case _:
            message = rng.choice(("Try Again", "try again later."))
            return json_answer({"status": "processing", "message": message, "output": ""})


def assets_answer(jobs: Sequence[EmulatedJob], origin: str, page: int, per_page: int) -> Answer:
    """Return one page of an account's finished jobs."""
    rows = [{"id": job.id, "output": [job.link(origin)]} for job in jobs]
    pagination = {"current_page": page, "per_page": per_page, "total": len(rows)}
    rows = rows[(page - 1) * per_page : page * per_page]
    return json_answer({"status": "success", "data": rows, "pagination": pagination})


def webhook_payload(job: EmulatedJob) -> dict[str, Any]:
    """Return the payload of a webhook that reports the outcome of *job*."""
    track_id = job.params.get("track_id")
    if job.failure:
        return {"status": "failed", "id": job.id, "message": job.failure, "track_id": track_id}
    return {
        "status": "success",
        "id": job.id,
        "output": [job.link(job.origin)],
        "generationTime": round(job.done_at - job.starts_at, 2),
        "track_id": track_id,
        "meta": meta(job),
    }


def meta(job: EmulatedJob) -> dict[str, Any]:
    """Return the echo of the request: booleans as "yes" and "no", the seed filled in, and an id that is not the job's.

    `shift_sample`, the spelling of the documentation page's examples, comes back as `sample_shift`.
    """
    params = {"sample_shift" if name == "shift_sample" else name: value for name, value in job.params.items()}
    flags = {name: "yes" if parse_bool(params.get(name)) else "no" for name in ("base64", "portrait", "temp")}
    model, models = params.get("model_id"), job.operation.models
    return {
        "instant_response": "no",
        "output_type": "mp4",
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
        "file_prefix": job.file_name.removesuffix(".mp4"),
        "fps": job.work.fps,
        "num_frames": job.work.frames,
        "seed": job.work.seed,
        "model_id": model if not models or model in models else models[0],
    }


def plan_deliveries(job: EmulatedJob, url: str, fault: Fault | None, seconds: float) -> list[Delivery]:
    """Return the webhook deliveries of *job* under *fault*; `WEBHOOK_LATE` delays the delivery by *seconds*."""
    at = job.done_at + (seconds if fault is Fault.WEBHOOK_LATE else 0.0)
    delivery = Delivery(at, url, job)
    match fault:
        case Fault.WEBHOOK_MISSING:
            return []
        case Fault.WEBHOOK_TWICE:
            return [delivery, delivery]
        case Fault.WEBHOOK_FORGED:
            return [Delivery((job.accepted_at + job.done_at) / 2, url, job, forged=True), delivery]
        case _:
            return [delivery]
