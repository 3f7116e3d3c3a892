"""The receiving side of webhooks, for any web framework.

The service signs nothing, so each job gets a URL of its own, with a token that only who has the secret can make. A
delivery is a wake-up: the client then asks the service, and only that answer counts. Whatever comes twice, early, late,
replayed or forged costs a look at most.
"""

from __future__ import annotations

import asyncio
import binascii
import hmac
import json
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from modelslab_async.protocol.body import Body
from modelslab_async.protocol.request import is_http_url, require

if TYPE_CHECKING:
    from aiohttp import web

    from modelslab_async.receiver import Receiver

MAX_BODY_BYTES = 65_536
"""Of a delivery; the service sends some hundred bytes."""
MAX_FORGED_PER_SECOND = 50.0
"""Deliveries with a wrong token, after which they get a 429 instead of a 404."""
_LEAST_SECRET_BYTES = 16
_TOKEN_BYTES = 16
_TURNS = 2
"""Turns of the event loop from a wake-up to its request on the wire: the job's task, and a session's that writes."""
_Scope = MutableMapping[str, Any]


class Webhook:
    """`Client(webhook=Webhook(public_url=..., secret=...))`, and mounted where `public_url` leads.

    public_url: where the service reaches this application, such as "https://example.com/hooks/modelslab".
    secret: at least 16 bytes that nobody else knows; the same in all processes that share the URL.

    It is an ASGI application (mount it in Starlette, FastAPI or any other), `webhook.aiohttp` is a handler of
    aiohttp.web, and `await webhook.handle(path, body)` serves anything else. Each delivery is answered at once: 200, or
    404 for a token that is wrong, whatever its ref, 413 for a body that is too large, 429 for too many forged ones.

    Raises InvalidRequestError for arguments that cannot be right.
    """

    def __init__(self, *, public_url: str, secret: str | bytes) -> None:
        key = secret.encode() if isinstance(secret, str) else secret
        is_long = isinstance(key, bytes) and len(key) >= _LEAST_SECRET_BYTES
        rule = f"at least {_LEAST_SECRET_BYTES} bytes"
        require(
            (is_http_url(public_url), "public_url", public_url, "an http(s) URL", "pass the whole URL"),
            (is_long, "secret", "hidden", rule, "pass secrets.token_urlsafe(32), kept like a password"),
        )
        self._public_url = public_url.rstrip("/")
        self._key = key
        self._listeners: dict[Receiver, str] = {}
        """Each with the account whose jobs it has."""
        self._forged, self._forged_at = 0.0, 0.0

    def __repr__(self) -> str:
        return f"<Webhook {self._public_url}>"

    def url(self, ref: str, account: str) -> str:
        """Where the service shall tell of the job with this ref: two accounts may have the same one."""
        name = f"{account}/{ref}"
        return f"{self._public_url}/{urlsafe_b64encode(name.encode()).decode().rstrip('=')}.{self._token(name)}"

    async def handle(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Take a delivery to this path, of which the last part counts; gives the status and body of the answer."""
        if len(body) > MAX_BODY_BYTES:
            return 413, b"too large"
        name = self._named(path.rpartition("/")[2])
        if name is None:
            return (429, b"too many") if self._is_flooded() else (404, b"not found")
        account, _, ref = name.partition("/")
        is_running, job_id = _told(body)
        listeners = [listener for listener, whose in self._listeners.items() if whose == account]
        knowing = [listener for listener in listeners if listener.knows(ref)]
        for listener in () if is_running else knowing or listeners:
            listener.receive(ref, job_id)
        for _ in range(_TURNS):
            await asyncio.sleep(0)  # the look that this leads to is on its way before the answer is
        return 200, b"ok"

    async def __call__(
        self, scope: _Scope, receive: Callable[[], Awaitable[_Scope]], send: Callable[[_Scope], Awaitable[None]]
    ) -> None:
        """As an ASGI application."""
        if scope["type"] != "http":
            return
        status, answer = 405, b"post only"
        if scope["method"] == "POST":
            body = await _body(receive)
            status, answer = (413, b"too large") if body is None else await self.handle(scope["path"], body)
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def aiohttp(self, request: web.Request) -> web.Response:
        """As a handler of aiohttp.web: `app.router.add_post("/hooks/modelslab/{name}", webhook.aiohttp)`."""
        from aiohttp import web  # noqa: PLC0415 - only for those who serve with it

        status, answer = await self.handle(request.path, await request.content.read(MAX_BODY_BYTES + 1))
        return web.Response(status=status, body=answer, content_type="text/plain")

    def _token(self, name: str) -> str:
        digest = hmac.digest(self._key, b"modelslab_async webhook\0" + name.encode(), "sha256")
        return urlsafe_b64encode(digest[:_TOKEN_BYTES]).decode().rstrip("=")

    def _named(self, last: str) -> str | None:
        """The job that is named, if its token is right. None is looked up, so none can be told from another."""
        encoded, _, token = last.rpartition(".")
        try:
            name = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
        except (binascii.Error, ValueError):
            name = ""
        return name if hmac.compare_digest(self._token(name).encode(), token.encode(errors="replace")) else None

    def _is_flooded(self) -> bool:
        """A bucket that leaks: deliveries with a wrong token fill it."""
        now = time.monotonic()
        self._forged = max(self._forged - (now - self._forged_at) * MAX_FORGED_PER_SECOND, 0.0) + 1
        self._forged_at = now
        return self._forged > MAX_FORGED_PER_SECOND


def _told(body: bytes) -> tuple[bool, str | None]:
    """Whether a delivery says that the job still runs, and the service's id in it."""
    try:
        reply = Body({**json.loads(body)})
    except (TypeError, ValueError, RecursionError):
        return False, None
    return reply.status == "processing", reply.id


async def _body(receive: Callable[[], Awaitable[_Scope]]) -> bytes | None:
    """The body of an ASGI request; None for one that is too large, or whose sender went away."""
    body = b""
    while len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        part: bytes = message.get("body", b"")
        body += part
        if not message.get("more_body"):
            return body
    return None
