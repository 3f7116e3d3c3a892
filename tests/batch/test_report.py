"""The report of a batch: what it says, and how it behaves in a browser."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from helpers.browser import browsed, needs_browser
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modelslab_async import InvalidRequestError, JobState
from modelslab_async.batch import Result
from modelslab_async.batch.report import write_report
from modelslab_async.batch.results import to_json
from modelslab_async.batch.timeline import bars, svg
from modelslab_async.emulator import Work
from modelslab_async.emulator.render import render

S = JobState
BEGIN = datetime(2026, 11, 23, 10, tzinfo=UTC)
MARKUP = "<img src=x onerror=alert(1)></script><b>bold"


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def a_result(line: int, state: JobState = S.READY, **changes: Any) -> Result:
    is_made = state is S.READY
    defaults: dict[str, Any] = {
        "item": f"item-{line}",
        "ref": f"ref-{line}",
        "line": line,
        "state": state,
        "request": {"prompt": f"prompt {line}", "init_image": "/pictures/a.png"},
        "service": "https://modelslab.com",
        "price": Decimal("0.2"),
        "charged": {S.READY: True, S.REFUSED: False}.get(state),
        "file": f"video {line}.mp4" if is_made else None,
        "error": None if is_made else f"reason {line}",
        "seed": 1000 + line,
        "created_at": BEGIN,
        "submitted_at": at(10),
        "accepted_at": at(10),
        "ended_at": at(50),
    }
    return Result(**{**defaults, **changes})


def written(folder: Path, results: list[Result], more: str = "") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "results.jsonl").write_text("".join(to_json(result).decode() + "\n" for result in results) + more)
    return write_report(folder).read_text()


def words_of(page: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL))


def test_the_totals(tmp_path: Path) -> None:
    """They count videos, money and median times; if an item has two lines, the last one counts."""
    results = [a_result(1, S.UNCERTAIN), a_result(1), a_result(2), a_result(3, S.FAILED), a_result(4, S.REFUSED)]
    words = words_of(written(tmp_path, results, more='{"item": "half a li'))
    assert "2 of 4 videos" in words
    assert "$0.40 spent" in words
    assert "$0.20 may have been spent" in words
    assert "10 s waiting for a slot" in words
    assert "40 s processing" in words
    assert "2026-11-23 10:00 UTC, 50 s" in words
    assert "reason 3" in words
    assert "None" not in words


HERE = ("http://127.0.0.1:8787", "http://[::1]:1", "http://localhost:1")


@pytest.mark.parametrize(("service", "is_marked"), [*((url, True) for url in HERE), ("https://modelslab.com", False)])
def test_the_work_of_an_emulator_is_marked(tmp_path: Path, service: str, is_marked: bool) -> None:
    """A notice says that its videos are not those of the service."""
    assert ("not ModelsLab" in words_of(written(tmp_path, [a_result(1, service=service)]))) is is_marked


def test_markup_in_values_stays_text(tmp_path: Path) -> None:
    """A prompt, an error, and the names of files and the folder cannot add markup to the page."""
    result = a_result(1, request={"prompt": MARKUP}, error=MARKUP, file=f"{MARKUP.replace('/', '')}.mp4")
    page = written(tmp_path / "<b>folder", [result])
    assert "<img" not in page
    assert "<b>bold" not in page
    assert "<b>folder" not in page
    assert page.count("</script>") == 1


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    """The error names the problem, and nothing is written."""
    with pytest.raises(InvalidRequestError, match="results"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_may_lie_elsewhere(tmp_path: Path) -> None:
    """It names the videos relative to its own folder, and leaves no other file there."""
    written(tmp_path / "out", [a_result(1)])
    page = write_report(tmp_path / "out", to=tmp_path / "pages" / "one.html")
    assert 'data-src="../out/video%201.mp4"' in page.read_text()
    assert list(page.parent.iterdir()) == [page]


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(0, 40)), max_size=60))
def test_lanes_are_slots(spans: list[tuple[int, int]]) -> None:
    """Two jobs that ran at once are in different lanes, and there are no more lanes than jobs that ran at once."""
    results = [
        a_result(line, submitted_at=at(begin), ended_at=at(begin + length))
        for line, (begin, length) in enumerate(spans, 1)
    ]
    drawn = bars(results)
    assert Counter(bar.result.line for bar in drawn) == Counter(range(1, len(spans) + 1))
    for bar in drawn:
        others = [other for other in drawn if other is not bar and other.lane == bar.lane]
        assert all(other.end <= bar.begin or bar.end <= other.begin for other in others)
    most = max((sum(b.begin <= bar.begin < b.end or b is bar for b in drawn) for bar in drawn), default=0)
    assert len({bar.lane for bar in drawn}) <= max(most, 0)
    assert svg(drawn).count("<a ") == len(drawn)


def test_ten_thousand_jobs_fit_a_page(tmp_path: Path) -> None:
    """The page of ten thousand jobs in 200 slots has less than 15 MB."""
    results = [
        a_result(line, submitted_at=at(line // 200 * 50), ended_at=at(line // 200 * 50 + 40)) for line in range(10_000)
    ]
    assert len(written(tmp_path, results)) < 15_000_000


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A batch's folder with real videos, a missing file, and a failed and an uncertain item."""
    folder = tmp_path_factory.mktemp("my videos ü")
    picture = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.linear_gradient("L").resize((160, 90)).convert("RGB").save(picture)
    work = Work(picture=picture.read_bytes(), prompt="zoom", width=160, height=96, frames=24, fps=12, seed=1)
    for line in (1, 2, 3):
        (folder / f"video {line}.mp4").write_bytes(render(work))
    results = [*map(a_result, range(1, 5)), a_result(5, S.FAILED), a_result(6, S.UNCERTAIN)]
    results[1] = a_result(2, request={"prompt": MARKUP})
    written(folder, results)
    return folder


def url_of(folder: Path) -> str:
    return f"file://{quote(str(folder / 'report.html'))}"


@needs_browser
async def test_the_wall_plays(videos: Path) -> None:
    """A video plays while the pointer is on it, and opens large; a missing file is reported."""
    async with browsed(url_of(videos)) as page:
        screens = page.locator("button.screen")
        await page.get_by_text("the file is missing").wait_for()
        assert await screens.count() == 3
        video = "document.querySelector('.card video')"
        await screens.first.hover()
        await page.wait_for_function(f"{video}.currentTime > 0.3 && !{video}.paused")
        assert await page.evaluate(f"[{video}.videoWidth, {video}.videoHeight]") == [160, 96]
        await page.mouse.move(0, 0)
        await page.wait_for_function(f"{video}.paused")
        await screens.first.click()
        large = "document.querySelector('dialog[open] video')"
        await page.wait_for_function(f"{large} && {large}.currentTime > 0.1")
        await page.get_by_role("button", name="Close").click()
        await page.wait_for_function("!document.querySelector('dialog[open]')")


@needs_browser
async def test_filters(videos: Path) -> None:
    """Cards are filtered by state and by text; the page shows the count, and markup in a prompt as text."""
    async with browsed(url_of(videos)) as page:
        shown = page.locator(".card:visible")
        assert await shown.count() == 6
        await page.get_by_role("button", name="failed 1").click()
        assert await shown.count() == 1
        assert "reason 5" in (await shown.text_content() or "")
        await page.get_by_role("button", name="all 6").click()
        await page.get_by_role("searchbox").fill("<IMG src=x")
        assert await shown.count() == 1
        assert MARKUP in (await shown.text_content() or "")
        assert await page.locator("#count").inner_text() == "1 of 6 shown"
        await page.get_by_role("searchbox").fill("1003")
        assert "prompt 3" in (await shown.text_content() or "")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_keyboard_is_enough(videos: Path, scheme: Any) -> None:
    """Arrows move between the videos, Enter opens one, Escape closes it; a bar links to its card."""
    async with browsed(url_of(videos), color_scheme=scheme, viewport={"width": 380, "height": 800}) as page:
        await page.locator("button.screen").first.focus()
        await page.keyboard.press("ArrowRight")
        assert "onerror" in str(await page.evaluate("document.activeElement.getAttribute('aria-label')"))
        await page.keyboard.press("Enter")
        await page.wait_for_function("document.querySelector('dialog[open]')")
        await page.keyboard.press("Escape")
        await page.wait_for_function("!document.querySelector('dialog[open]')")
        await page.locator("svg a").nth(3).focus()
        await page.keyboard.press("Enter")
        await page.wait_for_function("document.querySelector('.card:target')")
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert await page.evaluate(wide)
        back = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", str(back)))) < 200) is (scheme == "dark")
