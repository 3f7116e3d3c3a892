"""What sends the client's requests: the protocol that `aiohttp` and the in-process emulator implement."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from modelslab_async.protocol.reply import HttpReply


class Incoming(NamedTuple):
    """A file that is arriving: HTTP status, headers with names in any case, and the body's chunks as they were sent.

    Iterating over the chunks raises TransportError if the connection breaks.
    """

    status: int
    headers: Mapping[str, str]
    chunks: AsyncGenerator[bytes]


class Transport(Protocol):
    """Sends the client's requests: over aiohttp, or to an emulator in the same process."""

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        """Post JSON once, to exactly this URL, within *timeout* seconds. Raise ConnectError or ReplyLostError.

        With *own_connection*, use a new connection for it if that can be promised, so that no reply to another request
        can answer it. `HttpReply.is_on_own_connection` says whether it was.
        """
        ...

    def get(
        self, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[Incoming]:
        """Get a file. *timeout* bounds the wait for each chunk, seconds. Raise TransportError."""
        ...

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """Get the first *length* bytes of a file, or all if it is shorter. Raise TransportError."""
        ...

    async def aclose(self) -> None:
        """Close everything that was opened here."""
        ...
