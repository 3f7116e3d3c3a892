"""The emulator's page in a browser: jobs with their videos, faults by hand, on a phone."""

from __future__ import annotations

import asyncio

from helpers.browser import SHARES_BROWSER, Browsed
from helpers.emulator_server import running_emulator

from modelslab_async.emulator import Fault

pytestmark = SHARES_BROWSER
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


async def test_faults_are_added_and_removed_by_hand(browsed: Browsed) -> None:
    """The form adds a fault with its number of hits, and a button removes it."""
    async with running_emulator() as running, browsed(running.emulator.url, **PHONE) as page:
        await page.select_option("select", "RESET_AFTER")
        await page.fill("input[name=times]", "2")
        await page.click("text=Add")
        await page.wait_for_selector("#faults >> text=reset_after")
        (state,) = running.emulator.service.faults.states
        assert (state.rule.fault, state.rule.times) == (Fault.RESET_AFTER, 2)
        await page.click("#faults >> text=Remove")
        await page.wait_for_selector("text=No fault is in effect.")
        assert running.emulator.service.faults.states == []


async def test_jobs_are_finished_and_failed_by_hand(browsed: Browsed) -> None:
    """A button ends a job now. The finished job has a video, the failed one its reason. A reset empties the page."""
    async with running_emulator(render=None, speed=1.0) as running, browsed(running.emulator.url) as page:
        params = {"prompt": "<b>zoom</b>", "num_frames": 90, "resolution": 128, "num_inference_steps": 100}
        ids = [(await running.submit(**params))[1]["id"] for _ in range(2)]
        await page.click(f"#job-{ids[0]} >> text=Fail")
        await page.wait_for_selector(f"#job-{ids[0]} >> text=Something went wrong")
        await page.click(f"#job-{ids[1]} >> text=Finish")
        await page.wait_for_selector(f"#job-{ids[1]} video")
        assert await page.inner_text("#ledger td >> nth=1") == "$0.40"
        assert "<b>zoom</b>" in await page.inner_text(f"#job-{ids[1]}")
        await page.click("text=Reset everything")
        await page.wait_for_selector("text=No jobs yet.")


async def test_a_playing_video_is_not_interrupted(browsed: Browsed) -> None:
    """The page refreshes itself, and a video that is shown stays the same element."""
    async with running_emulator(speed=1.0) as running, browsed(running.emulator.url) as page:
        _, reply = await running.submit()
        running.emulator.finish_job(reply["id"])
        await page.wait_for_selector("video")
        await page.evaluate("document.querySelector('video').dataset.mine = 'yes'")
        _, other = await running.submit()
        await page.wait_for_selector(f"#job-{other['id']}")
        await asyncio.sleep(0)
        assert await page.evaluate("document.querySelector('video').dataset.mine") == "yes"


async def test_the_page_fits_a_phone(browsed: Browsed) -> None:
    """On a phone nothing is wider than the screen, and buttons are high enough for a thumb."""
    async with running_emulator(speed=1.0, wallet=100) as running:
        await running.submit(track_id="x" * 300, prompt="y" * 300)
        async with browsed(running.emulator.url, **PHONE) as page:
            assert await page.evaluate("document.documentElement.scrollWidth") <= 360
            heights = await page.evaluate("[...document.querySelectorAll('button')].map(each => each.offsetHeight)")
            assert min(heights) >= 40
