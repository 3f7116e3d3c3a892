"""Decode the bytes of a reply into JSON values and plain text, in linear time, whatever a server sends.

Replies come with a PHP notice before the JSON or with words or zeros after it. Some are in UTF-16, or have a Latin-1
letter or a raw line break in a string. All of them are decoded, because a reply may hold the id of a paid job. No
public function raises, and none takes more than 100 ms for a reply of MAX_REPLY_BYTES.
"""

import json
import math
import re
from typing import Any

from modelslab_async.protocol.secret import ApiKey

MAX_REPLY_BYTES = 2**20
"""A longer reply is cut here; replies usually have some kilobytes. A JSON object that is cut is not read."""
MAX_REASON_CHARACTERS = 700
"""Length of the reply's part in an error. With the charge, ref and id the error stays below 1,000 characters."""
_MAX_VALUES = 10_000
"""JSON with more values is not read; replies have about a hundred. Python takes up to 140 ms for as many values as fit
in MAX_REPLY_BYTES.
"""
_MAX_WIDE_BYTES = 2**16
"""A reply in UTF-16 or UTF-32 is cut here, because Python decodes its invalid byte pairs slowly."""
_MAX_NOTICE_CHARACTERS = 2**16
"""Characters before a JSON object, such as a PHP notice, in which its beginning is searched for."""
_MAX_OBJECTS = 4
_MAX_LEVELS = 8
_MAX_DIGITS = 40
_EXCERPT_FROM_CHARACTERS = 2**15
"""Characters of a page that an excerpt is taken from. Some pages have long styles before their first word."""
_EXCERPT_CHARACTERS = 200
_OBJECT_OR_SCRIPT = re.compile(r'\{[ \t\r\n]*"|<script', re.IGNORECASE)
_TAG = re.compile(r"<(?:(script|style)\b|(!--)|[a-z/!?])", re.IGNORECASE)
_CLOSING = re.compile(r"</(?:script|style)\b", re.IGNORECASE)


def text_of(body: bytes) -> str:
    """Decode *body* in the encoding that its first bytes show. Invalid bytes become U+FFFD."""
    encoding = json.detect_encoding(body)
    limit = MAX_REPLY_BYTES if encoding.startswith("utf-8") else _MAX_WIDE_BYTES
    return body[:limit].decode(encoding, errors="replace")


def objects_in(text: str) -> list[dict[str, Any]]:
    """Return the first JSON objects in *text*. Stop before an object that is cut or is not valid JSON.

    An object within another object is never returned, even if the outer object is cut, because the search continues
    only after the end of a complete object. It also stops at the first script of a page, which holds no reply.
    """
    found: list[dict[str, Any]] = []
    at = 0
    try:
        while len(found) < _MAX_OBJECTS:
            start = _OBJECT_OR_SCRIPT.search(text, at, at + _MAX_NOTICE_CHARACTERS)
            if not start or start[0].startswith("<"):
                break
            value, at = _decoded(text, start.start())
            found.append(value)
    except (ValueError, RecursionError):
        pass
    return found


def plain(value: Any, *, nested_json: bool, levels: int = _MAX_LEVELS) -> Any:
    """Return a copy of a JSON value that can be encoded again and has a bounded depth.

    Parts below *levels* become None, and so do numbers that are not finite. Lone surrogates, which cannot be encoded,
    become question marks. With *nested_json*, a string that holds JSON becomes the value of that JSON, because some
    gateways encode twice.
    """
    match value:
        case str():
            text = _without_surrogates(value)
            return _nested_json(text, levels) if nested_json else text
        case float():
            return value if math.isfinite(value) else None
        case list() | dict() if not levels:
            return None
        case list():
            return [plain(item, nested_json=nested_json, levels=levels - 1) for item in value]
        case dict():
            items = value.items()
            return {
                _without_surrogates(name): plain(item, nested_json=nested_json, levels=levels - 1)
                for name, item in items
            }
        case _:
            return value


def brief(text: str, most: int = MAX_REASON_CHARACTERS) -> str:
    """Return *text* as one line of printable characters, shortened to *most* characters."""
    begin = text[: 4 * most]  # more than *most*, because runs of blanks become one blank
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in begin).split())
    return line if len(line) <= most and begin == text else f"{line[: most - 3]}..."


def excerpt(text: str, key: ApiKey) -> str:
    """Return the first words of a body that is not JSON, without markup and without the key."""
    from html import unescape  # noqa: PLC0415 - slow to import, and needed only for a page

    begin = key.redact(text[:_EXCERPT_FROM_CHARACTERS].replace("\0", ""))
    words = unescape(" ".join(_without_markup(begin).split())[: 2 * _EXCERPT_CHARACTERS])
    return repr(key.cut(key.redact(brief(words, _EXCERPT_CHARACTERS))))


def _decoded(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at *start*, and the position of its end. Raise ValueError or RecursionError."""
    if len(text) > _MAX_VALUES and sum(map(text.count, ",[{")) > _MAX_VALUES:
        raise ValueError("too many values")
    return _JSON.raw_decode(text, start)


def _integer(digits: str) -> int | None:
    """Return the integer, or None if it has more digits than any number of a reply: Python reads those slowly."""
    return int(digits) if len(digits) <= _MAX_DIGITS else None


_JSON = json.JSONDecoder(parse_int=_integer, strict=False)
"""Not strict, so that a string may hold a raw line break."""


def _without_surrogates(text: str) -> str:
    return text if text.isprintable() else text.encode(errors="replace").decode()


def _nested_json(text: str, levels: int) -> Any:
    """Return the value of the JSON in *text*, or *text* itself if it is not JSON."""
    text = text.replace("\\/", "/")  # a slash that was escaped twice
    inner = text.strip()
    if not levels or not inner.startswith(("[", "{", '"')):
        return text
    try:
        value, end = _decoded(inner)
    except (ValueError, RecursionError):
        return text
    return plain(value, nested_json=True, levels=levels - 1) if end == len(inner) else text


def _without_markup(page: str) -> str:
    """Replace tags, comments, styles and scripts with blanks. Read each character once, even if the page is cut."""
    words, at = [], 0
    while tag := _TAG.search(page, at):
        words.append(page[at : tag.start()])
        if tag[1]:
            closing = _CLOSING.search(page, tag.end())
            at = closing.start() if closing else len(page)
        else:
            end = "-->" if tag[2] else ">"
            found = page.find(end, tag.end())
            at = len(page) if found < 0 else found + len(end)
    return " ".join((*words, page[at:]))
