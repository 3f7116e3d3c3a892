"""What became of each item of a batch: the lines of `results.jsonl`, written as they come, read when it goes on."""

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

RESULTS_FILE = "results.jsonl"


@attrs.frozen(kw_only=True)
class Result:
    """One item of a batch when it ended. A line of `results.jsonl`; of several lines of one item the last holds.

    item: the item's name: its track_id, or a digest of what is asked for. ref: the job's, another for each attempt.
    line: where it stood in the manifest, from 1. request: the parameters; init_image is where the picture came from.
    state: how the job ended; "ready" without a `file` is a video that could not be saved (yet), see `error`.
    service: the base URL that was asked. job_id: the service's id, None where it told none.
    seed: of the video, None where it is not known. file: relative to the folder, None without one.
    sha256, size_bytes, width, height, frames, fps, duration (seconds): of the file, as far as it tells.
    created_at: the item's turn in this program came; submitted_at: it was sent; accepted_at: the service took it;
        ended_at: the service was done; saved_at: the file was on disk. None where it did not happen.
    price: USD of a call. charged: False, True, or None where nobody on this side can know.
    """

    item: str
    ref: str
    line: int
    state: JobState
    request: Mapping[str, Any]
    service: str
    price: Decimal = Decimal(0)
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
        """USD that it cost; None where that is not known."""
        return None if self.charged is None else self.price * self.charged


def usd(amount: Decimal) -> str:
    """Money in words: two digits after the point, or as many as it has."""
    return f"${amount:.2f}" if amount == round(amount, 2) else f"${amount}"


@cache
def _converter() -> Converter:
    converter = Converter()
    converter.register_unstructure_hook(Decimal, str)
    converter.register_unstructure_hook(datetime, _written)
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))
    converter.register_structure_hook(datetime, lambda value, _: datetime.fromisoformat(value))
    return converter


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def to_told(result: Result) -> dict[str, Any]:
    """As JSON values. `cost` is told for those who read it; it follows from price and charged."""
    cost = result.cost
    return {**_converter().unstructure(result), "cost": None if cost is None else str(cost)}


def to_json(result: Result) -> bytes:
    """One line, without its end. What no encoding has, as names of files may, is replaced."""
    return json.dumps(to_told(result), ensure_ascii=False).encode(errors="replace")


def from_json(line: str | bytes) -> Result | None:
    """The result of a line; None for one that cannot be read."""
    try:
        return _converter().structure(json.loads(line), Result)
    except (ValueError, ArithmeticError, BaseValidationError):
        return None


def read_results(folder: Path) -> Iterator[Result]:
    """All lines in their order. One that cannot be read (a process that was killed while it wrote) is passed over."""
    try:
        file = (folder / RESULTS_FILE).open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if result := from_json(line):
                yield result
