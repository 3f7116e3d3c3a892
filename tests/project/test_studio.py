"""The studio as visitors meet it: its server in a process of its own, real browsers, an emulator in this process."""

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
KEY = "secret-key-that-nobody-may-see"
PATIENCE = 20_000
"""Milliseconds."""


@attrs.define
class Server:
    """The studio's server, which can be stopped and started."""

    folder: Path
    port: int
    service: str
    budget: str = "5"
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        told = {"MODELSLAB_API_KEY": KEY, "MODELSLAB_BASE_URL": self.service}
        words = ["--live", "--port", str(self.port), "--folder", str(self.folder), "--budget", self.budget]
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(STUDIO), *words), env={**os.environ, **told}, stdout=pipe, stderr=pipe
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


async def ask(page: Page, prompt: str, picture: Path = ROCKET) -> None:
    """What a visitor does."""
    await page.set_input_files("#picture", picture)
    await page.fill("#prompt", prompt)
    await page.click("#make")


PLAYED = """async () => {
  const video = document.querySelector("li video");
  await video.play();
  while (video.currentTime < 0.3) await new Promise((resume) => setTimeout(resume, 50));
  return [video.videoWidth, video.videoHeight];
}"""


@needs_browser
async def test_a_picture_becomes_a_video_that_plays(tmp_path: Path, unused_tcp_port: int) -> None:
    """Price and queue are told, progress comes, the mp4 plays in its dimensions and can be downloaded."""
    markup = "<img src=x onerror=alert(1)> zoom in"
    async with studio(tmp_path, unused_tcp_port) as (server, emulator), browsed(server.url) as page:
        await expect(page.locator("#make")).to_have_text("Make the video for $0.20")
        await expect(page.locator("#queue")).to_contain_text("of 5 places busy")
        await ask(page, markup)
        await page.locator("li progress").wait_for(timeout=PATIENCE)
        await page.locator("li video").wait_for(timeout=PATIENCE)
        await expect(page.locator("li .prompt")).to_have_text(markup)
        size = await page.evaluate(PLAYED)
        assert size == [832, 480]
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Download the mp4").click()
        path = await (await downloading.value).path()
        assert Path(path).read_bytes()[4:8] == b"ftyp"
        await page.reload()
        await page.locator("li video").wait_for(timeout=PATIENCE)
        assert len(emulator.ledger.charges) == 1


@needs_browser
async def test_visitors_do_not_meet(tmp_path: Path, unused_tcp_port: int) -> None:
    """Two at once: each sees the own video only; a ref of the other, or a path, gives nothing."""
    async with studio(tmp_path, unused_tcp_port, render=skeleton) as (server, _):
        async with browsed(server.url) as one, browsed(server.url) as two:
            await asyncio.gather(ask(one, "the first visitor's"), ask(two, "the second visitor's"))
            await asyncio.gather(*(page.locator("li a.button").wait_for(timeout=PATIENCE) for page in (one, two)))
            assert await one.locator("li .prompt").all_inner_texts() == ["the first visitor's"]
            assert await two.locator("li .prompt").all_inner_texts() == ["the second visitor's"]
            ref = await two.locator("li").get_attribute("id")
            for path in (f"jobs/{ref}/video", f"jobs/{ref}/events", "jobs/..%2F..%2Fjobs.db/video", "jobs/x/video"):
                assert await one.evaluate(f"fetch('{path}').then(answer => answer.status)") == 404
            assert await two.evaluate(f"fetch('jobs/{ref}/video').then(answer => answer.ok)")
        async with aiohttp.ClientSession() as nobody, nobody.get(f"{server.url}/jobs") as answer:
            assert answer.status == 403


@needs_browser
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
async def test_a_restart_in_the_middle(tmp_path: Path, unused_tcp_port: int, kill: bool) -> None:
    """It goes while a video is made and watched, and is started again: the page gets it, and it is paid for once."""
    async with studio(tmp_path, unused_tcp_port, speed=15, render=skeleton) as (server, emulator):
        async with browsed(server.url) as page:
            await ask(page, "zoom in")
            await page.locator("li[data-state=processing]").wait_for(timeout=PATIENCE)
            await server.stop(kill=kill)
            await page.get_by_text("cannot be reached").first.wait_for(timeout=PATIENCE)
            await server.start()
            await page.locator("li a.button").wait_for(timeout=PATIENCE)
        assert len(emulator.ledger.charges) == 1


@needs_browser
async def test_what_cannot_be_done_is_told(tmp_path: Path, unused_tcp_port: int) -> None:
    """A text that calls itself a picture, one of 20 MB, too many at once, an empty budget: nothing is paid."""
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20_000_000))
    options: dict[str, Any] = {"speed": 1, "render": skeleton, "queue_limit": 1}
    async with studio(tmp_path, unused_tcp_port, budget="0.8", **options) as (server, emulator):
        async with browsed(server.url) as page:
            message = page.locator("#message")
            await ask(page, "zoom", tmp_path / "text.png")
            await expect(message).to_contain_text("not a picture")
            await page.set_input_files("#picture", tmp_path / "huge.png")
            await expect(message).to_contain_text("larger than 5 MB")
            for number in range(3):
                await ask(page, f"number {number}")
                await expect(page.locator("li")).to_have_count(number + 1)
            await ask(page, "one too many")
            await expect(message).to_contain_text("wait for one of them")
            await expect(page.locator("#queue")).to_contain_text("2 waiting")
        async with browsed(server.url) as other:
            await ask(other, "the last of today")
            await expect(other.locator("li")).to_have_count(1)
            await ask(other, "too much")
            await expect(other.locator("#message")).to_contain_text("budget is used up")
        status = await _post_bytes(server.url, 20_000_000)
        assert status == 413
        assert len(emulator.ledger.charges) <= 1


async def _post_bytes(url: str, size: int) -> int | None:
    """A program that does not look before it sends. A server may answer, or break off."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get(url):
            pass
        form = aiohttp.FormData({"prompt": "zoom"})
        form.add_field("picture", io.BytesIO(bytes(size)), filename="a.png")
        async with session.post(f"{url}/jobs", data=form) as answer:
            return answer.status


@needs_browser
@pytest.mark.parametrize("trouble", [{"keys": ["another key"]}, {"wallet": Decimal("0.1")}])
async def test_a_service_that_takes_nothing_is_told(tmp_path: Path, unused_tcp_port: int, trouble: Any) -> None:
    """A key that is refused, a wallet that is empty: the video was not taken, and costs nothing."""
    async with studio(tmp_path, unused_tcp_port, **trouble) as (server, emulator), browsed(server.url) as page:
        await ask(page, "zoom in")
        bad = page.locator("li p.bad")
        await expect(bad).to_contain_text("was not taken, and costs nothing", timeout=PATIENCE)
        assert len(emulator.ledger.charges) == 0


@needs_browser
async def test_it_works_by_keyboard_and_on_a_phone(tmp_path: Path, unused_tcp_port: int) -> None:
    """Everything is reached by Tab and has a name; nothing is wider than the screen."""
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
        await page.locator("li a.button").wait_for(timeout=PATIENCE)
        assert await page.get_by_label("What should be seen").count() == 1
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--port", "99999"], "port must be 0-65535"),
        (["--port", "TAKEN"], "already in use"),
        (["--folder", "file"], "File exists"),
        (["--budget", "-1"], "usd=-1.0: must be a number of at least 0"),
        (["--live"], "set MODELSLAB_API_KEY"),
    ],
)
async def test_a_start_that_cannot_be_is_told_in_a_line(tmp_path: Path, words: list[str], told: str) -> None:
    """Without a traceback, and before anything is served."""
    (tmp_path / "file").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(STUDIO), *(port if word == "TAKEN" else word for word in words)),
            cwd=tmp_path, env={**os.environ, "MODELSLAB_API_KEY": ""}, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, err = await process.communicate()
    assert (process.returncode, "Traceback" in err.decode()) == (2, False)
    assert told in err.decode().splitlines()[-1]
