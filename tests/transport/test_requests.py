"""Requests as they go out: connections, bodies, URLs, redirects, cookies and credentials."""

from __future__ import annotations

import asyncio
import base64
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp.abc import AbstractStreamWriter
from helpers.sockets import (
    FRAMINGS,
    SHORT_TIMEOUTS,
    listening,
    opened_transport,
    read_request,
    respond_in_turn,
)
from multidict import CIMultiDict

from modelslab_async import ClientStateError, ConnectError, Timeouts, TransportError
from modelslab_async.transport.aiohttp import AiohttpTransport, OneTimeBody, as_sent
from modelslab_async.transport.proxies import from_environment

REPLY = FRAMINGS["in one piece"]


def test_a_transport_may_be_made_outside_a_loop() -> None:
    """Its session is opened at the first request, inside the running loop. After `aclose`, requests are refused."""
    transport = AiohttpTransport(SHORT_TIMEOUTS)
    is_disconnected = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(REPLY)
        assert await reader.read() == b""
        is_disconnected.set()

    async def use() -> None:
        async with listening(serve) as (url, *_):
            await transport.post(f"{url}/", b"{}", timeout=1)
            await transport.aclose()
            await is_disconnected.wait()
        with pytest.raises(ClientStateError, match="closed"):
            await transport.post("http://127.0.0.1:9", b"{}", timeout=1)

    asyncio.run(use())
    assert is_disconnected.is_set()


async def test_requests_share_a_connection() -> None:
    """A connection is opened once and reused, and each request on it is complete."""
    requests: list[bytes] = []
    async with (
        listening(respond_in_turn(requests, REPLY, REPLY)) as (url, connections, _),
        opened_transport() as transport,
    ):
        await transport.post(f"{url}/a%20b?c=d", b'{"e": 1}', timeout=5)
        await transport.head(f"{url}/f", length=4, timeout=5)
    post, get = (request.decode().partition("\r\n\r\n") for request in requests)
    assert len(connections) == 1
    assert (post[0].split("\r\n")[0], post[2]) == ("POST /a%20b?c=d HTTP/1.1", '{"e": 1}')
    assert (get[0].split("\r\n")[0], get[2]) == ("GET /f HTTP/1.1", "")
    assert f"Host: {url.removeprefix('http://')}" in post[0].split("\r\n")
    assert "Range: bytes=0-3" in get[0].split("\r\n")


async def test_a_cancelled_request_closes_its_connection() -> None:
    """A reply that comes later must never be taken for the reply to the next request."""
    is_requested, is_disconnected = asyncio.Event(), asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await read_request(reader)
        is_requested.set()
        assert await reader.read() == b""
        is_disconnected.set()

    async with listening(answer_late) as (url, *_), opened_transport() as transport:
        posting = asyncio.create_task(transport.post(f"{url}/", b"{}", timeout=5))
        await is_requested.wait()
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        await is_disconnected.wait()


class RecordingWriter(AbstractStreamWriter):
    """Keep what is written."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self.chunks.append(bytes(chunk))

    async def write_eof(self, chunk: bytes = b"") -> None:
        raise NotImplementedError

    async def drain(self) -> None:
        raise NotImplementedError

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        raise NotImplementedError

    def enable_chunking(self) -> None:
        raise NotImplementedError

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        raise NotImplementedError


async def test_a_body_is_sent_once_at_most() -> None:
    """Whatever a session does with a request, its body is never sent twice, nor after the caller gave up."""
    sent, unsent, writer = OneTimeBody(b"abc"), OneTimeBody(b"abc"), RecordingWriter()
    await sent.write_with_length(writer, 3)
    with pytest.raises(ConnectError):
        await sent.write(writer)
    unsent.forbid()
    with pytest.raises(ConnectError):
        await unsent.write(writer)
    assert (writer.chunks, sent.is_begun, unsent.is_begun) == ([b"abc"], True, False)


@pytest.mark.parametrize("size_bytes", [0, 3_000_000])
async def test_a_body_of_any_size_is_sent_whole(size_bytes: int) -> None:
    """A picture arrives unchanged, and aiohttp warns of nothing."""
    bodies: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append((await read_request(reader)).partition(b"\r\n\r\n")[2])
        writer.write(REPLY)

    body = random.Random(size_bytes).randbytes(size_bytes)
    async with listening(keep) as (url, *_), opened_transport(Timeouts()) as transport:
        await transport.post(f"{url}/", body, timeout=20, own_connection=True)
    assert bodies == [body]


async def test_the_first_bytes_of_a_file_are_found_through_redirects() -> None:
    """Links of storage services often redirect, and the request holds no key."""
    requests: list[bytes] = []
    file = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nftyp"
    async with listening(respond_in_turn(requests, file)) as (storage, _, _):
        moved = f"HTTP/1.1 302 Found\r\nLocation: {storage}/file\r\nContent-Length: 0\r\n\r\n".encode()
        async with (
            listening(respond_in_turn(requests, moved, moved)) as (url, *__),
            opened_transport() as transport,
        ):
            reply = await transport.head(f"{url}/", length=4, timeout=5)
    assert (reply.status, reply.body) == (206, b"ftyp")


@pytest.mark.parametrize("how", ["head", "get"])
async def test_a_redirect_loop_ends(how: str) -> None:
    """A link that redirects to itself is not readable."""
    requests: list[bytes] = []
    redirects = [b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"] * 30
    async with listening(respond_in_turn(requests, *redirects)) as (url, *_), opened_transport() as transport:
        with pytest.raises(TransportError):
            if how == "head":
                await transport.head(f"{url}/", length=4, timeout=5)
            else:
                async with transport.get(f"{url}/", headers={}, timeout=5):
                    pytest.fail("it must not get here")
    assert 2 <= len(requests) <= 7


@pytest.mark.parametrize("link", [f"https://{'a' * 64}.com/x", "http://a..b/x"])
async def test_a_link_with_an_impossible_host_is_not_readable(link: str) -> None:
    """It fails like any other dead link, so the next one is tried."""
    async with opened_transport() as transport:
        with pytest.raises(TransportError):
            await transport.head(link, length=9, timeout=1)
        with pytest.raises(TransportError):
            async with transport.get(link, headers={}, timeout=1):
                pass


ESCAPES = (
    "/foo%27bar.mp4", "/a%28b%29.mp4", "/v.mp4?sig=a%2Fb", "/v.mp4?Policy=x%7E1", "/v%3A1.mp4", "/v.mp4?a=b+c&d",
    "/a%2fb/%e4", "/v?x='(~)'",
)  # fmt: skip


@pytest.fixture(params=["own session", "passed-in session"])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession | None]:
    async with aiohttp.ClientSession() as passed_in:
        yield None if request.param == "own session" else passed_in


@pytest.mark.parametrize("link", ESCAPES)
async def test_a_link_goes_out_byte_for_byte(link: str, session: aiohttp.ClientSession | None) -> None:
    """A signature covers the exact link, so no escape is rewritten, not even in a redirect."""
    paths: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        paths.append((await read_request(reader)).split()[1])
        head = f"302 Found\r\nLocation: {link}" if paths[-1] == b"/redirected" else "200 OK"
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nftyp".encode())

    async with listening(answer) as (url, *_), opened_transport(session=session) as transport:
        await transport.head(url + link, length=4, timeout=5)
        await transport.head(f"{url}/redirected", length=4, timeout=5)
    assert paths == [link.encode(), b"/redirected", link.encode()]


@pytest.mark.parametrize(
    ("link", "sent"),
    [
        ("http://h/my video.mp4", "http://h/my%20video.mp4"),
        ("http://h/é.mp4?ü#x", "http://h/%C3%A9.mp4?%C3%BC#x"),
        ("http://bücher.example/a", "http://xn--bcher-kva.example/a"),
        ("http://h/%zz%", "http://h/%zz%"),
        ("http://h/a\r\nX: y", "http://h/a%0D%0AX:%20y"),
    ],
)
def test_only_characters_that_no_url_may_hold_are_escaped(link: str, sent: str) -> None:
    """Blanks, control characters and non-ASCII letters are percent-encoded, and nothing else is."""
    assert str(as_sent(link)) == sent


async def test_cookies_are_not_kept() -> None:
    """A cookie that a server sets is sent with no other request."""
    requests: list[bytes] = []
    reply = b"HTTP/1.1 200 OK\r\nSet-Cookie: who=you; Path=/\r\nContent-Length: 2\r\n\r\n{}"
    async with listening(respond_in_turn(requests, *[reply] * 4)) as (url, *_), opened_transport() as transport:
        for _ in range(2):
            await transport.post(f"{url}/", b"{}", timeout=5)
            async with transport.get(f"{url}/", headers={}, timeout=5) as incoming:
                assert b"".join([chunk async for chunk in incoming.chunks]) == b"{}"
    assert len(requests) == 4
    assert not any(b"cookie" in request.lower() for request in requests)


async def test_user_and_password_of_a_base_url_are_sent() -> None:
    """They are sent as credentials, not as a part of the host's name."""
    requests: list[bytes] = []
    async with listening(respond_in_turn(requests, REPLY)) as (url, *_), opened_transport() as transport:
        await transport.post(url.replace("//", "//me:pass@") + "/", b"{}", timeout=5)
    assert f"Authorization: Basic {base64.b64encode(b'me:pass').decode()}\r\n".encode() in requests[0]


async def test_a_password_of_netrc_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The `default` entry of ~/.netrc is sent neither to the service nor to a CDN, with or without proxies."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password hush\n")
    netrc.chmod(0o600)
    for name, value in {"NETRC": str(netrc), "NO_PROXY": "localhost", "HTTPS_PROXY": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    requests: list[bytes] = []
    async with (
        listening(respond_in_turn(requests, REPLY, REPLY)) as (url, *_),
        opened_transport(proxies=from_environment(dict(os.environ))) as transport,
    ):
        await transport.post(f"{url}/", b"{}", timeout=5)
        await transport.head(f"{url}/", length=4, timeout=5)
    assert len(requests) == 2
    assert not any(b"authorization" in request.lower() for request in requests)
