"""Read a batch's entries from JSON Lines, a table, or a folder of pictures: line by line, never as a whole."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, TextIO

import attrs

from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.job.streams import as_async
from modelslab_async.media.images import is_data_uri, sniff
from modelslab_async.protocol.limits import unwritable
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS
from modelslab_async.protocol.request import Request, is_http_url
from modelslab_async.protocol.wire import request_from

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".heic"}
_TABLES = {".csv", ".tsv", ".tab"}
_WHOLE = {
    "seed",
    "num_frames",
    "num_inference_steps",
    "fps",
    "sample_shift",
    "shift_sample",
    "resolution",
    "width",
    "height",
    "clip_skip",
    "upscale_height",
    "upscale_width",
    "upscale_num_inference_steps",
    "improved_sampling_seed",
    "motion_bucket_id",
}
_DECIMALS = {
    "guidance_scale",
    "upscale_strength",
    "upscale_guidance_scale",
    "min_guidance_scale",
    "max_guidance_scale",
    "noise_aug_strength",
}
_FLAGS = {"portrait", "base64", "temp", "generate_audio", "use_improved_sampling", "instant_response"}
_WORDS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
_MOST_FIELD_CHARACTERS = 16 * 2**20
"""Of a cell: a picture as a data URI fits."""
_SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile(r"\"?sep=([^\w\s\"]|\t)\"?", re.IGNORECASE)
"""The first line of some tables of Excel. It says what separates the cells, and is no row."""
_UNNAMED = re.compile(r"(Unnamed: [\d.]+)?")
"""A column without a name. pandas names such a column "Unnamed: 0" when it reads a table."""
_DIGITS = "0123456789"
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
_UNDECODED = re.compile("[\udc80-\udcff]")
"""What `errors="surrogateescape"` makes of a byte that is not UTF-8."""
_SAVE_AS_UTF_8 = 'save it as UTF-8 (in Excel: "CSV UTF-8")'


@attrs.frozen
class Entry:
    """One item of a batch.

    line: the line of the manifest in which the item begins, from 1.
    item: the item's name, which is the same in each run: its track_id, or a digest of its content.
    request: the request, or None if the item cannot be read.
    problems: why the item cannot be read. Empty if it can.
    """

    line: int
    item: str
    request: Request | None
    problems: tuple[Problem, ...] = ()


_Wanted = Entry | Request | Mapping[str, Any]
Source = Iterable[_Wanted] | AsyncIterable[_Wanted]
_Line = tuple[int, Mapping[str, Any] | Problem]


def read_manifest(path: Path, defaults: Mapping[str, Any] | None = None) -> Iterator[Entry]:
    """Yield the entries of a manifest. A parameter of `defaults` holds for each entry that does not have it.

    An entry may name its `operation`. Without it, the entry is an Image to Video Ultra.

    A file that ends in .csv, .tsv or .tab is a table: its first row names the parameters, and commas, semicolons or
    tabs separate its cells. A folder gives an entry for each picture in it. Any other file is JSON Lines. Files are
    UTF-8, or UTF-16 with a byte-order mark. A relative path of a file starts at the manifest's folder.

    Raises InvalidRequestError if the manifest cannot be read.
    """
    try:
        folder, lines = (path, _pictures(path)) if path.is_dir() else (path.parent, _lines(path))
        for line, params in lines:
            yield _entry(line, params, defaults or {}, folder)
    except _TableError as error:
        raise InvalidRequestError([Problem("manifest", repr(str(path)), *error.args)]) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        hint = "pass JSON Lines in UTF-8, a .csv file or a folder of pictures"
        raise InvalidRequestError([Problem("manifest", repr(str(path)), f"cannot be read: {reason}", hint)]) from error


class _TableError(Exception):
    """A table as a whole cannot be read. The arguments are the requirement that it breaks, and the hint."""


def _entry_of(line: int, request: Request | Mapping[str, Any]) -> Entry:
    """Return the entry of a request that comes from a program."""
    params = _params_of(request) if isinstance(request, Request) else request
    return _entry(line, params, {}, None)


def value_of(name: str, text: str) -> Any:
    """Return a parameter's value, read from text. Text that cannot be read is returned: the request's check refuses it.

    Tools write a whole number as 42.0 if other rows of its column are empty. An exponent is not read: Excel writes one
    where it leaves out digits.
    """
    try:
        if name in _WHOLE:
            whole, _, decimals = text.strip().partition(".")
            return text if decimals.strip("0") else int(whole)
        if name in _DECIMALS:
            return float(text)
        if name == "extra":
            return json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _WORDS.get(text.strip().lower(), text) if name in _FLAGS else text


def _entry(line: int, params: Mapping[str, Any] | Problem, defaults: Mapping[str, Any], folder: Path | None) -> Entry:
    if isinstance(params, Problem):
        return Entry(line, f"line-{line}", None, (params,))
    wanted = {**defaults, **params}
    try:
        request = request_from({**wanted, **_found(wanted, folder)})
    except InvalidRequestError as error:
        return Entry(line, f"line-{line}", None, error.problems)
    ref: object = request.track_id
    problem = unwritable("track_id", ref) if isinstance(ref, str) else None
    return Entry(line, f"line-{line}", None, (problem,)) if problem else Entry(line, _name_of(wanted, line), request)


def _found(wanted: Mapping[str, Any], folder: Path | None) -> dict[str, Any]:
    """Return the files of an entry that are paths, as paths in the manifest's folder."""
    operation = wanted.get("operation", DEFAULT_OPERATION)
    row = OPERATIONS.get(operation) if isinstance(operation, str) else None
    if folder is None or row is None or wanted.get("base64") is True:
        return {}
    return {each.name: _in_folder(wanted[each.name], folder) for each in row.inputs if wanted.get(each.name)}


def _in_folder(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_in_folder(item, folder) for item in value]
    if not isinstance(value, str) or not value.strip() or is_http_url(value) or is_data_uri(value) or "://" in value:
        return value
    return folder / value


def _columns() -> frozenset[str]:
    """Return the names that a column may have, of all operations."""
    return frozenset[str]().union(*(row.reserved for row in OPERATIONS.values()))


def _name_of(wanted: Mapping[str, Any], line: int) -> str:
    track_id = wanted.get("track_id")
    if isinstance(track_id, str) and track_id.strip():
        return track_id
    given = {name: value for name, value in wanted.items() if value is not None}
    try:
        content = _encode(given)
    except (TypeError, ValueError, RecursionError):  # an `extra` that is no JSON, and is refused for that
        return f"line-{line}"
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _digest(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return hashlib.sha256(value).hexdigest()
    return str(value)


_encode = json.JSONEncoder(sort_keys=True, default=_digest).encode


def _params_of(request: Request) -> dict[str, Any]:
    return {field.name: getattr(request, field.name) for field in attrs.fields(type(request))}


def _hidden(requirement: str, hint: str) -> Problem:
    """Return the problem of a line that cannot be parsed. It shows no value of the line: one may be a key."""
    return Problem("line", "hidden", requirement, hint)


# --- files ---


def _lines(path: Path) -> Iterator[_Line]:
    with _opened(path) as file:
        yield from _table(file) if path.suffix.lower() in _TABLES else _objects(file)


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Open a text file whose lines may end in LF, CRLF or CR. A byte that is not UTF-8 is escaped."""
    with path.open("rb") as file:
        is_wide = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding = "utf-16" if is_wide else "utf-8-sig"
        with io.TextIOWrapper(file, encoding, errors="surrogateescape", newline="") as text:
            yield text


def _broken(line: str) -> str | None:
    """Return the requirement that the characters of a line break, or None."""
    if "\0" in line:
        return "cannot hold a NUL character"
    return "must be UTF-8" if _UNDECODED.search(line) else None


def _objects(file: Iterable[str]) -> Iterator[_Line]:
    for number, line in enumerate(file, 1):
        text = line.lstrip("\ufeff")
        if text.strip():
            yield number, _object(text)


def _object(line: str) -> Mapping[str, Any] | Problem:
    if requirement := _broken(line):
        return _hidden(requirement, _SAVE_AS_UTF_8)
    hint = "write one JSON object per line; the name of a table ends in .csv"
    try:
        params = json.loads(line)
    except json.JSONDecodeError as error:
        return _hidden(f"cannot be read: not JSON at character {error.pos + 1}: {error.msg}", hint)
    except (ValueError, RecursionError):
        return _hidden("cannot be read: not JSON, or too large or too deeply nested", hint)
    if isinstance(params, dict):
        return {name: _read(name, value) for name, value in params.items()}
    return _hidden("cannot be read: not an object", hint)


def _read(name: str, value: Any) -> Any:
    """Return a parameter's value, read from JSON: a number may be written as 42.0, or as text."""
    if isinstance(value, str):
        return value_of(name, value)
    return int(value) if name in _WHOLE and isinstance(value, float) and value.is_integer() else value


# --- tables ---


def _table(file: Iterable[str]) -> Iterator[_Line]:
    """Yield the rows of a table that are not empty, each with the line in which it begins."""
    csv.field_size_limit(_MOST_FIELD_CHARACTERS)
    lines = _decoded(file)
    begin, first, separators = _first(lines)
    known = _columns()
    separator = max(separators, key=lambda each: len(known & {*map(_column, first.replace('"', "").split(each))}))
    rows = csv.reader(
        _trimmed(chain([first], lines), separator), delimiter=separator, skipinitialspace=True, strict=True
    )
    skipped, head = begin - 1, None
    try:
        for row in rows:
            if head is None:
                head = _head(row)
            elif params := _row(head, row):
                yield begin, params
            begin = skipped + rows.line_num + 1
    except csv.Error as error:
        hint = "a quote may be open; write a quote inside a quoted cell as two"
        raise _TableError(f"line {begin} cannot be read: {error}", hint) from None


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if requirement := _broken(line):
            raise _TableError(f"line {number} {requirement}", _SAVE_AS_UTF_8)
        yield line.lstrip("\ufeff")


def _first(lines: Iterable[str]) -> tuple[int, str, str]:
    """Return the line that names the columns: its number, its text, and what may separate its cells."""
    separators = _SEPARATORS
    for number, line in enumerate(lines, 1):
        if declared := _SEPARATOR_LINE.fullmatch(line.rstrip("\r\n")):
            separators += declared[1]
        elif line.strip(f'{separators}" \r\n'):
            return number, line, separators
    return 1, "", separators


def _trimmed(lines: Iterable[str], separator: str) -> Iterator[str]:
    """Remove blanks between a closing quote and the end of its cell: `csv` refuses them."""
    blanks = re.compile(rf" +(?={re.escape(separator)}|[\r\n]|$)")
    quotes = 0
    for line in lines:
        first, *others = line.split('"')
        for number, text in enumerate(others):
            quotes += 1
            if quotes % 2 == 0 and (found := blanks.match(text)):
                others[number] = text[found.end() :]
        yield '"'.join([first, *others])


def _head(cells: Iterable[str]) -> list[str]:
    """Return the names of the columns, "" for a column without a name. Raises _TableError for a row without names."""
    head = [_column(cell) for cell in cells]
    if head and not _columns() & {*head}:
        hint = 'write a first row such as "prompt,init_image,seed"'
        raise _TableError("must begin with the names of its columns", hint)
    if twice := [name for name, count in Counter(head).items() if name and count > 1]:
        raise _TableError(f"cannot have two columns {twice[0]!r}", "remove one of them")
    return head


def _column(cell: str) -> str:
    name = re.sub(r"[\s-]+", "_", cell.strip().lower())
    if name in _columns():
        return name
    return "" if _UNNAMED.fullmatch(cell.strip()) else cell.strip()


def _row(head: list[str], row: list[str]) -> Mapping[str, Any] | Problem:
    params = {}
    for number, (name, cell) in enumerate(zip_longest(head, map(str.strip, row), fillvalue=""), 1):
        is_index = not any(head[:number]) and _NUMBER.fullmatch(cell)  # of pandas, before the columns with names
        if name and cell:
            params[name] = value_of(name, cell)
        elif cell and number > len(head):
            hint = "put quotes around a cell that holds a separator"
            return _hidden(f"cannot have {len(row)} cells: the header has {len(head)}", hint)
        elif cell and not is_index:
            return _hidden(f"cannot have a cell in column {number}, which has no name", "name the column, or empty it")
    return params


# --- folders ---


def _pictures(folder: Path) -> Iterator[_Line]:
    names = sorted((path.name for path in folder.iterdir() if _is_picture(path)), key=_natural)
    for number, name in enumerate(names, 1):
        yield number, {"init_image": name}


def _natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Return a sort key that puts "2.png" before "10.png". Letters are compared without their case."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name.casefold())
    return [(False, int(part), "") if part[0] in _DIGITS else (True, 0, part) for part in parts], name


def _is_picture(path: Path) -> bool:
    """Return whether a file is a picture by its name or its content. The check of the request reads it again."""
    if path.name.startswith(".") or not path.is_file():
        return False
    if path.suffix.lower() in _PICTURES:
        return True
    with path.open("rb") as file:
        return sniff(file.read(64)) is not None


async def entries(source: Source) -> AsyncIterator[Entry]:
    """Yield the entries of a batch's source. Items that come from a program are numbered from 1."""
    line = 0
    async for each in as_async(source):
        line += 1
        yield each if isinstance(each, Entry) else _entry_of(line, each)
