"""Take the pictures of the report and of the studio for the pages, in both colour schemes.

    python .ci/screenshots.py

It needs the extra `dev`, and Chromium. Each page is shown as a visitor sees it: its videos are those of an emulator.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from playwright.async_api import Page, async_playwright

from modelslab_async import Client, ImageToVideoUltra
from modelslab_async.batch import run_batch
from modelslab_async.batch.report import write_report
from modelslab_async.emulator import Emulator, Fault, Rule

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
ROCKET = ROOT / "examples" / "rocket.jpg"
PROMPTS = ("the camera rises along the rocket", "fog rolls over the pad", "zoom in on the lights")
SCHEMES: dict[Literal["light", "dark"], str] = {"light": "", "dark": "-dark"}
"""The end of a picture's name, by the scheme."""


@asynccontextmanager
async def a_page(scheme: Literal["light", "dark"], width: int, height: int) -> AsyncIterator[Page]:
    """Open a page of a new browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield await browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
        await browser.close()


async def take_report(folder: Path) -> None:
    """Make a batch of which some items fail, and take its report."""
    faults = [Rule(Fault.JOB_FAILS, rate=0.12), Rule(Fault.RESET_AFTER, rate=0.1, times=1)]
    requests = [
        ImageToVideoUltra(prompt=PROMPTS[number % 3], init_image=ROCKET, seed=100 + number, num_frames=33, fps=16)
        for number in range(40)
    ]
    async with (
        Emulator(speed=40, faults=faults, seed=5) as emulator,
        Client("any", base_url=emulator.url, journal=folder / "jobs.db", max_in_flight=5, poll_cost=0.02) as client,
    ):
        async for _ in run_batch(client, requests, folder / "rocket", name="{stem}-{seed}.mp4"):
            pass
    report = write_report(folder / "rocket")
    for scheme, end in SCHEMES.items():
        async with a_page(scheme, 1100, 980) as page:
            await page.goto(report.as_uri())
            await page.wait_for_timeout(2000)  # until the videos show their first pictures
            await page.screenshot(path=PICTURES / f"report{end}.png")


async def take_studio(folder: Path) -> None:
    """Make one video in the studio, and take the page while the next one is made."""
    for scheme, end in SCHEMES.items():
        arguments = [str(ROOT / "examples/studio/server.py"), "--port", "0", "--folder", str(folder / scheme)]
        server = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
        assert server.stdout is not None  # noqa: S101 - it is a pipe
        (url,) = re.findall(r"http://\S+", (await server.stdout.readline()).decode())
        try:
            async with a_page(scheme, 1000, 1100) as page:
                await page.goto(url)
                for prompt in ("slow zoom in, clouds pass over the pad", "the evening turns to night"):
                    await page.set_input_files("#picture", ROCKET)
                    await page.fill("#prompt", prompt)
                    await page.click("#make")
                    if prompt.startswith("slow"):
                        await page.locator("li a.button").wait_for(timeout=60_000)
                await page.locator("li[data-state=processing] progress").wait_for()
                await page.wait_for_timeout(4000)  # until the bar has moved
                await page.set_input_files("#picture", ROCKET)
                await page.fill("#prompt", "the rocket lifts off")
                await page.screenshot(path=PICTURES / f"studio{end}.png", full_page=True)
        finally:
            server.terminate()
            await server.wait()


async def main() -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as folder:
        await take_report(Path(folder))
        await take_studio(Path(folder))


if __name__ == "__main__":
    asyncio.run(main())
