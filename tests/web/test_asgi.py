"""Streams as responses of ASGI applications: their end, a visitor that leaves, and a server that stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from helpers.asgi import Message, messages_sent, receive_of
from helpers.server_sent_events import events_in
from helpers.world import MakeWorld, a_request
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from modelslab_async import Job
from modelslab_async.web import EndResponses, EventStream, event_stream, with_client

pytestmark = pytest.mark.looptime


@asynccontextmanager
async def running_job(make_world: MakeWorld) -> AsyncIterator[Job]:
    """Yield a job that runs for about 40 s."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        await job.submitted()
        yield job
        await client.aclose(drain=False)


def application(job: Job, *middleware: Middleware, background: BackgroundTask | None = None) -> Starlette:
    """Return an application of Starlette that streams one job."""

    async def follow(request: Request) -> Response:
        response = await event_stream(job, request)
        response.set_cookie("visitor", "1")
        response.background = background
        return response

    return Starlette(routes=[Route("/", follow)], middleware=middleware)


def application_of_fastapi(job: Job) -> FastAPI:
    """Return an application of FastAPI that streams one job."""
    app = FastAPI()

    @app.get("/")
    async def follow(request: Request) -> Response:
        return await event_stream(job, request)

    return app


class Passing(BaseHTTPMiddleware):
    """Change nothing, but run each request in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


APPLICATIONS = {
    "itself": EventStream,
    "Starlette": application,
    "FastAPI": application_of_fastapi,
    "middleware": lambda job: application(job, Middleware(Passing)),
}
any_application = pytest.mark.parametrize("make", APPLICATIONS.values(), ids=APPLICATIONS)


def body_of(messages: list[Message]) -> bytes:
    """Return the body of a response that is complete."""
    assert messages[0]["type"] == "http.response.start"
    assert [message["more_body"] for message in messages[1:] if message.get("more_body")]
    assert not messages[-1].get("more_body")
    return b"".join(message["body"] for message in messages[1:])


@any_application
async def test_a_stream_is_a_whole_response(make_world: MakeWorld, make: Any) -> None:
    """The response has the headers of a stream, all messages, and an end."""
    async with running_job(make_world) as job:
        messages = await messages_sent(make(job), "/", receive_of(), method="GET")
        headers = dict(messages[0]["headers"])
        assert messages[0]["status"] == 200
        assert headers[b"content-type"].startswith(b"text/event-stream")
        assert (headers[b"cache-control"], headers[b"x-accel-buffering"]) == (b"no-store", b"no")
        assert b"content-length" not in headers
        assert events_in(body_of(messages))[-1]["event"] == "end"


@any_application
async def test_a_browser_that_saw_the_end_gets_204_without_a_body(make_world: MakeWorld, make: Any) -> None:
    """The header is read from the request, and the answer stops the browser."""
    async with running_job(make_world) as job:
        if make is EventStream:
            app: Any = EventStream(job, last_event_id="1764277487123-1.0000-end")
        else:
            app = make(job)
        header = (b"last-event-id", b"1764277487123-1.0000-end")
        messages = await messages_sent(app, "/", receive_of(), method="GET", headers=[header])
        assert messages[0]["status"] == 204
        assert b"".join(message["body"] for message in messages[1:]) == b""


@any_application
async def test_a_visitor_that_leaves_ends_the_response(make_world: MakeWorld, make: Any) -> None:
    """The response ends when the server reports the disconnect. No task of it stays, and the job goes on."""
    async with running_job(make_world) as job:
        loop, before = asyncio.get_running_loop(), asyncio.all_tasks()

        async def leave() -> Message:
            await asyncio.sleep(5)
            return {"type": "http.disconnect"}

        begun = loop.time()
        await messages_sent(make(job), "/", receive_of_request_then(leave), method="GET")
        assert loop.time() - begun == pytest.approx(5, abs=0.1)
        assert asyncio.all_tasks() == before
        assert not job.done()


def receive_of_request_then(leave: Any) -> Any:
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        return messages.pop() if messages else await leave()

    return receive


@pytest.mark.parametrize(
    "make",
    [
        EventStream,
        application,
        application_of_fastapi,
        lambda job: application(job, Middleware(EndResponses), Middleware(Passing)),
    ],
    ids=["itself", "Starlette", "FastAPI", "middleware"],
)
async def test_a_server_that_stops_gets_a_whole_response(make_world: MakeWorld, make: Any) -> None:
    """A request that is cancelled while its stream is open ends normally, and the response is complete."""
    async with running_job(make_world) as job:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [], "query_string": b"", "root_path": ""}
        serving = asyncio.create_task(make(job)(scope, receive_of(), send))
        await asyncio.sleep(3)
        serving.cancel()
        await serving
        assert events_in(body_of(sent))[-1]["event"] == "progress"


async def test_a_request_that_is_cancelled_before_its_response_began_stays_cancelled(make_world: MakeWorld) -> None:
    """Without a response that has begun there is nothing that could end."""
    async with running_job(make_world) as job:

        async def receive() -> Message:
            raise AssertionError("not reached")

        serving = asyncio.create_task(EventStream(job)({"type": "http"}, receive, receive))  # type: ignore[arg-type]
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving


@any_application
async def test_a_cancel_scope_around_a_stream_stays_in_charge(make_world: MakeWorld, make: Any) -> None:
    """A timeout of anyio or asyncio around the application ends the stream, and the code after it goes on."""
    async with running_job(make_world) as job:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with anyio.move_on_after(3) as scope:
            await messages_sent(make(job), "/", receive_of(), method="GET")
            await anyio.sleep(100)
        assert scope.cancelled_caught
        await anyio.sleep(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                async with asyncio.TaskGroup() as group:
                    group.create_task(messages_sent(make(job), "/", receive_of(), method="GET"))
                    group.create_task(asyncio.sleep(100))
        await anyio.sleep(1)
        assert loop.time() - begun == pytest.approx(8, abs=0.2)


async def test_a_connection_that_breaks_ends_the_response(make_world: MakeWorld) -> None:
    """A server that raises OSError for a connection that is gone gets no error back."""
    async with running_job(make_world) as job:
        sent = list[str]()

        async def send(message: Message) -> None:
            sent.append(message["type"])
            if message["type"] == "http.response.body":
                raise OSError("the connection is gone")

        await EventStream(job)({"type": "http"}, receive_of(), send)
        assert sent == ["http.response.start", "http.response.body"]  # nothing more is sent after the error
        assert not job.done()


async def test_an_error_of_the_server_is_not_hidden(make_world: MakeWorld) -> None:
    """Any other error comes out."""
    async with running_job(make_world) as job:

        async def send(message: Message) -> None:
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            await EventStream(job)({"type": "http"}, receive_of(), send)


async def test_headers_and_background_tasks_are_kept(make_world: MakeWorld) -> None:
    """A response of Starlette sends the cookies that were set, and runs its background task after the end."""
    async with running_job(make_world) as job:
        ran = list[bool]()

        async def note() -> None:
            ran.append(job.done())

        app = application(job, background=BackgroundTask(note))
        messages = await messages_sent(app, "/", receive_of(), method="GET")
        assert dict(messages[0]["headers"])[b"set-cookie"].startswith(b"visitor=1")
        assert ran == [True]


async def test_a_request_of_another_framework_is_refused_with_a_hint(make_world: MakeWorld) -> None:
    """The error names the class that works in any framework."""
    async with running_job(make_world) as job:
        with pytest.raises(TypeError, match="EventStream"):
            await event_stream(job, object())  # type: ignore[call-overload]


async def test_nothing_is_logged_for_a_stream_that_is_cancelled(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither asyncio nor this package logs anything for it."""
    async with running_job(make_world) as job:
        with caplog.at_level(logging.WARNING):
            serving = asyncio.create_task(messages_sent(application(job), "/", receive_of(), method="GET"))
            await asyncio.sleep(3)
            serving.cancel()
            await serving
        assert caplog.records == []


async def test_an_application_that_leaves_its_task_behind_is_ended(make_world: MakeWorld) -> None:
    """With `with_client`, a framework such as Django gets the same end, and writes nothing after it."""
    async with running_job(make_world) as job:
        sent: list[Message] = []
        left = list[asyncio.Task[None]]()

        async def framework(scope: Message, receive: Any, send: Any) -> None:
            left.append(asyncio.create_task(EventStream(job)(scope, receive, send)))
            await asyncio.wait(left)

        async def send(message: Message) -> None:
            sent.append(message)

        app = with_client(framework, make_world().client)
        serving = asyncio.ensure_future(app({"type": "http"}, receive_of(), send))
        await asyncio.sleep(3)
        serving.cancel()
        await serving
        count = len(sent)
        assert events_in(body_of(sent))[-1]["event"] == "progress"
        await asyncio.wait(left)
        assert len(sent) == count
