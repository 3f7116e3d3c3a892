"""One reply of the service, read leniently: every field as far as it can be read, and never an exception.

Half of `wire`, which gives its public values; the field names and quirks of replies are here.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
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
from modelslab_async.protocol.request import is_http_url
from modelslab_async.protocol.secret import ApiKey

_LONGEST_WAIT = 3600.0
_EXCERPT_CHARACTERS = 200
_MOST_LINKS = 10
_EXCERPT_BYTES = 100_000
_MOST_LEVELS = 8
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
        self.status = status.strip().lower() if isinstance(status, str) else ""
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
        return tuple(dict.fromkeys((*_links(output), *_links(more), *_links(proxies))))

    @property
    def future_links(self) -> tuple[str, ...]:
        """Where the file will be."""
        return _links(self.raw.get("future_links"))

    @property
    def meta(self) -> Mapping[str, Any]:
        """The echo of the request."""
        meta = self.raw.get("meta")
        return Echo(meta if isinstance(meta, dict) else {})

    @property
    def generation_time(self) -> float | None:
        """Seconds."""
        return _seconds(self.raw.get("generationTime"))

    @property
    def retry_after(self) -> float | None:
        """Seconds."""
        return _seconds(self.raw.get("retry_after"))

    @property
    def reason(self) -> str:
        """All that the reply says in words, once each. `messege` is the service's own spelling."""
        words = (_text(self.raw.get(name)) for name in ("message", "messege", "error", "tip", "tips"))
        return " ".join(dict.fromkeys(filter(None, words)))

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


class Echo(Mapping[str, Any]):
    """A request as the service echoes it. Many jobs are watched at a time: all names and most flags are kept once."""

    __slots__ = ("_names", "_values")

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self._names = _kept_once(tuple(meta))
        self._values = tuple("no" if value == "no" else value for value in meta.values())

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._values[self._names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@lru_cache(64)
def _kept_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return names


class Refused(NamedTuple):
    """Submit or fetch: the service says no. `maximum` is the number of places where its message names it."""

    kind: type[APIError]
    message: str
    http_status: int
    retry_after: float | None = None
    maximum: int | None = None


class Malformed(NamedTuple):
    """Not the service's protocol: a gateway's page, cut JSON, or JSON that says nothing."""

    reason: str
    http_status: int


def read(reply: HttpReply, key: ApiKey) -> Body | Refused | Malformed:
    """The body, if it has a status; else what the HTTP code alone says."""
    try:
        value = json.loads(reply.body)
        if key.may_be_in(reply.body):
            value = key.redact(value)
        body = Body({**value})
    except (TypeError, ValueError, RecursionError):
        return _by_code(reply, Body({"message": f"not a JSON object: {_excerpt(reply.body, key)}"}))
    return body if body.status else _by_code(reply, body)


def refused(body: Body, reply: HttpReply) -> Refused:
    """A refusal, told apart by the HTTP code where it is one of an error, else by the words."""
    reason = body.reason or "no reason given"
    named = re.search(r"maximum (?:of )?(\d{1,4})\b(?!\D*(?:second|minute|hour))", reason, re.IGNORECASE)
    maximum = int(named[1]) if named else None
    return Refused(_kind(reply.status, reason), reason, reply.status, _wait(body, reply), maximum)


def _by_code(reply: HttpReply, body: Body) -> Refused | Malformed:
    """Without a status: a 4xx was not taken, nor was a permanent redirect (none is followed). All else is unknown.

    408 may come from a gateway that gave up on a request in work, and 302 and 303 may follow one that was done.
    """
    reason = body.reason or "a JSON object without a status"
    if reply.status in (301, 307, 308):
        reason = f"redirected, which is not followed; is the base URL right? {reason}"
    elif not 400 <= reply.status < 500 or reply.status == 408:
        return Malformed(reason, reply.status)
    return refused(Body({"message": reason, "retry_after": body.retry_after}), reply)


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


def _kind(status: int, reason: str) -> type[APIError]:
    if status >= 500:
        return ServerError
    by_words = (kind for words, kind in _BY_WORDS if re.search(words, reason, re.IGNORECASE))
    return _BY_CODE.get(status) or next(by_words, BadRequestError)


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def _wait(body: Body, reply: HttpReply) -> float | None:
    """Seconds to wait, at most an hour: from the body, the message ("try again in 30 minutes") or the header."""
    named = re.search(r"\b(?:in|after) (\d{1,6}) ?(s|m|h)", body.reason, re.IGNORECASE)
    from_words = float(named[1]) * _UNITS[named[2].lower()] if named else None
    for seconds in (body.retry_after, from_words, _seconds(reply.retry_after)):
        if seconds is not None:
            return min(seconds, _LONGEST_WAIT)
    return None


def _excerpt(body: bytes, key: ApiKey) -> str:
    """The first words of what is no JSON, without markup and without the key, also in an encoding of wide letters."""
    text = key.cut(key.redact(body[:_EXCERPT_BYTES].replace(b"\0", b"").decode(errors="replace")))
    words = " ".join(re.sub(r"<(style|script)\b.*?</\1>|<[^>]*>", " ", text, flags=re.DOTALL).split())
    return repr(words[:_EXCERPT_CHARACTERS])


# --- field by field ---


def _links(value: Any) -> tuple[str, ...]:
    """A list of URLs; seen also as one string, "" or null."""
    if not value:
        return ()
    items = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    links = [link for item in items if isinstance(item, str) and is_http_url(link := item.strip())]
    return tuple(links[:_MOST_LINKS])


def _text(value: Any, levels: int = _MOST_LEVELS) -> str:
    """A sentence; seen also as an object of field → list of sentences. What is deeper than that says nothing."""
    match value:
        case str():
            return value.strip()
        case list() if levels:
            return " ".join(filter(None, (_text(item, levels - 1) for item in value)))
        case dict() if levels:
            return " ".join(f"{name}: {text}" for name, item in value.items() if (text := _text(item, levels - 1)))
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
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    text = str(value).strip()
    return text if _AN_ID.fullmatch(text) else None
