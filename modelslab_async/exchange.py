"""One request and its whole reply, written straight to a connection of an aiohttp session's pool.

`ClientSession.request` does for each request what a browser needs: cookies, redirects, authentication, proxies, traces,
a task that writes. That takes twice the CPU of what is here. A session that this package opened has none of it; so its
connector gives the connection (pool, DNS, TLS), and the connection's protocol parses the reply: aiohttp's
`BaseConnector.connect`, `Connection` and `ResponseHandler`. And where connecting ends and sending begins is plain to
see: money hangs on it.
"""

import asyncio
import re
from collections.abc import Awaitable
from typing import NamedTuple

import aiohttp
from aiohttp.http import HttpProcessingError
from aiohttp.streams import StreamReader
from yarl import URL

from modelslab_async.errors import ConnectError, ReplyLostError
from modelslab_async.protocol.body import HttpReply

FOREIGN = (aiohttp.ClientError, HttpProcessingError, OSError)
"""What aiohttp raises where the network fails. A TimeoutError is an OSError."""
USER_AGENT = "modelslab_async"
_POST = f"Accept: application/json\r\nContent-Type: application/json\r\nUser-Agent: {USER_AGENT}\r\n"
_GET = f"Accept: */*\r\nAccept-Encoding: identity\r\nUser-Agent: {USER_AGENT}\r\n"
_PLAIN = re.compile(r"(https?://([\w.:\[\]-]+))(/[!\"$-~]*)", re.ASCII)


class Address(NamedTuple):
    """Where a request goes."""

    origin: str
    host: str
    path: str


def plain(url: str) -> Address | None:
    """A URL that goes out as it stands; None for one with a user, a fragment, blanks, or letters of the world."""
    parts = _PLAIN.fullmatch(url)
    return Address(*parts.groups()) if parts else None


class Exchange:
    """Requests by one session that has no proxy, cookies or traces."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._origins: dict[str, aiohttp.ClientRequest] = {}
        """To the connector, a request says where to connect."""

    def post(self, to: Address, body: bytes, most: int, timeout: aiohttp.ClientTimeout) -> Awaitable[HttpReply]:
        """Post JSON, once. At least `most` bytes of the reply are read, if it has so many.

        `timeout.connect` bounds the connecting, `timeout.total` all of it. Raises ConnectError, ReplyLostError.
        """
        head = f"POST {to.path} HTTP/1.1\r\nHost: {to.host}\r\n{_POST}Content-Length: {len(body)}\r\n\r\n"
        return self._send(to.origin, head.encode() + body, most, timeout)

    def head(self, to: Address, length: int, timeout: aiohttp.ClientTimeout) -> Awaitable[HttpReply]:
        """Get the first bytes of a file; follows no redirect. Bounds and errors as in `post`."""
        head = f"GET {to.path} HTTP/1.1\r\nHost: {to.host}\r\n{_GET}Range: bytes=0-{length - 1}\r\n\r\n"
        return self._send(to.origin, head.encode(), length, timeout)

    async def _send(self, origin: str, request: bytes, most: int, timeout: aiohttp.ClientTimeout) -> HttpReply:
        begun = self._loop.time()
        connection = await self._connected(origin, timeout)
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None or transport.is_closing() or protocol.should_close:
            connection.close()
            raise ConnectError("no connection: it was closed before anything was sent")
        overdue = self._loop.call_at(begun + timeout.total, transport.abort) if timeout.total else None
        try:
            protocol.set_response_params(read_until_eof=True)
            transport.write(request)
            message, content = await protocol.read()
            while message.code < 200:  # said on the way
                message, content = await protocol.read()
            reply = HttpReply(message.code, await at_most(most, content), message.headers.get("Retry-After"))
            connection.release()
        except FOREIGN as error:
            if overdue and overdue.when() <= self._loop.time():
                raise ReplyLostError(f"the reply was lost: none within {timeout.total:g} s") from None
            raise ReplyLostError(f"the reply was lost: {in_words(error)}") from None
        finally:
            if overdue:
                overdue.cancel()
            connection.close()  # unless it was released
        return reply

    async def _connected(self, origin: str, timeout: aiohttp.ClientTimeout) -> aiohttp.connector.Connection:
        assert self._session.connector  # noqa: S101 - it is open
        try:
            request = self._origins.get(origin)
            if request is None:
                request = aiohttp.ClientRequest("POST", URL(origin), loop=self._loop, session=self._session)
                self._origins[origin] = request
            return await self._session.connector.connect(request, [], timeout)
        except (*FOREIGN, ValueError) as error:  # ValueError: a host or a port that can be none
            raise ConnectError(f"no connection: {in_words(error)}") from None


async def at_most(limit: int, content: StreamReader) -> bytes:
    """All of a body, or hardly more than so many bytes of it."""
    body = await content.readany()
    while len(body) < limit and not content.at_eof():
        body += await content.readany()
    return body


def in_words(error: Exception) -> str:
    """A foreign error: its kind, and what the system says. A parser's words may quote the key that a reply echoes."""
    text = str(error) if isinstance(error, (OSError, ValueError)) else ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
