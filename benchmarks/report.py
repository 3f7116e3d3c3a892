"""Measure how a batch's report loads and filters in a browser, with 200, 2,000 and 20,000 jobs.

    python -m benchmarks.report [--json] [--check]       takes about two minutes

The reports are written by the package from made-up results: nine of ten jobs are ready and share one real video, the
others failed or are uncertain. Headless Chromium opens each report from disk, with 1280 x 900 pixels, in a page of its
own each round. "Load" is the time from the navigation until the first cards and the timeline are painted. "Filter" is
the time from an input event until the next frame is painted. It is taken for each letter of a typed search and for each
state's button, and a round's value is its slowest one. Before anything is printed: each state, and the whole search,
showed the right number of jobs. The time to write the report and its size are printed too, without a target.

It needs Playwright (the extra `dev`), the extra `emulator`, and a Chromium on the machine.
"""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
from PIL import Image

from benchmarks._common import Figure, Samples, Target, log, parse_options, print_figures
from modelslab_async import JobState
from modelslab_async.batch import Result
from modelslab_async.batch.report import write_report
from modelslab_async.batch.results import to_json
from modelslab_async.emulator import Work
from modelslab_async.emulator.render import render

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

COUNTS = (200, 2000, 20_000)
ROUNDS = 5
SLOTS = 20
SEARCH = "prompt 19"
MOST_LOAD_SECONDS, MOST_FILTER_SECONDS = 3.0, 0.3
_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_VIDEO = "video.mp4"
_PAINTED = """new Promise((resolve) => requestAnimationFrame(() => {
    const channel = new MessageChannel();  // its message comes after the frame's paint
    channel.port1.onmessage = () => resolve(performance.now());
    channel.port2.postMessage(null);
}))"""
_LOADED = f"""async () => {{
    if (document.readyState !== "complete") await new Promise((resolve) => addEventListener("load", resolve));
    const at = await {_PAINTED};
    if (!document.querySelector(".card") || !document.querySelector(".lanes path")) throw new Error("nothing is shown");
    return at / 1000;
}}"""
_TYPED = f"""async (text) => {{
    const search = document.querySelector("#search");
    const begun = performance.now();
    search.value = text;
    search.dispatchEvent(new Event("input", {{ bubbles: true }}));
    return [(await {_PAINTED} - begun) / 1000, document.querySelector("#count").textContent];
}}"""
_CHOSEN = f"""async (state) => {{
    const button = document.querySelector(`.filters button[value="${{state}}"]`);
    const begun = performance.now();
    button.click();
    return [(await {_PAINTED} - begun) / 1000, document.querySelector("#count").textContent];
}}"""


@attrs.frozen
class Written:
    """A report on disk: its results, the seconds that it took to write, and its size in bytes."""

    page: Path
    results: Sequence[Result]
    seconds: float
    size: int


@attrs.define
class Times:
    """Seconds of the rounds with one report."""

    load: list[float] = attrs.field(factory=list[float])
    search: list[float] = attrs.field(factory=list[float])
    state: list[float] = attrs.field(factory=list[float])


def made_up(count: int) -> Iterator[Result]:
    """Yield the results of a batch with so many items."""
    chance = random.Random(count)
    for line in range(1, count + 1):
        state = JobState.READY
        if line % 10 == 0:
            state = chance.choice([JobState.FAILED, JobState.UNCERTAIN])
        is_ready, begin = state is JobState.READY, (line - 1) // SLOTS * 50 + chance.random()
        ended = None if state is JobState.UNCERTAIN else _at(begin + chance.uniform(30, 45))
        yield Result(
            item=f"item-{line}",
            ref=f"{chance.getrandbits(128):032x}",
            line=line,
            state=state,
            request={
                "prompt": f"prompt {line}: the camera glides over the moat of a castle while the mist lifts slowly",
                "init_image": f"/pictures/castle-{line:05}.jpg",
            },
            service="https://modelslab.com",
            price=Decimal("0.2"),
            charged=True if is_ready else None,
            job_id=str(10_000_000 + line),
            seed=chance.getrandbits(31),
            file=_VIDEO if is_ready else None,
            width=320,
            height=176,
            frames=25,
            fps=16.0,
            created_at=_at(begin - 1),
            submitted_at=_at(begin),
            accepted_at=ended and _at(begin + 0.5),
            ended_at=ended,
            error=None if is_ready else "the service failed the job: it ran out of memory while it decoded the frames",
        )


def _at(seconds: float) -> datetime:
    return _BEGIN + timedelta(seconds=seconds)


def _video() -> bytes:
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((320, 176)).convert("RGB").save(picture, "PNG")
    return render(Work(picture=picture.getvalue(), prompt="zoom", width=320, height=176, frames=25, fps=16, seed=1))


def write(folder: Path, count: int, video: bytes) -> Written:
    """Write a batch's folder with so many results, and its report."""
    folder.mkdir()
    (folder / _VIDEO).write_bytes(video)
    results = [*made_up(count)]
    (folder / "results.jsonl").write_bytes(b"".join(to_json(result) + b"\n" for result in results))
    begun = time.perf_counter()
    page = write_report(folder)
    return Written(page, results, time.perf_counter() - begun, page.stat().st_size)


async def _round(browser: Browser, report: Written, times: Times) -> None:
    """Open the report, search and choose states. Add the seconds to *times*."""
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    try:
        await page.goto(report.page.as_uri(), wait_until="commit")
        times.load.append(await page.evaluate(_LOADED))
        texts = {SEARCH[:length]: _matches(report.results, SEARCH[:length]) for length in range(1, len(SEARCH) + 1)}
        times.search.append(await _slowest(page, _TYPED, {**texts, "": len(report.results)}, len(report.results)))
        states = Counter(result.state.value for result in report.results)
        times.state.append(await _slowest(page, _CHOSEN, {**states, "": states.total()}, states.total()))
    finally:
        await page.close()


def _matches(results: Sequence[Result], text: str) -> int | None:
    """Return how many jobs a search must show; None for a part of the search, which other texts may hold too."""
    return sum(text in str(result.request["prompt"]) for result in results) if text == SEARCH else None


async def _slowest(page: Page, script: str, counts: Mapping[str, int | None], total: int) -> float:
    """Filter by each text or state. Return the seconds of the slowest, after a check of what is shown."""
    taken = list[float]()
    for value, count in counts.items():
        seconds, shown = await page.evaluate(script, value)
        assert count is None or shown == f"{count} of {total} shown", (value, shown, count)
        taken.append(seconds)
        await page.wait_for_timeout(50)
    return max(taken)


async def measure(reports: Mapping[int, Written], chromium: str) -> tuple[dict[int, Times], str]:
    """Return the times by the number of jobs, and the browser's version."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - of the extra `dev`

    times = {count: Times() for count in reports}
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            await _round(browser, reports[COUNTS[0]], Times())  # the browser's first page starts its processes
            for turn in range(ROUNDS):
                log(f"round {turn + 1} of {ROUNDS}")
                for count, report in reports.items():
                    await _round(browser, report, times[count])
            return times, browser.version
        finally:
            await browser.close()


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = parse_options(__doc__)
    chromium = next((path for name in _CHROMIUM if (path := shutil.which(name))), None)
    if chromium is None:
        log(f"there is no Chromium on this machine (hint: install one of {', '.join(_CHROMIUM)})")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        log("writing the reports")
        video = _video()
        reports = {count: write(Path(folder) / f"{count} jobs", count, video) for count in COUNTS}
        times, version = asyncio.run(measure(reports, chromium))

    def measured(name: str) -> dict[str, Samples]:
        return {f"{count:,} jobs": Samples(getattr(each, name)) for count, each in times.items()}

    written = {f"{count:,} jobs": Samples([each.seconds]) for count, each in reports.items()}
    figures = [
        Figure("load", "s", measured("load"), target=MOST_LOAD_SECONDS, digits=3),
        Figure("filter: the slowest letter of a search", "s", measured("search"), target=MOST_FILTER_SECONDS, digits=3),
        Figure("filter: the slowest state", "s", measured("state"), target=MOST_FILTER_SECONDS, digits=3),
        Figure("write the report", "s", written, digits=2),
        Figure("size", "MB", {f"{n:,} jobs": Samples([each.size / 1e6]) for n, each in reports.items()}, digits=2),
    ]
    most = COUNTS[-1]
    filtered = max(Samples(times[most].search).median, Samples(times[most].state).median)
    targets = [
        Target(f"load {most:,} jobs, s", Samples(times[most].load).median, MOST_LOAD_SECONDS),
        Target(f"filter {most:,} jobs, s", filtered, MOST_FILTER_SECONDS),
    ]
    conditions = (
        f"headless Chromium {version}, driven by playwright {metadata.version('playwright')}; "
        f"file:// URLs; {ROUNDS} rounds, each with a page of its own"
    )
    return print_figures(wanted, "report", conditions, figures, targets)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
