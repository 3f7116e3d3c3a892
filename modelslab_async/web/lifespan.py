"""Open and close a client with an application, let it recover jobs meanwhile, and find it in a request."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import attrs
from aiohttp import web

from modelslab_async.client import Client
from modelslab_async.errors import ClientStateError, JobDetachedError, ModelsLabError
from modelslab_async.job.future import Job
from modelslab_async.web.asgi import Application, EndResponses, Receive, Scope, Send

GRACE = 10.0
"""Seconds for which a shutdown waits for jobs that run. They then go on at the service, and a later client of the
journal takes them over.
"""
CLIENT = web.AppKey("modelslab", Client)
"""The key of the client in an application of aiohttp: `request.app[CLIENT]`."""
OnRecovered = Callable[[Job], Awaitable[object]]
"""What an application does with a job that its client took over, such as to save its video."""
_NAME = "modelslab"
_SECONDS_TO_END_CALLBACKS = 5.0
_log = logging.getLogger("modelslab_async")


def lifespan(
    make: Callable[[], Client], *, grace: float = GRACE, on_recovered: OnRecovered | None = None, resubmit: bool = True
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Client]]]:
    """Return a lifespan for Starlette, FastAPI and Litestar, such as `Starlette(lifespan=lifespan(Client))`.

    The application has one client in each process, which `client_of(request)` returns. In Starlette and FastAPI it is
    also `request.state.modelslab`, and where the application has a `state`, `app.state.modelslab`. With a journal, the
    client takes over jobs of clients that are gone: first those that it finds, later those of each client that dies.

    When the application shuts down, the client submits nothing more, and waits for the jobs that run, for at most
    *grace* seconds.

    make: called inside the application's event loop to make the client.
    on_recovered: called in a separate task for each job that the client takes over, as soon as it does so. It may await
        the job. What it raises is logged, without the key. A shutdown cancels it. Another client then calls it for the
        job again, unless its video was saved or `job.delivered()` was called. None only drives jobs to their ends.
    resubmit: False does not send the jobs that earlier clients never sent.
    """

    @asynccontextmanager
    async def living(app: Any) -> AsyncIterator[Mapping[str, Client]]:
        async with _open_client(make, grace, on_recovered, resubmit=resubmit) as client:
            if hasattr(app, "state"):
                setattr(app.state, _NAME, client)
            yield {_NAME: client}

    return living


def cleanup_ctx(
    make: Callable[[], Client],
    key: web.AppKey[Client] = CLIENT,
    *,
    grace: float = GRACE,
    on_recovered: OnRecovered | None = None,
    resubmit: bool = True,
) -> Callable[[Any], AsyncIterator[None]]:
    """Return a cleanup context for aiohttp: `app.cleanup_ctx.append(cleanup_ctx(Client))`.

    The application has one client, `request.app[CLIENT]`. It recovers jobs and shuts down as with `lifespan`.

    key: another key for the client, for an application with several.
    """

    async def living(app: web.Application) -> AsyncIterator[None]:
        async with _open_client(make, grace, on_recovered, resubmit=resubmit) as client:
            app[key] = client
            yield

    return living


def with_client(
    app: Application,
    make: Callable[[], Client],
    *,
    grace: float = GRACE,
    on_recovered: OnRecovered | None = None,
    resubmit: bool = True,
) -> Application:
    """Return an ASGI application that is *app* with a client, for a framework without a lifespan, such as Django.

    It answers the server's lifespan events itself. `client_of(request)` returns the client, and `scope["state"]` has it
    as "modelslab". The client recovers jobs and shuts down as with `lifespan`. If the server stops, it ends the
    responses that have begun.
    """
    opened = lifespan(make, grace=grace, on_recovered=on_recovered, resubmit=resubmit)
    inner = EndResponses(app)
    state: dict[str, Client] = {}

    async def live(receive: Receive, send: Send) -> None:
        await receive()
        async with AsyncExitStack() as stack:
            try:
                state.update(await stack.enter_async_context(opened(None)))
            except Exception as error:
                text = f"{type(error).__name__}: {error}"
                await send({"type": "lifespan.startup.failed", "message": text})
                raise
            stack.callback(state.clear)
            await send({"type": "lifespan.startup.complete"})
            await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await live(receive, send)
        else:
            await inner({**scope, "state": {**scope.get("state", {}), **state}}, receive, send)

    return application


def client_of(request: Any) -> Client:
    """Return the client of the application that serves a request.

    request: a request or a websocket of Starlette, FastAPI, Litestar or Django, or an ASGI scope. In aiohttp, use
        `request.app[CLIENT]`.

    Raises ClientStateError if the application has no client.
    """
    scope: Mapping[str, Any] = request if isinstance(request, Mapping) else getattr(request, "scope", {})
    apps = (scope.get("app"), scope.get("litestar_app"))
    for state in (scope.get("state"), *(getattr(app, "state", None) for app in apps)):
        client = state.get(_NAME) if isinstance(state, Mapping) else getattr(state, _NAME, None)
        if isinstance(client, Client):
            return client
    causes = (
        "a lifespan runs only on the outermost application, not on one that is mounted in it; only if the server runs "
        "lifespans, as uvicorn does unless --lifespan off; and in a test only within `with TestClient(app)`. Django "
        "needs with_client"
    )
    raise ClientStateError(f"this application has no client, because its lifespan did not run (hint: {causes})")


@asynccontextmanager
async def _open_client(
    make: Callable[[], Client], grace: float, on_recovered: OnRecovered | None, *, resubmit: bool
) -> AsyncIterator[Client]:
    async with make() as client:
        recovery = _Recovery(client, on_recovered, resubmit)
        recovery.start()
        try:
            yield client
        finally:
            try:
                await recovery.stop()
                await client.aclose(timeout=grace)
            finally:
                await recovery.end_callbacks()


@attrs.define
class _Recovery:
    """Take over jobs of clients that are gone, and call the application's callback for each."""

    client: Client
    on_recovered: OnRecovered | None
    resubmit: bool
    _recovering: set[asyncio.Task[None]] = attrs.field(factory=set["asyncio.Task[None]"], init=False)
    _callbacks: set[asyncio.Task[None]] = attrs.field(factory=set["asyncio.Task[None]"], init=False)

    def start(self) -> None:
        """Recover until `stop`, if the client has a journal."""
        if self.client.journal:
            self._recovering.add(asyncio.create_task(self._recover(), name="modelslab_async recover"))

    async def stop(self) -> None:
        """Take over no more jobs. The callbacks go on."""
        await _end(self._recovering)

    async def end_callbacks(self) -> None:
        """Cancel the callbacks that still run."""
        await _end(self._callbacks)

    async def _recover(self) -> None:
        try:
            async with aclosing(self.client.recovered(resubmit=self.resubmit)) as jobs:
                async for job in jobs:
                    if self.on_recovered:
                        task = asyncio.create_task(self._call(self.on_recovered, job))
                        self._callbacks.add(task)
                        task.add_done_callback(self._callbacks.discard)
        except Exception as error:  # noqa: BLE001 - the application serves on
            _log.error("recovery ended early; jobs of other clients stay in the journal\n%s", self._text_of(error))

    async def _call(self, on_recovered: OnRecovered, job: Job) -> None:
        try:
            await on_recovered(job)
        except JobDetachedError:
            _log.debug("%r continues after this shutdown", job)
        except ModelsLabError as error:
            _log.warning("on_recovered: %r: %s", job, self.client.api_key.redact(str(error)))
        except Exception as error:  # noqa: BLE001 - the application's code
            _log.error("on_recovered: %r failed\n%s", job, self._text_of(error))

    def _text_of(self, error: Exception) -> str:
        """Return the error's traceback as text. The frames themselves have local variables, which may hold the key."""
        return str(self.client.api_key.redact("".join(traceback.format_exception(error))))


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_SECONDS_TO_END_CALLBACKS)
