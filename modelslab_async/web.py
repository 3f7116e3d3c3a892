"""A client inside a web application: its life, and the progress of its jobs as server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any

from modelslab_async.client import Client
from modelslab_async.errors import JobDetachedError
from modelslab_async.job.future import Job
from modelslab_async.protocol.lifecycle import JobEvent

GRACE = 10.0
"""Seconds for which a shutdown waits for jobs; those that still run then are left to the service, and to `recover`."""
HEARTBEAT = 15.0
EVENT_STREAM = "text/event-stream"


def lifespan(
    make: Callable[[], Client], *, grace: float = GRACE
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Client]]]:
    """One client for the life of an ASGI application: `Starlette(lifespan=lifespan(Client))`, FastAPI alike.

    `make` is called inside the application's event loop. The client is `request.state.modelslab`. At the end it waits
    for its jobs for `grace` seconds.
    """

    @asynccontextmanager
    async def living(_: Any) -> AsyncIterator[Mapping[str, Client]]:
        async with _living(make, grace) as client:
            yield {"modelslab": client}

    return living


def cleanup_ctx(make: Callable[[], Client], key: Any, *, grace: float = GRACE) -> Callable[[Any], AsyncIterator[None]]:
    """One client for the life of an aiohttp application: `app.cleanup_ctx.append(cleanup_ctx(Client, KEY))`.

    `key` is an `aiohttp.web.AppKey`; the client is `request.app[KEY]`. At the end it waits as with `lifespan`.
    """

    async def living(app: Any) -> AsyncIterator[None]:
        async with _living(make, grace) as client:
            app[key] = client
            yield

    return living


@asynccontextmanager
async def _living(make: Callable[[], Client], grace: float) -> AsyncIterator[Client]:
    async with make() as client:
        try:
            yield client
        finally:
            await client.aclose(timeout=grace)


async def server_sent_events(
    job: Job, *, last_event_id: str | None = None, heartbeat: float = HEARTBEAT
) -> AsyncGenerator[bytes]:
    """The body of an answer of type `EVENT_STREAM`: the job's news as they come, until its end.

    Each has an id, and data in JSON: `state`, `elapsed` and `eta` (seconds; null where it is not known). The last one
    is called "end" and has `error` too: null, or why there is no video. A browser that lost the connection sends the
    last id that it saw as Last-Event-ID: passed on, only what came after it is told. A comment is sent every
    `heartbeat` seconds, so that nothing between here and there takes the connection for dead. Where the client is
    closed while the job runs there is no "end": the browser comes again, to whoever has the job then.
    """
    known = last_event_id or ""
    seen = int(known) if known.isdecimal() and len(known) < 10 else 0
    number = 0
    async with aclosing(job.events()) as events:
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                await asyncio.wait([coming], timeout=heartbeat)
                if not coming.done():
                    yield b": still here\n\n"
                    continue
                if (news := coming.result()) is None:
                    break
                coming = asyncio.ensure_future(anext(events, None))
                number += 1
                if number > seen:
                    yield _event(number, "progress", _told(news))
        finally:
            coming.cancel()
            await asyncio.wait([coming])
    if isinstance(job.error, JobDetachedError):
        return  # the job goes on, and the browser connects again
    last = {"state": job.state.value, "elapsed": round(job.elapsed, 3), "eta": job.eta, "error": _why(job)}
    yield _event(number + 1, "end", last)


def _event(number: int, name: str, told: Mapping[str, Any]) -> bytes:
    return f"id: {number}\nevent: {name}\ndata: {json.dumps(told)}\n\n".encode()


def _told(news: JobEvent) -> dict[str, Any]:
    return {"state": news.state.value, "elapsed": round(news.elapsed, 3), "eta": news.eta and round(news.eta, 3)}


def _why(job: Job) -> str | None:
    error = "cancelled" if job.cancelled() else job.error
    return str(error) if error else None
