"""Read and write `results.jsonl`: the results of a batch's items, one a line, in the order in which they ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import attrs
from cattrs import BaseValidationError, Converter

from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.operations import DEFAULT_OPERATION

RESULTS_FILE = "results.jsonl"


@attrs.frozen(kw_only=True)
class Result:
    """The result of one item: a line of `results.jsonl`. If an item has several lines, the last one holds.

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
    created_at: when the item's turn came in this program. This and all other times are None if it did not happen.
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


def usd(amount: Decimal | None) -> str:
    """Return an amount in USD as text: "$0.20". It has more than two decimals only if the amount has.

    None, for a price that is not known, gives "an unknown price".
    """
    if amount is None:
        return "an unknown price"
    return f"${amount:.2f}" if amount == round(amount, 2) else f"${amount}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 job", "2 jobs"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@cache
def _converter() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook(Decimal, str)
    converter.register_unstructure_hook(datetime, _format_time)
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))
    converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))
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
        return _converter().structure(json.loads(line), Result)
    except (ValueError, ArithmeticError, BaseValidationError):
        return None


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
