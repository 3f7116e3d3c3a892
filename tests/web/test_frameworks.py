"""`modelslab_async.web`: a client inside web applications, with real servers on loopback."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI, Request
from helpers.server_sent_events import events_in
from helpers.webhooks import SECRET
from helpers.world import KEY, PNG
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from modelslab_async import Client, ClientStateError
from modelslab_async.emulator import Emulator, skeleton
from modelslab_async.web import CLIENT, cleanup_ctx, client_of, event_stream, lifespan
from modelslab_async.web.fastapi import ModelsLabClient
from modelslab_async.webhook import Webhook


@asynccontextmanager
async def running_emulator(**options: Any) -> AsyncIterator[Emulator]:
    usual: dict[str, Any] = {"speed": 200, "render": skeleton, "eta": {"good": 1}}
    async with Emulator(**{**usual, **options}) as emulator:
        yield emulator


@asynccontextmanager
async def served_by_uvicorn(app: Any, port: int) -> AsyncIterator[str]:
    """Serve an ASGI application with uvicorn in this loop, and yield its URL."""
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
        assert not serving.done()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        await serving


async def visit(url: str, session: aiohttp.ClientSession) -> tuple[str, list[dict[str, Any]]]:
    """Ask an application for a video and follow it. Return its ref and its events."""
    async with session.post(f"{url}/videos") as response:
        ref = (await response.json())["ref"]
    async with session.get(f"{url}/videos/{ref}/events") as response:
        assert response.content_type == "text/event-stream"
        return ref, events_in(await response.read())


def starlette_app(make: Callable[[], Client], webhook: Webhook) -> Starlette:
    jobs = {}

    async def submit(request: StarletteRequest) -> JSONResponse:
        job = client_of(request).submit(prompt="zoom", init_image=PNG)
        jobs[job.ref] = job
        return JSONResponse({"ref": job.ref})

    async def follow(request: StarletteRequest) -> Response:
        return await event_stream(jobs[request.path_params["ref"]], request)

    routes = [
        Route("/videos", submit, methods=["POST"]),
        Route("/videos/{ref}/events", follow),
        Mount("/hooks", webhook),
    ]
    return Starlette(routes=routes, lifespan=lifespan(make))


def fastapi_app(make: Callable[[], Client], webhook: Webhook) -> FastAPI:
    app, jobs = FastAPI(lifespan=lifespan(make)), {}

    async def submit(client: ModelsLabClient) -> dict[str, str]:
        job = client.submit(prompt="zoom", init_image=PNG)
        jobs[job.ref] = job
        return {"ref": job.ref}

    async def follow(request: Request, ref: str) -> Response:
        return await event_stream(jobs[ref], request)

    app.add_api_route("/videos", submit, methods=["POST"])
    app.add_api_route("/videos/{ref}/events", follow, response_class=Response)
    app.mount("/hooks", webhook)
    return app


@pytest.mark.parametrize("application", [starlette_app, fastapi_app])
async def test_in_an_asgi_application(application: Any, unused_tcp_port: int) -> None:
    """In Starlette and FastAPI under uvicorn, jobs are submitted and followed, and their deliveries arrive."""
    async with running_emulator() as emulator, aiohttp.ClientSession() as session:
        webhook = Webhook(public_url=f"http://127.0.0.1:{unused_tcp_port}/hooks", secret=SECRET)
        make = partial(Client, KEY, base_url=emulator.url, webhook=webhook, poll_cost=0.1)
        async with served_by_uvicorn(application(make, webhook), unused_tcp_port) as url:
            visits = await asyncio.gather(*(visit(url, session) for _ in range(3)))
            async with session.post(f"{url}/hooks/unknown.x", data=b"{}") as answer:
                forged = answer.status
            async with session.get(f"{url}/hooks/unknown.x") as answer:
                assert answer.status == 405
            async with session.post(f"{url}/hooks/{'x' * 20}", data=bytes(70_000)) as answer:
                assert answer.status == 404
            async with session.post(f"{webhook.url('any', '')}/", data=bytes(70_000)) as answer:
                assert answer.status == 413
        assert forged == 404
        assert all(events[-1]["state"] == "ready" for _, events in visits)
        assert len(emulator.ledger.charges) == 3


async def test_in_an_aiohttp_application(unused_tcp_port: int) -> None:
    """The client lives as long as the application, which has the webhook as one of its handlers."""
    async with running_emulator() as emulator, aiohttp.ClientSession() as session:
        webhook = Webhook(public_url=f"http://127.0.0.1:{unused_tcp_port}/hooks", secret=SECRET)
        app = web.Application()
        clients: list[Client] = []

        async def submit(request: web.Request) -> web.Response:
            clients.append(request.app[CLIENT])
            video = await request.app[CLIENT].generate(prompt="zoom", init_image=PNG)
            return web.json_response({"id": video.id})

        app.router.add_post("/videos", submit)
        app.router.add_post("/hooks/{name:.+}", webhook.aiohttp)
        make = partial(Client, KEY, base_url=emulator.url, webhook=webhook, poll_cost=0.1)
        app.cleanup_ctx.append(cleanup_ctx(make))
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
        async with session.post(f"http://127.0.0.1:{unused_tcp_port}/videos") as answer:
            assert answer.status == 200
        async with session.post(f"{webhook.url('any', '')}/", data=bytes(70_000)) as answer:
            assert answer.status == 413
        await session.close()
        await runner.cleanup()
        with pytest.raises(ClientStateError, match="closed"):
            clients[0].statistics()
        with pytest.raises(ClientStateError, match="closed"):
            clients[0].submit(prompt="zoom", init_image=PNG)


async def test_an_aiohttp_stream_ends_when_its_visitor_leaves(unused_tcp_port: int) -> None:
    """The handler ends within a heartbeat. Another visitor sees the end, and one that has seen it is sent away."""
    async with running_emulator(speed=20) as emulator, aiohttp.ClientSession() as session:
        handlers = list[asyncio.Task[Any] | None]()
        async with Client(KEY, base_url=emulator.url, poll_cost=0.1) as client:
            job = client.submit(prompt="zoom", init_image=PNG)

            async def follow(request: web.Request) -> web.StreamResponse:
                handlers.append(asyncio.current_task())
                return await event_stream(job, request, heartbeat=0.1, every=0.1)

            app = web.Application()
            app.router.add_get("/events", follow)
            runner = web.AppRunner(app)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", unused_tcp_port).start()
            url = f"http://127.0.0.1:{unused_tcp_port}/events"
            async with aiohttp.ClientSession() as leaving, leaving.get(url) as answer:
                assert answer.headers["Cache-Control"] == "no-store"
                await answer.content.readline()
            (first,) = handlers
            assert first is not None
            await asyncio.wait([first], timeout=1)
            assert first.done()
            assert not job.done()
            async with session.get(url) as answer:
                end = events_in(await answer.read())[-1]
            assert (end["event"], end["state"]) == ("end", "ready")
            async with session.get(url, headers={"Last-Event-ID": end["id"]}) as answer:
                assert (answer.status, await answer.read()) == (204, b"")
            await session.close()
            await runner.cleanup()


@pytest.mark.skipif(sys.platform == "win32", reason="worker processes that share a socket")
async def test_two_workers_share_the_deliveries(tmp_path: Path, unused_tcp_port: int) -> None:
    """A delivery that reaches one worker wakes the other worker's job through the journal, although that worker never
    polls.
    """
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with running_emulator(queue_limit=50) as emulator:
        environment = {"HOOKS": f"{url}/hooks", "SERVICE": emulator.url, "JOURNAL": str(tmp_path / "jobs.db")}
        arguments = ["-m", "uvicorn", "helpers.two_workers:app", "--workers", "2", "--port", str(unused_tcp_port)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            cwd=Path(__file__).parents[1],
            env={**os.environ, **environment},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            answers = await asyncio.wait_for(visit_both_workers(url), 30)
        finally:
            process.terminate()
            await process.communicate()
    assert len({answer["worker"] for answer in answers}) == 2
    assert len({answer["id"] for answer in answers}) == len(answers) == len(emulator.ledger.charges)


async def visit_both_workers(url: str) -> list[dict[str, Any]]:
    """Ask for videos, each on a new connection, until both workers have answered. Return the answers."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:

        async def visit_once() -> dict[str, Any]:
            while True:
                try:
                    async with session.post(f"{url}/videos") as answer:
                        received: dict[str, Any] = await answer.json()
                        return received
                except aiohttp.ClientConnectorError:  # the workers are starting
                    await asyncio.sleep(0.1)

        answers = [await visit_once()]
        while len({answer["worker"] for answer in answers}) < 2 or len(answers) < 20:
            answers += await asyncio.gather(*(visit_once() for _ in range(10)))
        return answers
