"""Receive the service's webhook deliveries, in any web framework.

The service signs no delivery, so each job has a separate URL, with a token that only the holder of the secret can make.
A delivery wakes its job: the client then polls the service, and only the service's answer counts. A delivery without
the token costs no poll. A repeated, early or late delivery costs at most a few polls.
"""

from __future__ import annotations

import asyncio
import binascii
import hmac
import json
import re
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from modelslab_async.protocol.problems import require
from modelslab_async.protocol.reply import Body
from modelslab_async.protocol.request import is_http_url

if TYPE_CHECKING:
    from aiohttp import StreamReader, web


MAX_BODY_BYTES = 65_536
"""Largest body of a delivery. The service sends a few hundred bytes."""
MAX_BODY_SECONDS = 5.0
"""Seconds within which the whole body of a delivery must arrive. The service waits 30 s for an answer."""
MAX_FORGED_PER_SECOND = 50.0
"""Rate of deliveries with a wrong token above which they are answered with 429 instead of 404."""
_MIN_SECRET_BYTES = 16
_TOKEN_BYTES = 16
_TURNS_UNTIL_POLLED = 2
"""Turns of the event loop from a wake-up until its poll is sent: one for the job's task, one for the session."""
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_Answer = tuple[int, bytes]
_UNREADABLE: _Answer = (400, b"unreadable")


class Listener(Protocol):
    """Take the deliveries for the jobs of one account. Each client registers a listener with its webhook.

    A delivery goes to the listeners that know its job, or else to all listeners of the account.
    """

    def knows(self, ref: str) -> bool:
        """Return whether the job with this ref runs in this process."""
        ...

    def receive(self, ref: str, job_id: str | None) -> None:
        """Take a delivery for the job with this ref. *job_id* is the service's id in the delivery, or None."""
        ...


class Webhook:
    """Receive deliveries and wake the jobs that they are for: `Client(webhook=Webhook(public_url=..., secret=...))`.

    public_url: where the service reaches this application, such as "https://example.com/hooks/modelslab". Mount the
        webhook there.
    secret: at least 16 bytes, kept like a password. All processes that share the URL need the same secret.

    A webhook is an ASGI application, which Starlette, FastAPI and others can mount. `webhook.aiohttp` is a handler for
    aiohttp.web. In any other framework, call `await webhook.handle(path, body)`. The answer to a delivery is 200, or

    - 404 if the token is wrong, whatever the ref; 429 if too many tokens are wrong. The body is not read then.
    - 413 if the body is too large, 408 if it takes more than 5 s, 400 if it cannot be read.

    Raises InvalidRequestError if *public_url* is not an http(s) URL, or has a query or a fragment. Raises it also if
    *secret* is too short.
    """

    def __init__(self, *, public_url: str, secret: str | bytes) -> None:
        key = secret.encode() if isinstance(secret, str) else secret
        is_long = isinstance(key, bytes) and len(key) >= _MIN_SECRET_BYTES
        is_url = is_http_url(public_url)
        is_bare = not (is_url and {"?", "#"} & {*public_url})
        requirement = f"must be at least {_MIN_SECRET_BYTES} bytes"
        require(
            (is_url, "public_url", public_url, "must be an http(s) URL", "pass the whole URL"),
            (is_bare, "public_url", public_url, "cannot have a query or a fragment", "pass the URL up to its path"),
            (is_long, "secret", "hidden", requirement, "pass secrets.token_urlsafe(32), kept like a password"),
        )
        self._public_url = public_url.rstrip("/")
        self._key = key
        self._listeners: dict[Listener, str] = {}
        """The registered listeners, each with the account whose deliveries it takes."""
        self._forged_level, self._forged_at = 0.0, 0.0
        """The level of the leaky bucket that counts forged deliveries, and when it was last updated."""

    def __repr__(self) -> str:
        return f"<Webhook {self._public_url}>"

    def url(self, ref: str, account: str) -> str:
        """Return the URL to which the service reports the job *ref* of *account*.

        The URL depends on the account, because two accounts may have jobs with the same ref.
        """
        name = f"{account}/{ref}"
        return f"{self._public_url}/{urlsafe_b64encode(name.encode()).decode().rstrip('=')}.{self._token(name)}"

    def register(self, listener: Listener, account: str) -> None:
        """Pass the deliveries for the jobs of *account* to *listener* from now on."""
        self._listeners[listener] = account

    def unregister(self, listener: Listener) -> None:
        """Stop passing deliveries to *listener*."""
        self._listeners.pop(listener, None)

    async def handle(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Handle a delivery. Return the status and the body of the answer. Never raises.

        path: the request's path, or its whole URL. Only the last part counts: the prefix of a mount, slashes at the
            end, a query and quoting make no difference.
        """

        async def read() -> bytes:
            return body

        return await self._handle(path, read) or _UNREADABLE

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Handle a request as an ASGI application. A websocket is refused, which a server answers with 403."""
        with suppress(OSError):  # the sender disconnected
            match scope["type"]:
                case "http":
                    if answer := await self._handle_asgi(scope, receive):
                        await _send_answer(send, *answer)
                case "websocket":
                    await receive()  # the server's "connect", which comes before any answer
                    await send({"type": "websocket.close"})
                case "lifespan":
                    while (kind := (await receive())["type"]) != "lifespan.shutdown":
                        await send({"type": f"{kind}.complete"})
                    await send({"type": "lifespan.shutdown.complete"})

    async def _handle_asgi(self, scope: _Scope, receive: _Receive) -> _Answer | None:
        if scope["method"] != "POST":
            return 405, b"post only"
        return await self._handle(scope["path"], partial(_asgi_body, receive))

    async def aiohttp(self, request: web.Request) -> web.Response:
        """Handle a request of aiohttp.web: `app.router.add_post("/hooks/modelslab/{name:.+}", webhook.aiohttp)`."""
        from aiohttp import web  # noqa: PLC0415 - only an application that serves with aiohttp needs its server

        answer = await self._handle(request.path, partial(_aiohttp_body, request.content))
        status, text = answer or _UNREADABLE
        response = web.Response(status=status, body=text, content_type="text/plain")
        if request.content.exception():
            response.force_close()
            request.content.feed_eof()  # otherwise aiohttp reads on after the answer and logs a traceback of this error
        return response

    async def _handle(self, path: str, read: Callable[[], Awaitable[bytes | None]]) -> _Answer | None:
        """Handle a delivery. Read its body only if the token is right. Return None if the body cannot be read."""
        name = self._verified_name(_last_part(path))
        if name is None:
            return (429, b"too many") if self._has_too_many_forged() else (404, b"not found")
        try:
            async with asyncio.timeout(MAX_BODY_SECONDS):
                body = await read()
        except TimeoutError:
            return 408, b"too slow"
        if body is None:
            return None
        if len(body) > MAX_BODY_BYTES:
            return 413, b"too large"
        await self._deliver(name, body)
        return 200, b"ok"

    async def _deliver(self, name: str, body: bytes) -> None:
        account, _, ref = name.partition("/")
        is_running, job_id = _parse(body)
        listeners = [listener for listener, its_account in self._listeners.items() if its_account == account]
        owners = [listener for listener in listeners if listener.knows(ref)]
        for listener in () if is_running else owners or listeners:
            listener.receive(ref, job_id)
        for _ in range(_TURNS_UNTIL_POLLED):
            await asyncio.sleep(0)  # so that the poll is sent before the answer

    def _token(self, name: str) -> str:
        digest = hmac.digest(self._key, b"modelslab_async webhook\0" + name.encode(), "sha256")
        return urlsafe_b64encode(digest[:_TOKEN_BYTES]).decode().rstrip("=")

    def _verified_name(self, last_part: str) -> str | None:
        """Return "account/ref" of the job, or None if the token is wrong.

        No job is looked up, so the answer does not reveal whether a job exists.
        """
        encoded, _, token = last_part.rpartition(".")
        try:
            name = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        except (binascii.Error, ValueError):
            name = ""
        return name if hmac.compare_digest(self._token(name).encode(), token.encode(errors="replace")) else None

    def _has_too_many_forged(self) -> bool:
        """Count a delivery with a wrong token in a leaky bucket. Return whether the bucket is full."""
        now = time.monotonic()
        leaked = (now - self._forged_at) * MAX_FORGED_PER_SECOND
        self._forged_level, self._forged_at = max(self._forged_level - leaked, 0.0) + 1, now
        return self._forged_level > MAX_FORGED_PER_SECOND


def _last_part(path: str) -> str:
    """Return the last part of a path. Remove what frameworks and proxies add: quoting, a query, slashes at the end."""
    return re.split(r"[?#]", unquote(path))[0].rstrip("/ ").rpartition("/")[2]


def _parse(body: bytes) -> tuple[bool, str | None]:
    """Return whether a delivery says that the job still runs, and the service's id in it; None if there is no id."""
    try:
        reply = Body({**json.loads(body)})
    except (TypeError, ValueError, RecursionError):
        return False, None
    return reply.status == "processing", reply.id


async def _send_answer(send: _Send, status: int, text: bytes) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def _asgi_body(receive: _Receive) -> bytes | None:
    """Return the body of an ASGI request, or None if the sender disconnected.

    Reading stops as soon as the body is larger than `MAX_BODY_BYTES`.
    """
    body = bytearray()
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
        await asyncio.sleep(0)  # so that the timeout fires even if messages come without a pause
    return bytes(body)


async def _aiohttp_body(content: StreamReader) -> bytes | None:
    """Return the body of an aiohttp request, or None if the sender disconnected or the body cannot be decoded.

    Reading stops as soon as the body is larger than `MAX_BODY_BYTES`.
    """
    body = bytearray()
    try:
        while len(body) <= MAX_BODY_BYTES and (part := await content.read(MAX_BODY_BYTES)):
            body += part
    except Exception:  # noqa: BLE001 - aiohttp's parser, encoding and connection errors have no common base class
        return None
    return bytes(body)
