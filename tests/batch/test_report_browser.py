"""The report of a batch in a browser: videos, filters, timeline, keyboard, and a page of many jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest
from helpers.browser import SHARES_BROWSER, Browsed
from helpers.reports import MARKUP, a_result, at, many_results, url_of, written
from PIL import Image
from playwright.async_api import Page

from modelslab_async import JobState
from modelslab_async.emulator import Work
from modelslab_async.emulator.render import render

S = JobState
PHONE = {"width": 380, "height": 800}
LONG = "a very long prompt that goes on and on, " * 20
MANY = 3000

pytestmark = SHARES_BROWSER


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A real video of 160 x 96 pixels."""
    picture = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.linear_gradient("L").resize((160, 90)).convert("RGB").save(picture)
    return render(Work(picture=picture.read_bytes(), prompt="zoom", width=160, height=96, frames=24, fps=12, seed=1))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, video: bytes) -> Path:
    """A batch's folder with real videos, a missing file, and a failed and an uncertain item."""
    folder = tmp_path_factory.mktemp("my videos ü")
    for line in (1, 2, 3):
        (folder / f"video {line}.mp4").write_bytes(video)
    results = [*map(a_result, range(1, 5)), a_result(5, S.FAILED, error=LONG), a_result(6, S.UNCERTAIN)]
    results[1] = a_result(2, request={"prompt": MARKUP})
    written(folder, results)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, video: bytes) -> Path:
    """A batch's folder with many jobs. They share a video, but for one that is uncertain."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "same.mp4").write_bytes(video)
    results = [attrs.evolve(result, file="same.mp4") for result in many_results(MANY)]
    results[2000] = a_result(2001, S.UNCERTAIN, submitted_at=results[2000].submitted_at)
    written(folder, results)
    return folder


async def videos_out_of_view(page: Page) -> int:
    """The number of video elements of the wall that are not in the viewport."""
    script = """[...document.querySelectorAll('#wall video')].filter((video) => {
        const box = video.parentElement.getBoundingClientRect();
        return box.bottom < 0 || box.top > innerHeight;
    }).length"""
    return int(await page.evaluate(script))


async def is_in_view(page: Page, text: str) -> bool:
    """Whether a card with this text is in the viewport."""
    script = """(text) => [...document.querySelectorAll('.card')].some((card) => {
        const box = card.getBoundingClientRect();
        return card.textContent.includes(text) && box.top < innerHeight && box.bottom > 0;
    })"""
    return bool(await page.evaluate(script, text))


async def test_the_wall_plays(videos: Path, browsed: Browsed) -> None:
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
        assert await page.locator("dialog video").count() == 0


async def test_filters(videos: Path, browsed: Browsed) -> None:
    """Cards are filtered by state and by text; the page shows the count, and markup in a prompt as text."""
    async with browsed(url_of(videos)) as page:
        shown = page.locator(".card:visible")
        assert await shown.count() == 6
        await page.get_by_role("button", name="failed 1").click()
        assert await shown.count() == 1
        assert "a very long prompt" in (await shown.text_content() or "")
        await page.get_by_role("button", name="all 6").click()
        await page.get_by_role("searchbox").fill("<IMG src=x")
        assert await shown.count() == 1
        assert MARKUP in (await shown.text_content() or "")
        assert await page.locator("#count").inner_text() == "1 of 6 shown"
        await page.get_by_role("searchbox").fill("1003")
        assert "prompt 3" in (await shown.text_content() or "")
        await page.get_by_role("searchbox").fill("nothing like this")
        assert await shown.count() == 0
        await page.get_by_role("button", name="Show all videos").click()
        assert await shown.count() == 6


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_keyboard_is_enough(videos: Path, scheme: Any, browsed: Browsed) -> None:
    """Arrows move between the videos, Enter opens one, Escape closes it; a bar leads to its card."""
    async with browsed(url_of(videos), color_scheme=scheme, viewport=PHONE) as page:
        await page.locator("button.screen").first.focus()
        await page.keyboard.press("ArrowRight")
        assert "onerror" in str(await page.evaluate("document.activeElement.getAttribute('aria-label')"))
        await page.keyboard.press("Enter")
        await page.wait_for_function("document.querySelector('dialog[open]')")
        await page.keyboard.press("Escape")
        await page.wait_for_function("!document.querySelector('dialog[open]')")
        timeline = page.get_by_role("slider")
        await timeline.focus()
        for _ in range(3):
            await page.keyboard.press("ArrowRight")
        pointed = await timeline.get_attribute("aria-valuetext") or ""
        await page.keyboard.press("Enter")
        revealed = await page.locator(".card.revealed").text_content() or ""
        assert pointed.rpartition(": ")[2] in revealed
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert await page.evaluate(wide)
        back = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", str(back)))) < 200) is (scheme == "dark")


async def test_the_timeline_fits_a_phone(many: Path, browsed: Browsed) -> None:
    """It is as wide as its frame, its labels do not overlap, and each of them is in view."""
    async with browsed(url_of(many), viewport=PHONE) as page:
        frame, lanes = [await page.locator(name).bounding_box() for name in ("section.timeline", ".lanes")]
        assert frame
        assert lanes
        assert frame["width"] - 40 < lanes["width"] < frame["width"] <= 380
        labels = [box for label in await page.locator(".ticks li").all() if (box := await label.bounding_box())]
        assert len(labels) > 2
        ends = [box["x"] + box["width"] for box in labels]
        assert all(end < following["x"] for end, following in zip(ends, labels[1:], strict=False))
        assert max(ends) <= 380


async def test_a_bar_says_its_job_and_leads_to_its_card(many: Path, browsed: Browsed) -> None:
    """The uncertain job's bar can be pointed at, among thousands. A click shows its card, which nothing had made."""
    async with browsed(url_of(many)) as page:
        box = await page.locator("path.uncertain").bounding_box()
        assert box
        await page.mouse.move(box["x"] + 3, box["y"] + box["height"] / 2)
        caption = await page.locator(".caption").inner_text()
        assert caption.startswith("Line 2001, uncertain, sent after 1:23 h, end unknown")
        await page.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
        assert "prompt 2001" in (await page.locator(".card.revealed").text_content() or "")
        await page.wait_for_timeout(200)
        assert await is_in_view(page, "prompt 2001")


async def test_an_uncertain_card_says_how_to_resolve_it(videos: Path, browsed: Browsed) -> None:
    """It shows the command and the library call; no other card does."""
    async with browsed(url_of(videos)) as page:
        resolve = page.locator(".card .resolve")
        assert await resolve.count() == 1
        text = await resolve.inner_text()
        assert "modelslab-async resolve ref-6 --id ID" in text
        assert "await client.resolve('ref-6', lost=True)" in text


async def test_long_texts_are_cut_and_can_be_read(videos: Path, browsed: Browsed) -> None:
    """A long error is cut in its card. A button, which only such a card has, shows it whole."""
    async with browsed(url_of(videos), viewport=PHONE) as page:
        more = page.get_by_role("button", name="Show all text")
        assert await more.count() == 1
        cut = "(text) => text.scrollHeight > text.clientHeight + 1"
        assert await page.locator(".card.failed .reason").evaluate(cut)
        await more.click()
        whole = page.locator("dialog .reason")
        assert await whole.inner_text() == LONG.strip()
        assert not await whole.evaluate(cut)


async def test_many_jobs_are_few_elements(many: Path, browsed: Browsed) -> None:
    """At the top, at the end, and after a search there are few cards, and videos only in view."""
    async with browsed(url_of(many)) as page:
        for move in (
            "document.querySelector('#wall').scrollIntoView()",
            "scrollTo(0, document.body.scrollHeight / 2)",
            "scrollTo(0, 1e9)",
        ):
            await page.evaluate(move)
            await page.wait_for_function("document.querySelectorAll('#wall video').length > 0")
            await page.wait_for_timeout(200)
            assert 0 < await page.locator(".card").count() <= 200
            assert await videos_out_of_view(page) == 0
        assert await page.evaluate("document.querySelectorAll('*').length") < 10_000
        await page.evaluate("scrollTo(0, 1e9)")
        await page.wait_for_timeout(200)
        assert await is_in_view(page, f"prompt {MANY}")
        await page.get_by_role("searchbox").fill("prompt 1234")
        assert await page.locator(".card .prompt").all_inner_texts() == ["prompt 1234"]


async def test_arrows_reach_cards_that_were_not_made(many: Path, browsed: Browsed) -> None:
    """The focus goes on from card to card over the end of what the page had made, and skips a job without a video."""
    async with browsed(url_of(many)) as page:
        await page.get_by_role("searchbox").fill("prompt 2")  # 2, 20-29, 200-299, 2000-2999; 2001 has no video
        await page.locator("button.screen").first.focus()
        assert 0 < await page.locator(".card").count() < 112
        for _ in range(112):
            await page.keyboard.press("ArrowRight")
        assert await page.evaluate("document.activeElement.getAttribute('aria-label')") == "Play: prompt 2002"
        assert await is_in_view(page, "prompt 2002")


async def test_nothing_is_loaded_from_elsewhere(videos: Path, browsed: Browsed) -> None:
    """The page asks for itself and the videos beside it, and for nothing else."""
    asked = list[str]()
    async with browsed("about:blank") as page:
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(url_of(videos))
        await page.get_by_text("the file is missing").wait_for()
    assert len(asked) >= 4
    assert all(url.startswith("file://") and ("report.html" in url or "video" in url) for url in asked)


async def test_without_javascript_there_is_a_summary(videos: Path, browsed: Browsed) -> None:
    """The page shows totals, timeline and the jobs without a video, and no control that would not work."""
    async with browsed(url_of(videos), java_script_enabled=False, viewport=PHONE) as page:
        text = await page.locator("body").inner_text()
        assert "4\nof 6 videos" in text
        assert "failed: 1 job" in text
        assert "Line 6, uncertain\nprompt 6\nreason 6\nref ref-6" in text
        assert await page.locator("path.uncertain").is_visible()
        assert not await page.get_by_role("searchbox").is_visible()


async def test_uncertain_jobs_at_one_time_are_told_apart(tmp_path: Path, browsed: Browsed) -> None:
    """Each of them has a place of its own in the timeline."""
    written(tmp_path, [a_result(line, S.UNCERTAIN, submitted_at=at(0)) for line in range(1, 6)])
    async with browsed(url_of(tmp_path), viewport=PHONE) as page:
        box = await page.locator(".lanes").bounding_box()
        assert box
        lines = set()
        for lane in range(5):
            await page.mouse.move(box["x"] + 1, box["y"] + (lane + 0.5) * box["height"] / 5)
            lines.add((await page.locator(".caption").inner_text()).partition(",")[0])
        assert lines == {f"Line {line}" for line in range(1, 6)}
