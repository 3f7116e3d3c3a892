"""Stream the progress of a job to a browser as server-sent events."""

from __future__ import annotations

import json
import math
import re
import time
from asyncio import CancelledError
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from functools import cache
from typing import TYPE_CHECKING, overload

from aiohttp import web

from modelslab_async.aio import now
from modelslab_async.errors import JobDetachedError
from modelslab_async.job.future import Job
from modelslab_async.web.asgi import Receive, Scope, Send, respond
from modelslab_async.web.public import public_error

if TYPE_CHECKING:
    from starlette.requests import HTTPConnection
    from starlette.responses import StreamingResponse

HEARTBEAT = 15.0
"""Seconds between two comments in a stream without events, so that no proxy closes the connection."""
EVERY = 1.0
"""Seconds between two messages of a job that runs."""
_RETRY = b"retry: 1000\n\n"
"""Makes the browser connect again one second after a stream broke."""
_COMMENT = b": still here\n\n"
_ID = re.compile(r"\d{1,15}-([01]\.\d{4})(-end)?", re.ASCII)
_STEPS = 10_000
"""How many values of the progress the ids distinguish."""


class EventStream:
    """A response that streams a job's progress as server-sent events, for any web framework.

    Iterate over it, with `async for`, for the parts of the body, and send them with `status` and `headers`. It is an
    ASGI application too, which Starlette and Litestar accept as the result of a handler. For Starlette, FastAPI and
    aiohttp see `event_stream`.

    The stream begins with the current state. Then a message comes for each change, and at least every *every* seconds
    while the job runs. A message is of the type "progress", and its data are JSON: `state`; `elapsed`, in seconds from
    the job's creation; `eta`, in seconds, or null if it is not known; `progress`, from 0 to 1. The last message is of
    the type "end". Its data have `error` too: null, or `code` and `message` for the public, see `public_error`. If the
    client is closed while the job runs, the stream stops without an "end", so that the browser connects again.

    The id of a message holds the unix time in milliseconds and the progress, such as "1764277487123-0.4312". So a
    browser that resumes at any process, even after a restart, shows no less progress than before. The id of an "end"
    is marked: a browser that connects again after it gets the status 204, and stops.

    last_event_id: the request's Last-Event-ID header. Anything but an id of such a stream is ignored.
    heartbeat: seconds between two comments while nothing happens.
    every: seconds between two messages while the job runs.
    """

    def __init__(
        self, job: Job, *, last_event_id: str | None = None, heartbeat: float = HEARTBEAT, every: float = EVERY
    ) -> None:
        self._job, self._heartbeat, self._wake_every = job, heartbeat, min(every, heartbeat)
        known = _ID.fullmatch(last_event_id or "")
        self._progress = min(float(known[1]), 1.0) if known else 0.0
        """The highest progress that the browser has shown."""
        self._is_over = bool(known and known[2])

    @property
    def status(self) -> int:
        """200, or 204 for a browser that has seen the end."""
        return 204 if self._is_over else 200

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response. They keep caches and nginx from holding the messages back."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return headers if self._is_over else {"Content-Type": "text/event-stream", **headers}

    async def __aiter__(self) -> AsyncGenerator[bytes]:
        """Yield the parts of the body. A slow reader misses messages in between, so that none pile up for it."""
        if self._is_over:
            return
        yield _RETRY
        job, state, elapsed, sent_at = self._job, None, 0.0, now()
        async with aclosing(job.events(every=self._wake_every)) as events:
            async for event in events:  # the first ones are of the past, and only the present is sent
                if job.done():
                    break
                if job.state != state or (job.eta is not None and event.elapsed > elapsed):
                    state, elapsed, sent_at = job.state, job.elapsed, now()
                    yield self._message("progress")
                elif now() - sent_at > self._heartbeat - self._wake_every / 2:
                    sent_at = now()
                    yield _COMMENT
        if not isinstance(job.error, JobDetachedError):  # else the job goes on, and the browser connects again
            error = CancelledError() if job.cancelled() else job.error
            yield self._message("end", error=error and public_error(error)._asdict())

    def _message(self, kind: str, **more: object) -> bytes:
        job, is_end = self._job, kind == "end"
        self._progress = max(self._progress, math.floor(job.progress * _STEPS) / _STEPS)
        progress = self._progress if is_end else min(self._progress, 1 - 1 / _STEPS)
        times = {"elapsed": round(job.elapsed, 3), "eta": job.eta and round(job.eta, 3)}
        data = json.dumps({"state": job.state, **times, "progress": progress, **more})
        mark = "-end" if is_end else ""
        return f"id: {time.time() * 1000:.0f}-{progress:.4f}{mark}\nevent: {kind}\ndata: {data}\n\n".encode()

    async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as an ASGI application."""
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        await respond(aiter(self), self.status, headers, receive, send)


@overload
async def event_stream(
    job: Job, request: web.BaseRequest, *, heartbeat: float = ..., every: float = ...
) -> web.StreamResponse: ...


@overload
async def event_stream(
    job: Job, request: HTTPConnection, *, heartbeat: float = ..., every: float = ...
) -> StreamingResponse: ...


async def event_stream(
    job: Job, request: web.BaseRequest | HTTPConnection, *, heartbeat: float = HEARTBEAT, every: float = EVERY
) -> web.StreamResponse | StreamingResponse:
    """Return the response that streams a job's progress.

    A handler calls it as `return await event_stream(job, request)`. For aiohttp, the response is complete when it is
    returned. For Starlette and FastAPI, the framework sends it. The stream resumes where the request's Last-Event-ID
    says. For the messages, and for other frameworks, see `EventStream`.

    Raises TypeError for a request of another framework.
    """
    headers = getattr(request, "headers", {})
    stream = EventStream(job, last_event_id=headers.get("last-event-id"), heartbeat=heartbeat, every=every)
    if isinstance(request, web.BaseRequest):
        response = web.StreamResponse(status=stream.status, headers=stream.headers)
        with suppress(ConnectionError):  # the visitor left
            await response.prepare(request)
            async with aclosing(aiter(stream)) as parts:
                async for part in parts:
                    await response.write(part)
            await response.write_eof()
        return response
    starlette = _starlette_classes()
    if starlette and isinstance(request, starlette[0]):
        return starlette[1](stream, stream.status, stream.headers)
    hint = "use EventStream, which works in any framework"
    raise TypeError(
        f"request={type(request).__name__}: must be a request of aiohttp, Starlette or FastAPI (hint: {hint})"
    )


@cache
def _starlette_classes() -> tuple[type[HTTPConnection], type[StreamingResponse]] | None:
    """Return Starlette's class of requests, and the response of an `EventStream`; None without Starlette."""
    try:
        from starlette import requests, responses  # noqa: PLC0415 - other frameworks need no Starlette
    except ImportError:
        return None

    class EventStreamResponse(responses.StreamingResponse):  # FastAPI requires one of Starlette's responses
        async def __call__(self, _: Scope, receive: Receive, send: Send) -> None:
            assert isinstance(self.body_iterator, EventStream)  # noqa: S101 - it was passed above
            await respond(aiter(self.body_iterator), self.status_code, self.raw_headers, receive, send)
            if self.background is not None:
                await self.background()

    return requests.HTTPConnection, EventStreamResponse
