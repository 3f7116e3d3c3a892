"""Send a stream as the response of an ASGI application."""

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


async def respond(
    parts: AsyncGenerator[bytes], status: int, headers: Iterable[tuple[bytes, bytes]], receive: Receive, send: Send
) -> None:
    """Send a response with the body *parts*, until their end or until the visitor leaves. Close *parts*.

    A server that stops cancels the requests that are still open. If the response has begun by then, it ends normally:
    its end is all that the server wants, and uvicorn logs a traceback for a request that ends as cancelled. This hides
    the cancellation from no one who needs it. A cancel scope of anyio cancels each later await of its block again, and
    `asyncio.timeout` finds that its block has ended. The task of a `BaseHTTPMiddleware` is cancelled for itself: there
    uvicorn does log a traceback, which no response can prevent.
    """
    sent = list[str]()

    async def send_part(kind: str, **more: object) -> None:
        sent.append(kind)
        await send({"type": f"http.response.{kind}", **more})

    async def send_all() -> None:
        with suppress(OSError):  # the visitor left
            async with aclosing(parts):
                await send_part("start", status=status, headers=list(headers))
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send_part("body", body=b"", more_body=False)

    async def wait_until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    sending = asyncio.create_task(send_all())
    cancelled = await _run_until_first([sending, asyncio.create_task(wait_until_gone())])
    if not sending.cancelled():
        sending.result()
    if cancelled and not sent:
        raise cancelled
    if cancelled and "body" not in sent:
        with suppress(OSError, asyncio.CancelledError):
            await send_part("body", body=b"", more_body=False)


async def _run_until_first(tasks: Sequence[asyncio.Task[None]]) -> asyncio.CancelledError | None:
    """Wait until a task is done, or the caller is cancelled. Then cancel the tasks, and wait until all are done.

    Return the caller's CancelledError, or None.
    """
    cancelled: asyncio.CancelledError | None = None
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError as error:
        cancelled = error
    for task in tasks:
        task.cancel()
    try:
        await uninterrupted(asyncio.gather(*tasks, return_exceptions=True))
    except asyncio.CancelledError as error:
        cancelled = error
    return cancelled
