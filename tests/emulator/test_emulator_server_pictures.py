"""Pictures of the emulator's jobs: uploaded, or fetched from a URL."""

from __future__ import annotations

import base64
import io

from aiohttp import web
from helpers.emulator_server import KEY, ROCKET, UPLOAD, other_server, running_emulator
from PIL import Image

from modelslab_async.emulator import Work, skeleton


async def test_an_upload_is_served() -> None:
    """An uploaded picture is served at the URL of its reply, and a job may use that URL."""
    async with running_emulator() as running:
        uri = "data:image/jpeg;base64," + base64.b64encode(ROCKET).decode()
        _, reply = await running.post(UPLOAD, base64_string=uri)
        (url,) = reply["output"]
        assert await running.get(url) == (200, ROCKET)
        status, reply = await running.submit(base64=False, init_image=url)
        assert (status, reply["status"]) == (200, "processing")


def a_gif() -> bytes:
    """Return a small GIF."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "GIF")
    return file.getvalue()


async def test_a_picture_is_fetched() -> None:
    """The picture at a URL is fetched without the key, redirects followed, and the video is made of it."""
    received: list[web.Request] = []

    async def picture(request: web.Request) -> web.Response:
        received.append(request)
        return web.Response(body=a_gif(), content_type="text/plain")

    async def moved(_: web.Request) -> web.Response:
        raise web.HTTPFound("/picture")

    rendered: list[bytes] = []

    def render(work: Work) -> bytes:
        rendered.append(work.picture)
        return skeleton(work)

    async with other_server(picture=picture, moved=moved) as other, running_emulator(render=render) as running:
        for name in ("picture", "moved"):
            status, reply = await running.submit(base64=False, init_image=f"{other}/{name}")
            assert (status, reply["status"]) == (200, "processing")
            await running.wait_for_file(reply["future_links"][0])
    assert rendered == [a_gif(), a_gif()]
    assert not any(KEY in f"{request.url} {request.headers}" for request in received)


async def test_a_picture_that_cannot_be_fetched_is_refused() -> None:
    """404, over 5 MB, a page, a redirect loop, no server, no host: the submit is refused, and nothing is charged."""

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=ROCKET + bytes(5_000_001 - len(ROCKET)))

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>no picture</html>", content_type="image/png")

    async def circular(_: web.Request) -> web.Response:
        raise web.HTTPFound("/circular")

    async with other_server(large=large, page=page, circular=circular) as other, running_emulator() as running:
        urls = [f"{other}/{name}" for name in ("none", "large", "page", "circular")]
        for url in [*urls, "http://127.0.0.1:1/", "http://a..b/", "https://" + other.removeprefix("http://")]:
            status, reply = await running.submit(base64=False, init_image=url)
            assert (status, set(reply["message"])) == (400, {"init_image"}), url
        assert running.emulator.ledger.charges == []
