"""Turn results into the values that a report shows: texts for its cards and its search. Pure."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from modelslab_async.batch.results import Result, counted
from modelslab_async.batch.timeline import Bar
from modelslab_async.errors import usd
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.request import is_http_url


def job_values(results: Sequence[Result], drawn: Sequence[Bar], folder: Path, beside: Path) -> list[dict[str, Any]]:
    """Return what the page shows of each result, as JSON values.

    drawn: the bars of the timeline.
    folder: the batch's folder. beside: the folder of the page, from which links to videos start.
    """
    placed = {id(bar.result): bar for bar in drawn}
    way = Path(os.path.relpath(folder, beside)).as_posix()
    return [_values(result, placed.get(id(result)), "" if way == "." else f"{way}/") for result in results]


def _values(result: Result, bar: Bar | None, way: str) -> dict[str, Any]:
    """Return what the page shows of a result. *way* leads from the page's folder to the batch's folder."""
    values = {
        "line": result.line,
        "state": result.state.value,
        "label": state_label(result),
        "prompt": title_of(result),
        "error": result.error,
        "src": None if result.file is None else quote(f"{way}{result.file}", errors="replace"),
        "details": details_of(result),
        "resolve": resolve_steps(result.ref) if result.state is JobState.UNCERTAIN else None,
        "bar": bar and [round(bar.begin, 3), round(bar.end, 3), bar.lane],
        "time": bar and _time_label(bar),
    }
    return {name: value for name, value in values.items() if value is not None}


def title_of(result: Result) -> str:
    """Return a card's title: the prompt, or the item's name without one."""
    return str(result.request.get("prompt") or "") or result.item


def state_label(result: Result) -> str:
    """Return a result's state in plain words."""
    is_unsaved = result.state is JobState.READY and result.file is None
    return "ready, not saved" if is_unsaved else result.state.value.replace("_", " ")


def details_of(result: Result) -> Mapping[str, str]:
    """Return the details of a card by name, without the unknown ones."""
    waited, processed = seconds_between(result.created_at, result.submitted_at), processing_seconds(result)
    size = [
        "" if result.width is None else f"{result.width}×{result.height}",
        "" if result.frames is None else counted(result.frames, "frame"),
        "" if result.fps is None else f"{result.fps:g} fps",
    ]
    details = {
        "Operation": result.operation,
        "Cost": _cost(result),
        "Waited": "" if waited is None else format_seconds(waited),
        "Processed": "" if processed is None else format_seconds(processed),
        "Video": ", ".join(filter(None, size)),
        "Seed": "" if result.seed is None else str(result.seed),
        "Picture": _file_name(result.request.get("init_image")),
        "Source video": _file_name(result.request.get("init_video")),
        "Sound": _file_name(result.request.get("init_audio")),
        "File": result.file or "",
        "Line": str(result.line),
        "Host": result.host or "",
        "Ref": result.ref,
        "Id": result.job_id or "",
    }
    return {name: text for name, text in details.items() if text}


def resolve_steps(ref: str) -> Mapping[str, str]:
    """Return how to resolve an uncertain job: as a command and as a library call, for each of the two outcomes."""
    command = f"modelslab-async resolve {shlex.quote(ref)}"
    return {
        "acceptedCommand": f"{command} --id ID",
        "acceptedCall": f"await client.resolve({ref!r}, id='ID')",
        "lostCommand": f"{command} --lost",
        "lostCall": f"await client.resolve({ref!r}, lost=True)",
    }


def processing_seconds(result: Result) -> float | None:
    """Return the seconds from the job's acceptance to its end, or None if one of them is unknown."""
    return seconds_between(result.accepted_at, result.ended_at)


def seconds_between(begin: datetime | None, end: datetime | None) -> float | None:
    """Return the seconds between two times, at least 0. Return None if one of them is None."""
    return None if begin is None or end is None else max((end - begin).total_seconds(), 0.0)


def format_seconds(seconds: float) -> str:
    """Return a duration as text: "9.5 s", "40 s", "2:05 min", "3:10 h"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"


def _cost(result: Result) -> str:
    if result.cost is not None:
        return usd(result.cost)
    return "unknown" if result.price is None else f"unknown, {usd(result.price)} at most"


def _file_name(where: object) -> str:
    """Return a file's name, from its path or URL, or that of a list's first file; empty if it has none."""
    where = where[0] if isinstance(where, list) and where else where
    if not isinstance(where, str) or where.startswith(("data:", "sha256:")):
        return ""
    path = unquote(urlsplit(where).path) if is_http_url(where) else where
    return PurePosixPath(path.replace("\\", "/")).name


def _time_label(bar: Bar) -> str:
    begin = format_seconds(bar.begin)
    if bar.is_open:
        return f"sent after {begin}, end unknown"
    return f"sent after {begin}, took {format_seconds(bar.end - bar.begin)}"
