"""HTTP through the public interface of `aiohttp.ClientSession`. Every wait is bounded, every foreign error translated.

aiohttp's own timers are not relied on: a reply whose chunks are broken after a pause has stopped them before.
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
"""The longest status line or header field to read. aiohttp's default of 8 KiB is less than some proxies send."""
MAX_HEADERS = 1000
MAX_CONNECTIONS = 100
"""Of the session with a pool: more than polls and downloads need. Submits are limited by `max_in_flight` alone."""
USER_AGENT = "modelslab_async"
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE_BYTES = 2**16
_CLOSE_SECONDS = 5.0
"""How long a session may take to close its connections."""
_POST_HEADERS = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
_GET_HEADERS = {"Accept-Encoding": "identity"}


class AiohttpTransport:
    """Send requests through sessions of aiohttp, opened at the first request inside the running loop.

    Submits go through a session of their own that never reuses a connection, everything else through one with a pool.
    A session that is passed in carries both, by its own settings, and is never closed here.
    """

    def __init__(
        self, timeouts: Timeouts, *, session: aiohttp.ClientSession | None = None, proxies: Proxies | None = None
    ) -> None:
        self._timeouts, self._passed_in, self._proxies = timeouts, session, proxies or Proxies()
        self._pooled: aiohttp.ClientSession | None = None
        self._single_use: aiohttp.ClientSession | None = None
        self._closed = False

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        """Post JSON once. No redirect is followed, so the key goes nowhere else."""
        session = self._session(own_connection=own_connection)
        connect = _least(self._timeouts.connect, timeout)
        started = asyncio.get_running_loop().time()
        payload = OneTimeBody(body)
        try:
            async with asyncio.timeout(connect) as deadline:

                def begun() -> None:
                    deadline.reschedule(None if timeout is None else started + timeout)

                payload.begun = begun
                response = await self._response(
                    session, "POST", url, data=payload, headers=_POST_HEADERS, middlewares=()
                )
                reply = await _read(response, MAX_REPLY_BYTES)
        except Exception as error:  # noqa: BLE001 - whatever it is, money depends only on whether the body was begun
            if payload.is_begun:
                lost: TransportError = ReplyLostError(f"the reply was lost: {_described(error, timeout)}")
            else:
                lost = ConnectError(f"no connection: {_described(error, connect)}")
        else:
            if payload.is_begun:
                return reply._replace(is_on_own_connection=own_connection and self._passed_in is None)
            # the rest of an earlier reply was waiting on a pooled connection
            lost = ConnectError("no connection: a reply came before anything was sent")
        finally:
            payload.forbid()
        raise lost  # not within `except`: the frames of a foreign error hold what was received, perhaps the key

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """Get the first bytes of a file, through redirects: the request holds no key."""
        headers = {**_GET_HEADERS, "Range": f"bytes=0-{length - 1}"}
        try:
            async with asyncio.timeout(timeout):
                response = await self._followed(url, headers)
                return await _read(response, length)
        except Exception as error:  # noqa: BLE001 - a link that does not read, whatever the reason
            raise _unread(error, timeout) from None

    @asynccontextmanager
    async def get(self, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncGenerator[Incoming]:
        """Get a file, through redirects: the request holds no key."""
        connect = self._timeouts.connect
        until_headers = None if connect is None or timeout is None else connect + timeout
        try:
            async with asyncio.timeout(until_headers):
                response = await self._followed(url, {**_GET_HEADERS, **headers})
        except Exception as error:  # noqa: BLE001 - a link that does not read, whatever the reason
            raise _unread(error, until_headers) from None
        with closing(response):
            async with aclosing(_chunks(response, timeout)) as chunks:
                yield Incoming(response.status, response.headers, chunks)

    async def aclose(self) -> None:
        """Close the sessions that were opened here; refuse later requests."""
        self._closed = True
        for session in (self._pooled, self._single_use):
            if session is not None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await session.close()

    def _session(self, *, own_connection: bool) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientStateError("this Client is closed; `download(video, path)` of a new one still saves a video")
        if self._passed_in is not None:
            if self._passed_in.closed:
                raise ConnectError("nothing was sent: the aiohttp session that was passed in is closed")
            return self._passed_in
        if own_connection:
            self._single_use = self._single_use or _opened(aiohttp.TCPConnector(limit=0, force_close=True))
            return self._single_use
        self._pooled = self._pooled or _opened(aiohttp.TCPConnector(limit=MAX_CONNECTIONS))
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

    async def _followed(self, url: str, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        """Get a URL through redirects, each as the server wrote it.

        aiohttp's own way rewrites escapes, which breaks signed links.
        """
        session = self._session(own_connection=False)
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._response(session, "GET", url, headers=headers)
            target = response.headers.get("Location", "")
            if response.status not in _REDIRECTS or not target:
                return response
            response.close()
            url = target if urlsplit(target).scheme else urljoin(url, target)
        raise TransportError(f"more than {_MAX_REDIRECTS} redirects")

    def _proxy(self, url: str) -> str | None:
        """A session that was passed in has proxies by its own settings."""
        proxy = None if self._passed_in else self._proxies.for_url(url)
        if proxy and (wrong := problem_of(proxy)):
            raise ConnectError(f"the proxy for {urlsplit(url).scheme} cannot be used: it {wrong[0]} (hint: {wrong[1]})")
        return proxy


class OneTimeBody(aiohttp.Payload):
    """A request's body that knows whether it was begun, and is never sent a second time.

    Before it is begun nothing of the request has left: aiohttp keeps the headers back until the body is begun. Pieces
    of it stay hidden, because aiohttp's frames may be shown with their local variables.
    """

    def __init__(self, body: bytes) -> None:
        super().__init__(None, content_type="application/json")
        self._body = body
        self.is_begun = self._is_forbidden = False
        self.begun: Callable[[], None] = lambda: None

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self._body)

    def forbid(self) -> None:
        """Send nothing from now on: the caller has given up, or has its reply."""
        self._is_forbidden = True

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write all of it."""
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Write all of it; *content_length* is always its size."""
        del content_length
        if self.is_begun or self._is_forbidden:
            raise ConnectError("this request is not sent a second time")
        self.begun()
        self.is_begun = True
        writer.send_headers()  # alone: joined to the first piece they would make bytes that do not stay hidden
        for start in range(0, self.size, _PIECE_BYTES):
            await writer.write(SecretBytes(self._body[start : start + _PIECE_BYTES]))

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Show that there is a body, and not what is in it."""
        del encoding, errors
        return repr(SecretBytes(self._body))


def _opened(connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    headers = {"User-Agent": USER_AGENT}
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), headers=headers)


def as_sent(url: str) -> URL:
    """Return *url* so that it goes out byte for byte; only what no URL may hold is percent-encoded."""
    parts = urlsplit(url)
    if not parts.netloc.isascii():
        url = parts._replace(netloc=URL(f"http://{parts.netloc}").raw_authority).geturl()
    return URL(re.sub(r"[^!-~]+", lambda odd: quote(odd[0].encode(errors="surrogateescape")), url), encoded=True)


async def _read(response: aiohttp.ClientResponse, limit: int) -> HttpReply:
    """Read at most *limit* bytes of a reply, without its Content-Encoding. Close the connection if more would come."""
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
        except Exception as error:  # noqa: BLE001 - the file broke off, whatever aiohttp calls it
            raise _unread(error, timeout) from None
        if not chunk:
            return
        yield chunk


def _least(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)


def _unread(error: Exception, timeout: float | None) -> TransportError:
    return error if isinstance(error, TransportError) else TransportError(f"no file: {_described(error, timeout)}")


def _described(error: Exception, timeout: float | None) -> str:
    """Describe a foreign error without any part of a reply: a parser quotes what it cannot read, which may be the key.

    Errors of the system are quoted whole, a parser's complaint only up to its first sign that is no letter.
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
    complaint = getattr(error, "message", None) or str(error)
    words = re.match(r"(?:\d{3}, message[=:]['\"\s]*)?([A-Za-z][A-Za-z -]{2,79})", str(complaint).strip())
    return f"{kind}: {words[1].strip()}" if words else kind
