"""The emulator on another host: links lead to where the request came in, and a client may use plain http."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from helpers.emulator_server import FETCH, INLINE_PICTURE, KEY, SUBMIT, UPLOAD, other_server, running_emulator

from modelslab_async import Client, InsecureTransportWarning, InvalidRequestError

PICTURE = Path(__file__).parents[2] / "examples" / "rocket.jpg"
NAME = "emulator.example"


class Neighbour(AbstractResolver):
    """Resolve each name to this machine, as if it were a host in the network."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)]

    async def close(self) -> None:
        pass


def neighbour() -> aiohttp.ClientSession:
    """Return a session that finds the emulator of this machine by any name."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Neighbour()))


async def links_for(host: str) -> tuple[list[str], str, str]:
    """Request everything that has a link by this Host header; return the links, the page and the emulator's URL."""
    payloads: list[Any] = []
    arrived = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        payloads.append(await request.json())
        arrived.set()
        return web.Response()

    async with running_emulator() as running, other_server(hook=receive) as other:
        headers = {"Host": host}

        async def post(path: str, **params: Any) -> Any:
            url = running.emulator.url + path
            async with running.session.post(url, json={"key": KEY, **params}, headers=headers) as response:
                return await response.json(content_type=None)

        uploaded = await post(UPLOAD, base64_string=f"data:image/jpeg;base64,{INLINE_PICTURE['init_image']}")
        submitted = await post(SUBMIT, prompt="zoom in", webhook=f"{other}/hook", **INLINE_PICTURE)
        await arrived.wait()
        fetched = await post(f"{FETCH}{submitted['id']}")
        links = [*uploaded["output"], submitted["fetch_result"], *submitted["future_links"]]
        links += [*fetched["output"], *payloads[0]["output"]]
        async with running.session.get(running.emulator.url, headers=headers) as response:
            return links, await response.text(), running.emulator.url


@pytest.mark.parametrize(
    "host", ["studio-pc", "studio_pc:8787", "192.168.0.7:80", "[fe80::1]:8787", "Studio.Example", "127.0.0.1:1"]
)
async def test_links_follow_the_host_header(host: str) -> None:
    """All links begin with the host by which the client reached the emulator, those of webhooks and its page too."""
    links, page, _ = await links_for(host)
    assert len(links) == 5
    assert [link for link in links if not link.startswith(f"http://{host}/")] == []
    assert f'base_url="http://{host}"' in page


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example/path",
        "user@evil.example",
        "evil.example?x=1",
        "evil.example#",
        'evil.example"onload="x',
        "<script>",
        "two hosts",
        "evil.example:99999",
        "evil.example:0",
        "evil.example:",
        "evil.example:80:80",
        "[::1",
        "[evil.example]",
        "-evil.example",
        "ëvil.example",
        "evil.example, other.example",
    ],
)
async def test_a_host_header_is_never_more_than_a_host_and_a_port(host: str) -> None:
    """If the header is anything else, it is ignored: the links begin with the emulator's own URL."""
    links, page, url = await links_for(host)
    assert len(links) == 5
    assert [link for link in links if not link.startswith(f"{url}/")] == []
    assert "evil" not in page


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has only one loopback address")
@pytest.mark.parametrize("host", ["127.0.0.2", "127.9.9.9"])
async def test_a_file_is_downloaded_by_another_address(host: str, tmp_path: Path) -> None:
    """If the emulator listens on all interfaces, a client finds its files by the address that it uses itself."""
    async with running_emulator(host="0.0.0.0") as running:
        url = running.emulator.url.replace("127.0.0.1", host)
        async with Client("any", base_url=url, poll_cost=0.01) as client:
            job = client.submit(prompt="zoom in", init_image=PICTURE)
            await job.save(tmp_path / "video.mp4")
            assert (await job).url.startswith(f"{url}/generations/")


async def test_a_client_reaches_an_emulator_on_another_host(tmp_path: Path) -> None:
    """With allow_http, all requests go to the other host by plain http. Any key will do. The client warns once."""
    async with running_emulator(host="0.0.0.0") as running, neighbour() as session:
        url = running.emulator.url.replace("127.0.0.1", NAME)
        with pytest.warns(InsecureTransportWarning):  # a second one would be an error
            client = Client("any", base_url=url, allow_http=True, session=session, poll_cost=0.01)
        async with client:
            uploaded = await client.upload(PICTURE)
            job = client.submit(prompt="zoom in", init_image=PICTURE)
            await job.save(tmp_path / "video.mp4")
            await (await client.account("other")).balance()
    assert uploaded.startswith(f"{url}/temp/")
    assert (await job).url.startswith(f"{url}/generations/")
    assert (tmp_path / "video.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_warning_says_what_is_at_stake() -> None:
    """The warning names the URL and says that the key travels in clear text. It points to the line of the caller."""
    with pytest.warns(InsecureTransportWarning, match="in clear text") as warned:
        Client(KEY, base_url=f"http://{NAME}:8787", allow_http=True)
    assert [Path(warning.filename).name for warning in warned] == [Path(__file__).name]
    assert f"http://{NAME}:8787" in str(warned[0].message)
    assert KEY not in str(warned[0].message)


@pytest.mark.parametrize(
    "url", ["https://modelslab.com", "http://127.0.0.1:8787", "http://localhost", "http://[::1]:1"]
)
def test_nothing_is_warned_of_where_no_network_sees_the_key(url: str) -> None:
    """A client that uses https or loopback does not warn, even with allow_http. Warnings are errors here."""
    assert Client(KEY, base_url=url, allow_http=True).base_url == url


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_url": f"http://{NAME}"}, "base_url"),
        ({"base_url": f"http://{NAME}", "allow_http": False}, "base_url"),
        ({"base_url": f"http://user:word@{NAME}", "allow_http": True}, "base_url"),
        ({"base_url": f"ftp://{NAME}", "allow_http": True}, "base_url"),
        ({"base_url": f"http://{NAME}?x=1", "allow_http": True}, "base_url"),
        ({"allow_http": "false"}, "allow_http"),
        ({"allow_http": 1}, "allow_http"),
    ],
)
def test_plain_http_is_refused_otherwise(options: dict[str, Any], field: str) -> None:
    """Plain http to another host needs allow_http=True, which allows nothing else."""
    with pytest.raises(InvalidRequestError) as caught:
        Client(KEY, **options)
    assert [problem.field for problem in caught.value.problems] == [field]
