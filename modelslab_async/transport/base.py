"""The `Transport` protocol: what sends the client's requests. `aiohttp` and the in-process emulator implement it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from modelslab_async.protocol.reply import HttpReply


class Incoming(NamedTuple):
    """A file that is arriving.

    status: the HTTP status. headers: a mapping that ignores the case of names.
    chunks: the body as it was sent, still encoded. Iterating raises TransportError if the connection breaks.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncGenerator[bytes]


class Transport(Protocol):
    """Send the client's requests: over aiohttp, or to an emulator in the same process. Timeouts are in seconds."""

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        """Post JSON once, to exactly this URL, within *timeout*. Raise ConnectError or ReplyLostError.

        With *own_connection*, use a new connection if that can be guaranteed, so that no reply to another request can
        answer this one. `HttpReply.is_on_own_connection` says whether it could.
        """
        ...

    def get(
        self, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[Incoming]:
        """Get a file. *timeout* bounds the wait for each chunk. Raise TransportError."""
        ...

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """Get the first *length* bytes of a file, or all of a shorter one. Raise TransportError."""
        ...

    async def aclose(self) -> None:
        """Close all connections that were opened here."""
        ...
