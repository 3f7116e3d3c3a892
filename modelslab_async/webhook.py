"""Receive the service's webhook deliveries, in any web framework.

The service signs nothing, so each job gets a URL of its own, with a token that only the secret can make. A delivery
wakes its job: the client then asks the service, and only that answer counts. A delivery that is repeated, early, late
or forged costs a poll at most.
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
"""Of a delivery; the service sends some hundred bytes."""
MAX_BODY_SECONDS = 5.0
"""Until the whole body of a delivery is there; the service waits 30 s for an answer."""
MAX_FORGED_PER_SECOND = 50.0
"""Deliveries with a wrong token, after which they get a 429 instead of a 404."""
_LEAST_SECRET_BYTES = 16
_TOKEN_BYTES = 16
_TURNS = 2
"""Turns of the event loop from a wake-up to its request on the wire: the job's task, and a session's that writes."""
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]
_Answer = tuple[int, bytes]
_UNREADABLE: _Answer = (400, b"unreadable")


class Listener(Protocol):
    """A client's side of its webhook: what takes the deliveries for the jobs of one account."""

    def knows(self, ref: str) -> bool:
        """Return whether the job with this ref runs here."""
        ...

    def receive(self, ref: str, job_id: str | None) -> None:
        """Take a delivery for a job; *job_id* is the service's id in it, or None."""
        ...


class Webhook:
    """`Client(webhook=Webhook(public_url=..., secret=...))`, and mounted where `public_url` leads.

    public_url: where the service reaches this application, such as "https://example.com/hooks/modelslab".
    secret: at least 16 bytes, kept like a password; the same in all processes that share the URL.

    A webhook is an ASGI application (mount it in Starlette, FastAPI or any other). `webhook.aiohttp` is a handler of
    aiohttp.web, and `await webhook.handle(path, body)` serves any other framework. The answer to a delivery is 200, or

    - 404 for a wrong token, whatever its ref, and 429 for too many of them: their bodies are not read,
    - 413 for a body that is too large, 408 for one that takes more than 5 s, 400 for one that cannot be read.

    Raises InvalidRequestError for arguments that cannot be right.
    """

    def __init__(self, *, public_url: str, secret: str | bytes) -> None:
        key = secret.encode() if isinstance(secret, str) else secret
        is_long = isinstance(key, bytes) and len(key) >= _LEAST_SECRET_BYTES
        is_url = is_http_url(public_url)
        is_bare = not (is_url and {"?", "#"} & {*public_url})
        requirement = f"must be at least {_LEAST_SECRET_BYTES} bytes"
        require(
            (is_url, "public_url", public_url, "must be an http(s) URL", "pass the whole URL"),
            (is_bare, "public_url", public_url, "cannot have a query or a fragment", "pass the URL up to its path"),
            (is_long, "secret", "hidden", requirement, "pass secrets.token_urlsafe(32), kept like a password"),
        )
        self._public_url = public_url.rstrip("/")
        self._key = key
        self._listeners: dict[Listener, str] = {}
        """Each listener, with the account whose jobs it has."""
        self._forged, self._forged_at = 0.0, 0.0

    def __repr__(self) -> str:
        return f"<Webhook {self._public_url}>"

    def url(self, ref: str, account: str) -> str:
        """Return the URL of an account's job: two accounts may have jobs with the same ref."""
        name = f"{account}/{ref}"
        return f"{self._public_url}/{urlsafe_b64encode(name.encode()).decode().rstrip('=')}.{self._token(name)}"

    def register(self, listener: Listener, account: str) -> None:
        """Pass the deliveries for an account's jobs to *listener* from now on."""
        self._listeners[listener] = account

    def unregister(self, listener: Listener) -> None:
        """Pass nothing to *listener* any more."""
        self._listeners.pop(listener, None)

    async def handle(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Take a delivery, and return the status and the body of the answer. Never raises.

        path: the request's path, or its whole URL. The last part counts: a mount's prefix, a slash at the end, a query
        and quoting make no difference.
        """

        async def given() -> bytes:
            return body

        return await self._take(path, given) or _UNREADABLE

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer as an ASGI application."""
        with suppress(OSError):  # the sender went away
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            elif scope["type"] == "http" and (answer := await self._answer(scope, receive)):
                status, text = answer
                headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": text})

    async def _answer(self, scope: _Scope, receive: _Receive) -> _Answer | None:
        if scope["method"] != "POST":
            return 405, b"post only"
        return await self._take(scope["path"], partial(_asgi_body, receive))

    async def aiohttp(self, request: web.Request) -> web.Response:
        """Answer as a handler of aiohttp.web: `app.router.add_post("/hooks/modelslab/{name:.+}", webhook.aiohttp)`."""
        from aiohttp import web  # noqa: PLC0415 - only for those who serve with it

        answer = await self._take(request.path, partial(_aiohttp_body, request.content))
        status, text = answer or _UNREADABLE
        response = web.Response(status=status, body=text, content_type="text/plain")
        if request.content.exception():
            response.force_close()
            request.content.feed_eof()  # or aiohttp reads on after the answer, and logs this error with a traceback
        return response

    async def _take(self, path: str, read: Callable[[], Awaitable[bytes | None]]) -> _Answer | None:
        """Take a delivery. Its body is read only if its token is right; None if the body cannot be read."""
        name = self._named(_last_part(path))
        if name is None:
            return (429, b"too many") if self._is_flooded() else (404, b"not found")
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
        is_running, job_id = _parsed(body)
        listeners = [listener for listener, whose in self._listeners.items() if whose == account]
        knowing = [listener for listener in listeners if listener.knows(ref)]
        for listener in () if is_running else knowing or listeners:
            listener.receive(ref, job_id)
        for _ in range(_TURNS):
            await asyncio.sleep(0)  # the poll that this leads to is on its way before the answer is

    def _token(self, name: str) -> str:
        digest = hmac.digest(self._key, b"modelslab_async webhook\0" + name.encode(), "sha256")
        return urlsafe_b64encode(digest[:_TOKEN_BYTES]).decode().rstrip("=")

    def _named(self, last: str) -> str | None:
        """Return the name of the job, or None if its token is wrong. No job is searched, so all are answered alike."""
        encoded, _, token = last.rpartition(".")
        try:
            name = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        except (binascii.Error, ValueError):
            name = ""
        return name if hmac.compare_digest(self._token(name).encode(), token.encode(errors="replace")) else None

    def _is_flooded(self) -> bool:
        """Count a delivery with a wrong token in a leaky bucket, and return whether there were too many."""
        now = time.monotonic()
        self._forged = max(self._forged - (now - self._forged_at) * MAX_FORGED_PER_SECOND, 0.0) + 1
        self._forged_at = now
        return self._forged > MAX_FORGED_PER_SECOND


def _last_part(path: str) -> str:
    """Return the last part of a path, without what frameworks and proxies add: quoting, a query, slashes at the end."""
    return re.split(r"[?#]", unquote(path))[0].rstrip("/ ").rpartition("/")[2]


def _parsed(body: bytes) -> tuple[bool, str | None]:
    """Return whether a delivery says that the job still runs, and the service's id in it."""
    try:
        reply = Body({**json.loads(body)})
    except (TypeError, ValueError, RecursionError):
        return False, None
    return reply.status == "processing", reply.id


async def _asgi_body(receive: _Receive) -> bytes | None:
    """Return the body of an ASGI request, or more of it than is allowed; None if its sender went away."""
    body = bytearray()
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
        await asyncio.sleep(0)  # messages that come without a pause do not keep the timeout from its turn
    return bytes(body)


async def _aiohttp_body(content: StreamReader) -> bytes | None:
    """Return a body, or more of it than is allowed; None if its sender went away, or it cannot be decoded."""
    body = bytearray()
    try:
        while len(body) <= MAX_BODY_BYTES and (part := await content.read(MAX_BODY_BYTES)):
            body += part
    except Exception:  # noqa: BLE001 - aiohttp's errors of parsers, encodings and connections have no common base
        return None
    return bytes(body)
