"""Names of a batch's video files. Pure: values in, names out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from string import Formatter
from urllib.parse import unquote, urlsplit

from modelslab_async.errors import Problem
from modelslab_async.protocol.problems import wrong
from modelslab_async.protocol.request import is_http_url

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
_MOST_PART_BYTES = 200
_FORBIDDEN = r"\x00-\x1f\x7f<>:\"|?*"
"""Characters that some file system refuses in a name."""
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[1-9¹²³]) *(\.|$)", re.IGNORECASE)
"""Names that Windows reserves, with any suffix:
https://learn.microsoft.com/windows/win32/fileio/naming-a-file#naming-conventions
"""


def pattern_problem(pattern: str) -> Problem | None:
    """Return what is wrong with a pattern of file names, or None."""
    hint = f"use {DEFAULT_NAME} with {', '.join(f'{{{field}}}' for field in FIELDS)}"
    try:
        for _, field, spec, conversion in Formatter().parse(pattern):
            if field is not None and field not in FIELDS:
                return wrong("name", pattern, f"cannot have {{{field}}}", hint)
            if conversion or (spec and field != "line"):
                return wrong("name", pattern, f"cannot format {{{field}}}", hint)
        path = PurePosixPath(pattern.format_map(_EXAMPLE))
    except ValueError as error:
        return wrong("name", pattern, f"must be a pattern: {error}", hint)
    if path.is_absolute() or ".." in path.parts or "\\" in pattern:
        return wrong("name", pattern, "cannot leave the folder", hint)
    if path.suffix != ".mp4":
        return wrong("name", pattern, "must end in .mp4", hint)
    return None


def names(pattern: str, values: Mapping[str, str | int], container: str = "mp4") -> Iterator[str]:
    """Yield the names that a file may have, the best first. A container that is no mp4 has its own suffix.

    They are relative to the batch's folder, with / between their parts, and any file system takes them.
    """
    filled = pattern.format_map({field: _tame(value) for field, value in values.items()})
    *folders, name = map(_portable, filled.removesuffix(".mp4").split("/"))
    base = "/".join([*filter(None, folders), name or "_"])
    yield f"{base}.{container}"
    number = 2
    while True:
        yield f"{base}-{number}.{container}"
        number += 1


def stem_of(where: str | None) -> str:
    """Return a picture's name without folder and suffix, from its path or URL; "picture" if it came as bytes."""
    path = unquote(urlsplit(where).path) if is_http_url(where) else where or ""
    return PurePosixPath(path.replace("\\", "/")).stem or "picture"


def _tame(value: str | int) -> str | int:
    """Return a value that is no path, hides no file, and is not too long."""
    if isinstance(value, int):
        return value
    return _cut(re.sub(rf"[{_FORBIDDEN}/\\\s]+", "_", value), _MOST_BYTES).strip("._ ") or "_"


def _portable(part: str) -> str:
    """Return a part of a path as every file system takes it: Windows drops dots and blanks at its end."""
    part = _cut(re.sub(rf"[{_FORBIDDEN}]", "_", part), _MOST_PART_BYTES).rstrip(". ")
    return f"_{part}" if _DEVICE.match(part) else part


def _cut(text: str, most_bytes: int) -> str:
    return text.encode(errors="ignore")[:most_bytes].decode(errors="ignore")
