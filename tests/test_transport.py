"""Real sockets that fail in every way: which failure is "nothing was sent", which is "lost", which is a refusal."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trustme
from conftest import KEY, a_request

from modelslab_async import (
    AuthenticationError,
    Client,
    ClientStateError,
    ConnectError,
    JobState,
    MalformedReplyError,
    ModelsLabError,
    ReplyLostError,
    ServerError,
    SubmitUncertainError,
    Timeouts,
    TransportError,
)
from modelslab_async.protocol import retry
from modelslab_async.transport import MAX_REPLY_BYTES, AiohttpTransport

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QUICK = Timeouts(connect=0.5, submit=0.5, fetch=0.5)


def http(status: str, body: bytes, *headers: str, length: int | None = None) -> Behaviour:
    """Answers every request so."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode() + body)
        await writer.drain()

    return answer


async def request_of(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0] or 0)
    return head + await reader.readexactly(length)


async def reset_before_a_byte(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def reset_after_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request_of(reader)
    writer.transport.abort()


async def never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@asynccontextmanager
async def listening(behaviour: Behaviour) -> AsyncIterator[tuple[str, list[int], asyncio.Event]]:
    """A server on a free port; gives its URL, a row for each connection, and the word that there was a second."""
    connections: list[int] = []
    second = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        if len(connections) > 1:
            second.set()
        try:
            await behaviour(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections, second


OK_JSON = b'{"status": "error", "message": "%s"}'
ROWS: list[tuple[str, Behaviour, type[ModelsLabError], retry.Verdict]] = [
    ("reset before a byte", reset_before_a_byte, ReplyLostError, retry.Verdict.UNCERTAIN),
    ("reset after the request", reset_after_the_request, ReplyLostError, retry.Verdict.UNCERTAIN),
    ("timeout", never, ReplyLostError, retry.Verdict.UNCERTAIN),
    ("HTML 502", http("502 Bad Gateway", b"<html>502</html>"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("truncated JSON", http("200 OK", b'{"status": "proce'), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("cut body", http("200 OK", b'{"status"', length=900), ReplyLostError, retry.Verdict.UNCERTAIN),
    ("200 with rubbish", http("200 OK", b"\x00\xff rubbish"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("endless reply", http("200 OK", b"[" * (MAX_REPLY_BYTES + 9)), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("not HTTP", http("what?", b""), ReplyLostError, retry.Verdict.UNCERTAIN),
    ("500 with JSON", http("500 Oops", OK_JSON % b"Server Error"), ServerError, retry.Verdict.UNCERTAIN),
    ("500 without", http("500 Oops", b"oops"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("503 with JSON", http("503 Down", OK_JSON % b"down"), ServerError, retry.Verdict.REPEAT),
    ("503 without", http("503 Down", b"<html>"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("302", http("302 Found", b"", "Location: /elsewhere"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("401", http("401 No", OK_JSON % b"Invalid API Key"), AuthenticationError, retry.Verdict.REFUSED),
]


@pytest.mark.parametrize(("behaviour", "error", "verdict"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_what_a_failing_socket_means(
    behaviour: Behaviour, error: type[ModelsLabError], verdict: retry.Verdict
) -> None:
    """Each way to fail once there is a connection is told as what it is, and sent again only if surely not taken."""
    async with listening(behaviour) as (url, connections, second):
        client = Client(api_key=KEY, base_url=url, timeouts=QUICK, rng=random.Random(1))
        job = client.submit(a_request())
        if verdict is retry.Verdict.REPEAT:
            await second.wait()
            await client.aclose(drain=False)
            assert job.state is JobState.REFUSED
            return
        async with client:
            caught = await _error(job)
        assert len(connections) == 1
    cause = caught.__cause__ if isinstance(caught, SubmitUncertainError) else caught
    assert isinstance(cause, error)
    assert (job.state is JobState.UNCERTAIN) == (verdict is retry.Verdict.UNCERTAIN)
    assert caught.charged is (None if verdict is retry.Verdict.UNCERTAIN else False)


async def _error(job: Awaitable[object]) -> ModelsLabError:
    with pytest.raises(ModelsLabError) as caught:
        await job
    return caught.value


async def test_a_redirect_is_not_followed() -> None:
    """A permanent redirect is refused, not followed: the key goes to no other place."""
    async with (
        listening(never) as (elsewhere, visits, _),
        listening(http("308 Moved", b"", f"Location: {elsewhere}/api")) as (url, *_),
        Client(api_key=KEY, base_url=url, timeouts=QUICK) as client,
    ):
        job = client.submit(a_request())
        error = await _error(job)
    assert (job.state, error.charged, visits) == (JobState.REFUSED, False, [])
    assert "base URL" in str(error)


async def test_refused_dns_and_tls_mean_that_nothing_was_sent() -> None:
    """No connection, no charge: refused, no such host, no valid certificate, and a connect that takes too long."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def nothing(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with socket.socket() as taken, socket.socket() as deaf:
        taken.bind(("127.0.0.1", 0))
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        tls = await asyncio.start_server(nothing, "127.0.0.1", 0, ssl=context)
        fill = [await _connecting(deaf.getsockname()[1]) for _ in range(3)]
        urls = [
            f"http://127.0.0.1:{taken.getsockname()[1]}",
            "https://no-such-host.invalid",
            f"https://localhost:{tls.sockets[0].getsockname()[1]}",
            f"http://127.0.0.1:{deaf.getsockname()[1]}",
        ]
        async with tls:
            for url in urls:
                transport = AiohttpTransport(QUICK)
                with pytest.raises(ConnectError):
                    await transport.post(url, b"{}", timeout=30)
                await transport.aclose()
        for connection in fill:
            connection.close()


async def _connecting(port: int) -> socket.socket:
    """A connection that fills the listener's backlog."""
    connection = socket.socket()
    connection.setblocking(False)
    connection.connect_ex(("127.0.0.1", port))
    await asyncio.sleep(0)
    return connection


async def test_a_session_that_was_passed_in_is_not_closed() -> None:
    """Who opens, closes."""
    import aiohttp  # noqa: PLC0415 - only here

    async with aiohttp.ClientSession() as session, listening(http("401 No", OK_JSON % b"Invalid API Key")) as (url, *_):
        async with Client(api_key=KEY, base_url=url, session=session) as client:
            await _error(client.submit(a_request()))
        assert not session.closed


async def test_a_session_that_raises_for_status_changes_nothing() -> None:
    """A refusal is read as one also where the session that was passed in would raise for its code."""
    import aiohttp  # noqa: PLC0415 - only here

    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        listening(http("401 No", OK_JSON % b"Invalid API Key")) as (url, *_),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        error = await _error(client.submit(a_request()))
    assert isinstance(error, AuthenticationError)


async def test_a_closed_session_sends_nothing() -> None:
    """A session that was closed by its owner: nothing was sent, nothing charged."""
    import aiohttp  # noqa: PLC0415 - only here

    session = aiohttp.ClientSession()
    await session.close()
    transport = AiohttpTransport(QUICK, session=session)
    with pytest.raises(ConnectError, match="closed"):
        await transport.post("http://127.0.0.1:9", b"{}", timeout=1)


@pytest.mark.parametrize("link", [f"https://{'a' * 64}.com/x", "http://a..b/x"])
async def test_a_host_that_can_be_none_is_a_link_that_does_not_read(link: str) -> None:
    """It fails like any other link, and the next is tried."""
    transport = AiohttpTransport(QUICK)
    with pytest.raises(TransportError):
        async with transport.get(link, headers={}, timeout=1):
            pass
    await transport.aclose()


async def test_nothing_is_opened_before_the_first_request() -> None:
    """A Client opens its session lazily, and closes what it opened."""
    transport = AiohttpTransport(QUICK)
    sessions = [transport._session]
    async with listening(http("200 OK", b"{}")) as (url, *_):
        await transport.post(url, b"{}", timeout=1)
    sessions.append(transport._session)
    await transport.aclose()
    assert [session and session.closed for session in sessions] == [None, True]
    with pytest.raises(ClientStateError, match="closed"):
        await transport.post("http://127.0.0.1:9", b"{}", timeout=1)
