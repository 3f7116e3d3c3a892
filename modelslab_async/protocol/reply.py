"""One reply of the service, read leniently: every field as far as it can be read, and never an exception.

Half of `wire`, which gives its public values; the field names and quirks of replies are here.
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

_LONGEST_WAIT = 3600.0
_MAX_OUTPUT_CHARACTERS = 200
_MAX_STATUS_CHARACTERS = 40
_MAX_NUMBER_CHARACTERS = 40
_INEXACT = 2**53
"""From here on a float may stand for another integer."""
_MAX_ECHOED = 100
"""Fields of an echo. The documentation's sample has 24."""
_MAX_WORDS = 1000
"""Characters of one field in which the kind of an error is searched."""
_MAX_SENTENCES = 100
NO_REASON = "no reason given"
_AN_ID = re.compile(r"(?!\.+$)[\w.:-]{1,128}", re.ASCII)


class HttpReply(NamedTuple):
    """An HTTP reply: the status, the whole body, and the value of its Retry-After header, if any.

    is_on_own_connection: whether the connection carried no other request, so that this reply answers no other one.
    """

    status: int
    body: bytes
    retry_after: str | None = None
    is_on_own_connection: bool = False

    def __repr__(self) -> str:
        return f"<HTTP {self.status}, {len(self.body)} bytes>"


class Body:
    """A reply's JSON object, in which each field is read when it is asked for. `raw` is the object, without the key."""

    __slots__ = ("id", "raw", "status")

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw
        status = raw.get("status")
        self.status = status.strip()[:_MAX_STATUS_CHARACTERS].lower() if isinstance(status, str) else ""
        self.id = _id(raw.get("id"))
        """The service's id of a job."""

    @property
    def eta(self) -> float | None:
        """Seconds."""
        return _seconds(self.raw.get("eta"))

    @property
    def links(self) -> tuple[str, ...]:
        """Where the file is, in the order in which to try."""
        output, more, proxies = map(self.raw.get, ("output", "links", "proxy_links"))
        return tuple(dict.fromkeys((*links_in(output), *links_in(more), *links_in(proxies))))

    @property
    def future_links(self) -> tuple[str, ...]:
        """Where the file will be."""
        return links_in(self.raw.get("future_links"))

    @property
    def output(self) -> str:
        """The output as an error shows it: the beginning of its JSON."""
        return brief(json.dumps(self.raw.get("output"), ensure_ascii=False), _MAX_OUTPUT_CHARACTERS)

    @property
    def meta(self) -> Mapping[str, Any]:
        """The echo of the request."""
        meta = self.raw.get("meta")
        return dict(islice(meta.items(), _MAX_ECHOED)) if isinstance(meta, dict) else {}

    @property
    def generation_time(self) -> float | None:
        """Seconds."""
        return _seconds(self.raw.get("generationTime"))

    @property
    def retry_after(self) -> float | None:
        """Seconds."""
        return _seconds(self.raw.get("retry_after"))

    @property
    def words(self) -> str:
        """All that the reply says in words, once each. `messege` is the service's own spelling."""
        fields = (self.raw.get(name) for name in ("message", "messege", "error", "tip", "tips"))
        return " ".join(dict.fromkeys(filter(None, (_text(field)[:_MAX_WORDS] for field in fields))))

    @property
    def notes(self) -> tuple[str, ...]:
        """Oddities that a log should tell once."""
        notes: tuple[str, ...] = ()
        if self.status not in ("processing", "success"):
            notes += (f"status {self.status!r} is not documented; taken as processing",)
        fetch_id = _text(self.raw.get("fetch_result")).rstrip("/").rpartition("/")[2]
        if fetch_id and self.id not in (fetch_id, None):
            notes += ("fetch_result names another id than the reply itself; the reply's is used",)
        return notes


class Refused(NamedTuple):
    """Submit or fetch: the service says no.

    `maximum` is the number of places where its message names it. `is_reported` is False if only the HTTP code says no:
    a gateway's page may be the reply to a job that is in work.
    """

    kind: type[APIError]
    message: str
    http_status: int
    retry_after: float | None = None
    maximum: int | None = None
    is_reported: bool = True


class Malformed(NamedTuple):
    """Not the service's protocol: a gateway's page, cut JSON, or JSON that says nothing."""

    reason: str
    http_status: int


def read(reply: HttpReply, key: ApiKey) -> Body | Refused | Malformed:
    """Return the body if it has a status, else what the HTTP code alone says."""
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
    """A refusal, told apart by the HTTP code where it is one of an error, else by the words."""
    words = body.words
    named = re.search(r"maximum (?:of )?(\d{1,4})\b(?!\D{0,40}(?:second|minute|hour))", words, re.IGNORECASE)
    maximum = int(named[1]) if named else None
    wait = _wait(body.retry_after, words, reply.retry_after)
    return Refused(_kind(reply.status, words), brief(words) or NO_REASON, reply.status, wait, maximum)


def _by_code(reply: HttpReply, body: Body) -> Refused | Malformed:
    """Without a status: a 4xx was not taken, nor was a permanent redirect (none is followed). All else is unknown.

    408 may come from a gateway that gave up on a request in work, and 302 and 303 may follow one that was done.
    """
    words = body.words or "a JSON object without a status"
    if reply.status in (301, 307, 308):
        words = f"redirected, which is not followed; is the base URL right? {words}"
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
"""The service tells errors at HTTP 200 too, and then only its words tell them apart."""


def _kind(status: int, words: str) -> type[APIError]:
    if status >= 500:
        return ServerError
    by_words = (kind for pattern, kind in _BY_WORDS if re.search(pattern, words, re.IGNORECASE))
    return _BY_CODE.get(status) or next(by_words, BadRequestError)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _wait(told: float | None, words: str, header: str | None) -> float | None:
    """Seconds to wait, at most an hour: from the body, the message ("try again in 30 minutes") or the header."""
    named = re.search(r"\b(?:in|after) (\d{1,6}) ?(s|m|h)", words, re.IGNORECASE)
    from_words = float(named[1]) * _UNITS[named[2].lower()] if named else None
    for seconds in (told, from_words, _seconds(header)):
        if seconds is not None:
            return min(seconds, _LONGEST_WAIT)
    return None


# --- field by field ---


def whole_number(value: Any) -> int | None:
    """Return an integer, also if it is written as 7.0 or "7"; None for everything else, and for booleans."""
    match value:
        case bool():
            return None
        case int():
            return value
        case float() if value.is_integer() and abs(value) < _INEXACT:
            return int(value)
        case str() if len(value) <= _MAX_NUMBER_CHARACTERS and value.strip().isdecimal():
            return int(value)
        case _:
            return None


def _text(value: Any) -> str:
    """A sentence; seen also as an object of field → list of sentences."""
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
    """A number of seconds, perhaps as a string; None for what is no such number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _id(value: Any) -> str | None:
    """An integer; a string of ordinary characters is accepted, an empty one is none."""
    number = whole_number(value)
    text = value.strip() if isinstance(value, str) else "" if number is None else str(number)
    return text if _AN_ID.fullmatch(text) else None
