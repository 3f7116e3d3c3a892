"""HTTP through the public interface of `aiohttp.ClientSession`, with bounded waits and this package's own errors.

aiohttp's own timers are not relied on: if a reply pauses and then breaks its chunked framing, they never fire.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, closing, suppress
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from modelslab_async.errors import ClientStateError, ConnectError, ReplyLostError, TransportError
from modelslab_async.protocol.coding import decoded
from modelslab_async.protocol.decoding import MAX_REPLY_BYTES
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.protocol.secret import SecretBytes
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.transport.base import Incoming
from modelslab_async.transport.proxies import Proxies, problem_of

MAX_HEADER_BYTES = 2**16
"""The longest status line or header field that is read. Some proxies send more than aiohttp's default of 8 KiB."""
MAX_HEADERS = 1000
MAX_CONNECTIONS = 100
"""Connections of the pooled session: more than polls and downloads need. Only `max_in_flight` limits submits."""
USER_AGENT = "modelslab_async"
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 2**16
_CLOSE_SECONDS = 5.0
"""How long a session may take to close its connections, seconds."""
_POST_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
_GET_HEADERS = {"Accept-Encoding": "identity"}


class AiohttpTransport:
    """Send requests through aiohttp's sessions, which are opened at the first request, inside the running loop.

    Submits go through a separate session, which never reuses a connection. All other requests go through a pooled
    session. A session that is passed in sends all requests, by its own settings, and is never closed here.
    """

    def __init__(
        self, timeouts: Timeouts, *, session: aiohttp.ClientSession | None = None, proxies: Proxies | None = None
    ) -> None:
        self._timeouts, self._passed_in, self._proxies = timeouts, session, proxies or Proxies()
        self._pooled: aiohttp.ClientSession | None = None
        self._single_use: aiohttp.ClientSession | None = None
        self._closed = False

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        """As in `Transport`. No redirect is followed, so the key goes to no other URL."""
        session = self._session(own_connection=own_connection)
        connect_timeout = _shorter(self._timeouts.connect, timeout)
        started = asyncio.get_running_loop().time()
        payload = OneTimeBody(body)
        try:
            async with asyncio.timeout(connect_timeout) as deadline:

                def extend_deadline() -> None:
                    deadline.reschedule(None if timeout is None else started + timeout)

                payload.on_begin = extend_deadline
                response = await self._response(
                    session, "POST", url, data=payload, headers=_POST_HEADERS, middlewares=()
                )
                reply = await _read(response, MAX_REPLY_BYTES)
        except Exception as error:  # noqa: BLE001 - only whether the body was begun says if money may be spent
            if payload.is_begun:
                lost: TransportError = ReplyLostError(f"the reply was lost: {_describe(error, timeout)}")
            else:
                lost = ConnectError(f"no connection: {_describe(error, connect_timeout)}")
        else:
            if payload.is_begun:
                return reply._replace(is_on_own_connection=own_connection and self._passed_in is None)
            # a late reply to an earlier request was waiting on the pooled connection
            lost = ConnectError("no connection: a reply came before anything was sent")
        finally:
            payload.forbid()
        raise lost  # outside `except`: the frames of a foreign error hold what was received, perhaps with the key

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """As in `Transport`. Redirects are followed, because the request holds no key."""
        headers = {**_GET_HEADERS, "Range": f"bytes=0-{length - 1}"}
        try:
            async with asyncio.timeout(timeout):
                response = await self._get(url, headers)
                return await _read(response, length)
        except Exception as error:  # noqa: BLE001 - whatever it is, the link is not readable
            raise _download_error(error, timeout) from None

    @asynccontextmanager
    async def get(self, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncGenerator[Incoming]:
        """As in `Transport`. Redirects are followed, because the request holds no key."""
        connect_timeout = self._timeouts.connect
        headers_timeout = None if connect_timeout is None or timeout is None else connect_timeout + timeout
        try:
            async with asyncio.timeout(headers_timeout):
                response = await self._get(url, {**_GET_HEADERS, **headers})
        except Exception as error:  # noqa: BLE001 - whatever it is, the link is not readable
            raise _download_error(error, headers_timeout) from None
        with closing(response):
            async with aclosing(_chunks(response, timeout)) as chunks:
                yield Incoming(response.status, response.headers, chunks)

    async def aclose(self) -> None:
        """Close the sessions that were opened here. Later requests raise ClientStateError."""
        self._closed = True
        for session in (self._pooled, self._single_use):
            if session is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await session.close()

    def _session(self, *, own_connection: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientStateError(
                "this Client is closed (hint: `download(video, path)` of a new Client saves a video)"
            )
        if self._passed_in is not None:
            if self._passed_in.closed:
                raise ConnectError(
                    "nothing was sent: the session that was passed in is closed (hint: pass an open one)"
                )
            return self._passed_in
        if own_connection:
            self._single_use = self._single_use or _new_session(aiohttp.TCPConnector(limit=0, force_close=True))
            return self._single_use
        self._pooled = self._pooled or _new_session(aiohttp.TCPConnector(limit=MAX_CONNECTIONS))
        return self._pooled

    async def _response(
        self, session: aiohttp.ClientSession, method: str, url: str, **options: Any
    ) -> aiohttp.ClientResponse:
        """Send one request and wait for the reply's headers."""
        return await session.request(
            method,
            as_sent(url),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect),
            proxy=self._proxy(url),
            allow_redirects=False,
            raise_for_status=False,
            auto_decompress=False,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            **options,
        )

    async def _get(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Get a URL, and follow redirects to exactly the URLs that servers name.

        aiohttp would rewrite escapes in them, which breaks signed links.
        """
        session = self._session(own_connection=False)
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._response(session, "GET", url, headers=headers)
            location = response.headers.get("Location", "")
            if response.status not in _REDIRECTS or not location:
                return response
            response.close()
            url = location if urlsplit(location).scheme else urljoin(url, location)
        raise TransportError(f"more than {_MAX_REDIRECTS} redirects")

    def _proxy(self, url: str) -> str | None:
        """Return the proxy for *url*, or None. A session that was passed in uses proxies by its own settings."""
        proxy = None if self._passed_in else self._proxies.for_url(url)
        if proxy and (problem := problem_of(proxy)):
            requirement, hint = problem
            raise ConnectError(f"the proxy for {urlsplit(url).scheme} cannot be used: it {requirement} (hint: {hint})")
        return proxy


class OneTimeBody(aiohttp.Payload):
    """A request's body that is sent once at most, and records whether sending was begun.

    Before that, nothing of the request was sent: aiohttp holds the headers back until the body is begun. The body is
    written as `SecretBytes`, because a traceback may show the local variables of aiohttp's frames.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__(None, content_type="application/json")
        self._body = body
        self.is_begun = self._is_forbidden = False
        self.on_begin: Callable[[], None] = lambda: None
        """Called just before the first byte is sent."""

    @property
    def size(self) -> int:
        """Return the length in bytes."""
        return len(self._body)

    def forbid(self) -> None:
        """Refuse to send the body from now on: the caller has given up, or has a reply."""
        self._is_forbidden = True

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the whole body."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write the whole body; aiohttp passes its size as *content_length*."""
        del content_length
        if self.is_begun or self._is_forbidden:
            raise ConnectError("nothing was sent: a request is never sent a second time")
        self.on_begin()
        self.is_begun = True
        writer.send_headers()  # first: aiohttp would join headers and first chunk to plain bytes, which tracebacks show
        for start in range(0, self.size, _CHUNK_BYTES):
            await writer.write(SecretBytes(self._body[start : start + _CHUNK_BYTES]))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return a text that does not show what is in the body."""
        del encoding, errors
        return repr(SecretBytes(self._body))


def _new_session(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    headers = {"User-Agent": USER_AGENT}
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=headers)


def as_sent(url: str) -> URL:
    """Return *url* as aiohttp sends it unchanged. Only characters that no URL may hold are percent-encoded."""
    parts = urlsplit(url)
    if not parts.netloc.isascii():
        url = parts._replace(netloc=URL(f"http://{parts.netloc}").raw_authority).geturl()
    return URL(
        re.sub(r"[^!-~]+", lambda illegal: quote(illegal[0].encode(errors="surrogateescape")), url), encoded=True
    )


async def _read(response: aiohttp.ClientResponse, limit: int) -> HttpReply:
    """Read and decode at most *limit* bytes of a reply. If more would come, the connection is closed."""
    with closing(response):
        body = bytearray()
        while len(body) < limit and (chunk := await response.content.read(limit - len(body))):
            body += chunk
        coding = response.headers.get("Content-Encoding", "")
        return HttpReply(response.status, decoded(bytes(body), coding, limit), response.headers.get("Retry-After"))


async def _chunks(response: aiohttp.ClientResponse, timeout: float | None) -> AsyncGenerator[bytes]:
    while True:
        try:
            async with asyncio.timeout(timeout):
                chunk = await response.content.readany()
        except Exception as error:  # noqa: BLE001 - whatever aiohttp calls it, the file broke off
            raise _download_error(error, timeout) from None
        if not chunk:
            return
        yield chunk


def _shorter(*timeouts: float | None) -> float | None:
    return min((timeout for timeout in timeouts if timeout is not None), default=None)


def _download_error(error: Exception, timeout: float | None) -> TransportError:
    return error if isinstance(error, TransportError) else TransportError(f"no file: {_describe(error, timeout)}")


def _describe(error: Exception, timeout: float | None) -> str:
    """Describe a foreign error without any part of a reply.

    A parser quotes what it cannot parse, which may hold the key. So the message of a parser is cut at the first
    character that is no letter; errors of the operating system are quoted whole.
    """
    if isinstance(error, TransportError):
        return str(error.args[0])
    if isinstance(error, TimeoutError):
        return "the connection timed out" if timeout is None else f"nothing within {timeout:g} s"
    kind = type(error).__name__
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"{kind}: the proxy answered HTTP {error.status}"
    if isinstance(error, OSError):
        return f"{kind}: {error}"
    message = getattr(error, "message", None) or str(error)
    words = re.match(r"(?:\d{3}, message[=:]['\"\s]*)?([A-Za-z][A-Za-z -]{2,79})", str(message).strip())
    return f"{kind}: {words[1].strip()}" if words else kind
