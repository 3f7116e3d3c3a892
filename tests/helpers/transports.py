"""A transport to an emulated service whose POSTs a test can delay, answer or change."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from helpers.world import World
from modelslab_async.emulator import InProcess
from modelslab_async.protocol.reply import HttpReply

PassOn = Callable[[], Awaitable[HttpReply]]
"""Passes a POST on to the emulated service, and returns the service's reply."""
Handler = Callable[[str, PassOn], Awaitable[HttpReply]]
"""Returns the reply to a POST, by its URL."""


@attrs.define(kw_only=True)
class _InterceptedTransport(InProcess):
    handle: Handler

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        async def pass_on() -> HttpReply:
            return await InProcess.post(self, url, body, timeout=timeout, own_connection=own_connection)

        return await self.handle(url, pass_on)


def intercepted(world: World, handle: Handler) -> InProcess:
    """Return a transport to the world's service that lets *handle* reply to each POST."""
    return _InterceptedTransport(service=world.service, handle=handle)
