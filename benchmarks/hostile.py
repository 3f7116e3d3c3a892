"""Measure how long the event loop stands still while a hostile reply is decoded.

    python -m benchmarks.hostile [--json] [--check]       takes about 20 seconds

Each body has the maximum length of a reply. It is decoded as the reply to a submit, to a fetch and to each other call;
the answer is then written as an error or copied as a journal does. The slowest of these counts. Time is the CPU time of
the thread, because decoding waits for nothing and other load on the machine must not disturb the figure.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial

from benchmarks._common import Figure, Samples, Target, log, parse_options, print_figures
from modelslab_async.protocol import wire
from modelslab_async.protocol.decoding import MAX_REPLY_BYTES
from modelslab_async.protocol.reply import Body, HttpReply, Malformed, Refused
from modelslab_async.protocol.secret import ApiKey

ROUNDS = 5
LIMIT = 100
"""Milliseconds."""
KEY = ApiKey("7f3a9c51e2b84d60af17c3d98e5b2046aa91dd03")
_PICKS: tuple[Callable[[Body], object], ...] = (wire.upload, wire.queue_depth, wire.balance, wire.assets)


def _filled(before: str, part: str, after: str = "") -> bytes:
    """Return a body of the maximum length with as many whole copies of *part* as fit."""
    return (before + (MAX_REPLY_BYTES - len(before) - len(after)) // len(part.encode()) * part + after).encode()


def _field(name: str, status: str, before: str, part: str, after: str) -> bytes:
    """Return a reply with one large field."""
    begin = f'{{"status": "{status}", "id": 7, "echo": "\\u0041", "{name}": {before}'
    return _filled(begin, part, f"{after}}}")


def _fields(begin: str, value: str, end: str) -> bytes:
    """Return a reply with as many fields as fit, each with its own name."""
    count = (MAX_REPLY_BYTES - len(begin) - len(end)) // (len(value) + 11)
    return (begin + ", ".join(f'"{number:05x}": {value}' for number in range(count)) + end).encode()


_MESSAGES = {
    "maximum": "maximum 1 ",
    "maximum and blanks": "maximum 1" + 1000 * " ",
    "a wait": "try again in 1 ",
    "blanks": " ",
    "letters": "a",
    "escapes": "\\u0041",
    "escaped blanks": "\\u00a0",
    "halves of pairs": "\\ud800",
    "zeros": "\\u0000",
    "escaped JSON": "\\u005b",
    "slashes": "/",
    "entities": "&#",
}
_LINKS = {
    "hosts": "//a ",
    "broken hosts": "//[ ",
    "no hosts": "https:// ",
    "commas": "https://a,",
    "blanks": " ",
    "quotes": "'",
    "slashes": "/",
    "schemes": "https:",
}
_VALUES = {
    "lists": ("[", "[],", "0]"),
    "lists in lists": ("[", "[[]],", "0]"),
    "objects": ("[", "{},", "0]"),
    "objects in objects": ("[", '{"url":{}},', "0]"),
    "integers": ("[", "1,", "0]"),
    "floats": ("[", "1e1,", "0]"),
    "empty strings": ("[", '"",', '""]'),
    "links": ("[", '"//a",', '""]'),
    "links to long hosts": ("[", '"//' + 4000 * "\ufdfa" + '/",', '""]'),
    "brackets without end": ("", "[", ""),
    "objects without end": ("", '{"a":', ""),
    "digits": ("", "1", ""),
    "digits of a fraction": ("0.", "1", ""),
    "long integers": ("[", f"{4000 * '1'},", "0]"),
    "JSON in JSON": ("[", '"\\u005b\\u005d",', "0]"),
    "the same name": ("{", '"a": [],', '"a": 0}'),
}
_PAGES = {
    "tags that begin": "<",
    "tags": "<b>",
    "styles": "<style>",
    "scripts": "<script ",
    "scripts that end": "<script></script>",
    "comments": "<!--",
    "comments that end": "<!---->",
    "attributes": '<p title="a < b',
    "entities": "&#1",
    "words": "in 1 ",
    "blanks": " ",
    "zeros": "\0",
    "wide letters": "\0<",
    "braces": "{",
    "braces and blanks": "{" + 1000 * " ",
    "braces and quotes": '{"',
    "small objects": '{"a":1}',
    "backslashes": "\\",
    "letters of three bytes": "\u20ac",
}


def bodies() -> Mapping[str, Callable[[], bytes]]:
    """All of them, by name; each is made when it is called for."""
    pages = {f"page of {name}": partial(_filled, "", part) for name, part in _PAGES.items()}
    messages = {
        f"message of {name}": partial(_field, "message", "error", '"', part, '"') for name, part in _MESSAGES.items()
    }
    links = {f"output of {name}": partial(_field, "output", "success", '"', part, '"') for name, part in _LINKS.items()}
    values = {
        f"{field} of {name}": partial(_field, field, status, *parts)
        for field, status in (("output", "success"), ("message", "error"), ("data", "success"))
        for name, parts in _VALUES.items()
    }
    taken = '{"status": "processing", "id": 7, '
    more: dict[str, Callable[[], bytes]] = {
        "echo of many names": partial(_fields, f'{taken}"meta": {{', "0", "}}"),
        "many names": partial(_fields, taken, "[]", "}"),
        "bytes that are no letters": lambda: b"\xff" * MAX_REPLY_BYTES,
        "halves of letters in UTF-16": lambda: b"\xff\xfe" + b"\x00\xd8" * (MAX_REPLY_BYTES // 2 - 1),
        "no letters in UTF-32": lambda: b"\xff\xfe\0\0" + b"\xff" * (MAX_REPLY_BYTES - 4),
    }
    return {**pages, **messages, **links, **values, **more}


def use(answer: object) -> object:
    """Use an answer as the client does: write it as an error, or copy the request that it echoes."""
    if isinstance(answer, Refused | Malformed):
        return str(wire.error_of(answer))
    return dict(answer.meta) if isinstance(answer, wire.Accepted | wire.Ready) else repr(answer)


def slowest(body: bytes) -> float:
    """Return the CPU time of the slowest way to decode *body*, in milliseconds."""
    reply, taken = HttpReply(200, body), []
    ways: list[Callable[[], object]] = [
        lambda: wire.decode_submit(reply, KEY),
        lambda: wire.decode_fetch(reply, KEY),
        *(lambda pick=pick: wire.decode(reply, KEY, pick) for pick in _PICKS),
    ]
    for decode in ways:
        begun = time.thread_time()
        use(decode())
        taken.append(time.thread_time() - begun)
    return 1000 * max(taken)


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    hostile = bodies()
    log(f"{ROUNDS} rounds of {len(hostile)} bodies")
    rounds = [{name: slowest(make()) for name, make in hostile.items()} for _ in range(ROUNDS)]
    milliseconds = {name: Samples([each[name] for each in rounds]) for name in hostile}
    worst = dict(sorted(milliseconds.items(), key=lambda item: -item[1].median)[:10])
    name, longest = next(iter(worst.items()))
    conditions = f"{len(hostile)} bodies of {MAX_REPLY_BYTES} bytes, {ROUNDS} rounds; the table shows the slowest ten"
    figures = [Figure("time to decode", "ms", worst, target=LIMIT)]
    return print_figures(
        options,
        "hostile",
        conditions,
        figures,
        [Target(f"time to decode the slowest body ({name}), ms", longest.median, LIMIT)],
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
