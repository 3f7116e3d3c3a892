"""Send a stream as the response of an ASGI application, and end responses when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, MutableMapping, Sequence
from contextlib import aclosing, suppress
from typing import Any

from modelslab_async.aio import uninterrupted

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]
Send = Callable[[Scope], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
"""An ASGI application. Each framework has separate types for the arguments, which do not match each other."""
_END = {"type": "http.response.body", "body": b"", "more_body": False}


async def respond(
    parts: AsyncGenerator[bytes], status: int, headers: Iterable[tuple[bytes, bytes]], receive: Receive, send: Send
) -> None:
    """Send a response with the body *parts*, until their end or until the visitor leaves. Close *parts*.

    It ends normally if the server cancels it, see `end_if_cancelled`.
    """

    async def send_all(send: Send) -> None:
        with suppress(OSError):  # the visitor left
            async with aclosing(parts):
                await send({"type": "http.response.start", "status": status, "headers": list(headers)})
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send(dict(_END))

    async def wait_until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def serve(send: Send) -> None:
        sending = asyncio.create_task(send_all(send))
        await _run_until_first([sending, asyncio.create_task(wait_until_gone())])
        if not sending.cancelled():
            sending.result()

    await end_if_cancelled(serve, send)


class EndResponses:
    """ASGI middleware that ends the open responses when the server stops, so that uvicorn logs no traceback for each.

    An `event_stream` does this by itself, unless a task of a middleware or of the framework is around it. That is so in
    Quart, and with a `BaseHTTPMiddleware`, which `@app.middleware("http")` makes. Then add `EndResponses` last, so that
    it is the outermost middleware: `app.add_middleware(EndResponses)`.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application."""
        if scope["type"] == "http":
            await end_if_cancelled(lambda send: self._app(scope, receive, send), send)
        else:
            await self._app(scope, receive, send)


async def end_if_cancelled(serve: Callable[[Send], Awaitable[None]], send: Send) -> None:
    """Call *serve* with a `send`. If the caller is cancelled after the response began, end the response and return.

    A server that stops cancels the requests that are still open. The end of the response is all that it wants then, and
    uvicorn logs a traceback for a request that ends as cancelled. To return hides the cancellation from no one who
    needs it: a cancel scope of anyio cancels each later await of its block again, and `asyncio.timeout` finds that its
    block has ended. The task of a `BaseHTTPMiddleware` around a response is cancelled for itself, so no response can
    prevent the traceback there. `EndResponses` around the middleware does.
    """
    has_begun = has_ended = False

    async def send_on(message: Scope) -> None:
        nonlocal has_begun, has_ended
        if has_ended:
            return  # a framework that leaves its task behind, such as Django, must not write after the end
        has_begun = True
        has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await send(message)

    try:
        await serve(send_on)
    except asyncio.CancelledError:
        if not has_begun:
            raise
        with suppress(OSError, asyncio.CancelledError):
            await send_on(dict(_END))


async def _run_until_first(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait until a task is done, or the caller is cancelled. Then cancel the tasks, and wait until all are done."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await uninterrupted(asyncio.gather(*tasks, return_exceptions=True))
