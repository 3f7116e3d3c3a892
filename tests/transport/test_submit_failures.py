"""Submits that fail on real sockets: nothing was sent, the reply was lost, or the service refused the job."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import aiohttp.http_exceptions
import pytest
import trustme
from aiohttp.client_reqrep import ConnectionKey
from helpers.sockets import (
    INVALID_KEY,
    SHORT_TIMEOUTS,
    Behaviour,
    deaf_port,
    error_of,
    listening,
    opened_transport,
    read_request,
    respond,
    respond_never,
    respond_one_behind,
)
from helpers.world import KEY, a_request
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from modelslab_async import (
    AuthenticationError,
    Client,
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
from modelslab_async.transport.aiohttp import AiohttpTransport


@pytest.fixture(params=["own session", "passed-in session"])
async def session(request: pytest.FixtureRequest) -> AsyncIterator[aiohttp.ClientSession | None]:
    async with aiohttp.ClientSession() as passed_in:
        yield None if request.param == "own session" else passed_in


async def reset_within_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
    writer.transport.abort()


async def reset_after_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(reader)
    writer.transport.abort()


ERROR_JSON = b'{"status": "error", "message": "%s"}'
FAILURES: list[tuple[str, Behaviour, type[ModelsLabError], retry.Verdict]] = [
    ("reset within the request", reset_within_the_request, ReplyLostError, retry.Verdict.UNCERTAIN),
    ("reset after the request", reset_after_the_request, ReplyLostError, retry.Verdict.UNCERTAIN),
    ("timeout", respond_never, ReplyLostError, retry.Verdict.UNCERTAIN),
    ("HTML 502", respond("502 Bad Gateway", b"<html>502</html>"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("truncated JSON", respond("200 OK", b'{"status": "proce'), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("cut body", respond("200 OK", b'{"status"', length=900), ReplyLostError, retry.Verdict.UNCERTAIN),
    ("200 with rubbish", respond("200 OK", b"\x00\xff rubbish"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("endless reply", respond("200 OK", b"[" * (MAX_REPLY_BYTES + 9)), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("not HTTP", respond("what?", b""), ReplyLostError, retry.Verdict.UNCERTAIN),
    ("500 with JSON", respond("500 Oops", ERROR_JSON % b"Server Error"), ServerError, retry.Verdict.UNCERTAIN),
    ("500 without", respond("500 Oops", b"oops"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("503 with JSON", respond("503 Down", ERROR_JSON % b"down"), ServerError, retry.Verdict.REPEAT),
    ("503 without", respond("503 Down", b"<html>"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("302", respond("302 Found", b"", "Location: /elsewhere"), MalformedReplyError, retry.Verdict.UNCERTAIN),
    ("401", respond("401 No", INVALID_KEY), AuthenticationError, retry.Verdict.REFUSED),
]


@pytest.mark.parametrize(
    ("behaviour", "error", "verdict"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES]
)
async def test_a_failed_submit_is_repeated_only_if_it_was_certainly_not_accepted(
    behaviour: Behaviour, error: type[ModelsLabError], verdict: retry.Verdict, session: aiohttp.ClientSession | None
) -> None:
    """Each failure after connecting raises its own error, and leads to a repeat, a refusal or an uncertain job."""
    timeouts = SHORT_TIMEOUTS if behaviour is respond_never else Timeouts()
    async with listening(behaviour) as (url, connections, second):
        client = Client(api_key=KEY, base_url=url, timeouts=timeouts, rng=random.Random(1), session=session)
        job = client.submit(a_request())
        if verdict is retry.Verdict.REPEAT:
            await second.wait()
            await client.aclose(drain=False)
            assert job.state is JobState.REFUSED
            return
        async with client:
            caught = await error_of(job)
        assert len(connections) == 1
    cause = caught.__cause__ if isinstance(caught, SubmitUncertainError) else caught
    assert isinstance(cause, error)
    assert (job.state is JobState.UNCERTAIN) == (verdict is retry.Verdict.UNCERTAIN)
    assert caught.charged is (None if verdict is retry.Verdict.UNCERTAIN else False)


async def test_a_redirect_of_a_submit_is_not_followed() -> None:
    """A permanent redirect is refused, and the key goes to no other place."""
    async with (
        listening(respond_never) as (elsewhere, visits, _),
        listening(respond("308 Moved", b"", f"Location: {elsewhere}/api")) as (url, *_),
        Client(api_key=KEY, base_url=url, timeouts=SHORT_TIMEOUTS) as client,
    ):
        job = client.submit(a_request())
        error = await error_of(job)
    assert (job.state, error.charged, visits) == (JobState.REFUSED, False, [])
    assert "base URL" in str(error)


async def test_without_a_connection_nothing_was_sent() -> None:
    """A refused connection, an unknown host, an invalid certificate and a connect timeout each raise ConnectError."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    with socket.socket() as refusing, deaf_port() as deaf:
        refusing.bind(("127.0.0.1", 0))
        tls = await asyncio.start_server(close, "127.0.0.1", 0, ssl=context)
        urls = [
            f"http://127.0.0.1:{refusing.getsockname()[1]}",
            "https://no-such-host.invalid",
            f"https://localhost:{tls.sockets[0].getsockname()[1]}",
            f"http://127.0.0.1:{deaf}",
        ]
        async with tls:
            for url in urls:
                async with opened_transport() as transport:
                    with pytest.raises(ConnectError):
                        await transport.post(f"{url}/", b"{}", timeout=30)


async def test_a_request_times_out_even_if_connecting_may_take_for_ever() -> None:
    """A request has its time in every phase. If it ends before anything was sent, the error says so."""
    with deaf_port() as port:
        async with opened_transport(Timeouts(connect=None)) as transport:
            with pytest.raises(ConnectError):
                async with asyncio.timeout(5):
                    await transport.post(f"http://127.0.0.1:{port}/", b"{}", timeout=0.05)


async def test_the_error_of_a_missing_reply_names_the_timeout() -> None:
    """A user who reads the error knows which timeout to raise."""
    async with listening(respond_never) as (url, *_), opened_transport() as transport:
        with pytest.raises(ReplyLostError, match=r"nothing within 0\.5 s"):
            await transport.post(f"{url}/", b"{}", timeout=0.5)


async def test_a_reply_without_a_length_that_stalls_is_lost() -> None:
    """When the timeout closes the connection, that does not count as the end of the reply: the job is uncertain."""

    async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b'HTTP/1.1 200 OK\r\n\r\n{"status": "processing", "id": 1')
        await reader.read()

    async with listening(stall) as (url, *_), Client(api_key=KEY, base_url=url, timeouts=SHORT_TIMEOUTS) as client:
        job = client.submit(a_request())
        error = await error_of(job)
    assert (job.state, error.charged) == (JobState.UNCERTAIN, None)


async def test_a_left_over_reply_does_not_answer_a_submit() -> None:
    """A submit has a connection of its own, so a reply left on another connection is never taken for its answer."""
    paths: list[bytes] = []
    async with (
        listening(respond_one_behind(paths)) as (url, connections, _),
        Client(api_key=KEY, base_url=url) as client,
    ):
        await client.balance()
        assert await client.submit(a_request()).submitted() == "j-7"
        await client.aclose(drain=False)
    assert [path.endswith(b"img2video_ultra") for path in paths[:2]] == [False, True]
    assert len(connections) == 2


CONNECTION = ConnectionKey(
    "log.invalid", 443, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None
)


def an_error(kind: type[Exception]) -> Exception:
    """Make an instance of an exception, whatever arguments its class needs."""
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
    raise AssertionError(f"which arguments does {kind} need?")


BUILT_IN = (OSError, ConnectionResetError, TimeoutError, RuntimeError, ValueError, UnicodeError, AssertionError)
ERRORS = {
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
    """Yield a transport whose session raises at *hook*, the URL of a server, and a list of exception classes.

    The last class in the list is the one that is raised.
    """
    raised = list[type[Exception]]()

    async def fail(*_: object) -> None:
        raise an_error(raised[-1])

    hooks = aiohttp.TraceConfig()
    getattr(hooks, hook).append(fail)
    async with (
        aiohttp.ClientSession(trace_configs=[hooks]) as session,
        listening(respond("200 OK", b"{}")) as (url, *_),
    ):
        yield AiohttpTransport(SHORT_TIMEOUTS, session=session), f"{url}/", raised


@pytest.mark.parametrize(("hook", "meaning"), PHASES.values(), ids=PHASES.keys())
async def test_only_the_body_decides_whether_anything_was_sent(hook: str, meaning: type[TransportError]) -> None:
    """Whatever the error: before the body is begun nothing was sent, and from then on the outcome is unknown."""
    async with failing_at(hook) as (transport, url, raised):
        for kind in ERRORS.values():
            raised.append(kind)
            with pytest.raises(TransportError) as caught:
                await transport.post(url, b"{}", timeout=1)
            assert type(caught.value) is meaning, kind
            assert caught.value.__context__ is None
    assert len(raised) > 50


async def test_a_download_raises_no_foreign_error() -> None:
    """Whatever aiohttp raises for a link becomes a TransportError, so the next link is tried."""
    async with failing_at("on_request_end") as (transport, url, raised):
        for kind in ERRORS.values():
            raised.append(kind)
            with pytest.raises(TransportError):
                await transport.head(url, length=4, timeout=1)
            with pytest.raises(TransportError):
                async with transport.get(url, headers={}, timeout=1):
                    pytest.fail("there is no reply")
    assert len(raised) > 50
