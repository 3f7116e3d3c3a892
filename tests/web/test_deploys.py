"""A deploy and a killed worker, under real servers with two workers. In CI, one version of Python runs them."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from helpers.browser import SHARES_BROWSER, Browsed
from playwright.async_api import Page

from benchmarks._backends import MATRIX, Deployment, Served, a_session, emulator, visit

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM, and processes that share a port"),
    pytest.mark.timeout(120),
]
LIGHT = [
    served for served in MATRIX if (served.framework, served.server) in (("fastapi", "uvicorn"), ("aiohttp", "aiohttp"))
]
"""Two of the applications, one of each kind of server. `benchmarks.backends` deploys all of them."""


@pytest.mark.parametrize("served", LIGHT, ids=str)
async def test_a_deploy_loses_nothing(served: Served, tmp_path: Path) -> None:
    """Visitors of eight videos, of which five are being made, see each end once, and each video is paid for once.

    Their streams reach any worker. The server logs no traceback, although streams were open when it was stopped.
    """
    seen = await visit(served, tmp_path)
    assert (seen.streams, seen.webhooks) == ("12/12", "4/4")
    assert (seen.lost, seen.twice, seen.backwards, seen.tracebacks) == (0, 0, 0, 0)
    assert seen.stopped_after < 15
    assert {file.stem.partition("-")[0] for file in (tmp_path / "videos").glob("*.mp4")} == {"first", "later"}


PAGE = """<!doctype html><title>bars</title><script>
const seen = new URLSearchParams(location.search).getAll("ref").map((ref) => {
  const mine = { bar: [], ends: 0, source: new EventSource(`/videos/${ref}/events`) };
  for (const kind of ["progress", "end"]) mine.source.addEventListener(kind, (message) => {
    mine.bar.push(JSON.parse(message.data).progress);
    if (kind === "end") mine.ends++;
  });
  return mine;
});
</script>"""
"""A page that watches jobs, and leaves it to the server to end its EventSources."""
WITH_PAGE = f"""
import os
from app_fastapi import app as inner
from starlette.responses import HTMLResponse

async def app(scope, receive, send):
    async def send_with_worker(message):
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-worker", str(os.getpid()).encode())]
        await send(message)

    if scope.get("path") == "/":
        await HTMLResponse({PAGE!r})(scope, receive, send)
    else:
        await inner(scope, receive, send_with_worker)
"""
"""The application of docs/web.md with that page, and with the worker's process in each answer."""


def a_deployment(folder: Path, service: str) -> Deployment:
    """Return the application with the page, to be served by uvicorn with two workers."""
    (folder / "with_page.py").write_text(WITH_PAGE, encoding="utf-8")
    served = next(each for each in LIGHT if each.framework == "fastapi")
    return Deployment(served, folder, service, module="with_page")


async def submit_one_to_each_worker(url: str) -> dict[int, str]:
    """Submit jobs until each worker owns one. Return a ref for each worker's process."""
    owned = dict[int, str]()
    async with a_session() as session:
        for number in range(50):
            body = {"id": f"order-{number}", "prompt": "zoom in", "picture": "https://pictures.invalid/a.png"}
            if len(owned) < 2:
                async with session.post(f"{url}/videos", json=body) as answer:
                    owned.setdefault(int(answer.headers["X-Worker"]), body["id"])
    return owned


async def wait_for_bars(page: Page) -> None:
    """Wait until each bar has moved."""
    await page.wait_for_function("() => seen.every(({ bar }) => bar.at(-1) > 0.1)")


async def check_the_ends(page: Page) -> None:
    """Wait until the server has ended each EventSource. Each saw its end once, and no bar went back."""
    await page.wait_for_function("() => seen.every(({ source }) => source.readyState === EventSource.CLOSED)")
    for each in await page.evaluate("() => seen.map(({ bar, ends }) => ({ bar, ends }))"):
        assert each["ends"] == 1
        assert each["bar"] == sorted(each["bar"])
        assert each["bar"][-1] == 1.0


@SHARES_BROWSER
async def test_a_browser_watches_on_when_its_worker_is_killed(browsed: Browsed, tmp_path: Path) -> None:
    """One of two jobs loses its client, and one or both streams break. The browser needs no script to go on."""
    async with emulator() as service:
        deployment = a_deployment(tmp_path, service.url)
        try:
            await deployment.start()
            owned = await submit_one_to_each_worker(deployment.url)
            assert len(owned) == 2
            refs = "&".join(f"ref={ref}" for ref in owned.values())
            async with browsed("about:blank") as page:
                async with page.expect_response("**/events") as streaming:
                    await page.goto(f"{deployment.url}/?{refs}")
                await wait_for_bars(page)
                headers = (await streaming.value).headers
                os.kill(int(headers["x-worker"]), signal.SIGKILL)
                await check_the_ends(page)
        finally:
            await deployment.kill()
        paid = [str(charge.track_id) for charge in service.ledger.charges]
    assert sorted(set(paid)) == sorted(paid)


@SHARES_BROWSER
async def test_a_browser_watches_on_through_a_deploy(browsed: Browsed, tmp_path: Path) -> None:
    """The server is stopped by SIGTERM, and another one is started on its port."""
    async with emulator() as service:
        deployment = a_deployment(tmp_path, service.url)
        try:
            await deployment.start()
            owned = await submit_one_to_each_worker(deployment.url)
            refs = "&".join(f"ref={ref}" for ref in owned.values())
            async with browsed(f"{deployment.url}/?{refs}") as page:
                await wait_for_bars(page)
                await deployment.stop()
                await deployment.start()
                await check_the_ends(page)
        finally:
            await deployment.kill()
        assert "Traceback" not in deployment.log
        paid = [str(charge.track_id) for charge in service.ledger.charges]
    assert sorted(set(paid)) == sorted(paid)
