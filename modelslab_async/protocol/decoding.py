"""From the bytes of a reply to JSON values and plain words, in linear time, whatever a server sends.

Replies come with a PHP notice before the JSON, with words or zeros after it, in UTF-16, with a Latin-1 letter or a raw
line break in a string. All of them are read, because an id in one is a job that was paid for. The bounds are those of
this module: no function raises, and none takes more than 100 ms for a reply of MAX_REPLY_BYTES.
"""

import json
import math
import re
from typing import Any

from modelslab_async.protocol.secret import ApiKey

MAX_REPLY_BYTES = 2**20
"""A reply is JSON of some kilobytes. A longer one is cut here, and a JSON object that is cut is not read."""
MAX_REASON_CHARACTERS = 700
"""What an error tells of a reply. With the words, charge, ref and id around it, it stays below 1,000."""
_MAX_VALUES = 10_000
"""A reply has a hundred values. Python takes up to 140 ms for the most that fit in MAX_REPLY_BYTES."""
_MAX_WIDE_BYTES = 2**16
"""A reply in UTF-16 or UTF-32 is cut here, because Python takes long for each byte pair there that is no letter."""
_MAX_NOTICE_CHARACTERS = 2**16
"""So far the beginning of a JSON object is searched."""
_MAX_OBJECTS = 4
_MAX_LEVELS = 8
_MAX_DIGITS = 40
_EXCERPT_FROM_CHARACTERS = 2**15
"""Some pages have their styles before their first word."""
_EXCERPT_CHARACTERS = 200
_OBJECT_OR_SCRIPT = re.compile(r'\{[ \t\r\n]*"|<script', re.IGNORECASE)
_TAG = re.compile(r"<(?:(script|style)\b|(!--)|[a-z/!?])", re.IGNORECASE)
_CLOSING = re.compile(r"</(?:script|style)\b", re.IGNORECASE)


def text_of(body: bytes) -> str:
    """Decode a body in the encoding that its first bytes show. Bytes that are no letter there become U+FFFD."""
    encoding = json.detect_encoding(body)
    limit = MAX_REPLY_BYTES if encoding.startswith("utf-8") else _MAX_WIDE_BYTES
    return body[:limit].decode(encoding, errors="replace")


def objects_in(text: str) -> list[dict[str, Any]]:
    """Return the first JSON objects of a text, up to the first one that is cut or is no JSON.

    An object within another one is never returned, even if the outer one is cut: the search goes on only after the end
    of a whole object. Scripts of a page hold no reply, so it ends at the first script too.
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
    """Copy a JSON value, without what a reader of it could stumble over.

    Parts below *levels* and numbers that are not finite become None, and halves of surrogate pairs, which cannot be
    encoded, become question marks. With *nested_json*, a string that holds JSON becomes that value, because some
    gateways encode twice.
    """
    match value:
        case str():
            text = _without_halves(value)
            return _read_again(text, levels) if nested_json else text
        case float():
            return value if math.isfinite(value) else None
        case list() | dict() if not levels:
            return None
        case list():
            return [plain(item, nested_json=nested_json, levels=levels - 1) for item in value]
        case dict():
            items = value.items()
            return {
                _without_halves(name): plain(item, nested_json=nested_json, levels=levels - 1) for name, item in items
            }
        case _:
            return value


def brief(text: str, most: int = MAX_REASON_CHARACTERS) -> str:
    """Return a text as one line of printable characters, and its first *most* characters if it is longer."""
    begin = text[: 4 * most]  # of blanks, many become one
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in begin).split())
    return line if len(line) <= most and begin == text else f"{line[: most - 3]}..."


def excerpt(text: str, key: ApiKey) -> str:
    """Return the first words of what is no JSON, without markup and without the key."""
    from html import unescape  # noqa: PLC0415 - takes long to import, and only a page needs it

    begin = key.redact(text[:_EXCERPT_FROM_CHARACTERS].replace("\0", ""))
    words = unescape(" ".join(_without_markup(begin).split())[: 2 * _EXCERPT_CHARACTERS])
    return repr(key.cut(key.redact(brief(words, _EXCERPT_CHARACTERS))))


def _decoded(text: str, start: int = 0) -> tuple[Any, int]:
    """Return the JSON value that begins at *start*, and where it ends. Raises ValueError or RecursionError."""
    if len(text) > _MAX_VALUES and sum(map(text.count, ",[{")) > _MAX_VALUES:
        raise ValueError("too many values")
    return _JSON.raw_decode(text, start)


def _integer(digits: str) -> int | None:
    """Read an integer, or None for more digits than any number in a reply has: Python takes long, or refuses them."""
    return int(digits) if len(digits) <= _MAX_DIGITS else None


_JSON = json.JSONDecoder(parse_int=_integer, strict=False)
"""Not strict: a raw line break in a string stands for itself."""


def _without_halves(text: str) -> str:
    return text if text.isprintable() else text.encode(errors="replace").decode()


def _read_again(text: str, levels: int) -> Any:
    """Return the JSON that the text holds, or else the text."""
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
    """Replace tags, comments, styles and scripts with blanks. Each letter is passed once, also if the page is cut."""
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
