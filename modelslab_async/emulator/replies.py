"""What the service answers, with the quirks of its JSON. Pure."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from enum import Enum
from typing import Any

import attrs

from modelslab_async.emulator.faults import Fault
from modelslab_async.emulator.order import Order
from modelslab_async.emulator.params import truth

_GATEWAY = {Fault.HTML_502: 502, Fault.HTML_520: 520, Fault.HTML_524: 524}


class Deed(Enum):
    """What the shell does with an answer."""

    REPLY = "send it"
    RESET = "reset the connection instead"
    STALL = "never answer"
    REFUSE = "stop listening for a while, and reset"


@attrs.frozen(kw_only=True)
class Answer:
    """An HTTP answer, `delay` seconds from now.

    `order` is the job that the request made, if it made one; `is_end` says that its end is told already.
    """

    status: int = 200
    body: bytes = b""
    content_type: str = "application/json"
    delay: float = 0.0
    deed: Deed = Deed.REPLY
    order: Order | None = None
    is_end: bool = False


@attrs.frozen
class Delivery:
    """A webhook to post at an instant. A true one tells the job's end as it is by then."""

    at: float
    url: str
    order: Order
    origin: str
    forged: bool = False

    @property
    def payload(self) -> dict[str, Any]:
        """What it tells when it is posted."""
        if not self.forged:
            return told(self.order, self.origin)
        track_id = self.order.params.get("track_id")
        return {"status": "failed", "id": self.order.id, "message": "forged", "track_id": track_id}


def json_answer(value: dict[str, Any], status: int = 200, *, delay: float = 0.0, order: Order | None = None) -> Answer:
    """Slashes are escaped, as the service does."""
    body = json.dumps(value, default=float).replace("/", "\\/").encode()
    return Answer(status=status, body=body, delay=delay, order=order)


def spoiled(answer: Answer, fault: Fault | None, seconds: float) -> Answer:
    """The request is done; what goes wrong with its reply."""
    match fault:
        case Fault.RESET_AFTER:
            return attrs.evolve(answer, deed=Deed.RESET)
        case Fault.STALL:
            return attrs.evolve(answer, deed=Deed.STALL)
        case Fault.SLOW:
            return attrs.evolve(answer, delay=answer.delay + seconds)
        case Fault.TRUNCATED_JSON:
            return attrs.evolve(answer, body=answer.body[: len(answer.body) // 2], is_end=False)
        case Fault.HTML_502 | Fault.HTML_520 | Fault.HTML_524:
            code = _GATEWAY[fault]
            page = f"<html><head><title>{code}</title></head><body><h1>{code} gateway error</h1></body></html>"
            return attrs.evolve(answer, status=code, body=page.encode(), content_type="text/html", is_end=False)
        case _:
            return answer


def processing(order: Order, origin: str, eta: float | None, *, enterprise: bool) -> Answer:
    """A submit that was taken; without an eta, the field is absent."""
    fetch = "v1/enterprise/image_to_video_ultra" if enterprise else "v6/video"
    reply = {
        "status": "processing",
        "tip": "Get the video with the fetch API, or set a webhook.",
        "eta": eta,
        "message": "Try to fetch request after seconds estimated",
        "fetch_result": f"{origin}/api/{fetch}/fetch/{order.id}",
        "id": order.id,
        "output": [],
        "future_links": [order.link(origin)],
        "meta": meta(order),
    }
    if eta is None:
        del reply["eta"]
    return json_answer(reply, order=order)


def at_once(order: Order, origin: str, now: float, other_name: str) -> Answer:
    """As in the page's sample: future_links name another file than output, one that never comes."""
    reply = {
        "status": "success",
        "generationTime": round(order.done_at - now, 2),
        "id": order.id,
        "output": [order.link(origin)],
        "proxy_links": [order.link(origin)],
        "meta": meta(order),
        "future_links": [f"{origin}/generations/{other_name}"],
    }
    return attrs.evolve(json_answer(reply, delay=order.done_at - now, order=order), is_end=True)


def failed(order: Order) -> Answer:
    """A job that was taken, and failed."""
    return json_answer({"status": "failed", "id": order.id, "message": order.failed, "output": ""})


def fetched(order: Order, origin: str, now: float, fault: Fault | None, rng: random.Random) -> Answer:
    """What is told of a job of the account that is asked after."""
    if fault is Fault.TRY_AGAIN:
        return json_answer({"status": "failed", "message": "Try Again", "output": ""})
    match order.state(now):
        case "success":
            links = [] if fault is Fault.EMPTY_OUTPUT else [order.link(origin)]
            return json_answer({"status": "success", "id": order.id, "output": links, "proxy_links": links})
        case "failed":
            return failed(order)
        case _:
            words = rng.choice(("Try Again", "try again later."))
            return json_answer({"status": "processing", "message": words, "output": ""})


def listed(orders: Sequence[Order], origin: str, page: int, per_page: int) -> Answer:
    """A page of the account's finished jobs."""
    rows = [{"id": order.id, "output": [order.link(origin)]} for order in orders]
    pagination = {"current_page": page, "per_page": per_page, "total": len(rows)}
    rows = rows[(page - 1) * per_page : page * per_page]
    return json_answer({"status": "success", "data": rows, "pagination": pagination})


def told(order: Order, origin: str) -> dict[str, Any]:
    """What a webhook is told of the end."""
    track_id = order.params.get("track_id")
    if order.failed:
        return {"status": "failed", "id": order.id, "message": order.failed, "track_id": track_id}
    return {
        "status": "success",
        "id": order.id,
        "output": [order.link(origin)],
        "generationTime": round(order.done_at - order.starts_at, 2),
        "track_id": track_id,
        "meta": meta(order),
    }


def meta(order: Order) -> dict[str, Any]:
    """The request echoed: booleans as "yes" and "no", the seed filled in, an id that is not the job's.

    `shift_sample`, the spelling of the page's examples, comes back as `sample_shift`.
    """
    asked = {"sample_shift" if name == "shift_sample" else name: value for name, value in order.params.items()}
    flags = {name: "yes" if truth(asked.get(name)) else "no" for name in ("base64", "portrait", "temp")}
    model = asked.get("model_id")
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
        **asked,
        **flags,
        "id": None,
        "file_prefix": order.name.removesuffix(".mp4"),
        "fps": order.work.fps,
        "num_frames": order.work.frames,
        "seed": order.work.seed,
        "model_id": model if model in ("wan2.2", "ltx-2.3", "wan2.1") else "wan2.2",
    }


def deliveries(order: Order, url: str, origin: str, fault: Fault | None, seconds: float) -> list[Delivery]:
    """What the webhook of a job will be told, and when; `seconds` late where the fault says so."""
    at = order.done_at + (seconds if fault is Fault.WEBHOOK_LATE else 0.0)
    true = Delivery(at, url, order, origin)
    match fault:
        case Fault.WEBHOOK_MISSING:
            return []
        case Fault.WEBHOOK_TWICE:
            return [true, true]
        case Fault.WEBHOOK_FORGED:
            return [Delivery((order.taken_at + order.done_at) / 2, url, order, origin, forged=True), true]
        case _:
            return [true]
