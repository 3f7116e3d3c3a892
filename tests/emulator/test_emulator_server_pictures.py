"""Pictures of the emulator's jobs: uploaded, or fetched from a URL."""

from __future__ import annotations

import base64
import io

import pytest
from aiohttp import web
from helpers.emulator_server import KEY, ROCKET, UPLOAD, other_server, running_emulator
from PIL import Image

from modelslab_async.emulator import Work, pictures, skeleton


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
    """404, a page, a redirect loop, no server, no host: the submit is refused, and nothing is charged."""

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>no picture</html>", content_type="image/png")

    async def circular(_: web.Request) -> web.Response:
        raise web.HTTPFound("/circular")

    async with other_server(page=page, circular=circular) as other, running_emulator() as running:
        urls = [f"{other}/{name}" for name in ("none", "page", "circular")]
        for url in [*urls, "http://127.0.0.1:1/", "http://a..b/", "https://" + other.removeprefix("http://")]:
            status, reply = await running.submit(base64=False, init_image=url)
            assert (status, set(reply["message"])) == (400, {"init_image"}), url
        assert running.emulator.ledger.charges == []


async def test_a_picture_at_a_url_may_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 5 MB of uploads do not bind a URL. The emulator's own limit is named in the refusal."""

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=ROCKET + bytes(6_000_000))

    async with other_server(large=large) as other, running_emulator() as running:
        assert (await running.submit(base64=False, init_image=f"{other}/large"))[0] == 200
        monkeypatch.setattr(pictures, "MAX_BYTES", 5 * 2**20)
        status, reply = await running.submit(base64=False, init_image=f"{other}/large")
        assert (status, reply["message"]) == (400, {"init_image": ["The init image has more than 5 MiB."]})


async def test_a_redirect_into_this_network_is_not_followed() -> None:
    """A redirect is followed to the same host only, or to a public address: no page can make the emulator read ours."""
    received: list[str] = []

    async def picture(request: web.Request) -> web.Response:
        received.append(request.path)
        return web.Response(body=a_gif())

    async def moved(request: web.Request) -> web.Response:
        raise web.HTTPFound(f"http://{request.query['to']}:{request.url.port}/picture")

    async with other_server(picture=picture, moved=moved) as other, running_emulator() as running:
        by_name = other.replace("127.0.0.1", "localhost")
        for url in (f"{by_name}/moved?to=127.0.0.1", f"{other}/moved?to=localhost"):
            assert (await running.submit(base64=False, init_image=url))[0] == 400
        assert received == []
        assert (await running.submit(base64=False, init_image=f"{other}/moved?to=127.0.0.1"))[0] == 200
        assert received == ["/picture"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *(("8.8.8.8", True), ("2606:4700::1111", True), ("10.0.0.1", False), ("169.254.169.254", False)),
        *(
            ("127.0.0.1", False),
            ("::1", False),
            ("::ffff:10.0.0.1", False),
            ("fe80::1%eth0", False),
            ("0.0.0.0", False),
        ),
    ],
)
def test_public_addresses(address: str, expected: bool) -> None:
    """Loopback, private networks and a cloud's metadata address are not public, in no notation."""
    assert pictures.is_public(address) is expected


async def test_the_key_is_checked_before_the_picture_is_fetched() -> None:
    """A request with a wrong key, or with none, makes the emulator fetch nothing."""
    received: list[str] = []

    async def picture(request: web.Request) -> web.Response:
        received.append(request.path)
        return web.Response(body=a_gif())

    async with other_server(picture=picture) as other, running_emulator(keys={KEY}) as running:
        for key in ("wrong", "", None):
            assert (await running.submit(key=key, base64=False, init_image=f"{other}/picture"))[0] == 401
        assert received == []
        assert (await running.submit(base64=False, init_image=f"{other}/picture"))[0] == 200
        assert received == ["/picture"]


async def test_offline_pictures() -> None:
    """With offline_pictures, a picture of this machine is fetched. Any other URL gives a placeholder of its own."""
    rendered: list[bytes] = []

    def render(work: Work) -> bytes:
        rendered.append(work.picture)
        return skeleton(work)

    async def picture(_: web.Request) -> web.Response:
        return web.Response(body=a_gif())

    async with (
        other_server(picture=picture) as other,
        running_emulator(render=render, offline_pictures=True) as running,
    ):
        urls = [f"{other}/picture", f"{other}/none", "https://picture.invalid/a.png", "http://10.255.255.1/a.png"]
        for url in urls:
            await running.finish_job(base64=False, init_image=url)
    assert rendered[0] == a_gif()
    assert len({*rendered}) == 4
    for content in rendered[1:]:
        with Image.open(io.BytesIO(content)) as opened:
            assert opened.size == (104, 60)
