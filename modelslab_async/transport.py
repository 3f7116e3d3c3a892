"""HTTP through aiohttp: one reply whole, or one file in chunks; foreign errors become ours."""

from collections.abc import AsyncGenerator, Awaitable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, closing
from functools import lru_cache
from typing import NamedTuple, Protocol

import aiohttp
import attrs
from aiohttp.abc import AbstractStreamWriter

from modelslab_async.errors import ClientStateError, ConnectError, ReplyLostError, TransportError
from modelslab_async.exchange import FOREIGN, USER_AGENT, Exchange, at_most, in_words, plain
from modelslab_async.protocol.body import HttpReply
from modelslab_async.protocol.request import is_positive, require
from modelslab_async.protocol.watch import READY_GRACE

MAX_REPLY_BYTES = 4 * 2**20
"""A reply is JSON of some kilobytes. What is longer is cut here, and then no JSON."""
MAX_CONNECTIONS = 100
"""More than the jobs of an account, and the files that are saved, need."""
_MAX_REDIRECTS = 5

_NOTHING_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.ServerFingerprintMismatch,
)
"""aiohttp's errors that come before the first byte of the request. Any other may come after it."""
_JSON = {"Content-Type": "application/json", "Accept": "application/json"}


@attrs.frozen(kw_only=True)
class Timeouts:
    """Durations in seconds; None = never.

    connect: until there is a connection, with the wait for a free one, DNS and TLS. Past it nothing was sent.
    submit: for the reply to a submit. Past it the job is UNCERTAIN, so it is longer than gateways wait (about 100 s),
        and the service may render the video before it answers.
    fetch: for the reply to any other call.
    read: between two chunks of a file.
    link: after the service reported success, until one of its links reads; about 40 s were seen.
    job: from the acceptance of a job to its end. Past it the job is no longer watched; users wait 5 to 15 minutes.
    """

    connect: float | None = 10.0
    submit: float | None = 150.0
    fetch: float | None = 30.0
    read: float | None = 30.0
    link: float | None = READY_GRACE
    job: float | None = 1800.0

    def __attrs_post_init__(self) -> None:
        rule, given = "seconds above 0, or None for never", attrs.asdict(self).items()
        require(*((v is None or is_positive(v), f"timeouts.{name}", v, rule, "pass one") for name, v in given))


class Incoming(NamedTuple):
    """A file that arrives: HTTP code, headers with names in any case, body. That raises TransportError at a break."""

    status: int
    headers: Mapping[str, str]
    chunks: AsyncGenerator[bytes]


class Transport(Protocol):
    """What carries requests: aiohttp, or an emulator in the same process."""

    async def post(self, url: str, body: bytes, *, timeout: float | None) -> HttpReply:
        """Post JSON, once, to just this URL. Raises ConnectError or ReplyLostError."""
        ...

    def get(
        self, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[Incoming]:
        """Get a file; `timeout` is between two chunks. Raises TransportError."""
        ...

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """Get the first bytes of a file: about `length`, or all that there are. Raises TransportError."""
        ...

    async def aclose(self) -> None:
        """Close what was opened here."""
        ...


class AiohttpTransport:
    """One aiohttp session, opened at the first request inside the running loop.

    A session that is passed in is used as it is and never closed. Proxies of the environment are respected, but for
    plain http: that goes to loopback only, and the key with it. Without either, a reply takes the short way of
    `Exchange`.
    """

    def __init__(
        self, timeouts: Timeouts, *, session: aiohttp.ClientSession | None = None, trust_env: bool = False
    ) -> None:
        self._timeouts, self._session, self._trust_env = timeouts, session, trust_env
        self._owned = session is None
        self._exchange: Exchange | None = None
        self._closed = False

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ClientStateError("this Client is closed; `download(video, path)` of a new one still saves a video")
        if self._session is not None and self._session.closed:
            raise ConnectError("nothing was sent: the aiohttp session that was passed in is closed")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=MAX_CONNECTIONS),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT},
                trust_env=self._trust_env,
            )
            self._exchange = None if self._trust_env else Exchange(self._session)
        return self._session

    async def post(self, url: str, body: bytes, *, timeout: float | None) -> HttpReply:
        """Post JSON, once; no redirect is followed, so the key goes nowhere else."""
        session, limits = self._open(), _limits(timeout, self._timeouts.connect)
        if self._exchange and (address := plain(url)):
            return await self._exchange.post(address, body, MAX_REPLY_BYTES, limits)
        sent = _Body(body)
        sent.is_begun = bool(getattr(session, "_middlewares", None))  # one may send another body
        asking = session.post(
            url, data=sent, headers=_JSON, timeout=limits, allow_redirects=False, raise_for_status=False
        )
        return await _reply(asking, MAX_REPLY_BYTES, sent)

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """Get the first bytes of a file, through redirects: there is no key in it."""
        session, limits = self._open(), _limits(timeout, self._timeouts.connect)
        if self._exchange and (address := plain(url)):
            reply = await self._exchange.head(address, length, limits)
            if reply.status // 100 != 3:
                return reply
        headers = {"Range": f"bytes=0-{length - 1}", "Accept-Encoding": "identity"}
        asking = session.get(url, headers=headers, timeout=limits, max_redirects=_MAX_REDIRECTS, raise_for_status=False)
        return await _reply(asking, length)

    @asynccontextmanager
    async def get(self, url: str, *, headers: Mapping[str, str], timeout: float | None) -> AsyncGenerator[Incoming]:
        """Get a file, through redirects: there is no key in it."""
        limits = aiohttp.ClientTimeout(total=None, connect=self._timeouts.connect, sock_read=timeout)
        try:
            response = await self._open().get(
                url, headers=headers, timeout=limits, max_redirects=_MAX_REDIRECTS, raise_for_status=False
            )
        except (*FOREIGN, UnicodeError) as error:
            raise _translated(error) from None
        async with response, aclosing(_chunks(response)) as chunks:
            yield Incoming(response.status, response.headers, chunks)

    async def aclose(self) -> None:
        """Close the session, if it was opened here; later requests are refused."""
        self._closed = True
        if self._owned and self._session is not None:
            await self._session.close()


class _Body(aiohttp.BytesPayload):
    """Knows whether it was begun: then no error, be it of a session's own hook, means that nothing was sent."""

    is_begun = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        self.is_begun = True
        await super().write_with_length(writer, content_length)


async def _chunks(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except FOREIGN as error:
        raise _translated(error) from None


@lru_cache(64)
def _limits(total: float | None, connect: float | None) -> aiohttp.ClientTimeout:
    """Connecting is bounded by both; None for no bound."""
    return aiohttp.ClientTimeout(total=total, connect=min(filter(None, (total, connect)), default=None))


def _translated(error: Exception, body: _Body | None = None) -> TransportError:
    """A foreign error as ours: nothing sent, or lost. A host that can be none fails in the codec of host names."""
    if not (body and body.is_begun) and isinstance(error, (*_NOTHING_SENT, UnicodeError)):
        return ConnectError(f"no connection: {in_words(error)}")
    return ReplyLostError(f"the reply was lost: {in_words(error)}")


async def _reply(asking: Awaitable[aiohttp.ClientResponse], most: int, sent: _Body | None = None) -> HttpReply:
    try:
        with closing(await asking) as response:  # what is left of a connection that gave all goes back to the pool
            body = await at_most(most, response.content)
            return HttpReply(response.status, body, response.headers.get("Retry-After"))
    except (*FOREIGN, UnicodeError) as error:
        raise _translated(error, sent) from None
