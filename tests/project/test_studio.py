"""The studio as visitors use it: its server in another process, real browsers, an emulator in this process."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import aiohttp
import attrs
import pytest
from helpers.browser import SHARES_BROWSER, Browsed
from playwright.async_api import Page, expect

from modelslab_async.emulator import Emulator, Work, skeleton

STUDIO = Path(__file__).parents[2] / "examples" / "studio" / "server.py"
ROCKET = Path(__file__).parents[2] / "examples" / "rocket.jpg"
KEY = "secret-key-of-the-studio"
TIMEOUT = 40_000
"""Milliseconds that anything may take, on a machine that is busy with other tests."""
expect.set_options(timeout=TIMEOUT)

pytestmark = SHARES_BROWSER


@attrs.define
class Server:
    """The studio's server. It can be stopped and started again."""

    folder: Path
    port: int
    service: str
    budget: str = "5"
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = attrs.field(factory=dict[str, str])
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        environment = {"MODELSLAB_API_KEY": KEY, "MODELSLAB_BASE_URL": self.service}
        arguments = [
            *self.arguments,
            "--live",
            "--port",
            str(self.port),
            "--folder",
            str(self.folder),
            "--budget",
            self.budget,
        ]
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(STUDIO), *arguments),
            env={**os.environ, **environment, **self.environment},
            stdout=pipe,
            stderr=pipe,
        )
        async with asyncio.timeout(60), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{self.url}/status"):
                        return
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)

    def workers(self) -> list[int]:
        """Return the ids of the processes that serve the page."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()]

    async def stop(self, *, kill: bool = False) -> None:
        assert self.process is not None
        self.process.kill() if kill else self.process.terminate()
        out, err = await self.process.communicate()
        assert KEY.encode() not in out + err
        assert b"Traceback" not in err, err.decode()


@asynccontextmanager
async def studio(
    folder: Path,
    port: int,
    *,
    budget: str = "5",
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    **options: Any,
) -> AsyncIterator[tuple[Server, Emulator]]:
    usual: dict[str, Any] = {"speed": 40, "eta": {"good": 1}}
    async with Emulator(**{**usual, **options}) as emulator:
        server = Server(folder, port, emulator.url, budget, arguments, environment)
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


def states(journal: Path) -> list[str]:
    """Return the states of the journal's jobs, the oldest first."""
    with closing(sqlite3.connect(journal)) as rows:
        return [state for (state,) in rows.execute("SELECT state FROM jobs ORDER BY created_at")]


def held_back() -> tuple[threading.Event, Callable[[Work], bytes]]:
    """Return an event and a renderer. No video is finished, and no slot becomes free, until the event is set."""
    event = threading.Event()

    def render(work: Work) -> bytes:
        event.wait(60)
        return skeleton(work)

    return event, render


RECORD_PROGRESS = """() => {
  window.progress = [];
  const record = () => window.progress.push(document.querySelector("li progress").value);
  new MutationObserver(record).observe(document.querySelector("li progress"), { attributes: true });
}"""

VIDEO_HAS_BEGUN = """async () => {
  const video = document.querySelector("li video");
  while (!video.readyState && !video.error) await new Promise((resume) => setTimeout(resume, 50));
}"""

PLAY = """async () => {
  const video = document.querySelector("li video");
  await video.play();
  while (video.currentTime < 0.3) await new Promise((resume) => setTimeout(resume, 50));
  return [video.videoWidth, video.videoHeight];
}"""


async def test_a_picture_becomes_a_video_that_plays(tmp_path: Path, unused_tcp_port: int, browsed: Browsed) -> None:
    """The page shows the price, the queue and the progress; the mp4 plays in its dimensions and can be downloaded."""
    markup = "<img src=x onerror=alert(1)> zoom in"
    async with studio(tmp_path, unused_tcp_port) as (server, emulator), browsed(server.url) as page:
        await expect(page.locator("#make")).to_have_text("Make the video for $0.20")
        await expect(page.locator("#queue")).to_contain_text(
            "0 of 5 slots in use. Today's budget allows 25 more videos."
        )
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


async def test_visitors_see_only_their_own_videos(tmp_path: Path, unused_tcp_port: int, browsed: Browsed) -> None:
    """Of two visitors, each sees only their own video. The ref of another visitor, or a path, is answered with 404."""
    async with studio(tmp_path, unused_tcp_port, render=skeleton) as (server, _):
        async with browsed(server.url) as one, browsed(server.url) as two:
            await asyncio.gather(request_video(one, "the first visitor's"), request_video(two, "the second visitor's"))
            await asyncio.gather(*(page.locator("li a.button").wait_for(timeout=TIMEOUT) for page in (one, two)))
            assert await one.locator("li .prompt").all_inner_texts() == ["the first visitor's"]
            assert await two.locator("li .prompt").all_inner_texts() == ["the second visitor's"]
            ref = await two.locator("li").get_attribute("id")
            for path in (
                f"jobs/{ref}/video",
                f"jobs/{ref}/picture",
                f"jobs/{ref}/events",
                "jobs/..%2F..%2Fjobs.db/video",
                "jobs/x/video",
            ):
                assert await one.evaluate(f"fetch('{path}').then(answer => answer.status)") == 404
            assert await two.evaluate(f"fetch('jobs/{ref}/video').then(answer => answer.ok)")
        async with aiohttp.ClientSession() as stranger, stranger.get(f"{server.url}/jobs") as answer:
            assert answer.status == 403


@pytest.mark.parametrize("kill", [True, False], ids=["killed", "stopped"])
async def test_a_restart_loses_no_video(tmp_path: Path, unused_tcp_port: int, browsed: Browsed, kill: bool) -> None:
    """If the server stops while a video renders and starts again, the open page gets the video. It is charged once."""
    async with studio(tmp_path, unused_tcp_port, speed=15, render=skeleton) as (server, emulator):
        async with browsed(server.url) as page:
            await request_video(page, "zoom in")
            await page.locator("li[data-state=processing]").wait_for(timeout=TIMEOUT)
            await page.evaluate(RECORD_PROGRESS)
            await server.stop(kill=kill)
            await page.get_by_text("cannot be reached").first.wait_for(timeout=TIMEOUT)
            await server.start()
            await page.locator("li a.button").wait_for(timeout=TIMEOUT)
            progress = await page.evaluate("progress")
        assert progress == sorted(progress)
        assert len(emulator.ledger.charges) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="it finds the worker processes in /proc")
async def test_a_killed_worker_costs_a_visitor_nothing(tmp_path: Path, unused_tcp_port: int, browsed: Browsed) -> None:
    """Of two processes, either shows the video of the other. If both are killed, the page gets its video all the same.

    Its bar never goes back, and it is charged once.
    """
    options: dict[str, Any] = {"speed": 8, "render": skeleton, "arguments": ["--workers", "2"]}
    async with studio(tmp_path, unused_tcp_port, **options) as (server, emulator), browsed(server.url) as page:
        await request_video(page, "zoom in")
        await page.locator("li[data-state=processing]").wait_for(timeout=TIMEOUT)
        await page.evaluate(RECORD_PROGRESS)
        for worker in server.workers():
            os.kill(worker, signal.SIGKILL)
            await asyncio.sleep(1)
        await page.locator("li a.button").wait_for(timeout=TIMEOUT)
        progress = await page.evaluate("progress")
        whole = "fetch(document.querySelector('li a.button').href).then(it => it.blob()).then(blob => blob.size > 0)"
        for _ in range(4):  # each time, any of the processes may answer
            assert await page.evaluate(whole)
    assert progress == sorted(progress)
    assert len(emulator.ledger.charges) == 1


async def test_a_restart_sends_the_videos_that_wait(tmp_path: Path, unused_tcp_port: int, browsed: Browsed) -> None:
    """A request that waits for a slot when the server stops is sent after the restart. Each video is charged once."""
    killed, render = held_back()
    options: dict[str, Any] = {"speed": 40, "queue_limit": 1, "render": render}
    async with studio(tmp_path, unused_tcp_port, **options) as (server, emulator), browsed(server.url) as page:
        for prompt in ("zoom in", "zoom out"):
            await request_video(page, prompt)
            await expect(page.locator("#prompt")).to_have_value("", timeout=TIMEOUT)
        # The second request was refused and the journal says so: no request is under way when the server is killed.
        slots = "fetch('status').then(reply => reply.json()).then(status => status.slots)"
        while True:
            if await page.evaluate(slots) == 1 and states(tmp_path / "jobs.db") == ["processing", "waiting"]:
                break
            await asyncio.sleep(0.05)
        await server.stop(kill=True)
        killed.set()  # while the slot is in use, the service would refuse the second request for up to 30 s
        await server.start()
        await expect(page.locator("li a.button")).to_have_count(2, timeout=TIMEOUT)
        assert len(emulator.ledger.charges) == 2


async def test_a_video_that_is_not_saved_is_saved_when_its_visitor_returns(
    tmp_path: Path, unused_tcp_port: int, browsed: Browsed
) -> None:
    """If the file of a paid video is missing, a reload of the page downloads it again. Nothing is charged for it."""
    async with studio(tmp_path, unused_tcp_port, render=skeleton) as (server, emulator), browsed(server.url) as page:
        await request_video(page, "zoom in")
        await page.locator("li a.button").wait_for(timeout=TIMEOUT)
        ref = await page.locator("li").get_attribute("id")
        whole = f"fetch('jobs/{ref}/video').then(answer => answer.ok && answer.blob()).then(blob => blob.size > 0)"
        assert await page.evaluate(whole)  # it waits for the save
        # The server opens a file after it has sent the head of its reply. No request may be at that point now.
        await page.evaluate(VIDEO_HAS_BEGUN)
        (tmp_path / "videos" / f"{ref}.mp4").unlink()
        await page.reload()
        await page.locator("li a.button").wait_for(timeout=TIMEOUT)
        assert await page.evaluate(whole)
        assert len(emulator.ledger.charges) == 1


async def test_after_paying_the_page_goes_to_the_new_card(
    tmp_path: Path, unused_tcp_port: int, browsed: Browsed
) -> None:
    """On a phone, the new card scrolls into view, has the focus and is announced. The form is empty again."""
    phone = {"viewport": {"width": 380, "height": 740}, "reduced_motion": "reduce"}
    async with studio(tmp_path, unused_tcp_port, speed=2) as (server, _), browsed(server.url, **phone) as page:
        await expect(page.locator("#none")).to_contain_text("No videos yet.")
        await request_video(page, "zoom in")
        await expect(page.locator("li .prompt")).to_be_focused(timeout=TIMEOUT)
        await expect(page.locator("li")).to_be_in_viewport(ratio=1)
        await expect(page.get_by_role("status")).to_have_text(
            "Your request was sent. The video appears here when it is ready."
        )
        await expect(page.locator("#none")).to_be_hidden()
        await expect(page.locator("#prompt")).to_have_value("")
        await expect(page.locator("#picture")).to_have_value("")
        await expect(page.locator("#preview")).to_be_hidden()
        for _ in range(2):  # as soon as it is paid for, and after the page is loaded again
            await expect(page.locator("li .screen progress")).to_be_visible()
            await expect(page.locator("li .screen img")).to_have_js_property("naturalWidth", 640)  # as the file's
            await page.reload()


async def test_the_progress_bar_moves_and_never_falls(tmp_path: Path, unused_tcp_port: int, browsed: Browsed) -> None:
    """The bar moves every second while the video is made, never back, and the end is announced."""
    options: dict[str, Any] = {"speed": 5, "render": skeleton}
    async with studio(tmp_path, unused_tcp_port, **options) as (server, _), browsed(server.url) as page:
        await request_video(page, "zoom in")
        await page.locator("li progress").wait_for(timeout=TIMEOUT)
        await page.evaluate(RECORD_PROGRESS)
        await page.locator("li a.button").wait_for(timeout=TIMEOUT)
        progress = await page.evaluate("progress")
        await expect(page.get_by_role("status")).to_have_text("Your video is ready: zoom in")
    assert progress == sorted(progress)
    assert len(set(progress)) >= 4


async def test_the_same_video_is_made_again_only_if_the_visitor_confirms(
    tmp_path: Path, unused_tcp_port: int, browsed: Browsed
) -> None:
    """The same picture and prompt ask first, while the video is made and after it. Another prompt does not ask."""
    asked, render = held_back()
    async with studio(tmp_path, unused_tcp_port, render=render) as (server, emulator):
        async with browsed(server.url) as page:
            question = page.get_by_role("dialog")
            await request_video(page, "zoom in")
            await expect(page.locator("li")).to_have_count(1)
            await request_video(page, "zoom in ")
            await expect(question).to_contain_text("This video is being made. Make another for $0.20?")
            await page.keyboard.press("Enter")  # the focus is on "Cancel"
            await expect(question).to_be_hidden()
            await expect(page.locator("#make")).to_be_focused()
            asked.set()
            await page.locator("li a.button").wait_for(timeout=TIMEOUT)
            await page.click("#make")
            await expect(question).to_contain_text("You made this video before. Make another for $0.20?")
            await question.get_by_role("button", name="Make another").click()
            await expect(page.locator("li")).to_have_count(2)
            await request_video(page, "zoom out")
            await expect(page.locator("li")).to_have_count(3)
            await expect(page.locator("li a.button")).to_have_count(3, timeout=TIMEOUT)
        assert len(emulator.ledger.charges) == 3


async def test_the_picture_and_the_prompt_are_aligned(tmp_path: Path, unused_tcp_port: int, browsed: Browsed) -> None:
    """Side by side or one above the other, the drop zone and the prompt have the same size and line up."""
    async with studio(tmp_path, unused_tcp_port) as (server, _), browsed(server.url) as page:
        for width, is_wide in ((1280, True), (380, False)):
            await page.set_viewport_size({"width": width, "height": 800})
            drop, prompt = [await page.locator(name).bounding_box() for name in ("#drop", "#prompt")]
            assert drop
            assert prompt
            assert (drop["width"], drop["height"]) == (prompt["width"], prompt["height"])
            assert drop["y" if is_wide else "x"] == prompt["y" if is_wide else "x"]


async def test_requests_that_the_studio_refuses_are_explained(
    tmp_path: Path, unused_tcp_port: int, browsed: Browsed
) -> None:
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
            await expect(page.locator("#queue")).to_contain_text("1 of 1 slot in use, 2 waiting.")
        async with browsed(server.url) as other:
            await request_video(other, "the last of today")
            await expect(other.locator("li")).to_have_count(1)
            await request_video(other, "too much")
            await expect(other.locator("#message")).to_contain_text("budget is used up")
            await expect(other.locator("#queue")).to_contain_text("Today's budget is used up")
        assert len(emulator.ledger.charges) <= 1


@asynccontextmanager
async def visitor(url: str) -> AsyncIterator[aiohttp.ClientSession]:
    """Visit the studio without a browser."""
    async with aiohttp.ClientSession(url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as session:
        async with session.get("/"):
            pass
        yield session


async def post(session: aiohttp.ClientSession, prompt: str, picture: bytes) -> tuple[int, Any]:
    """Request a video. Return the HTTP status and the reply."""
    form = aiohttp.FormData({"prompt": prompt})
    form.add_field("picture", io.BytesIO(picture), filename="a.png")
    async with session.post("/jobs", data=form) as answer:
        return answer.status, await answer.json()


async def test_uploads_are_checked_by_the_server_too(tmp_path: Path, unused_tcp_port: int) -> None:
    """An upload that is no picture, too large, or without a prompt is refused in plain words, and not kept."""
    picture = ROCKET.read_bytes()
    async with studio(tmp_path, unused_tcp_port) as (server, _), visitor(server.url) as session:
        replies = [await post(session, *each) for each in (("a", b"text"), (" ", picture), ("a", bytes(20_000_000)))]
    assert [status for status, _ in replies] == [422, 422, 413]
    assert [reply["error"].split(". ")[0] for _, reply in replies] == [
        "This file is not a picture that the studio can use",
        "Write a prompt: what should happen in the video?",
        "The picture is larger than 5 MB",
    ]
    assert list((tmp_path / "pictures").iterdir()) == []


async def test_limits_hold_for_uploads_at_the_same_time(tmp_path: Path, unused_tcp_port: int) -> None:
    """Of 20 uploads of a visitor at once, 3 are accepted. Of 5 equal ones, one is, and the others are asked about."""
    picture = ROCKET.read_bytes()
    async with studio(tmp_path, unused_tcp_port, speed=1) as (server, _):
        async with visitor(server.url) as session:
            replies = await asyncio.gather(*(post(session, f"number {n}", picture) for n in range(20)))
            assert sorted(status for status, _ in replies) == [201] * 3 + [429] * 17
        async with visitor(server.url) as session:
            replies = await asyncio.gather(*(post(session, "the same", picture) for _ in range(5)))
            assert sorted(status for status, _ in replies) == [201] + [409] * 4
    assert len(list((tmp_path / "pictures").iterdir())) == 4


async def test_a_returning_visitor_gets_the_end_at_once(tmp_path: Path, unused_tcp_port: int) -> None:
    """After a restart, the stream of a job that ended says at once that the video is ready, and ends."""
    async with studio(tmp_path, unused_tcp_port, render=skeleton) as (server, _), visitor(server.url) as session:
        _, reply = await post(session, "zoom in", ROCKET.read_bytes())
        async with session.get(f"/jobs/{reply['ref']}/events") as answer:
            assert "event: progress" in await answer.text()
        async with session.get(f"/jobs/{reply['ref']}/video") as answer:
            assert answer.status == 200
        await server.stop()
        await server.start()
        async with asyncio.timeout(5), session.get(f"/jobs/{reply['ref']}/events") as answer:
            stream = await answer.text()
        messages = [
            json.loads(line.removeprefix("data: ")) for line in stream.splitlines() if line.startswith("data: ")
        ]
        assert {message["state"] for message in messages} == {"ready"}
        assert stream.split("event: ")[-1].startswith("end")
        unknown = f"{reply['ref'][:33]}-{'0' * 16}"
        async with session.get(f"/jobs/{unknown}/events") as answer:
            assert answer.status == 404


async def test_other_host_names_are_refused(tmp_path: Path, unused_tcp_port: int) -> None:
    """The studio answers only to this machine's names, to those it was started for, and to that of its webhooks."""
    options: dict[str, Any] = {
        "arguments": ["--allowed-host", "Studio.example", "--allowed-host", "other.example"],
        "environment": {"STUDIO_PUBLIC_URL": "https://hooks.example/studio", "STUDIO_SECRET": "s" * 40},
    }
    async with (
        studio(tmp_path, unused_tcp_port, **options) as (server, _),
        aiohttp.ClientSession(server.url) as session,
    ):

        async def status(host: str, path: str = "/") -> int:
            async with session.get(path, headers={"Host": host}) as answer:
                assert answer.status == 200 or not answer.cookies
                return answer.status

        known = ("localhost", "127.0.0.1:8000", "studio.example", "STUDIO.example:80", "other.example", "hooks.example")
        for host in known:
            assert await status(host) == 200, host
        for host in ("evil.example", "studio.example.evil.example", "192.168.0.1", "x.studio.example"):
            assert [await status(host, path) for path in ("/", "/status", "/jobs")] == [400] * 3, host
        async with session.post("/jobs", headers={"Host": "evil.example"}) as answer:
            assert answer.status == 400


@pytest.mark.parametrize("problem", [{"keys": ["another key"]}, {"wallet": Decimal("0.1")}])
async def test_a_refusal_of_the_service_is_shown(
    tmp_path: Path, unused_tcp_port: int, browsed: Browsed, problem: Any
) -> None:
    """If the service refuses the key or the wallet is empty, the visitor reads no word about either."""
    async with studio(tmp_path, unused_tcp_port, **problem) as (server, emulator), browsed(server.url) as page:
        await request_video(page, "zoom in")
        bad = page.locator("li p.bad")
        await expect(bad).to_have_text("No videos can be made right now. Try again later.", timeout=TIMEOUT)
        await page.reload()
        await expect(bad).to_have_text("The request was refused. It costs nothing.", timeout=TIMEOUT)
        assert len(emulator.ledger.charges) == 0


async def test_it_works_by_keyboard_and_on_a_phone(tmp_path: Path, unused_tcp_port: int, browsed: Browsed) -> None:
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
        assert await page.get_by_label("Prompt", exact=True).count() == 1
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "99999"], "port must be 0-65535"),
        (["--port", "TAKEN"], "already in use"),
        (["--folder", "file"], "File exists"),
        (["--budget", "-1"], "usd=-1.0: must be a number of at least 0"),
        (["--live"], "set MODELSLAB_API_KEY"),
        (["--allowed-host", "https://studio.example"], "must be a name without scheme and port"),
        (["--allowed-host", "*"], "must be a name without scheme and port"),
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
