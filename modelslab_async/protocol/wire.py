"""The service's protocol: the only place that knows its URLs, field names and quirks.

`status` in the body decides, not the HTTP code. Decoding never raises, whatever a server says: what cannot be read is
`Malformed`. Nothing here does I/O; `HttpReply` is what a transport brought back.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from modelslab_async.errors import APIError, InvalidRequestError, MalformedReplyError, Problem
from modelslab_async.protocol.decoding import brief
from modelslab_async.protocol.problems import shown, wrong
from modelslab_async.protocol.reply import NO_REASON, Body, HttpReply, Malformed, Refused, read, refused, whole_number
from modelslab_async.protocol.request import PARAMETERS, Deployment, ImageToVideoUltra, is_http_url, is_loopback
from modelslab_async.protocol.secret import ApiKey, SecretBytes

DEFAULT_BASE_URL = "https://modelslab.com"
BALANCE_PATH = "/api/wallet_balance"
QUEUE_DEPTH_PATH = "/api/v6/processing/request_count"
UPLOAD_PATH = "/api/v6/base64_to_url"
ASSETS_PATH = "/api/v6/assets_generated"
ASSETS_A_PAGE = 30
SUBMIT_PATHS = {
    Deployment.V6: "/api/v6/video/img2video_ultra",
    Deployment.ENTERPRISE: "/api/v1/enterprise/image_to_video_ultra/img2video",
}
_FETCH_PATHS = {
    Deployment.V6: "/api/v6/video/fetch/",
    Deployment.ENTERPRISE: "/api/v1/enterprise/image_to_video_ultra/fetch/",
}


# --- encoding ---


def request_from(params: Mapping[str, Any]) -> ImageToVideoUltra:
    """A request from the page's names: its other spelling `shift_sample` is known, an empty `key` is passed over.

    Raises InvalidRequestError for names that no parameter has, and for a missing prompt or init_image.
    """
    known = {name: value for name, value in params.items() if not (name == "key" and not value)}
    problems = []
    if "shift_sample" in known:
        shift = known.pop("shift_sample")
        if known.setdefault("sample_shift", shift) != shift:
            requirement = "another spelling of sample_shift, with another value"
            problems.append(wrong("shift_sample", shift, requirement, "pass one of them"))
    problems += [_unknown(name) for name in known if name not in PARAMETERS and name != "extra"]
    problems += [
        Problem(name, "missing", "required", "pass it") for name in ("prompt", "init_image") if known.get(name) is None
    ]
    if problems:
        raise InvalidRequestError(problems)
    return ImageToVideoUltra(**known)


def _unknown(name: str) -> Problem:
    if name == "key":
        return Problem("key", "hidden", "the key is no parameter", "pass it as Client(api_key=...)")
    from difflib import get_close_matches  # noqa: PLC0415 - for mistakes only

    close = get_close_matches(str(name), PARAMETERS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"pass it as extra={{{name!r}: ...}} to send it all the same"
    return Problem(shown(name), "given", "no such parameter", hint)


def encode_request(request: ImageToVideoUltra, *, ref: str) -> dict[str, Any]:
    """The parameters as the service names them, without key and picture; None is left out."""
    params: dict[str, Any] = _unstructure()(request)
    return {**params, **request.extra, "track_id": ref}


def encode_body(params: Mapping[str, Any], key: ApiKey, *, picture: str | bytes | None = None) -> bytes:
    """Return a JSON body with the key in it. *picture* is a URL, or bytes, which travel as base64.

    Key and base64 need no escaping again, so they are spliced in: the key is in no variable that a traceback may show,
    and dumping megabytes of base64 would block the event loop.
    """
    if isinstance(picture, str):
        params = {**params, "init_image": picture}
    rest = json.dumps({**params, "base64": True} if isinstance(picture, bytes) else dict(params)).encode()[1:-1]
    parts = [b'{"key": ', key.as_json(), b", " if rest else b"", rest]
    if isinstance(picture, bytes):
        parts += [b', "init_image": "', base64.b64encode(picture), b'"']
    return SecretBytes(b"".join([*parts, b"}"]))


def encode_upload(picture: bytes, mime_type: str, key: ApiKey) -> bytes:
    """The body of an upload: a data URI."""
    uri = f"data:{mime_type};base64,{base64.b64encode(picture).decode()}"
    return encode_body({"base64_string": uri}, key)


@cache
def _unstructure() -> Callable[[ImageToVideoUltra], dict[str, Any]]:
    """Writes a request, without what is None or travels otherwise."""
    from cattrs import Converter  # noqa: PLC0415 - takes longer to import than the rest
    from cattrs.gen import make_dict_unstructure_fn, override  # noqa: PLC0415

    left_out = override(omit=True)
    return make_dict_unstructure_fn(
        ImageToVideoUltra,
        Converter(),
        _cattrs_omit_if_default=True,
        extra=left_out,
        base64=left_out,
        init_image=left_out,
        track_id=left_out,
    )


def fetch_path(deployment: Deployment, job_id: str) -> str:
    """Where a job is asked after. Built from the id: the reply's fetch_result is the server's word, and gets no key."""
    return _FETCH_PATHS[deployment] + (job_id if job_id.isascii() and job_id.isalnum() else quote(job_id, safe=""))


# --- what came back ---


_NONE: Mapping[str, Any] = {}


class Accepted(NamedTuple):
    """Submit: taken. `eta` in seconds or None; `future_links` are where the file will appear; `notes` are oddities."""

    id: str
    eta: float | None = None
    future_links: tuple[str, ...] = ()
    meta: Mapping[str, Any] = _NONE
    notes: tuple[str, ...] = ()


class NotReady(NamedTuple):
    """Fetch: still in work. `under_failed` marks the "Try Again" that some see under status failed.

    `success_without_link` is None, or the beginning of the output if the service reports success without a link in it.
    """

    under_failed: bool = False
    notes: tuple[str, ...] = ()
    success_without_link: str | None = None


class Ready(NamedTuple):
    """Submit or fetch: done. `links` are output and proxy_links, in this order; a fetch has no meta as a rule."""

    id: str | None = None
    links: tuple[str, ...] = ()
    future_links: tuple[str, ...] = ()
    meta: Mapping[str, Any] = _NONE
    generation_time: float | None = None


class Failed(NamedTuple):
    """Submit or fetch: accepted, then failed."""

    message: str
    id: str | None = None


class UnknownId(NamedTuple):
    """Fetch: "Request not found"."""

    message: str


def error_of(reply: Refused | Malformed) -> APIError:
    """A reply that is no good, as an exception."""
    if isinstance(reply, Malformed):
        return MalformedReplyError(reply.reason, http_status=reply.http_status)
    return reply.kind(reply.message, http_status=reply.http_status, retry_after=reply.retry_after)


SubmitReply = Accepted | Ready | Refused | Failed | Malformed
FetchReply = NotReady | Ready | Refused | Failed | UnknownId | Malformed


def decode_submit(reply: HttpReply, key: ApiKey) -> SubmitReply:
    """Decode the reply to a submit.

    A refusal by the HTTP status alone counts only on a connection of the submit's own: a page that is left on a pooled
    connection may be the reply to another request.
    """
    body = read(reply, key)
    if isinstance(body, Refused) and not reply.is_on_own_connection:
        return Malformed(f"not the service's own refusal: {body.message}", reply.status)
    if not isinstance(body, Body):
        return body
    match body.status:
        case "error":
            return refused(body, reply)
        case "failed":
            return Failed(brief(body.words) or NO_REASON, body.id)
        case "success" if links := body.links:
            return _ready(body, links)
        case _ if body.id is not None:
            return Accepted(body.id, body.eta, body.future_links, body.meta, body.notes)
        case _:
            return Malformed(brief(f"status {body.status!r} without an id"), reply.status)


def decode_fetch(reply: HttpReply, key: ApiKey) -> FetchReply:
    """What a fetch was answered. Success without a link is not ready yet: several users saw an empty output."""
    body = read(reply, key)
    if not isinstance(body, Body):
        return body
    match body.status:
        case "error" | "failed":
            return _failed_fetch(body, reply)
        case "success" if links := body.links:
            return _ready(body, links)
        case "success":
            return NotReady(success_without_link=body.output)
        case _:
            return NotReady(notes=body.notes)


def _failed_fetch(body: Body, reply: HttpReply) -> FetchReply:
    words = body.words
    if re.search(r"request not found", words, re.IGNORECASE):
        return UnknownId(brief(words))
    if body.status == "error":
        return refused(body, reply)
    if re.search(r"try again", words, re.IGNORECASE):
        return NotReady(under_failed=True)
    return Failed(brief(words) or NO_REASON, body.id)


def _ready(body: Body, links: tuple[str, ...]) -> Ready:
    return Ready(body.id, links, body.future_links, body.meta, body.generation_time)


# --- the calls around it ---


_T = TypeVar("_T")


class Balance(NamedTuple):
    """What the account's wallet holds."""

    amount: Decimal
    currency: str


class Asset(NamedTuple):
    """A finished video of the account, as the service lists it: its id, and where the file is. No ref is told."""

    id: str
    links: tuple[str, ...]


def encode_assets(key: ApiKey) -> bytes:
    """The body of a question for the account's newest videos."""
    return encode_body({"type": "video", "page": 1, "per_page": ASSETS_A_PAGE}, key)


def assets(body: Body) -> tuple[Asset, ...]:
    """A page of the account's videos. Rows that have no id are passed over."""
    rows = (Body({**row}) for row in body.raw["data"][:ASSETS_A_PAGE])
    return tuple(Asset(row.id, row.links) for row in rows if row.id is not None)


def upload(body: Body) -> str:
    """The URL of an uploaded picture."""
    return body.links[0]


def queue_depth(body: Body) -> int:
    """How many jobs the account has queued or processing."""
    depth = whole_number(body.raw["processing_count"])
    if depth is None or depth < 0:
        raise ValueError("no number of jobs")
    return depth


def balance(body: Body) -> Balance:
    """The account's wallet."""
    data = body.raw["data"]
    return Balance(_amount(data["balance"]), brief(str(data["currency"]), _MAX_CURRENCY_CHARACTERS))


_AN_AMOUNT = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
_MAX_CURRENCY_CHARACTERS = 20
_TOO_MUCH = Decimal(10) ** 12
"""USD. Sums of such amounts are exact in Decimal's own context; a wallet that holds more is a mistake."""


def _amount(value: Any) -> Decimal:
    """An amount of money, perhaps as a string. Raises ValueError for what is none: a boolean, NaN, 1e999999."""
    text = "" if isinstance(value, bool) else str(value).strip()
    if not _AN_AMOUNT.fullmatch(text) or abs(amount := Decimal(text)) >= _TOO_MUCH:
        raise ValueError("no amount of money")
    return amount


def decode(reply: HttpReply, key: ApiKey, pick: Callable[[Body], _T]) -> _T | Refused | Malformed:
    """What was asked for: one of these functions picks it, and what it raises on a body without it is no error."""
    body = read(reply, key)
    if not isinstance(body, Body):
        return body
    if body.status != "success":
        return refused(body, reply)
    try:
        return pick(body)
    except (LookupError, TypeError, ValueError):
        return Malformed("success without what was asked for", reply.status)


def is_safe_base_url(url: str) -> bool:
    """Whether a key may be posted there: https, or http to this machine's loopback."""
    if not is_http_url(url):
        return False
    parts = urlsplit(url)
    is_safe = parts.scheme == "https" or is_loopback(parts.hostname)
    return is_safe and not parts.query and not parts.fragment and "@" not in parts.netloc
