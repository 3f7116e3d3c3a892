"""A Transport that connects a Client to an emulated service in the same process, for tests on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlsplit

import attrs

from modelslab_async.emulator.files import file_response, skeleton
from modelslab_async.emulator.job import Work
from modelslab_async.emulator.replies import Action, Answer, Delivery
from modelslab_async.emulator.service import Service
from modelslab_async.errors import ConnectError, ReplyLostError
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.transport.base import Incoming

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@attrs.define
class InProcess:
    """A Transport that hands requests to a `Service`, without sockets. Its clock is the running event loop's.

    render: called with a job's work when its file is read; returns the file. By default the bare boxes of an mp4.
    deliver: called with each webhook delivery when it is due. None drops deliveries.
    pictures: called with the URL of a picture; returns its bytes, or None if there is none. By default the signature
        of a PNG.
    """

    service: Service
    render: Callable[[Work], bytes] = skeleton
    deliver: Callable[[Delivery], object] | None = None
    pictures: Callable[[str], bytes | None] = lambda _: _PNG_SIGNATURE
    requests: list[str] = attrs.field(factory=list[str])
    """The path of each request so far."""
    _refuses_until: float = 0.0

    async def post(
        self,
        url: str,
        body: bytes,
        *,
        timeout: float | None,
        own_connection: bool = False,
    ) -> HttpReply:
        """Return the service's reply after its delay.

        Raises ConnectError while the service refuses connections. Raises ReplyLostError if the connection is reset,
        or no reply comes within *timeout* seconds.
        """
        path = urlsplit(url).path
        now = self.record_request(path)
        wanted = self.service.read(path, body).picture
        answer = self.service.handle(now, path, body, self.pictures(wanted) if isinstance(wanted, str) else None)
        self._schedule_deliveries(answer)
        if answer.action is Action.REFUSE:
            self._refuses_until = now + answer.delay
            raise ConnectError("no connection: refused by the emulator")
        if answer.action is Action.RESET:
            raise ReplyLostError("the reply was lost: reset by the emulator")
        wait = float("inf") if answer.action is Action.STALL else answer.delay
        if timeout is not None and wait > timeout:
            await asyncio.sleep(timeout)
            raise ReplyLostError("the reply was lost: timed out")
        await asyncio.sleep(wait)
        return HttpReply(answer.status, answer.body, is_on_own_connection=own_connection)

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:
        """Return the first *length* bytes of a file."""
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
        timeout: float | None,  # noqa: ARG002 - part of Transport; nothing stalls between chunks here
    ) -> AsyncGenerator[Incoming]:
        """Open a file, or the range of it that *headers* ask for."""
        path = urlsplit(url).path
        answer = self.service.file(self.record_request(path), path.rpartition("/")[2], headers.get("Range", ""))
        content = self.render(self.service.work_of(answer.job)) if answer.job else answer.upload
        response = file_response(answer, content, headers)
        async with aclosing(_chunks(response.body, breaks_off=response.breaks_off)) as chunks:
            yield Incoming(response.status, response.headers, chunks)

    async def aclose(self) -> None:
        """Do nothing: no connection is open."""

    def record_request(self, path: str) -> float:
        """Add *path* to `requests` and return the time. Raise ConnectError while the service refuses connections."""
        now = asyncio.get_running_loop().time()
        if now < self._refuses_until:
            raise ConnectError("no connection: refused by the emulator")
        self.requests.append(path)
        return now

    def _schedule_deliveries(self, answer: Answer) -> None:
        if self.deliver and answer.job:
            for delivery in self.service.deliveries(answer.job):
                asyncio.get_running_loop().call_at(delivery.at, self.deliver, delivery)


async def _chunks(body: bytes, *, breaks_off: bool) -> AsyncGenerator[bytes]:
    yield body
    if breaks_off:
        raise ReplyLostError("the reply was lost: broke off in the emulator")
