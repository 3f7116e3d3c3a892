"""Write the report of a batch: one HTML file that opens from disk and plays the videos beside it."""

from __future__ import annotations

import os
import secrets
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote, urlsplit

from modelslab_async.batch.results import Result, counted, read_results, usd
from modelslab_async.batch.timeline import anchor, bars, svg
from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.protocol.lifecycle import JobState

REPORT_FILE = "report.html"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


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
        part.write_text(_page(folder, results, target.parent), encoding="utf-8")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def _page(folder: Path, results: Sequence[Result], beside: Path) -> str:
    results = sorted(results, key=lambda result: result.line)
    here = files("modelslab_async.batch")
    name = escape(folder.resolve().name)
    cards = "".join(_card(result, folder, beside) for result in results)
    states = Counter(result.state.value for result in results)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{name}: videos</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{(here / "report.css").read_text(encoding="utf-8")}</style></head><body>
<header><h1>{name}</h1>{_when(results)}{_notice(results)}{_totals(results)}</header>
<main>
<h2>Timeline</h2><div class="timeline" tabindex="0" role="region" aria-label="Timeline of the slots">
{svg(bars(results)) or '<p class="soft">No job was sent.</p>'}</div>
<h2 id="videos">Videos</h2>
<div class="filters" role="search">{_buttons(states)}
<input type="search" id="search" placeholder="prompt, seed, file or error" aria-label="Search the videos">
<span id="count" role="status" class="soft"></span></div>
<ul class="wall" aria-labelledby="videos">{cards}</ul>
</main>
<dialog aria-label="Video"><video controls loop playsinline></video><p></p><button>Close</button></dialog>
<script>{(here / "report.js").read_text(encoding="utf-8")}</script>
</body></html>
"""


def _when(results: Iterable[Result]) -> str:
    times = _times(results)
    if not times:
        return ""
    duration = _format_seconds((max(times) - min(times)).total_seconds())
    return f'<p class="soft">{min(times):%Y-%m-%d %H:%M} UTC, {duration}</p>'


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
    uncertain = sum((result.price for result in results if result.charged is None), Decimal(0))
    spent, may_be_spent = "spent", "may have been spent"
    if _is_local(results):
        spent, may_be_spent = "would be spent", "might be spent"
    totals = [
        (str(sum(result.file is not None for result in results)), f"of {counted(len(results), 'video')}"),
        (usd(sum((result.cost or Decimal(0) for result in results), Decimal(0))), spent),
        *([(usd(uncertain), may_be_spent)] if uncertain else []),
        *_medians(results),
    ]
    return f'<ul class="totals">{"".join(f"<li><b>{value}</b> {name}</li>" for value, name in totals)}</ul>'


def _medians(results: Sequence[Result]) -> Iterable[tuple[str, str]]:
    queued = [wait for result in results if (wait := _between(result.created_at, result.submitted_at)) is not None]
    processed = [time for result in results if (time := _between(result.accepted_at, result.ended_at)) is not None]
    if queued:
        yield _format_seconds(statistics.median(queued)), "waiting for a slot, median"
    if processed:
        yield _format_seconds(statistics.median(processed)), "processing, median"


def _buttons(states: Counter[str]) -> str:
    buttons = [f'<button value="" aria-pressed="true">all {states.total()}</button>']
    buttons += [
        f'<button value="{state}" aria-pressed="false">{state.replace("_", " ")} {count}</button>'
        for state, count in states.most_common()
    ]
    return f'<div role="group" aria-label="State">{"".join(buttons)}</div>'


def _card(result: Result, folder: Path, beside: Path) -> str:
    state = result.state.value
    prompt = escape(str(result.request.get("prompt", "")) or result.item)
    reason = f'<p class="reason">{escape(result.error)}</p>' if result.error else ""
    return (
        f'<li class="card {state}" id="{anchor(result)}" data-state="{state}">{_screen(result, folder, beside, prompt)}'
        f'<div class="text"><h3 class="prompt">{prompt}</h3><p><span class="state">{state.replace("_", " ")}</span> '
        f'<span class="facts">{escape(" · ".join(_facts(result)))}</span></p>{reason}</div></li>\n'
    )


def _screen(result: Result, folder: Path, beside: Path, prompt: str) -> str:
    if result.file is None:
        text = "no video" if result.state is not JobState.READY else "not saved"
        return f'<div class="screen">{text}</div>'
    path = Path(os.path.relpath(folder / result.file, beside)).as_posix()
    return (
        f'<button class="screen" aria-label="Play: {prompt}">'
        f'<video data-src="{escape(quote(path))}" muted loop playsinline preload="none"></video></button>'
    )


def _facts(result: Result) -> Iterable[str]:
    queued, processed = _between(result.created_at, result.submitted_at), _between(result.accepted_at, result.ended_at)
    cost = "cost unknown" if result.cost is None else usd(result.cost)
    facts = [
        "" if result.seed is None else f"seed {result.seed}",
        cost,
        "" if queued is None else f"{_format_seconds(queued)} waiting",
        "" if processed is None else f"{_format_seconds(processed)} processing",
        "" if result.width is None else f"{result.width}×{result.height}",
        "" if result.frames is None else counted(result.frames, "frame"),
        "" if result.fps is None else f"{result.fps:g} fps",
        result.file or "",
        f"line {result.line}",
        result.ref,
    ]
    return [each for each in facts if each]


def _times(results: Iterable[Result]) -> list[datetime]:
    moments = ((result.created_at, result.saved_at or result.ended_at) for result in results)
    return [at for pair in moments for at in pair if at is not None]


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    return None if begin is None or end is None else max((end - begin).total_seconds(), 0.0)


def _format_seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"
