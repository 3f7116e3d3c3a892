"""Call an ASGI application without a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
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


@asynccontextmanager
async def started(app: Application) -> AsyncIterator[dict[str, Any]]:
    """Run an application's lifespan as a server does. Yield the state for the scopes of its requests."""
    state: dict[str, Any] = {}
    to_app, from_app = asyncio.Queue[Message](), asyncio.Queue[Message]()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": state}
    running = asyncio.ensure_future(app(scope, to_app.get, from_app.put))
    for kind in ("startup", "shutdown"):
        await to_app.put({"type": f"lifespan.{kind}"})
        message = await from_app.get()
        if message["type"] != f"lifespan.{kind}.complete":
            with suppress(Exception):
                await running
            raise RuntimeError(message.get("message"))
        if kind == "startup":
            yield state
    await running


async def answer_of(
    app: Application, path: str, state: dict[str, Any] | None = None, **scope: Any
) -> tuple[int, bytes]:
    """Return the status and the body of an application's answer to a GET."""
    sent = await messages_sent(app, path, receive_of(body_part(b"")), method="GET", state={**(state or {})}, **scope)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
