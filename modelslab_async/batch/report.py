"""Write the report of a batch: one HTML file that opens from disk and plays the videos beside it.

The page holds its jobs as JSON. Its script makes a card only when the reader scrolls to it, so that a batch of 20,000
jobs stays usable. Without JavaScript the page shows the totals, the timeline and the jobs that need attention.
"""

from __future__ import annotations

import json
import secrets
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from modelslab_async.batch.report_data import (
    format_seconds,
    job_values,
    processing_seconds,
    seconds_between,
    state_label,
    title_of,
)
from modelslab_async.batch.results import Result, counted, read_results
from modelslab_async.batch.timeline import bars, picture
from modelslab_async.errors import InvalidRequestError, Problem, usd
from modelslab_async.protocol.lifecycle import JobState

REPORT_FILE = "report.html"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MOST_PLAIN_JOBS = 100
"""Jobs that are listed without JavaScript."""
_TIME = "%Y-%m-%d %H:%M UTC"


def write_report(folder: Path, *, to: Path | None = None) -> Path:
    """Write the report of a batch's folder to *to*, or to FOLDER/report.html, and return its path.

    Raises InvalidRequestError if the folder has no results; OSError if the report cannot be written.
    """
    results = list({result.item: result for result in read_results(folder)}.values())
    if not results:
        requirement, hint = "must hold the results of a batch", "pass the output folder of a batch"
        raise InvalidRequestError([Problem("folder", repr(str(folder)), requirement, hint)])
    target = to or folder / REPORT_FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(_page(folder, results, target.parent), encoding="utf-8", errors="replace")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def embed_json(value: object) -> str:
    r"""Return *value* as JSON for a script element. "<" is written as "\u003c": no text ends the script."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _page(folder: Path, results: Sequence[Result], beside: Path) -> str:
    results = sorted(results, key=lambda result: result.line)
    drawn = bars(results)
    name, began_at = folder.resolve().name, min(_times(results), default=None)
    return Template(_part("report.html")).substitute(
        title=escape(f"Batch {name}, {began_at:{_TIME}}" if began_at else f"Batch {name}"),
        heading=f"Batch {escape(name)}",
        summary=f"{_when(results)}{_notice(results)}{_totals(results)}",
        timeline=picture(drawn) or '<p class="soft">No job was sent.</p>',
        buttons=_buttons(Counter(result.state for result in results)),
        plain=_plain(results),
        jobs=embed_json(job_values(results, drawn, folder, beside)),
        css=_part("report.css"),
        js=_part("report.js"),
    )


def _part(name: str) -> str:
    return (files("modelslab_async.batch") / name).read_text(encoding="utf-8")


def _when(results: Iterable[Result]) -> str:
    times = _times(results)
    written = f"Written {datetime.now(UTC):{_TIME}}; items without a result yet are not shown."
    if not times:
        return f'<p class="soft">{written}</p>'
    duration = format_seconds((max(times) - min(times)).total_seconds())
    return f'<p>{min(times):{_TIME}}, {duration}</p><p class="soft">{written}</p>'


def _is_local(results: Iterable[Result]) -> bool:
    """Return whether the service was a program on the machine that ran the batch: it was not ModelsLab."""
    return any(urlsplit(result.service).hostname in _LOOPBACK for result in results)


def _notice(results: Iterable[Result]) -> str:
    if not _is_local(results):
        return ""
    return (
        '<p class="notice">These jobs ran on the same machine as the batch, for example in the emulator of '
        "modelslab_async. The videos are <b>not ModelsLab's</b>, and nothing was paid for them.</p>"
    )


def _totals(results: Sequence[Result]) -> str:
    uncertain = sum((result.price or Decimal(0) for result in results if result.charged is None), Decimal(0))
    unpriced = sum(result.price is None and result.charged is not False for result in results)
    spent, may_be_spent = "spent", "may have been spent"
    if _is_local(results):
        spent, may_be_spent = "would be spent", "might be spent"
    totals = [
        (str(sum(result.file is not None for result in results)), f"of {counted(len(results), 'video')}"),
        (usd(sum((result.cost or Decimal(0) for result in results), Decimal(0))), spent),
        *([(usd(uncertain), may_be_spent)] if uncertain else []),
        *([(str(unpriced), "with an unknown price")] if unpriced else []),
        *_medians(results),
    ]
    return f'<ul class="totals">{"".join(f"<li><b>{value}</b> {name}</li>" for value, name in totals)}</ul>'


def _medians(results: Sequence[Result]) -> Iterable[tuple[str, str]]:
    waits = (seconds_between(result.created_at, result.submitted_at) for result in results)
    queued = [wait for wait in waits if wait is not None]
    processed = [time for result in results if (time := processing_seconds(result)) is not None]
    if queued:
        yield format_seconds(statistics.median(queued)), "waiting for a slot, median"
    if processed:
        yield format_seconds(statistics.median(processed)), "processing, median"


def _buttons(states: Counter[JobState]) -> str:
    """Return a button for each state that occurs. Its dot explains the colours of the timeline."""
    buttons = [f'<button value="" aria-pressed="true">all {states.total()}</button>']
    buttons += [
        f'<button value="{state.value}" class="{state.value}" aria-pressed="false">'
        f"{state.value.replace('_', ' ')} {count}</button>"
        for state, count in states.most_common()
    ]
    return f'<div role="group" aria-label="State">{"".join(buttons)}</div>'


def _plain(results: Sequence[Result]) -> str:
    """Return what the page shows instead of its cards without JavaScript."""
    states = Counter(result.state for result in results)
    counts = "".join(
        f"<li>{state.value.replace('_', ' ')}: {counted(count, 'job')}</li>" for state, count in states.most_common()
    )
    troubled = [result for result in results if result.state is not JobState.READY or result.file is None]
    parts = [
        "<p>JavaScript shows the videos. They lie in the batch's folder; <code>results.jsonl</code> lists them.</p>",
        f"<ul>{counts}</ul>",
    ]
    if troubled:
        items = "".join(map(_plain_item, troubled[:_MOST_PLAIN_JOBS]))
        parts.append(f"<h3>Jobs without a video</h3><ol>{items}</ol>")
    if len(troubled) > _MOST_PLAIN_JOBS:
        parts.append(f"<p>The first {_MOST_PLAIN_JOBS} of {len(troubled)} are listed.</p>")
    if states[JobState.UNCERTAIN]:
        parts.append(
            "<p>Resolve an uncertain job with <code>modelslab-async resolve REF --id ID</code> if the service has its "
            "video, else with <code>modelslab-async resolve REF --lost</code>.</p>"
        )
    return f'<div class="plain">{"".join(parts)}</div>'


def _plain_item(result: Result) -> str:
    lines = (title_of(result), result.error or "", f"ref {result.ref}")
    head = f"<b>Line {result.line}, {state_label(result)}</b>"
    return f"<li>{head}{''.join(f'<br>{escape(line)}' for line in lines if line)}</li>\n"


def _times(results: Iterable[Result]) -> list[datetime]:
    moments = ((result.created_at, result.saved_at or result.ended_at) for result in results)
    return [at for pair in moments for at in pair if at is not None]
