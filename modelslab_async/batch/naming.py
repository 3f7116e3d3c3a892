"""What the files of a batch are called. Pure: names in, names out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from string import Formatter
from urllib.parse import unquote, urlsplit

from modelslab_async.errors import Problem
from modelslab_async.protocol.request import is_http_url, wrong

DEFAULT_NAME = "{stem}-{seed}.mp4"
_EXAMPLE: Mapping[str, str | int] = {
    "stem": "castle",
    "seed": 7,
    "line": 1,
    "ref": "a",
    "item": "a",
    "id": "1",
    "prompt": "a",
}
FIELDS = tuple(_EXAMPLE)
_MOST_BYTES = 80
_MOST_NAME_BYTES = 200


def pattern_problem(pattern: str) -> Problem | None:
    """What is wrong with a pattern of names, or None."""
    way_out = f"use {DEFAULT_NAME} with {', '.join(f'{{{field}}}' for field in FIELDS)}"
    try:
        for _, field, spec, conversion in Formatter().parse(pattern):
            if field is not None and (field not in FIELDS or conversion or (spec and field != "line")):
                return wrong("name", pattern, f"{{{field}}} is not known so", way_out)
        path = PurePosixPath(pattern.format_map(_EXAMPLE))
    except ValueError as error:
        return wrong("name", pattern, f"not a pattern: {error}", way_out)
    if path.is_absolute() or ".." in path.parts or "\\" in pattern:
        return wrong("name", pattern, "leaves the folder", way_out)
    if path.suffix != ".mp4":
        return wrong("name", pattern, "a name that ends in .mp4", way_out)
    return None


def names(pattern: str, values: Mapping[str, str | int]) -> Iterator[str]:
    """The names that a file may have, the best first: relative to the folder, with / between parts."""
    told = {field: value if isinstance(value, int) else _tame(value) for field, value in values.items()}
    folder, slash, name = pattern.format_map(told).removesuffix(".mp4").rpartition("/")
    name = folder + slash + name.encode()[:_MOST_NAME_BYTES].decode(errors="ignore")
    yield f"{name}.mp4"
    number = 2
    while True:
        yield f"{name}-{number}.mp4"
        number += 1


def stem_of(where: str | None) -> str:
    """The name of a picture without folder and suffix, of its path or URL; "picture" for one that came as bytes."""
    path = unquote(urlsplit(where).path) if is_http_url(where) else where or ""
    return PurePosixPath(path.replace("\\", "/")).stem or "picture"


def _tame(text: str) -> str:
    """No part of a path, nothing hidden, nothing that a file system refuses, not too long."""
    tame = (
        re.sub(r"[\x00-\x1f\x7f<>:\"/\\|?*\s]+", "_", text)
        .encode(errors="ignore")[:_MOST_BYTES]
        .decode(errors="ignore")
    )
    return tame.strip("._ ") or "_"
