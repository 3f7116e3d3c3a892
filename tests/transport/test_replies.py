"""Replies as servers and gateways send them: framed, encoded, endless or broken in every way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from helpers.sockets import (
    FRAMINGS,
    SUCCESS,
    error_of,
    listening,
    opened_transport,
    read_request,
    respond,
    respond_in_turn,
    respond_raw,
)
from helpers.world import KEY, a_request

from modelslab_async import Client, ReplyLostError, ServerError, TransportError


@pytest.fixture(params=["own session", "passed-in session"])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession | None]:
    async with aiohttp.ClientSession() as passed_in:
        yield None if request.param == "own session" else passed_in


@pytest.mark.parametrize("reply_bytes", FRAMINGS.values(), ids=FRAMINGS.keys())
async def test_a_reply_is_read_in_every_framing(reply_bytes: bytes, session: aiohttp.ClientSession | None) -> None:
    """HTTP allows a server many ways to send the same reply, and a gateway may choose another."""
    async with (
        listening(respond_raw(reply_bytes, byte_by_byte=True)) as (url, *_),
        opened_transport(session=session) as transport,
    ):
        reply = await transport.post(f"{url}/", b"{}", timeout=5)
    assert (reply.status, reply.body) == (200, SUCCESS)


ODD_HEADS = {
    "a field of 60 KiB": b"HTTP/1.1 200 OK\r\nContent-Security-Policy: " + b"x" * 60_000,
    "500 fields": b"HTTP/1.1 200 OK" + b"".join(b"\r\nX-%d: y" % number for number in range(500)),
    "a long reason": b"HTTP/1.1 200 " + b"fine " * 3000,
    "no reason": b"HTTP/1.1 200 ",
    "a cookie of 30 KiB": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=" + b"x" * 30_000,
}


@pytest.mark.parametrize("head", ODD_HEADS.values(), ids=ODD_HEADS.keys())
async def test_a_reply_with_an_odd_head_is_read(head: bytes, session: aiohttp.ClientSession | None) -> None:
    """Proxies and gateways add many headers: a paid job is not lost because of a long one."""
    async with (
        listening(respond_raw(head + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(SUCCESS), SUCCESS))) as (url, *_),
        opened_transport(session=session) as transport,
    ):
        reply = await transport.post(f"{url}/", b"{}", timeout=5)
        first = await transport.head(f"{url}/", length=4, timeout=5)
    assert (reply.status, reply.body, first.body) == (200, SUCCESS, SUCCESS[:4])


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity", "aws-chunked", "utf-8"])
async def test_a_wrong_content_encoding_is_ignored(coding: str, session: aiohttp.ClientSession | None) -> None:
    """A header that names an encoding over a plain body does not cost the reply."""
    async with (
        listening(respond("200 OK", SUCCESS, f"Content-Encoding: {coding}")) as (url, *_),
        opened_transport(session=session) as transport,
    ):
        reply = await transport.post(f"{url}/", b"{}", timeout=5)
    assert reply.body == SUCCESS


async def test_retry_after_is_read_from_the_header(session: aiohttp.ClientSession | None) -> None:
    """The header Retry-After counts if the body names no time."""
    body = b'{"status": "error", "message": "busy"}'
    async with (
        listening(respond("503 Unavailable", body, "Retry-After: 3600")) as (url, *_),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        error = await error_of(client.submit(a_request()))
    assert isinstance(error, ServerError)
    assert error.retry_after == 3600


async def test_a_server_that_sends_more_than_was_requested_is_cut_off() -> None:
    """A server that ignores ranges would send hundreds of megabytes, so its connection is closed."""
    requests: list[bytes] = []
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n" + b"x" * 100_000
    async with (
        listening(respond_in_turn(requests, endless)) as (url, connections, second),
        opened_transport() as transport,
    ):
        replies = [await transport.head(f"{url}/", length=10, timeout=5) for _ in range(2)]
    assert second.is_set()
    assert len(connections) == len(requests) == 2
    assert all(10 <= len(reply.body) <= 100_000 for reply in replies)


@pytest.mark.parametrize("ending", [b"XX", b"\r\nZZZ\r\n", b"\r\n-5\r\n", b"\r\n7FFFFFFFFFFFFFFFF\r\n"])
@pytest.mark.parametrize("how", ["post", "head", "get"])
async def test_a_reply_that_breaks_its_framing_ends_in_time(how: str, ending: bytes) -> None:
    """Broken chunks after a pause stop aiohttp's timers, so each wait has a bound of our own."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nabcd")
        await writer.drain()
        await paused.wait()
        writer.write(b"efgh" + ending)
        await writer.drain()
        await reader.read()

    paused = asyncio.Event()
    async with listening(break_off) as (url, *_), asyncio.timeout(5), opened_transport() as transport:
        asyncio.get_running_loop().call_later(0.05, paused.set)
        with pytest.raises(TransportError):
            match how:
                case "post":
                    await transport.post(f"{url}/", b"{}", timeout=0.3)
                case "head":
                    await transport.head(f"{url}/", length=99, timeout=0.3)
                case _:
                    async with transport.get(f"{url}/", headers={}, timeout=0.3) as incoming:
                        assert b"".join([chunk async for chunk in incoming.chunks]) == b""


UNPARSABLE = [
    b"HTTP/1.1 secret words\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nsecret words\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n",
    b"secret secret secret\r\n\r\n",
]


@pytest.mark.parametrize("reply_bytes", UNPARSABLE, ids=range(len(UNPARSABLE)))
async def test_the_error_of_an_unparsable_reply_quotes_no_part_of_it(reply_bytes: bytes) -> None:
    """The error has the parser's plain words, and nothing of the reply, which may hold the key."""
    async with listening(respond_raw(reply_bytes)) as (url, *_), opened_transport() as transport:
        with pytest.raises(ReplyLostError, match=r"the reply was lost: [A-Z]") as caught:
            await transport.post(f"{url}/", b"{}", timeout=1)
    assert "secret" not in str(caught.value)
