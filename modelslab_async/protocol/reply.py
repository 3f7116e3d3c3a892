"""Read the fields of a reply leniently, without raising.

This module knows the field names and quirks of replies. `wire` turns the fields into the values that the package uses.
"""

import json
import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

from modelslab_async.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    InsufficientCreditsError,
    NotFoundError,
    RateLimitError,
    ServerError,
)
from modelslab_async.protocol.decoding import brief, excerpt, objects_in, plain, text_of
from modelslab_async.protocol.links import links_in
from modelslab_async.protocol.secret import ApiKey

_MAX_WAIT = 3600.0
_MAX_OUTPUT_CHARACTERS = 200
_MAX_STATUS_CHARACTERS = 40
_MAX_NUMBER_CHARACTERS = 40
_MAX_EXACT = 2**53
"""From this number on a float may stand for another integer."""
_MAX_META_FIELDS = 100
"""Fields of the request's echo that are kept. The documentation's sample has 24."""
_MAX_FIELD_CHARACTERS = 1000
"""Characters of a message field that are read to find the kind of the error."""
_MAX_SENTENCES = 100
NO_REASON = "no reason given"
_ID = re.compile(r"(?!\.+$)[\w.:-]{1,128}", re.ASCII)


class HttpReply(NamedTuple):
    """An HTTP reply.

    status: the HTTP status. body: the whole body.
    retry_after: the value of the Retry-After header; None if the reply has none.
    is_on_own_connection: whether the connection carried no other request, so that the reply cannot belong to another.
    """

    status: int
    body: bytes
    retry_after: str | None = None
    is_on_own_connection: bool = False

    def __repr__(self) -> str:
        return f"<HTTP {self.status}, {len(self.body)} bytes>"


class Body:
    """A reply's JSON object. Each property decodes its field when it is read.

    raw: the object, without the API key.
    status: the status in lower case; "" if the object has none.
    id: the service's id of the job; None if the object has none that can be used.
    """

    __slots__ = ("id", "raw", "status")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        status = raw.get("status")
        self.status = status.strip()[:_MAX_STATUS_CHARACTERS].lower() if isinstance(status, str) else ""
        self.id = _id(raw.get("id"))

    @property
    def eta(self) -> float | None:
        """The service's estimate of the time until the job ends, seconds; None if there is none."""
        return _seconds(self.raw.get("eta"))

    @property
    def links(self) -> tuple[str, ...]:
        """The URLs of the file, in the order in which to try them."""
        output, more, proxies = map(self.raw.get, ("output", "links", "proxy_links"))
        return tuple(dict.fromkeys((*links_in(output), *links_in(more), *links_in(proxies))))

    @property
    def future_links(self) -> tuple[str, ...]:
        """The URLs at which the file will appear."""
        return links_in(self.raw.get("future_links"))

    @property
    def output(self) -> str:
        """The beginning of the output's JSON, for an error."""
        return brief(json.dumps(self.raw.get("output"), ensure_ascii=False), _MAX_OUTPUT_CHARACTERS)

    @property
    def meta(self) -> Mapping[str, Any]:
        """The service's echo of the request; empty if there is none."""
        meta = self.raw.get("meta")
        return dict(islice(meta.items(), _MAX_META_FIELDS)) if isinstance(meta, dict) else {}

    @property
    def generation_time(self) -> float | None:
        """The time that the service took to generate the video, seconds; None if there is none."""
        return _seconds(self.raw.get("generationTime"))

    @property
    def retry_after(self) -> float | None:
        """The time after which the service asks to be called again, seconds; None if there is none."""
        return _seconds(self.raw.get("retry_after"))

    @property
    def words(self) -> str:
        """The texts of all message fields, each once. `messege` is the service's own spelling."""
        fields = (self.raw.get(name) for name in ("message", "messege", "error", "tip", "tips"))
        texts = list(dict.fromkeys(filter(None, (_text(field)[:_MAX_FIELD_CHARACTERS] for field in fields))))
        return " ".join([*(f"{text}." if text[-1].isalnum() else text for text in texts[:-1]), *texts[-1:]])

    @property
    def notes(self) -> tuple[str, ...]:
        """Oddities of the reply, which are logged once."""
        notes: tuple[str, ...] = ()
        if self.status not in ("processing", "success"):
            notes += (f"status {self.status!r} is not documented; treated as processing",)
        fetch_id = _text(self.raw.get("fetch_result")).rstrip("/").rpartition("/")[2]
        if fetch_id and self.id not in (fetch_id, None):
            notes += ("fetch_result names another id than the reply itself; the reply's id is used",)
        return notes


class Refused(NamedTuple):
    """The service refused a call.

    kind: the class of the error. message: the service's own words. http_status: the HTTP status.
    retry_after: the seconds after which the service asks to be called again; None if it names none.
    maximum: the number of the account's slots, if the message names it; else None.
    is_reported: False if only the HTTP status shows the refusal, since a gateway's page says nothing about the job.
    """

    kind: type[APIError]
    message: str
    http_status: int
    retry_after: float | None = None
    maximum: int | None = None
    is_reported: bool = True


class Malformed(NamedTuple):
    """The reply is not in the service's protocol: a gateway's page, JSON that was cut, or JSON without a meaning."""

    reason: str
    http_status: int


def read(reply: HttpReply, key: ApiKey) -> Body | Refused | Malformed:
    """Return the body if it has a status, else what the HTTP status shows."""
    text = text_of(reply.body)
    bodies = [Body(_without_key(found, reply.body, key)) for found in objects_in(text)]
    if with_status := next((body for body in bodies if body.status), None):
        return with_status
    return _by_code(reply, bodies[0] if bodies else Body({"message": f"not a JSON object: {excerpt(text, key)}"}))


def _without_key(found: Mapping[str, Any], body: bytes, key: ApiKey) -> Mapping[str, Any]:
    known = {name: plain(value, nested_json=name != "meta") for name, value in found.items()}
    redacted: Mapping[str, Any] = key.redact(known) if key.may_be_in(body) else known
    return redacted


def refused(body: Body, reply: HttpReply) -> Refused:
    """Return the refusal. Its kind follows from the HTTP status if that is an error, else from the words."""
    words = body.words
    named = re.search(r"maximum (?:of )?(\d{1,4})\b(?!\D{0,40}(?:second|minute|hour))", words, re.IGNORECASE)
    maximum = int(named[1]) if named else None
    wait = _wait(body.retry_after, words, reply.retry_after)
    return Refused(_kind(reply.status, words), brief(words) or NO_REASON, reply.status, wait, maximum)


def _by_code(reply: HttpReply, body: Body) -> Refused | Malformed:
    """Return what the HTTP status of a reply without a `status` field shows.

    A 4xx means that the service did not accept the request, and so does a permanent redirect, since none is followed.
    The meaning of all others is unknown. 408 may come from a gateway that gave up on a running request, and 302 and 303
    may follow a request that was carried out.
    """
    words = body.words or "a JSON object without a status"
    if reply.status in (301, 307, 308):
        words = f"redirected, and redirects are not followed (hint: check the base URL); the reply: {words}"
    elif not 400 <= reply.status < 500 or reply.status == 408:
        return Malformed(brief(words), reply.status)
    return refused(Body({"message": words, "retry_after": body.retry_after}), reply)._replace(is_reported=False)


_BY_CODE: Mapping[int, type[APIError]] = {
    401: AuthenticationError,
    402: InsufficientCreditsError,
    404: NotFoundError,
    429: RateLimitError,
}
_BY_WORDS: tuple[tuple[str, type[APIError]], ...] = (
    (r"rate limit|too many requests|queued requests|try again in \d", RateLimitError),
    (r"api[ _-]?key|unauthori[sz]ed|unauthenticated|invalid key", AuthenticationError),
    (r"credit|balance|wallet|insufficient|payment|subscri", InsufficientCreditsError),
    (r"not found", NotFoundError),
)
"""Patterns that find the kind of an error that the service reports with HTTP 200."""


def _kind(status: int, words: str) -> type[APIError]:
    if status >= 500:
        return ServerError
    by_words = (kind for pattern, kind in _BY_WORDS if re.search(pattern, words, re.IGNORECASE))
    return _BY_CODE.get(status) or next(by_words, BadRequestError)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _wait(retry_after: float | None, words: str, header: str | None) -> float | None:
    """Return the seconds to wait, at most an hour, or None.

    They come from the body's *retry_after*, the message ("try again in 30 minutes") or the header.
    """
    named = re.search(r"\b(?:in|after) (\d{1,6}) ?(s|m|h)", words, re.IGNORECASE)
    from_words = float(named[1]) * _UNITS[named[2].lower()] if named else None
    for seconds in (retry_after, from_words, _seconds(header)):
        if seconds is not None:
            return min(seconds, _MAX_WAIT)
    return None


# --- values of fields ---


def whole_number(value: Any) -> int | None:
    """Return an integer, also if it is written as 7.0 or "7". Return None for any other value, also for a boolean."""
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer() and abs(value) < _MAX_EXACT:
            return int(value)
        case str() if len(value) <= _MAX_NUMBER_CHARACTERS and value.strip().isdecimal():
            return int(value)
        case _:
            return None


def _text(value: Any) -> str:
    """Return the text of a message, which may be a string, a list, or an object of field → list of sentences."""
    match value:
        case str():
            return value.strip()
        case list():
            return " ".join(filter(None, map(_text, value[:_MAX_SENTENCES])))
        case dict():
            items = islice(value.items(), _MAX_SENTENCES)
            return " ".join(f"{name}: {text}" for name, item in items if (text := _text(item)))
        case _:
            return ""


def _seconds(value: Any) -> float | None:
    """Return a number of seconds, also if it is a string. Return None for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _id(value: Any) -> str | None:
    """Return an id, which is an integer or a string of ordinary characters. Return None for any other value."""
    number = whole_number(value)
    text = value.strip() if isinstance(value, str) else "" if number is None else str(number)
    return text if _ID.fullmatch(text) else None
