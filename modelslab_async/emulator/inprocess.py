"""The emulator under a Client without sockets: for tests on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlsplit

import attrs

from modelslab_async.emulator.files import served
from modelslab_async.emulator.order import Work, skeleton
from modelslab_async.emulator.replies import Answer, Deed, Delivery
from modelslab_async.emulator.service import Service
from modelslab_async.errors import ConnectError, ReplyLostError
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.transport.base import Incoming

_PIXEL = b"\x89PNG\r\n\x1a\n"


@attrs.define
class InProcess:
    """A Transport that hands requests to a `Service`. Its clock is the running event loop's.

    render: makes a file of a job's work; by default the bare boxes of an mp4.
    deliver: is called with each webhook when it is due; None drops them.
    pictures: what a picture's URL gives, or None where there is none; by default a stub of a PNG.
    """

    service: Service
    render: Callable[[Work], bytes] = skeleton
    deliver: Callable[[Delivery], object] | None = None
    pictures: Callable[[str], bytes | None] = lambda _: _PIXEL
    requests: list[str] = attrs.field(factory=list[str])
    """The path of each request so far."""
    _deaf_until: float = 0.0

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        timeout: float | None,
        own_connection: bool = False,
    ) -> HttpReply:
        """As over HTTP, faults included."""
        path = urlsplit(url).path
        now = self._heard(path)
        picture_url = self.service.picture_url(path, body)
        answer = self.service.handle(now, path, body, self.pictures(picture_url) if picture_url else None)
        self._schedule(answer)
        if answer.deed is Deed.REFUSE:
            self._deaf_until = now + answer.delay
            raise ConnectError("no connection: refused by the emulator")
        if answer.deed is Deed.RESET:
            raise ReplyLostError("the reply was lost: reset by the emulator")
        wait = float("inf") if answer.deed is Deed.STALL else answer.delay
        if timeout is not None and wait > timeout:
            await asyncio.sleep(timeout)
            raise ReplyLostError("the reply was lost: timed out")
        await asyncio.sleep(wait)
        return HttpReply(answer.status, answer.body, is_on_own_connection=own_connection)

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """The first bytes of a file of the emulator."""
        async with self.get(url, headers={"Range": f"bytes=0-{length - 1}"}, timeout=timeout) as stream:
            async for chunk in stream.chunks:
                return HttpReply(stream.status, chunk)
        raise AssertionError("a stream has a chunk")

    @asynccontextmanager
    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout: float | None,  # noqa: ARG002 - a Transport's; nothing stalls between chunks here
    ) -> AsyncGenerator[Incoming]:
        """A file of the emulator, whole or a range of it."""
        path = urlsplit(url).path
        answer = self.service.file(self._heard(path), path.rpartition("/")[2], headers.get("Range", ""))
        content = self.render(answer.order.work) if answer.order else answer.upload
        status, named, body, breaks_off = served(answer, content, headers)
        async with aclosing(_chunks(body, breaks_off=breaks_off)) as chunks:
            yield Incoming(status, named, chunks)

    async def aclose(self) -> None:
        """Nothing was opened."""

    def _heard(self, path: str) -> float:
        now = asyncio.get_running_loop().time()
        if now < self._deaf_until:
            raise ConnectError("no connection: refused by the emulator")
        self.requests.append(path)
        return now

    def _schedule(self, answer: Answer) -> None:
        if self.deliver and answer.order:
            for delivery in self.service.deliveries(answer.order):
                asyncio.get_running_loop().call_at(delivery.at, self.deliver, delivery)


async def _chunks(body: bytes, *, breaks_off: bool) -> AsyncGenerator[bytes]:
    yield body
    if breaks_off:
        raise ReplyLostError("the reply was lost: broke off in the emulator")
