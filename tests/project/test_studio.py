"""The studio as visitors use it: its server in another process, real browsers, an emulator in this process."""

from __future__ import annotations

import asyncio
import io
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from helpers.browser import browsed, needs_browser
from playwright.async_api import Page, expect

from modelslab_async.emulator import Emulator, skeleton

STUDIO = Path(__file__).parents[2] / "examples" / "studio" / "server.py"
ROCKET = Path(__file__).parents[2] / "examples" / "rocket.jpg"
KEY = "secret-key-of-the-studio"
TIMEOUT = 20_000
"""Milliseconds."""


@attrs.define
class Server:
    """The studio's server. It can be stopped and started again."""

    folder: Path
    port: int
    service: str
    budget: str = "5"
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        environment = {"MODELSLAB_API_KEY": KEY, "MODELSLAB_BASE_URL": self.service}
        arguments = ["--live", "--port", str(self.port), "--folder", str(self.folder), "--budget", self.budget]
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(STUDIO), *arguments), env={**os.environ, **environment}, stdout=pipe, stderr=pipe
        )
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{self.url}/status"):
                        return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)

    async def stop(self, *, kill: bool = False) -> None:
        assert self.process is not None
        self.process.kill() if kill else self.process.terminate()
        out, err = await self.process.communicate()
        assert KEY.encode() not in out + err
        assert b"Traceback" not in err, err.decode()


@asynccontextmanager
async def studio(
    folder: Path, port: int, *, budget: str = "5", **options: Any
) -> AsyncIterator[tuple[Server, Emulator]]:
    async with Emulator(**{"speed": 40, "eta": {"good": 1}, **options}) as emulator:
        server = Server(folder, port, emulator.url, budget)
        await server.start()
        try:
            yield server, emulator
        finally:
            await server.stop()


async def request_video(page: Page, prompt: str, picture: Path = ROCKET) -> None:
    """Choose a picture, write a prompt and submit."""
    await page.set_input_files("#picture", picture)
    await page.fill("#prompt", prompt)
    await page.click("#make")


PLAY = """async () => {
  const video = document.querySelector("li video");
  await video.play();
  while (video.currentTime < 0.3) await new Promise((resume) => setTimeout(resume, 50));
  return [video.videoWidth, video.videoHeight];
}"""


@needs_browser
async def test_a_picture_becomes_a_video_that_plays(tmp_path: Path, unused_tcp_port: int) -> None:
    """The page shows the price, the queue and the progress; the mp4 plays in its dimensions and can be downloaded."""
    markup = "<img src=x onerror=alert(1)> zoom in"
    async with studio(tmp_path, unused_tcp_port) as (server, emulator), browsed(server.url) as page:
        await expect(page.locator("#make")).to_have_text("Make the video for $0.20")
        await expect(page.locator("#queue")).to_contain_text("of at most 5")
        await request_video(page, markup)
        await page.locator("li progress").wait_for(timeout=TIMEOUT)
        await page.locator("li video").wait_for(timeout=TIMEOUT)
        await expect(page.locator("li .prompt")).to_have_text(markup)
        size = await page.evaluate(PLAY)
        assert size == [832, 480]
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Download the mp4").click()
        path = await (await downloading.value).path()
        assert Path(path).read_bytes()[4:8] == b"ftyp"
        await page.reload()
        await page.locator("li video").wait_for(timeout=TIMEOUT)
        assert len(emulator.ledger.charges) == 1


@needs_browser
async def test_visitors_see_only_their_own_videos(tmp_path: Path, unused_tcp_port: int) -> None:
    """Of two visitors, each sees only their own video. The ref of another visitor, or a path, is answered with 404."""
    async with studio(tmp_path, unused_tcp_port, render=skeleton) as (server, _):
        async with browsed(server.url) as one, browsed(server.url) as two:
            await asyncio.gather(request_video(one, "the first visitor's"), request_video(two, "the second visitor's"))
            await asyncio.gather(*(page.locator("li a.button").wait_for(timeout=TIMEOUT) for page in (one, two)))
            assert await one.locator("li .prompt").all_inner_texts() == ["the first visitor's"]
            assert await two.locator("li .prompt").all_inner_texts() == ["the second visitor's"]
            ref = await two.locator("li").get_attribute("id")
            for path in (f"jobs/{ref}/video", f"jobs/{ref}/events", "jobs/..%2F..%2Fjobs.db/video", "jobs/x/video"):
                assert await one.evaluate(f"fetch('{path}').then(answer => answer.status)") == 404
            assert await two.evaluate(f"fetch('jobs/{ref}/video').then(answer => answer.ok)")
        async with aiohttp.ClientSession() as stranger, stranger.get(f"{server.url}/jobs") as answer:
            assert answer.status == 403


@needs_browser
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
async def test_a_restart_loses_no_video(tmp_path: Path, unused_tcp_port: int, kill: bool) -> None:
    """If the server stops while a video renders and starts again, the open page gets the video. It is charged once."""
    async with studio(tmp_path, unused_tcp_port, speed=15, render=skeleton) as (server, emulator):
        async with browsed(server.url) as page:
            await request_video(page, "zoom in")
            await page.locator("li[data-state=processing]").wait_for(timeout=TIMEOUT)
            await server.stop(kill=kill)
            await page.get_by_text("cannot be reached").first.wait_for(timeout=TIMEOUT)
            await server.start()
            await page.locator("li a.button").wait_for(timeout=TIMEOUT)
        assert len(emulator.ledger.charges) == 1


@needs_browser
async def test_requests_that_the_studio_refuses_are_explained(tmp_path: Path, unused_tcp_port: int) -> None:
    """A text file, a picture of 20 MB, too many videos and a used-up budget are explained. None is charged."""
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20_000_000))
    options: dict[str, Any] = {"speed": 1, "render": skeleton, "queue_limit": 1}
    async with studio(tmp_path, unused_tcp_port, budget="0.8", **options) as (server, emulator):
        async with browsed(server.url) as page:
            message = page.locator("#message")
            await request_video(page, "zoom", tmp_path / "text.png")
            await expect(message).to_contain_text("not a picture")
            await page.set_input_files("#picture", tmp_path / "huge.png")
            await expect(message).to_contain_text("larger than 5 MB")
            for number in range(3):
                await request_video(page, f"number {number}")
                await expect(page.locator("li")).to_have_count(number + 1)
            await request_video(page, "one too many")
            await expect(message).to_contain_text("Wait until one of them")
            await expect(page.locator("#queue")).to_contain_text("Waiting: 2")
        async with browsed(server.url) as other:
            await request_video(other, "the last of today")
            await expect(other.locator("li")).to_have_count(1)
            await request_video(other, "too much")
            await expect(other.locator("#message")).to_contain_text("budget is used up")
        status = await _post_bytes(server.url, 20_000_000)
        assert status == 413
        assert len(emulator.ledger.charges) <= 1


async def _post_bytes(url: str, size: int) -> int | None:
    """Post a picture of this size without a browser. Return the HTTP status."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(url):
            pass
        form = aiohttp.FormData({"prompt": "zoom"})
        form.add_field("picture", io.BytesIO(bytes(size)), filename="a.png")
        async with session.post(f"{url}/jobs", data=form) as answer:
            return answer.status


@needs_browser
@pytest.mark.parametrize("problem", [{"keys": ["another key"]}, {"wallet": Decimal("0.1")}])
async def test_a_refusal_of_the_service_is_shown(tmp_path: Path, unused_tcp_port: int, problem: Any) -> None:
    """If the service refuses the key or the wallet is empty, the page says that the request costs nothing."""
    async with studio(tmp_path, unused_tcp_port, **problem) as (server, emulator), browsed(server.url) as page:
        await request_video(page, "zoom in")
        bad = page.locator("li p.bad")
        await expect(bad).to_contain_text("did not accept the request. It costs nothing", timeout=TIMEOUT)
        assert len(emulator.ledger.charges) == 0


@needs_browser
async def test_it_works_by_keyboard_and_on_a_phone(tmp_path: Path, unused_tcp_port: int) -> None:
    """Every control has a name and is reached by Tab. Nothing is wider than the screen."""
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    async with studio(tmp_path, unused_tcp_port, render=skeleton) as (server, _), browsed(server.url, **phone) as page:
        names = []
        for _ in range(3):
            await page.keyboard.press("Tab")
            names.append(await page.evaluate("document.activeElement.id"))
        assert names == ["picture", "prompt", "make"]
        await page.set_input_files("#picture", ROCKET)
        await page.focus("#prompt")
        await page.keyboard.type("zoom in")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await page.locator("li a.button").wait_for(timeout=TIMEOUT)
        assert await page.get_by_label("What should happen in the video?").count() == 1
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "port must be 0-65535"),
        (["--port", "TAKEN"], "already in use"),
        (["--folder", "file"], "File exists"),
        (["--budget", "-1"], "usd=-1.0: must be a number of at least 0"),
        (["--live"], "set MODELSLAB_API_KEY"),
    ],
)
async def test_a_failed_start_prints_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    """The last line of stderr names the problem, without a traceback, and nothing is served."""
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(STUDIO), *(port if argument == "TAKEN" else argument for argument in arguments)),
            cwd=tmp_path, env={**os.environ, "MODELSLAB_API_KEY": ""}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
    assert (process.returncode, "Traceback" in err.decode()) == (2, False)
    assert message in err.decode().splitlines()[-1]
