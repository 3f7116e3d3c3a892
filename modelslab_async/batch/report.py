"""A batch as a page: one HTML file that opens from disk, with the videos beside it."""

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

from modelslab_async.batch.results import Result, read_results, usd
from modelslab_async.batch.timeline import anchor, bars, svg
from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.protocol.lifecycle import JobState

REPORT_FILE = "report.html"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def write_report(folder: Path, *, to: Path | None = None) -> Path:
    """Write the page about a batch's folder; gives its path, FOLDER/report.html unless told.

    Raises InvalidRequestError for a folder without results, OSError where it cannot be written.
    """
    results = list({result.item: result for result in read_results(folder)}.values())
    if not results:
        hint = "pass the folder that a batch wrote to"
        raise InvalidRequestError([Problem("folder", repr(str(folder)), "no results in it", hint)])
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
<h2>Who ran when</h2><div class="timeline" tabindex="0" role="region" aria-label="Timeline of the places">
{svg(bars(results)) or '<p class="soft">No job was sent.</p>'}</div>
<h2 id="videos">Videos</h2>
<div class="filters" role="search">{_buttons(states)}
<input type="search" id="search" placeholder="prompt, seed, file, reason" aria-label="Search the videos">
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
    took = _length((max(times) - min(times)).total_seconds())
    return f'<p class="soft">{min(times):%Y-%m-%d %H:%M} UTC, {took}</p>'


def _notice(results: Iterable[Result]) -> str:
    if not any(urlsplit(result.service).hostname in _LOOPBACK for result in results):
        return ""
    return (
        '<p class="notice">These jobs were done by a program on the machine that ran the batch, such as the emulator '
        "of modelslab_async: this is <b>not ModelsLab's</b> work, and what it cost was not paid.</p>"
    )


def _totals(results: Sequence[Result]) -> str:
    unsure = sum((result.price for result in results if result.charged is None), Decimal(0))
    told = [
        (str(sum(result.file is not None for result in results)), f"of {len(results)} videos"),
        (usd(sum((result.cost or Decimal(0) for result in results), Decimal(0))), "spent"),
        *([(usd(unsure), "may have been spent")] if unsure else []),
        *_medians(results),
    ]
    return f'<ul class="totals">{"".join(f"<li><b>{value}</b> {name}</li>" for value, name in told)}</ul>'


def _medians(results: Sequence[Result]) -> Iterable[tuple[str, str]]:
    queued = [wait for result in results if (wait := _between(result.created_at, result.submitted_at)) is not None]
    worked = [work for result in results if (work := _between(result.accepted_at, result.ended_at)) is not None]
    if queued:
        yield _length(statistics.median(queued)), "waiting for a place, median"
    if worked:
        yield _length(statistics.median(worked)), "in work, median"


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
        said = "no video" if result.state is not JobState.READY else "not saved"
        return f'<div class="screen">{said}</div>'
    path = Path(os.path.relpath(folder / result.file, beside)).as_posix()
    return (
        f'<button class="screen" aria-label="Play: {prompt}">'
        f'<video data-src="{escape(quote(path))}" muted loop playsinline preload="none"></video></button>'
    )


def _facts(result: Result) -> Iterable[str]:
    queued, worked = _between(result.created_at, result.submitted_at), _between(result.accepted_at, result.ended_at)
    cost = "cost unknown" if result.cost is None else usd(result.cost)
    told = [
        "" if result.seed is None else f"seed {result.seed}",
        cost,
        "" if queued is None else f"{_length(queued)} waiting",
        "" if worked is None else f"{_length(worked)} in work",
        "" if result.width is None else f"{result.width}×{result.height}",
        "" if result.frames is None else f"{result.frames} frames",
        "" if result.fps is None else f"{result.fps:g} fps",
        result.file or "",
        f"line {result.line}",
        result.ref,
    ]
    return [each for each in told if each]


def _times(results: Iterable[Result]) -> list[datetime]:
    moments = ((result.created_at, result.saved_at or result.ended_at) for result in results)
    return [at for pair in moments for at in pair if at is not None]


def _between(begin: datetime | None, end: datetime | None) -> float | None:
    return None if begin is None or end is None else max((end - begin).total_seconds(), 0.0)


def _length(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02} h"
