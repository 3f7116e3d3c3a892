"""Encode requests to the service and decode its replies.

Only this module and `reply` know the service's URLs, field names and quirks. The `status` in the body decides, not the
HTTP status. Decoding never raises, whatever a server sends: an unreadable reply is `Malformed`. Nothing here does I/O:
a transport returns an `HttpReply`.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from modelslab_async.errors import APIError, InvalidRequestError, MalformedReplyError, Problem
from modelslab_async.protocol.decoding import brief
from modelslab_async.protocol.operations import DEFAULT_OPERATION, Operation, endpoint_of, operation_named
from modelslab_async.protocol.problems import shown_name, wrong
from modelslab_async.protocol.reply import NO_REASON, Body, HttpReply, Malformed, Refused, read, refused, whole_number
from modelslab_async.protocol.request import (
    Deployment,
    Request,
    is_http_url,
    is_loopback,
)
from modelslab_async.protocol.secret import ApiKey, SecretBytes

DEFAULT_BASE_URL = "https://modelslab.com"
BALANCE_PATH = "/api/wallet_balance"
QUEUE_DEPTH_PATH = "/api/v6/processing/request_count"
UPLOAD_PATH = "/api/v6/base64_to_url"
VIDEO_UPLOAD_PATH = "/api/v6/video/base64_to_url"
ASSETS_PATH = "/api/v6/assets_generated"
ServerCommand = Literal["restart_server", "update_server", "clear_cache", "clear_queue", "system_details"]
"""The commands to a dedicated server."""
ASSETS_PER_PAGE = 30
"""The most that the service allows."""


# --- encoding ---


def request_from(params: Mapping[str, Any]) -> Request:
    """Return the request with these parameters, see `parse_request`. Raises InvalidRequestError with all problems."""
    request, problems = parse_request(params)
    if problems:
        raise InvalidRequestError(problems)
    return request


def parse_request(params: Mapping[str, Any]) -> tuple[Request, list[Problem]]:
    """Return the request with these parameters, named as on the documentation page, and what is wrong with the names.

    `operation` names the operation; without it, the request is one for Image to Video Ultra. `shift_sample`, which the
    page's examples use, is another name of `sample_shift`. An empty `key` is ignored. If there are problems, the
    request has what is known, so that its values can be checked too.

    Raises InvalidRequestError for an unknown operation.
    """
    operation = operation_named(params.get("operation", DEFAULT_OPERATION))
    names = {*operation.parameters, "extra"}
    known = {name: value for name, value in params.items() if name != "operation" and not (name == "key" and not value)}
    problems = []
    if "shift_sample" in known and "sample_shift" in names:
        shift = known.pop("shift_sample")
        if known.setdefault("sample_shift", shift) != shift:
            requirement = "must equal sample_shift, which is the same parameter"
            problems.append(wrong("shift_sample", shift, requirement, "pass only sample_shift"))
    problems += [_unknown(name, operation) for name in known if name not in names]
    problems += [
        Problem(name, "", "is required", _REQUIRED.get(name, f"pass {name}"))
        for name in operation.required
        if known.get(name) is None
    ]
    given: dict[str, Any] = {name: value for name, value in known.items() if name in names}
    return operation.request({**dict.fromkeys(operation.required), **given}), problems


_REQUIRED = {"prompt": "describe the video", "init_image": "pass a URL, a path or bytes"}


def _unknown(name: str, operation: Operation) -> Problem:
    if name == "key":
        return Problem("key", "", "cannot be a parameter", "pass it as Client(api_key=...)")
    from difflib import get_close_matches  # noqa: PLC0415 - needed only for a mistake

    close = get_close_matches(str(name), operation.parameters, n=1)
    escaped = json.dumps(str(name))[1:-1]
    in_extra = f'pass it in extra={{"{escaped}": ...}}'
    hint = f"pass {close[0]} instead, or {in_extra}" if close else in_extra
    return Problem(shown_name(name), "", "unknown parameter", hint)


def encode_request(request: Request, *, ref: str) -> dict[str, Any]:
    """Return the parameters under the service's names, without the key, the inputs and parameters that are None."""
    operation = operation_named(request.operation)
    params: dict[str, Any] = _unstructure(operation)(request)
    return {**operation.sent, **params, **request.extra, "track_id": ref}


def stored_request(request: Request, *, ref: str) -> dict[str, Any]:
    """Return the parameters as the journal keeps them, without the inputs. `Client.submit` takes them again."""
    named = {} if request.operation == DEFAULT_OPERATION else {"operation": request.operation}
    extra = {"extra": dict(request.extra)} if request.extra else {}
    return {**named, **_unstructure(operation_named(request.operation))(request), **extra, "track_id": ref}


def encode_body(params: Mapping[str, Any], key: ApiKey, *, picture: str | bytes | None = None) -> bytes:
    """Return a JSON body that holds the key and *params*.

    picture: a URL, or bytes, which are sent as base64.

    The key and the base64 need no escaping, so they are spliced in. So no variable that a traceback may show holds the
    key, and the event loop is not blocked by dumping megabytes of base64.
    """
    if isinstance(picture, str):
        params = {**params, "init_image": picture}
    rest = json.dumps({**params, "base64": True} if isinstance(picture, bytes) else dict(params)).encode()[1:-1]
    parts = [b'{"key": ', key.as_json(), b", " if rest else b"", rest]
    if isinstance(picture, bytes):
        parts += [b', "init_image": "', base64.b64encode(picture), b'"']
    return SecretBytes(b"".join([*parts, b"}"]))


def encode_upload(data: bytes, mime_type: str, key: ApiKey) -> bytes:
    """Return the body of an upload, with the picture or the mp4 as a data URI."""
    uri = f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
    return encode_body({"init_obj" if mime_type.startswith("video/") else "base64_string": uri}, key)


@cache
def _unstructure(operation: Operation) -> Callable[[Request], dict[str, Any]]:
    """Return the function that turns a request into a dict, without None and the fields that are encoded separately."""
    from cattrs import Converter  # noqa: PLC0415 - slower to import than the rest of the package
    from cattrs.gen import make_dict_unstructure_fn, override  # noqa: PLC0415

    omitted = ("operation", "extra", "track_id", "base64", *(each.name for each in operation.inputs))
    fields: dict[str, Any] = {name: override(omit=True) for name in omitted}
    return make_dict_unstructure_fn(operation.request_type, Converter(), _cattrs_omit_if_default=True, **fields)


def submit_path(operation: str, deployment: Deployment) -> str:
    """Return the path at which a paid request is submitted."""
    return endpoint_of(operation, deployment).submit


def fetch_path(deployment: Deployment, job_id: str, operation: str = DEFAULT_OPERATION) -> str:
    """Return the path at which a job is fetched.

    The path is built from the id. The reply's `fetch_result` is not used, because the key may only go to our own URL.
    """
    folder = endpoint_of(operation, deployment).fetch
    return folder + (job_id if job_id.isascii() and job_id.isalnum() else quote(job_id, safe=""))


def command_path(command: ServerCommand) -> str:
    """Return the path at which a dedicated server takes a command."""
    return submit_path(DEFAULT_OPERATION, Deployment.ENTERPRISE).rpartition("/")[0] + f"/{command}"


# --- decoded replies ---


_NO_META: Mapping[str, Any] = {}


class Accepted(NamedTuple):
    """Reply to a submit: the service accepted the job.

    id: the service's id of the job.
    eta: the service's estimate of the seconds until the job ends; None if it gave none.
    future_links: the URLs at which the file will appear.
    meta: the service's echo of the request.
    notes: oddities of the reply, for the log.
    """

    id: str
    eta: float | None = None
    future_links: tuple[str, ...] = ()
    meta: Mapping[str, Any] = _NO_META
    notes: tuple[str, ...] = ()


class NotReady(NamedTuple):
    """Reply to a fetch: the job has not ended.

    under_failed: whether the service said "Try Again" under status failed, as one user saw.
    notes: oddities of the reply, for the log.
    success_without_link: the beginning of the output, if the service reports success without a link in it; else None.
    """

    under_failed: bool = False
    notes: tuple[str, ...] = ()
    success_without_link: str | None = None


class Ready(NamedTuple):
    """Reply to a submit or a fetch: the job has ended with success.

    id: the service's id of the job; None if the reply has none.
    links: the links of output, links and proxy_links, in the order in which to try them.
    future_links: the URLs at which the file was announced.
    meta: the service's echo of the request; usually empty in a reply to a fetch.
    generation_time: the service's own figure, seconds; None if it gave none.
    """

    id: str | None = None
    links: tuple[str, ...] = ()
    future_links: tuple[str, ...] = ()
    meta: Mapping[str, Any] = _NO_META
    generation_time: float | None = None


class Failed(NamedTuple):
    """Reply to a submit or a fetch: the service accepted the job, and then failed it."""

    message: str
    id: str | None = None


class UnknownId(NamedTuple):
    """Reply to a fetch: "Request not found"."""

    message: str


def error_of(reply: Refused | Malformed) -> APIError:
    """Return the exception for a refusal or a malformed reply."""
    if isinstance(reply, Malformed):
        return MalformedReplyError(reply.reason, http_status=reply.http_status)
    return reply.kind(reply.message, http_status=reply.http_status, retry_after=reply.retry_after)


SubmitReply = Accepted | Ready | Refused | Failed | Malformed
FetchReply = NotReady | Ready | Refused | Failed | UnknownId | Malformed


def decode_submit(reply: HttpReply, key: ApiKey) -> SubmitReply:
    """Decode the reply to a submit.

    A refusal by the HTTP status alone counts only if the submit had a new connection. On a pooled connection, a
    page may be the reply to an earlier request.
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
    """Decode the reply to a fetch. Success without a link is `NotReady`, because several users saw an empty output."""
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


# --- other calls ---


_T = TypeVar("_T")


class Balance(NamedTuple):
    """Amount in the account's wallet."""

    amount: Decimal
    currency: str


class Asset(NamedTuple):
    """A finished video of the account, as the service lists it. The list has no refs.

    id: the service's id of the job.
    links: the URLs of the file.
    """

    id: str
    links: tuple[str, ...]


def encode_assets(key: ApiKey) -> bytes:
    """Return the body of a request for the account's newest videos."""
    return encode_body({"type": "video", "page": 1, "per_page": ASSETS_PER_PAGE}, key)


def assets(body: Body) -> tuple[Asset, ...]:
    """Return a page of the account's videos, without rows that have no id."""
    rows = (Body({**row}) for row in body.raw["data"][:ASSETS_PER_PAGE])
    return tuple(Asset(row.id, row.links) for row in rows if row.id is not None)


def upload(body: Body) -> str:
    """Return the URL of an uploaded file."""
    return body.links[0]


def message(body: Body) -> str:
    """Return the words of a reply; "" if it has none."""
    return brief(body.words)


def details(body: Body) -> Mapping[str, Any]:
    """Return all fields of a reply but its status."""
    return {name: value for name, value in body.raw.items() if name != "status"}


def queue_depth(body: Body) -> int:
    """Return how many jobs the account has queued or processing. Raise ValueError if the reply has no such number."""
    depth = whole_number(body.raw["processing_count"])
    if depth is None or depth < 0:
        raise ValueError("processing_count is not a number of jobs")
    return depth


def balance(body: Body) -> Balance:
    """Return the amount in the account's wallet. Raise ValueError if the reply has none."""
    data = body.raw["data"]
    return Balance(_amount(data["balance"]), brief(str(data["currency"]), _MAX_CURRENCY_CHARACTERS))


_AMOUNT = re.compile(r"[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE)
_MAX_CURRENCY_CHARACTERS = 20
_MAX_AMOUNT = Decimal(10) ** 12
"""USD. Sums of smaller amounts are exact in Decimal's default context. A larger amount is taken as a mistake."""


def _amount(value: Any) -> Decimal:
    """Return an amount of money, also if it is a string. Raise ValueError for a boolean, NaN or 1e999999."""
    text = "" if isinstance(value, bool) else str(value).strip()
    if not _AMOUNT.fullmatch(text) or abs(amount := Decimal(text)) >= _MAX_AMOUNT:
        raise ValueError("not an amount of money")
    return amount


def decode(reply: HttpReply, key: ApiKey, pick: Callable[[Body], _T]) -> _T | Refused | Malformed:
    """Decode the reply to another call, of which *pick* reads the result.

    pick: one of the functions above. A LookupError, TypeError or ValueError that it raises makes the reply `Malformed`.
    """
    body = read(reply, key)
    if not isinstance(body, Body):
        return body
    if body.status != "success":
        return refused(body, reply)
    try:
        return pick(body)
    except (LookupError, TypeError, ValueError):
        return Malformed("success without the expected fields", reply.status)


def is_clear_text(url: str) -> bool:
    """Return whether requests to *url* cross a network unencrypted: plain http to another host than loopback."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname)


def is_safe_base_url(url: str, *, allow_http: bool = False) -> bool:
    """Return whether a key may be sent to *url*: https, or http to this machine's loopback.

    allow_http: allow http to every host.
    """
    if not is_http_url(url):
        return False
    parts = urlsplit(url)
    is_safe = allow_http or not is_clear_text(url)
    return is_safe and not parts.query and not parts.fragment and "@" not in parts.netloc
