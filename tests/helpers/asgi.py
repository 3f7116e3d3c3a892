"""Call an ASGI application without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Application = Callable[..., Awaitable[None]]


def body_part(content: bytes, *, more: bool = False) -> Message:
    """Return a message with a part of a request's body."""
    return {"type": "http.request", "body": content, "more_body": more}


def receive_of(*messages: Message) -> Receive:
    """Return a `receive` that gives these messages, and then waits for ever."""
    remaining = list(messages)

    async def receive() -> Message:
        if not remaining:
            await asyncio.Event().wait()
        return remaining.pop(0)

    return receive


async def unread() -> Message:
    """Fail the test, because the application reads the body."""
    raise AssertionError("the body was read")


async def messages_sent(app: Application, path: str, receive: Receive, **scope: Any) -> list[Message]:
    """Return what an application sends in answer to a POST, or to a request with another *scope*."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    usual = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app({**usual, **scope}, receive, send)
    return sent


async def status_of(app: Application, path: str, receive: Receive, **scope: Any) -> int:
    """Return the status of an application's answer, which must be complete."""
    start, end = await messages_sent(app, path, receive, **scope)
    assert (start["type"], end["type"], end.get("more_body", False)) == (
        "http.response.start",
        "http.response.body",
        False,
    )
    assert dict(start["headers"])[b"content-length"] == str(len(end["body"])).encode()
    return int(start["status"])
