"""Use a client in a web application: open and close it with the application, and stream the progress of its jobs."""

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
"""Seconds for which a shutdown waits for jobs. Jobs that still run go on at the service, for `recover` to find."""
HEARTBEAT = 15.0
"""Seconds between two comments in a stream without events."""
PROGRESS_EVERY = 1.0
"""Seconds between two messages of a job that runs."""
EVENT_STREAM = "text/event-stream"
"""The content type of a response with `server_sent_events`."""


def lifespan(
    make: Callable[[], Client], *, grace: float = GRACE
) -> Callable[[Any], AbstractAsyncContextManager[Mapping[str, Client]]]:
    """Return a lifespan for Starlette or FastAPI, such as `Starlette(lifespan=lifespan(Client))`.

    The application has one client, `request.state.modelslab`. When it shuts down, the client submits nothing more and
    waits for the jobs that run, for at most *grace* seconds.

    make: called inside the application's event loop to make the client.
    """

    @asynccontextmanager
    async def living(_: Any) -> AsyncIterator[Mapping[str, Client]]:
        async with _open_client(make, grace) as client:
            yield {"modelslab": client}

    return living


def cleanup_ctx(make: Callable[[], Client], key: Any, *, grace: float = GRACE) -> Callable[[Any], AsyncIterator[None]]:
    """Return a cleanup context for aiohttp: `app.cleanup_ctx.append(cleanup_ctx(Client, KEY))`.

    The application has one client, `request.app[KEY]`. It shuts down as with `lifespan`.

    key: an `aiohttp.web.AppKey`.
    """

    async def living(app: Any) -> AsyncIterator[None]:
        async with _open_client(make, grace) as client:
            app[key] = client
            yield

    return living


@asynccontextmanager
async def _open_client(make: Callable[[], Client], grace: float) -> AsyncIterator[Client]:
    async with make() as client:
        try:
            yield client
        finally:
            await client.aclose(timeout=grace)


async def server_sent_events(
    job: Job, *, last_event_id: str | None = None, heartbeat: float = HEARTBEAT, every: float = PROGRESS_EVERY
) -> AsyncGenerator[bytes]:
    """Yield the body of a response of type `EVENT_STREAM`: a job's events as they happen, until its end.

    Each message has data in JSON: `state`, `elapsed` and `eta` in seconds (`eta` is null if it is not known), and
    `progress` from 0 to 1. While the job runs, a message comes at least *every* seconds. The last message is of the
    type "end" and has `error` too: null, or why there is no video. If the client is closed while the job runs, the
    stream stops without an "end", so that the browser connects again.

    last_event_id: the Last-Event-ID header of a browser that connects again. Only what it has not seen is sent.
    heartbeat: seconds between two comments while nothing happens, so that no proxy closes the connection.
    """
    known = last_event_id or ""
    seen = int(known) if known.isdecimal() and len(known) < 10 else 0
    number = 0
    async with aclosing(job.events()) as events:
        coming = asyncio.ensure_future(anext(events, None))
        try:
            while True:
                await asyncio.wait([coming], timeout=heartbeat if job.eta is None else min(every, heartbeat))
                if not coming.done():
                    yield b": still here\n\n" if job.eta is None else _message("progress", _progress(job))
                    continue
                if (event := coming.result()) is None:
                    break
                coming = asyncio.ensure_future(anext(events, None))
                number += 1
                if number > seen:
                    yield _message("progress", _data(event), number)
        finally:
            coming.cancel()
            await asyncio.wait([coming])
    if isinstance(job.error, JobDetachedError):
        return  # the job goes on, and the browser connects again
    yield _message("end", {**_progress(job), "error": _why(job)}, number + 1)


def _message(kind: str, data: Mapping[str, Any], number: int | None = None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _progress(job: Job) -> dict[str, Any]:
    return _data(JobEvent(job.state, job.elapsed, job.eta, job.progress))


def _data(event: JobEvent) -> dict[str, Any]:
    rounded = {"elapsed": round(event.elapsed, 3), "progress": round(event.progress, 4)}
    return {"state": event.state, **rounded, "eta": event.eta and round(event.eta, 3)}


def _why(job: Job) -> str | None:
    error = "cancelled" if job.cancelled() else job.error
    return str(error) if error else None
