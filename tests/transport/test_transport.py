"""Real sockets that fail in every way: which failure is "nothing was sent", which is "lost", which is a refusal."""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import aiohttp.http_exceptions
import pytest
import trustme
from aiohttp.abc import AbstractStreamWriter
from aiohttp.client_reqrep import ConnectionKey
from helpers.world import KEY, a_request
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

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
from modelslab_async.protocol.decoding import MAX_REPLY_BYTES
from modelslab_async.transport.aiohttp import AiohttpTransport, OneTimeBody, as_sent
from modelslab_async.transport.proxies import from_environment

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CONNECTION = ConnectionKey(
    "log.invalid", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)
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


async def reset_within_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
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
    ("reset within the request", reset_within_the_request, ReplyLostError, retry.Verdict.UNCERTAIN),
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


@pytest.mark.parametrize("is_passed_in", [False, True], ids=["own session", "session passed in"])
@pytest.mark.parametrize(("behaviour", "error", "verdict"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
async def test_what_a_failing_socket_means(
    behaviour: Behaviour, error: type[ModelsLabError], verdict: retry.Verdict, is_passed_in: bool
) -> None:
    """Each way to fail once there is a connection is told as what it is, and sent again only if surely not taken."""
    async with listening(behaviour) as (url, connections, second), aiohttp.ClientSession() as theirs:
        session = theirs if is_passed_in else None
        client = Client(
            api_key=KEY,
            base_url=url,
            timeouts=QUICK if behaviour is never else Timeouts(),
            rng=random.Random(1),
            session=session,
        )
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
                    await transport.post(f"{url}/", b"{}", timeout=30)
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
    async with aiohttp.ClientSession() as session, listening(http("401 No", OK_JSON % b"Invalid API Key")) as (url, *_):
        async with Client(api_key=KEY, base_url=url, session=session) as client:
            await _error(client.submit(a_request()))
        assert not session.closed


async def test_a_session_that_raises_for_status_changes_nothing() -> None:
    """A refusal is read as one also where the session that was passed in would raise for its code."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        listening(http("401 No", OK_JSON % b"Invalid API Key")) as (url, *_),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        error = await _error(client.submit(a_request()))
    assert isinstance(error, AuthenticationError)


async def test_a_hook_that_cannot_read_the_reply_leads_to_no_second_submit() -> None:
    """A session that was passed in logs each reply as text, and one is not UTF-8: it was sent, so it is uncertain."""

    async def log(_: object, __: object, ended: aiohttp.TraceRequestEndParams) -> None:
        await ended.response.text()

    hooks = aiohttp.TraceConfig()
    hooks.on_request_end.append(log)
    accepted = http(
        "200 OK", b'{"status": "processing", "id": 1, "meta": {"prompt": "caf\xe9"}}', "Content-Type: application/json"
    )
    async with (
        aiohttp.ClientSession(trace_configs=[hooks]) as session,
        listening(accepted) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session, rng=random.Random(1)) as client,
    ):
        job = client.submit(a_request())
        error = await _error(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)


async def signs(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware that sends a body of its own."""
    await request.update_body(b'{"signed": true}')
    return await send(request)


@pytest.mark.parametrize("middlewares", [(), (signs,)], ids=["", "another body"])
async def test_what_a_hook_raises_after_the_reply_says_nothing_of_the_submit(
    middlewares: tuple[aiohttp.ClientMiddlewareType, ...],
) -> None:
    """A hook that cannot reach its own log raises what a refused connection does; the submit was sent."""

    async def log(*_: object) -> None:
        raise aiohttp.ClientConnectorError(CONNECTION, OSError("the log is down"))

    hooks = aiohttp.TraceConfig()
    hooks.on_request_end.append(log)
    async with (
        aiohttp.ClientSession(trace_configs=[hooks], middlewares=middlewares) as session,
        listening(http("200 OK", b'{"status": "processing", "id": 1}')) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session, rng=random.Random(1)) as client,
    ):
        job = client.submit(a_request())
        error = await _error(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)


async def test_a_closed_session_sends_nothing() -> None:
    """A session that was closed by its owner: nothing was sent, nothing charged."""
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
        await transport.head(link, length=9, timeout=1)
    with pytest.raises(TransportError):
        async with transport.get(link, headers={}, timeout=1):
            pass
    await transport.aclose()


def test_a_transport_is_made_outside_a_loop() -> None:
    """A session is opened inside the running loop, at the first request, and closed; then requests are refused."""
    transport = AiohttpTransport(QUICK)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(WAYS["in one piece"])
        assert await reader.read() == b""
        gone.set()

    async def use() -> None:
        async with listening(serve) as (url, *_):
            await transport.post(f"{url}/", b"{}", timeout=1)
            await transport.aclose()
            await gone.wait()
        with pytest.raises(ClientStateError, match="closed"):
            await transport.post("http://127.0.0.1:9", b"{}", timeout=1)

    asyncio.run(use())
    assert gone.is_set()


async def test_a_reply_that_does_not_come_is_told_with_the_time_waited() -> None:
    """Who reads the error knows which timeout to raise."""
    transport = AiohttpTransport(QUICK)
    async with listening(never) as (url, *_):
        with pytest.raises(ReplyLostError, match=r"nothing within 0\.05 s"):
            await transport.post(f"{url}/", b"{}", timeout=0.05)
    await transport.aclose()


async def test_a_reply_that_stalls_without_a_length_is_no_whole_one() -> None:
    """Where the time is over, the end of the connection is not the end of the reply: the job is uncertain."""

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"status": "processing", "id": 1')
        await reader.read()

    async with listening(stall) as (url, *_), Client(api_key=KEY, base_url=url, timeouts=QUICK) as client:
        job = client.submit(a_request())
        error = await _error(job)
    assert (job.state, error.charged) == (JobState.UNCERTAIN, None)


async def test_a_request_has_its_time_also_where_connecting_has_none() -> None:
    """A look ends with its job's time, whatever it was doing; and while nothing was sent, that is said."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fill = [await _connecting(port) for _ in range(3)]
        transport = AiohttpTransport(Timeouts(connect=None))
        with pytest.raises(ConnectError):
            async with asyncio.timeout(5):
                await transport.post(f"http://127.0.0.1:{port}/", b"{}", timeout=0.05)
        await transport.aclose()
        for connection in fill:
            connection.close()


SAID = b'{"status": "success"}'
WAYS: dict[str, bytes] = {
    "in one piece": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(SAID), SAID),
    "in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%s\r\n10\r\n%s\r\n0\r\n\r\n"
    % (SAID[:5], SAID[5:]),
    "compressed": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s"
    % (len(gzip.compress(SAID)), gzip.compress(SAID)),
    "until the end": b"HTTP/1.0 200 OK\r\n\r\n%s" % SAID,
    "after a hint": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    % (len(SAID), SAID),
}


@pytest.mark.parametrize("is_passed_in", [False, True], ids=["own session", "session passed in"])
@pytest.mark.parametrize("bytes_", WAYS.values(), ids=WAYS.keys())
async def test_a_reply_is_read_however_it_is_framed(bytes_: bytes, is_passed_in: bool) -> None:
    """HTTP leaves a server many ways to say the same, and a gateway in between takes another."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        for byte in bytes_:
            writer.write(bytes([byte]))
            await writer.drain()

    async with listening(say) as (url, *_), aiohttp.ClientSession() as theirs:
        transport = AiohttpTransport(QUICK, session=theirs if is_passed_in else None)
        reply = await transport.post(f"{url}/", b"{}", timeout=5)
        await transport.aclose()
    assert (reply.status, reply.body) == (200, SAID)


async def served(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: list[bytes], *replies: bytes
) -> None:
    for reply in replies:
        requests.append(await request_of(reader))
        writer.write(reply)
        await writer.drain()
    await reader.read()


async def test_requests_share_a_connection() -> None:
    """A connection is opened once and kept, and what is sent is a whole request each time."""
    requests: list[bytes] = []
    reply = WAYS["in one piece"]

    async with listening(lambda reader, writer: served(reader, writer, requests, reply, reply)) as (url, opened, _):
        transport = AiohttpTransport(QUICK)
        await transport.post(f"{url}/a%20b?c=d", b'{"e": 1}', timeout=5)
        await transport.head(f"{url}/f", length=4, timeout=5)
        await transport.aclose()
    post, get = (request.decode().partition("\r\n\r\n") for request in requests)
    assert len(opened) == 1
    assert (post[0].split("\r\n")[0], post[2]) == ("POST /a%20b?c=d HTTP/1.1", '{"e": 1}')
    assert (get[0].split("\r\n")[0], get[2]) == ("GET /f HTTP/1.1", "")
    assert f"Host: {url.removeprefix('http://')}" in post[0].split("\r\n")
    assert "Range: bytes=0-3" in get[0].split("\r\n")


async def test_a_server_that_sends_more_than_was_asked_for_is_cut_off() -> None:
    """A server that ignores ranges would send hundreds of megabytes; the connection is given up instead."""
    requests: list[bytes] = []
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n" + b"x" * 100_000
    async with listening(lambda reader, writer: served(reader, writer, requests, endless)) as (url, opened, again):
        transport = AiohttpTransport(QUICK)
        replies = [await transport.head(f"{url}/", length=10, timeout=5) for _ in range(2)]
        await transport.aclose()
    assert again.is_set()
    assert len(opened) == len(requests) == 2
    assert all(10 <= len(reply.body) <= 100_000 for reply in replies)


async def test_a_request_that_is_cancelled_gives_its_connection_up() -> None:
    """A reply that comes later must never be taken for that of the next request."""
    asked, gone = asyncio.Event(), asyncio.Event()

    async def answer_late(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await request_of(reader)
        asked.set()
        assert await reader.read() == b""
        gone.set()

    async with listening(answer_late) as (url, *_):
        transport = AiohttpTransport(QUICK)
        posting = asyncio.create_task(transport.post(f"{url}/", b"{}", timeout=5))
        await asked.wait()
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        await gone.wait()
        await transport.aclose()


async def test_the_first_bytes_of_a_file_are_found_through_redirects() -> None:
    """Links of storage services often redirect; there is no key in such a request."""
    requests: list[bytes] = []
    file = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 4\r\n\r\nftyp"
    async with listening(lambda reader, writer: served(reader, writer, requests, file)) as there:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {there[0]}/file\r\nContent-Length: 0\r\n\r\n".encode()
        async with listening(lambda reader, writer: served(reader, writer, requests, moved, moved)) as (here, *_):
            transport = AiohttpTransport(QUICK)
            reply = await transport.head(f"{here}/", length=4, timeout=5)
            await transport.aclose()
    assert (reply.status, reply.body) == (206, b"ftyp")


@pytest.mark.parametrize("how", ["head", "get"])
async def test_a_ring_of_redirects_ends(how: str) -> None:
    """A link that leads back to itself is one that does not read."""
    requests: list[bytes] = []

    async def around(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await served(
            reader, writer, requests, *[b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"] * 30
        )

    async with listening(around) as (url, *_):
        transport = AiohttpTransport(QUICK)
        with pytest.raises(TransportError):
            if how == "head":
                await transport.head(f"{url}/", length=4, timeout=5)
            else:
                async with transport.get(f"{url}/", headers={}, timeout=5):
                    pytest.fail("it must not get here")
        await transport.aclose()
    assert 2 <= len(requests) <= 7


@pytest.mark.parametrize("is_passed_in", [False, True], ids=["own session", "session passed in"])
async def test_the_header_that_asks_for_patience_is_read(is_passed_in: bool) -> None:
    """Retry-After, where the body names no time."""
    body = b'{"status": "error", "message": "busy"}'
    async with listening(http("503 Unavailable", body, "Retry-After: 3600")) as (url, *_):
        session = aiohttp.ClientSession() if is_passed_in else None
        async with Client(api_key=KEY, base_url=url, session=session) as client:
            error = await _error(client.submit(a_request()))
        if session:
            await session.close()
    assert isinstance(error, ServerError)
    assert error.retry_after == 3600


async def test_cookies_are_not_kept() -> None:
    """What a server sets with one reply goes along with no other request, short way or long."""
    requests: list[bytes] = []
    reply = b"HTTP/1.1 200 OK\r\nSet-Cookie: who=you; Path=/\r\nContent-Length: 2\r\n\r\n{}"
    async with listening(lambda reader, writer: served(reader, writer, requests, *[reply] * 4)) as (url, *_):
        transport = AiohttpTransport(QUICK)
        for _ in range(2):
            await transport.post(f"{url}/", b"{}", timeout=5)
            async with transport.get(f"{url}/", headers={}, timeout=5) as incoming:
                assert b"".join([chunk async for chunk in incoming.chunks]) == b"{}"
        await transport.aclose()
    assert len(requests) == 4
    assert not any(b"cookie" in request.lower() for request in requests)


async def test_a_base_url_with_a_user_keeps_it() -> None:
    """A user and a password in a URL are sent as such, and not as a part of the host's name."""
    requests: list[bytes] = []
    async with listening(lambda reader, writer: served(reader, writer, requests, WAYS["in one piece"])) as (url, *_):
        transport = AiohttpTransport(QUICK)
        await transport.post(url.replace("//", "//me:pass@") + "/", b"{}", timeout=5)
        await transport.aclose()
    assert f"Authorization: Basic {base64.b64encode(b'me:pass').decode()}\r\n".encode() in requests[0]


BALANCE = b'{"status": "success", "data": {"balance": 5, "currency": "USD"}}'


def one_behind(asked: list[bytes]) -> Behaviour:
    """Answer the first request of each connection; then the second with a page, as a reply that was left over."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for left_over in (False, True):
            asked.append((await request_of(reader)).split()[1])
            body = BALANCE if b"wallet" in asked[-1] else b'{"status":"processing","id":"j-7"}'
            body, status = (b"<html>", b"404 Not Found") if left_over else (body, b"200 OK")
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    return answer


async def test_a_reply_that_nobody_asked_for_answers_no_submit() -> None:
    """A submit has a connection of its own, so a reply left on another connection is never taken for its answer."""
    asked: list[bytes] = []
    async with listening(one_behind(asked)) as (url, connections, _), Client(api_key=KEY, base_url=url) as client:
        await client.balance()
        assert await client.submit(a_request()).submitted() == "j-7"
        await client.aclose(drain=False)
    assert [path.endswith(b"img2video_ultra") for path in asked[:2]] == [False, True]
    assert len(connections) == 2


async def test_a_foreign_refusal_in_a_passed_session_is_uncertain() -> None:
    """A session that was passed in may reuse a connection: only the service's own JSON says that a job was refused."""
    asked: list[bytes] = []
    async with (
        aiohttp.ClientSession() as session,
        listening(one_behind(asked)) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        await client.balance()
        job = client.submit(a_request())
        error = await _error(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)


async def repeats(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware that tries again, as many applications have."""
    response = await send(request)
    return response if response.ok else await send(request)


async def test_a_retrying_middleware_sends_no_submit_twice() -> None:
    """Middlewares of a session that was passed in do not see paid requests: one that retries would pay twice."""
    async with (
        aiohttp.ClientSession(middlewares=(repeats,)) as session,
        listening(http("502 Bad Gateway", b"<html>")) as (url, connections, _),
        Client(api_key=KEY, base_url=url, session=session) as client,
    ):
        job = client.submit(a_request())
        error = await _error(job)
    assert (job.state, error.charged, len(connections)) == (JobState.UNCERTAIN, None, 1)


class Written(AbstractStreamWriter):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        self.pieces.append(bytes(chunk))

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


async def test_a_body_leaves_once() -> None:
    """Whatever a session does with a request, its body is never begun a second time, nor after it was given up."""
    sent, unsent, written = OneTimeBody(b"abc"), OneTimeBody(b"abc"), Written()
    await sent.write_with_length(written, 3)
    with pytest.raises(ConnectError):
        await sent.write(written)
    unsent.forbid()
    with pytest.raises(ConnectError):
        await unsent.write(written)
    assert (written.pieces, sent.is_begun, unsent.is_begun) == ([b"abc"], True, False)


def an_error(kind: type[Exception]) -> Exception:
    """An instance of an exception, however its class wants to be called."""
    url = URL("https://service.invalid/")
    info = aiohttp.RequestInfo(url, "POST", CIMultiDictProxy(CIMultiDict()), url)
    for arguments in (
        (),
        ("words",),
        (CONNECTION, OSError("down")),
        (info, ()),
        (b"words",),
        ("one", "two"),
        (b"", b"", b"", 1),
    ):
        with suppress(TypeError):
            error = kind(*arguments)
            str(error)
            return error
    raise AssertionError(f"how is {kind} made?")


BUILT_IN = (OSError, ConnectionResetError, TimeoutError, RuntimeError, ValueError, UnicodeError, AssertionError)
KINDS = {
    kind.__name__: kind
    for kind in (*vars(aiohttp).values(), *vars(aiohttp.http_exceptions).values(), *BUILT_IN)
    if isinstance(kind, type) and issubclass(kind, Exception)
}
PHASES = {
    "connecting": ("on_connection_create_start", ConnectError),
    "sending": ("on_request_chunk_sent", ReplyLostError),
    "receiving": ("on_request_end", ReplyLostError),
}


@asynccontextmanager
async def failing_at(hook: str) -> AsyncIterator[tuple[AiohttpTransport, str, list[type[Exception]]]]:
    """A server, and a transport whose session raises at this point; the last of the list is what."""
    raised = list[type[Exception]]()

    async def fail(*_: object) -> None:
        raise an_error(raised[-1])

    hooks = aiohttp.TraceConfig()
    getattr(hooks, hook).append(fail)
    async with (
        aiohttp.ClientSession(trace_configs=[hooks]) as session,
        listening(http("200 OK", b"{}")) as (url, *_),
    ):
        yield AiohttpTransport(QUICK, session=session), f"{url}/", raised


@pytest.mark.parametrize(("hook", "meaning"), PHASES.values(), ids=PHASES.keys())
async def test_only_the_body_says_whether_anything_was_sent(hook: str, meaning: type[TransportError]) -> None:
    """Whatever an error is called: before the body is begun nothing was sent, after it the outcome is unknown."""
    async with failing_at(hook) as (transport, url, raised):
        for kind in KINDS.values():
            raised.append(kind)
            with pytest.raises(TransportError) as caught:
                await transport.post(url, b"{}", timeout=1)
            assert type(caught.value) is meaning, kind
            assert caught.value.__context__ is None
    assert len(raised) > 50


async def test_no_foreign_error_leaves_a_download() -> None:
    """A link that does not read is reported as that, whatever aiohttp calls the reason, so the next link is tried."""
    async with failing_at("on_request_end") as (transport, url, raised):
        for kind in KINDS.values():
            raised.append(kind)
            with pytest.raises(TransportError):
                await transport.head(url, length=4, timeout=1)
            with pytest.raises(TransportError):
                async with transport.get(url, headers={}, timeout=1):
                    pytest.fail("there is no reply")
    assert len(raised) > 50


@pytest.mark.parametrize("ending", [b"XX", b"\r\nZZZ\r\n", b"\r\n-5\r\n", b"\r\n7FFFFFFFFFFFFFFFF\r\n"])
@pytest.mark.parametrize("how", ["post", "head", "get"])
async def test_a_reply_that_breaks_its_framing_ends_in_time(how: str, ending: bytes) -> None:
    """Chunks that are broken after a pause stop the timers of aiohttp: each wait has a bound of our own."""

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\nabcd")
        await writer.drain()
        await paused.wait()
        writer.write(b"efgh" + ending)
        await writer.drain()
        await reader.read()

    paused = asyncio.Event()
    async with listening(break_off) as (url, *_), asyncio.timeout(5):
        transport = AiohttpTransport(QUICK)
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
        await transport.aclose()


ODD_HEADS = {
    "a field of 60 KiB": b"HTTP/1.1 200 OK\r\nContent-Security-Policy: " + b"x" * 60_000,
    "500 fields": b"HTTP/1.1 200 OK" + b"".join(b"\r\nX-%d: y" % number for number in range(500)),
    "a long reason": b"HTTP/1.1 200 " + b"fine " * 3000,
    "no reason": b"HTTP/1.1 200 ",
    "a cookie of 30 KiB": b"HTTP/1.1 200 OK\r\nSet-Cookie: a=" + b"x" * 30_000,
}


@pytest.mark.parametrize("is_passed_in", [False, True], ids=["own session", "session passed in"])
@pytest.mark.parametrize("head", ODD_HEADS.values(), ids=ODD_HEADS.keys())
async def test_a_reply_with_an_odd_head_is_read(head: bytes, is_passed_in: bool) -> None:
    """Proxies and gateways add a lot: what was paid for is not lost for a long header."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(head + b"\r\nContent-Length: %d\r\n\r\n%s" % (len(SAID), SAID))
        await writer.drain()

    async with listening(say) as (url, *_), aiohttp.ClientSession() as theirs:
        transport = AiohttpTransport(QUICK, session=theirs if is_passed_in else None)
        reply = await transport.post(f"{url}/", b"{}", timeout=5)
        first = await transport.head(f"{url}/", length=4, timeout=5)
        await transport.aclose()
    assert (reply.status, reply.body, first.body) == (200, SAID, SAID[:4])


@pytest.mark.parametrize("is_passed_in", [False, True], ids=["own session", "session passed in"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity", "aws-chunked", "utf-8"])
async def test_a_coding_that_the_body_does_not_have_is_seen_through(coding: str, is_passed_in: bool) -> None:
    """A header that names a coding over a plain body does not cost the reply."""
    async with (
        listening(http("200 OK", SAID, f"Content-Encoding: {coding}")) as (url, *_),
        aiohttp.ClientSession() as theirs,
    ):
        transport = AiohttpTransport(QUICK, session=theirs if is_passed_in else None)
        reply = await transport.post(f"{url}/", b"{}", timeout=5)
        await transport.aclose()
    assert reply.body == SAID


ESCAPES = (
    "/foo%27bar.mp4", "/a%28b%29.mp4", "/v.mp4?sig=a%2Fb", "/v.mp4?Policy=x%7E1", "/v%3A1.mp4", "/v.mp4?a=b+c&d",
    "/a%2fb/%e4", "/v?x='(~)'",
)  # fmt: skip


@pytest.mark.parametrize("is_passed_in", [False, True], ids=["own session", "session passed in"])
@pytest.mark.parametrize("link", ESCAPES)
async def test_a_link_goes_out_byte_for_byte(link: str, is_passed_in: bool) -> None:
    """A signature covers the link as it was written: no escape is rewritten, also not through a redirect."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await request_of(reader)).split()[1])
        head = f"302 Found\r\nLocation: {link}" if asked[-1] == b"/redirected" else "200 OK"
        writer.write(f"HTTP/1.1 {head}\r\nContent-Length: 4\r\nConnection: close\r\n\r\nftyp".encode())

    async with listening(answer) as (url, *_), aiohttp.ClientSession() as theirs:
        transport = AiohttpTransport(QUICK, session=theirs if is_passed_in else None)
        await transport.head(url + link, length=4, timeout=5)
        await transport.head(f"{url}/redirected", length=4, timeout=5)
        await transport.aclose()
    assert asked == [link.encode(), b"/redirected", link.encode()]


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
def test_what_no_url_may_hold_is_escaped(link: str, sent: str) -> None:
    """Blanks and letters of the world are percent-encoded, and nothing else is."""
    assert str(as_sent(link)) == sent


async def test_a_password_of_netrc_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A catch-all entry of ~/.netrc is not sent to the service or the CDN, whatever the environment says of proxies."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login someone password hush\n")
    netrc.chmod(0o600)
    for name, value in {"NETRC": str(netrc), "NO_PROXY": "localhost", "HTTPS_PROXY": "http://127.0.0.1:9"}.items():
        monkeypatch.setenv(name, value)
    requests: list[bytes] = []
    reply = WAYS["in one piece"]
    async with listening(lambda reader, writer: served(reader, writer, requests, reply, reply)) as (url, *_):
        transport = AiohttpTransport(QUICK, proxies=from_environment(dict(os.environ)))
        await transport.post(f"{url}/", b"{}", timeout=5)
        await transport.head(f"{url}/", length=4, timeout=5)
        await transport.aclose()
    assert len(requests) == 2
    assert not any(b"authorization" in request.lower() for request in requests)


COMPLAINTS = {
    b"HTTP/1.1 secret words\r\n\r\n": "secret",
    b"HTTP/1.1 200 OK\r\nsecret words\r\n\r\n": "secret",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n": "secret",
    b"secret secret secret\r\n\r\n": "secret",
}


@pytest.mark.parametrize(("said", "secret"), COMPLAINTS.items(), ids=range(len(COMPLAINTS)))
async def test_a_parsers_complaint_quotes_no_reply(said: bytes, secret: str) -> None:
    """What cannot be parsed is told in the parser's plain words, without any part of the reply: it may hold the key."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request_of(reader)
        writer.write(said)
        await writer.drain()

    async with listening(say) as (url, *_):
        transport = AiohttpTransport(QUICK)
        with pytest.raises(ReplyLostError, match=r"the reply was lost: [A-Z]") as caught:
            await transport.post(f"{url}/", b"{}", timeout=1)
        await transport.aclose()
    assert secret not in str(caught.value)


@pytest.mark.parametrize("size", [0, 3_000_000])
async def test_a_large_body_is_sent_whole(size: int) -> None:
    """A picture of any size arrives as it is, and without a warning of aiohttp."""
    bodies: list[bytes] = []

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bodies.append((await request_of(reader)).partition(b"\r\n\r\n")[2])
        writer.write(WAYS["in one piece"])

    body = random.Random(size).randbytes(size)
    async with listening(keep) as (url, *_):
        transport = AiohttpTransport(Timeouts())
        await transport.post(f"{url}/", body, timeout=20, own_connection=True)
        await transport.aclose()
    assert bodies == [body]
