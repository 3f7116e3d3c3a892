"""Read and write `results.jsonl`: the results of a batch's items, one a line, in the order in which they ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import attrs
from cattrs import Converter

from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.operations import DEFAULT_OPERATION

RESULTS_FILE = "results.jsonl"
_TEXT = rb'"(?:[^"\\]|\\.)*"'
_ITEM = re.compile(rb'\{"item": (' + _TEXT + rb"), ")
"""The beginning of a line as `to_json` writes it."""
_FILE_KEY = b'"file": '
_FILE = re.compile(_FILE_KEY + rb"(null|" + _TEXT + rb")[,}]")


@attrs.frozen(kw_only=True)
class Result:
    """The result of one item: a line of `results.jsonl`. If an item has several lines, the last one counts.

    item: the item's name: its track_id, or a digest of its request.
    ref: the job's ref, which differs for each attempt.
    line: the item's line in the manifest, from 1.
    state: how the job ended. "ready" without a *file* means that the video could not be saved yet; see *error*.
    request: the parameters; an input, such as init_image, is where the file came from.
    service: the base URL of the service.
    host: the host that made the video, or the worker of a cluster; None if this is unknown.
    operation: the name of the operation.
    price: the price of the call in USD; None if it is unknown.
    charged: whether the job was charged; None if that cannot be known here.
    job_id: the service's id, or None if the service named none.
    seed: the video's seed, or None if it is unknown.
    file: the video's path, relative to the folder; None without a video.
    sha256, size_bytes, width, height, frames, fps, duration: facts of the file; None if unknown. *duration* is in
        seconds.
    mtime_ns: when the file was last modified, as its file system says, nanoseconds since 1970; None if unknown.
    created_at: when this program began with the item. This and all other times are None if the event did not happen.
    submitted_at: when the request was sent.
    accepted_at: when the service accepted the job.
    ended_at: when the service had finished the job.
    saved_at: when the file was on disk.
    error: why there is no video, or None.
    """

    item: str
    ref: str
    line: int
    state: JobState
    request: Mapping[str, Any]
    service: str
    host: str | None = None
    operation: str = DEFAULT_OPERATION
    price: Decimal | None = Decimal(0)
    charged: bool | None
    job_id: str | None = None
    seed: int | None = None
    file: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
    mtime_ns: int | None = None
    created_at: datetime | None = None
    submitted_at: datetime | None = None
    accepted_at: datetime | None = None
    ended_at: datetime | None = None
    saved_at: datetime | None = None
    error: str | None = None

    @property
    def cost(self) -> Decimal | None:
        """The cost in USD; None if it is unknown whether the job was charged, or at which price."""
        if self.charged is False:
            return Decimal(0)
        return self.price if self.charged else None


_FIELDS = frozenset(attrs.fields_dict(Result))
_TIMES = [name for name in attrs.fields_dict(Result) if name.endswith("_at")]


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 job", "2 jobs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@cache
def _converter() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook(Decimal, str)
    converter.register_unstructure_hook(datetime, _format_time)
    return converter


def _format_time(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_values(result: Result) -> dict[str, Any]:
    """Return a result as JSON values. `cost` is added for readers; it follows from price and charged."""
    cost = result.cost
    return {**_converter().unstructure(result), "cost": None if cost is None else str(cost)}


def to_json(result: Result) -> bytes:
    """Return a result's line, without its end. Characters that UTF-8 cannot write, as in file names, are replaced."""
    return json.dumps(to_values(result), ensure_ascii=False).encode(errors="replace")


def from_json(line: str | bytes) -> Result | None:
    """Return the result of a line, or None if the line cannot be read."""
    try:
        return _result_from(json.loads(line))
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError):
        return None


def _result_from(values: dict[str, Any]) -> Result:
    """Return a result from its JSON values. Raise some error if they are no result."""
    for name in values.keys() - _FIELDS:
        del values[name]  # of the reader's `cost`, or of a later version
    for name in _TIMES:
        if (value := values.get(name)) is not None:
            values[name] = datetime.fromisoformat(value)
    price = values.get("price", 0)
    values["state"], values["price"] = JobState(values["state"]), None if price is None else Decimal(price)
    result = Result(**values)
    for value, kind in ((result.item, str), (result.ref, str), (result.line, int), (result.request, dict)):
        if not isinstance(value, kind):
            raise TypeError(value)
    if result.file is not None and not isinstance(result.file, str):
        raise TypeError(result.file)
    return result


class Line(NamedTuple):
    """The place of a result in `results.jsonl`.

    offset, length: in bytes. item, file: of the result. If the line is damaged after all, `from_json` returns None.
    """

    item: str
    file: str | None
    offset: int
    length: int


def line_at(offset: int, data: bytes) -> Line | None:
    """Return what a line names, or None if it cannot be read. A line that `to_json` wrote is not parsed as a whole."""
    item = _ITEM.match(data)
    key = data.rfind(_FILE_KEY)  # an earlier one may belong to the request; a quote within a text is escaped
    file = _FILE.match(data, key) if key > 0 else None
    try:
        if item and file and data.endswith((b"}\n", b"}")):
            return Line(_text_of(item[1]), None if file[1] == b"null" else _text_of(file[1]), offset, len(data))
    except ValueError:
        return None
    result = from_json(data)
    return Line(result.item, result.file, offset, len(data)) if result else None


def _text_of(quoted: bytes) -> str:
    """Return a text from its JSON. Raise ValueError if it is not UTF-8."""
    return str(json.loads(quoted)) if b"\\" in quoted else quoted[1:-1].decode()


def read_results(folder: Path) -> Iterator[Result]:
    """Yield the results of a batch's folder, in their order.

    A line that cannot be read is skipped: a process that was killed may have written only a part of it.
    """
    try:
        file = (folder / RESULTS_FILE).open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if result := from_json(line):
                yield result
