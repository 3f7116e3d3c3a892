"""`client_of`, and the typed dependency of FastAPI: where requests find the client."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import litestar
import pytest
from aiohttp import web
from fastapi import FastAPI, WebSocket
from helpers.asgi import Message, answer_of, messages_sent, receive_of, started
from helpers.world import KEY
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from modelslab_async import AuthenticationError, Client, ClientStateError
from modelslab_async.web import CLIENT, cleanup_ctx, client_of, lifespan, with_client
from modelslab_async.web.fastapi import ModelsLabClient

Application = Callable[..., Awaitable[None]]


def make() -> Client:
    return Client(KEY, max_in_flight=7)


def starlette_app(**options: Any) -> Starlette:
    async def cap(request: Request) -> JSONResponse:
        assert client_of(request) is client_of(request.scope) is request.app.state.modelslab
        return JSONResponse(client_of(request).statistics().cap)

    return Starlette(routes=[Route("/cap", cap)], **options)


def fastapi_app(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/cap")
    async def cap(client: ModelsLabClient) -> int:
        return client.statistics().cap

    @app.websocket("/socket")
    async def talk(socket: WebSocket, client: ModelsLabClient) -> None:
        await socket.accept()
        await socket.send_json(client.statistics().cap)

    return app


def litestar_app(**options: Any) -> litestar.Litestar:
    @litestar.get("/cap")
    async def cap(request: litestar.Request[Any, Any, Any]) -> int:
        return client_of(request).statistics().cap

    managers = [options["lifespan"]] if options else []
    return litestar.Litestar([cap], lifespan=managers, openapi_config=None)


def bare_app(**options: Any) -> Application:
    async def cap(scope: Message, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # it knows no lifespan, as Django's application
        await JSONResponse(client_of(scope).statistics().cap)(scope, receive, send)

    return with_client(cap, make) if options else cap


MAKERS = {"Starlette": starlette_app, "FastAPI": fastapi_app, "Litestar": litestar_app, "bare": bare_app}
any_framework = pytest.mark.parametrize("app_of", MAKERS.values(), ids=MAKERS)


@any_framework
async def test_a_request_finds_the_client(app_of: Callable[..., Application]) -> None:
    """The client of the lifespan serves each request, and is closed with the application."""
    clients = list[Client]()

    def remember() -> Client:
        clients.append(make())
        return clients[-1]

    app = with_client(bare_app(), remember) if app_of is bare_app else app_of(lifespan=lifespan(remember))
    async with started(app) as state:
        assert await answer_of(app, "/cap", state) == (200, b"7")
        assert len(clients) == 1
        clients[0].statistics()
    with pytest.raises(ClientStateError, match="closed"):
        clients[0].statistics()


async def test_a_websocket_finds_the_client() -> None:
    """FastAPI's dependency works in a websocket's endpoint."""
    app = fastapi_app(lifespan=lifespan(make))
    async with started(app) as state:
        connecting = receive_of({"type": "websocket.connect"})
        sent = await messages_sent(
            app, "/socket", connecting, type="websocket", state=state, subprotocols=[], scheme="ws"
        )
    assert json.loads(sent[1]["text"]) == 7


async def test_an_application_mounted_in_another_finds_its_client() -> None:
    """The lifespan of the outermost application serves all that is mounted in it."""
    inner = fastapi_app()
    outer = Starlette(routes=[Mount("/inner", inner)], lifespan=lifespan(make))
    async with started(outer) as state:
        assert await answer_of(outer, "/inner/cap", state) == (200, b"7")


@pytest.mark.parametrize("app_of", [fastapi_app, bare_app])
async def test_without_a_lifespan_the_error_names_the_causes(app_of: Callable[..., Application]) -> None:
    """A server or a test that runs no lifespan leads to an error that says what to do."""
    with pytest.raises(ClientStateError, match="with TestClient") as caught:
        await answer_of(app_of(), "/cap")
    for cause in ("mounted", "--lifespan off", "with_client"):
        assert cause in str(caught.value)


async def test_the_lifespan_of_a_mounted_application_does_not_run() -> None:
    """Its requests get the error, not another client."""
    outer = Starlette(routes=[Mount("/inner", fastapi_app(lifespan=lifespan(make)))])
    async with started(outer) as state:
        with pytest.raises(ClientStateError, match="outermost"):
            await answer_of(outer, "/inner/cap", state)


async def test_a_client_that_cannot_be_made_fails_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server learns why, and serves nothing."""
    monkeypatch.delenv("MODELSLAB_API_KEY", raising=False)
    app = with_client(bare_app(), Client)
    with pytest.raises(RuntimeError, match=AuthenticationError.__name__):
        async with started(app):
            raise AssertionError("not reached")


async def test_the_state_of_an_outer_application_is_kept() -> None:
    """`with_client` adds the client to the state that a server or another application passes."""
    seen = dict[str, Any]()

    async def inner(scope: Message, receive: Any, send: Any) -> None:
        seen.update(scope["state"])
        await JSONResponse(1)(scope, receive, send)

    app = with_client(inner, make)
    async with started(app):
        await answer_of(app, "/", {"database": "db"})
        assert seen == {"database": "db", "modelslab": client_of({"state": seen})}


async def test_an_aiohttp_application_has_the_client_under_a_typed_key() -> None:
    """`app[CLIENT]` is the client, and another key may be used instead."""
    other = web.AppKey("other", Client)
    app = web.Application()
    app.cleanup_ctx.extend([cleanup_ctx(make), cleanup_ctx(make, other, grace=0.0)])
    runner = web.AppRunner(app)
    await runner.setup()
    first, second = app[CLIENT], app[other]
    assert first is not second
    assert first.statistics().cap == second.statistics().cap == 7
    await runner.cleanup()
    for client in (first, second):
        with pytest.raises(ClientStateError, match="closed"):
            client.statistics()
