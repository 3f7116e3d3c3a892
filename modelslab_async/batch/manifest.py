"""What a batch is made of: JSON Lines, a CSV table, or a folder of pictures; read line by line, never as a whole."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.feed import asynchronous
from modelslab_async.images import sniff
from modelslab_async.protocol.limits import unwritable
from modelslab_async.protocol.request import RESERVED, ImageToVideoUltra, is_http_url
from modelslab_async.protocol.wire import request_from

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".heic"}
_WHOLE = {"seed", "num_frames", "num_inference_steps", "fps", "sample_shift", "shift_sample", "resolution"}
_FLAGS = {"portrait", "base64", "temp"}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_MOST_FIELD_CHARACTERS = 16 * 2**20
"""Of a CSV cell: a picture as a data URI fits."""


@attrs.frozen
class Entry:
    """One item of a batch.

    line: where it stands, from 1. item: its name, the same in each run: its track_id, or a digest of what is written
    there. request: what is asked for, None where that cannot be told. problems: what is wrong with it.
    """

    line: int
    item: str
    request: ImageToVideoUltra | None
    problems: tuple[Problem, ...] = ()


_Wanted = Entry | ImageToVideoUltra | Mapping[str, Any]
Source = Iterable[_Wanted] | AsyncIterable[_Wanted]


def read_manifest(path: Path, defaults: Mapping[str, Any] | None = None) -> Iterator[Entry]:
    """The entries of a manifest. Pictures with a relative path are looked for beside it; `defaults` are overruled.

    Files that end in .csv are tables, whose head names the parameters; a folder gives an entry for each picture in it;
    all else is JSON Lines. Raises InvalidRequestError for a manifest that cannot be read.
    """
    try:
        lines = _pictures(path) if path.is_dir() else _table(path) if path.suffix.lower() == ".csv" else _objects(path)
        for line, params in lines:
            yield _entry(line, params, defaults or {}, path if path.is_dir() else path.parent)
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, InvalidRequestError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        way_out = "pass JSON Lines in UTF-8, a .csv file or a folder of pictures"
        raise InvalidRequestError(
            [Problem("manifest", repr(str(path)), f"cannot be read: {reason}", way_out)]
        ) from error


def _entry_of(line: int, request: ImageToVideoUltra | Mapping[str, Any]) -> Entry:
    """The entry of a request that comes from a program."""
    params = _params_of(request) if isinstance(request, ImageToVideoUltra) else request
    return _entry(line, params, {}, None)


def value_of(name: str, text: str) -> Any:
    """A parameter as people write it; what cannot be read stays text, which the check of the request tells."""
    try:
        if name in _WHOLE:
            return int(text)
        if name == "guidance_scale":
            return float(text)
    except ValueError:
        return text
    return _WORDS.get(text.strip().lower(), text) if name in _FLAGS else text


def _entry(line: int, params: Mapping[str, Any] | Problem, defaults: Mapping[str, Any], folder: Path | None) -> Entry:
    if isinstance(params, Problem):
        return Entry(line, f"line-{line}", None, (params,))
    wanted = {**defaults, **params}
    try:
        request = request_from({**wanted, **_found(wanted.get("init_image"), folder)})
    except InvalidRequestError as error:
        return Entry(line, f"line-{line}", None, error.problems)
    ref: object = request.track_id
    problem = unwritable("track_id", ref) if isinstance(ref, str) else None
    return Entry(line, f"line-{line}", None, (problem,)) if problem else Entry(line, _name_of(wanted, line), request)


def _found(picture: object, folder: Path | None) -> dict[str, Any]:
    """A relative path is meant from the manifest's folder."""
    if folder is None or not isinstance(picture, str) or not picture.strip():
        return {}
    if is_http_url(picture) or picture[:5].lower() == "data:" or "://" in picture:
        return {}
    return {"init_image": folder / picture}


def _name_of(wanted: Mapping[str, Any], line: int) -> str:
    track_id = wanted.get("track_id")
    if isinstance(track_id, str) and track_id.strip():
        return track_id
    given = {name: value for name, value in wanted.items() if value is not None}
    try:
        told = json.dumps(given, sort_keys=True, default=_told)
    except (TypeError, ValueError, RecursionError):  # an `extra` that is no JSON, and is refused for that
        return f"line-{line}"
    return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _told(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.sha256(value).hexdigest()
    return str(value)


def _params_of(request: ImageToVideoUltra) -> dict[str, Any]:
    return {field.name: getattr(request, field.name) for field in attrs.fields(ImageToVideoUltra)}


def _objects(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | Problem]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, _object(line)


def _object(line: bytes) -> Mapping[str, Any] | Problem:
    try:
        params = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or getattr(error, "reason", None) or "too deep"
        at = getattr(error, "pos", None) or getattr(error, "start", None) or 0
        return _hidden(f"not JSON at character {at + 1}: {reason}", "write one object a line")
    if isinstance(params, dict):
        return params
    return _hidden("not an object", 'write {"prompt": ..., "init_image": ...}')


def _hidden(rule: str, way_out: str) -> Problem:
    """A line that cannot be told apart into its values is not shown: one of them may be a key."""
    return Problem("line", "hidden", rule, way_out)


def _table(path: Path) -> Iterator[tuple[int, Mapping[str, Any] | Problem]]:
    csv.field_size_limit(_MOST_FIELD_CHARACTERS)
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows, line = csv.reader(file, strict=True), 1
        try:
            head = _head(path, next(rows, []))
            line = rows.line_num + 1
            for row in rows:
                if row:
                    yield rows.line_num, _row(head, row)
                line = rows.line_num + 1
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}, so a quote may be open, or unwritten as two") from None


def _head(path: Path, cells: list[str]) -> list[str]:
    """The names of the columns. Raises InvalidRequestError where they are none."""
    head = [name.strip() for name in cells]
    rule, way_out = "", 'begin it with the names of the columns, such as "prompt,init_image,seed"'
    if len(head) == 1 and (";" in head[0] or "\t" in head[0]):
        rule, way_out = "its columns are not separated by commas", "save it with commas"
    elif twice := [name for name, count in Counter(head).items() if count > 1]:
        rule, way_out = f"it has two columns {twice[0]!r}", "remove one of them"
    elif head and not RESERVED & {*head}:
        rule = "no column has the name of a parameter"
    if rule:
        raise InvalidRequestError([Problem("manifest", repr(str(path)), rule, way_out)])
    return head


def _row(head: list[str], row: list[str]) -> Mapping[str, Any] | Problem:
    if len(row) > len(head):
        return _hidden(f"{len(row)} cells, and the head has {len(head)}", "put quotes around cells with commas")
    return {name: value_of(name, cell) for name, cell in zip(head, row, strict=False) if cell != ""}


def _pictures(folder: Path) -> Iterator[tuple[int, Mapping[str, Any] | Problem]]:
    names = sorted(path.name for path in folder.iterdir() if _is_picture(path))
    for number, name in enumerate(names, 1):
        yield number, {"init_image": name}


def _is_picture(path: Path) -> bool:
    """By its content or its name: one that only pretends is told by the check."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in _SUFFIXES:
        return True
    with path.open("rb") as file:
        return sniff(file.read(64)) is not None


async def entries(source: Source) -> AsyncIterator[Entry]:
    """The entries of whatever a batch is made of."""
    line = 0
    async for each in asynchronous(source):
        line += 1
        yield each if isinstance(each, Entry) else _entry_of(line, each)
