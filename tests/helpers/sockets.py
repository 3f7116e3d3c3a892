"""Servers on real sockets that behave as a test needs, and the replies that they send."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import aiohttp
import pytest

from modelslab_async import ModelsLabError, Timeouts
from modelslab_async.transport.aiohttp import AiohttpTransport
from modelslab_async.transport.proxies import Proxies

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
"""What a server does with each connection."""
SHORT_TIMEOUTS = Timeouts(connect=0.5, submit=0.5, fetch=0.5)
INVALID_KEY = b'{"status": "error", "message": "Invalid API Key"}'
BALANCE = b'{"status": "success", "data": {"balance": 5, "currency": "USD"}}'
SUCCESS = b'{"status": "success"}'
FRAMINGS: dict[str, bytes] = {
    "in one piece": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(SUCCESS), SUCCESS),
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n10\r\n%s\r\n0\r\n\r\n"
    % (SUCCESS[:5], SUCCESS[5:]),
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"
    % (len(gzip.compress(SUCCESS)), gzip.compress(SUCCESS)),
    "until the end": b"HTTP/1.0 200 OK\r\n\r\n%s" % SUCCESS,
    "after a hint": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    % (len(SUCCESS), SUCCESS),
}
"""The bytes of a reply with the body `SUCCESS`, in each way that HTTP allows."""


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[tuple[str, list[int], asyncio.Event]]:
    """Run a server on a free port. Yield its URL, a list with an item for each connection, and an event.

    The event is set at the second connection.
    """
    connections: list[int] = []
    second = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        if len(connections) > 1:
            second.set()
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await behaviour(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections, second


@contextmanager
def deaf_port() -> Iterator[int]:
    """Yield a port that accepts no more connections, so that connecting to it takes for ever."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port: int = deaf.getsockname()[1]
        connections = [socket.socket() for _ in range(3)]
        for connection in connections:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", port))
        yield port
        for connection in connections:
            connection.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """Read a whole request, with its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    return head + await reader.readexactly(length)


def respond(status: str, body: bytes, *headers: str, length: int | None = None) -> Behaviour:
    """Answer one request with this reply, then close the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        await writer.drain()

    return answer


def respond_raw(reply: bytes, *, byte_by_byte: bool = False) -> Behaviour:
    """Answer one request with exactly these bytes, then close the connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in [bytes([byte]) for byte in reply] if byte_by_byte else [reply]:
            writer.write(piece)
            await writer.drain()

    return answer


def respond_in_turn(requests: list[bytes], *replies: bytes) -> Behaviour:
    """Answer the requests of a connection with these bytes, one reply each; then wait. List the requests."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            requests.append(await read_request(reader))
            writer.write(reply)
            await writer.drain()
        await reader.read()

    return answer


def respond_one_behind(paths: list[bytes]) -> Behaviour:
    """Answer the first request of each connection; answer the second with a page, like a reply that was left over."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for is_left_over in (False, True):
            paths.append((await read_request(reader)).split()[1])
            body = BALANCE if b"wallet" in paths[-1] else b'{"status":"processing","id":"j-7"}'
            body, status = (b"<html>", b"404 Not Found") if is_left_over else (body, b"200 OK")
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    return answer


async def respond_never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read, and answer nothing."""
    await reader.read()


@asynccontextmanager
async def opened_transport(
    timeouts: Timeouts = SHORT_TIMEOUTS, *, session: aiohttp.ClientSession | None = None, proxies: Proxies | None = None
) -> AsyncIterator[AiohttpTransport]:
    """Yield a transport that is closed at the end."""
    transport = AiohttpTransport(timeouts, session=session, proxies=proxies)
    try:
        yield transport
    finally:
        await transport.aclose()


async def error_of(awaitable: Awaitable[object]) -> ModelsLabError:
    """Return the error of ours that an awaitable raises."""
    with pytest.raises(ModelsLabError) as caught:
        await awaitable
    return caught.value
