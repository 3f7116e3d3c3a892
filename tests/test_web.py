"""`modelslab_async.web`: a client inside web applications, with real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from aiohttp import web
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from helpers.webhooks import SECRET
from helpers.world import KEY, PNG, MakeWorld, a_request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from modelslab_async import Client, ClientStateError
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton
from modelslab_async.web import EVENT_STREAM, cleanup_ctx, lifespan, server_sent_events
from modelslab_async.webhook import Webhook

CLIENT = web.AppKey("modelslab", Client)


# --- server-sent events ---


def events_in(body: bytes) -> list[dict[str, Any]]:
    """Return the events that a browser reads from a stream."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(re.findall(r"^(\w+): (.*)$", block, re.MULTILINE))
        if "data" in fields:
            found.append({**json.loads(fields["data"]), "id": int(fields.get("id", 0)), "event": fields["event"]})
    return found


@pytest.mark.looptime
async def test_a_stream_yields_each_event_once(make_world: MakeWorld) -> None:
    """Events are numbered, progress comes each second, and the end is last. A browser can resume at any event."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        whole = b"".join([part async for part in server_sent_events(job)])
        every = events_in(whole)
        numbered = [event for event in every if event["id"]]
        assert [event["id"] for event in numbered] == list(range(1, len(numbered) + 1))
        assert all(after["elapsed"] - before["elapsed"] <= 1.01 for before, after in pairwise(every))
        assert [event["progress"] for event in every] == sorted(event["progress"] for event in every)
        assert [numbered[0]["state"], numbered[-1]["state"], numbered[-1]["event"]] == ["waiting", "ready", "end"]
        assert (numbered[-1]["eta"], numbered[-1]["error"]) == (0, None)
        for last in range(len(numbered) + 1):
            rest = b"".join([part async for part in server_sent_events(job, last_event_id=str(last))])
            assert events_in(rest) == (numbered[last:] or [numbered[-1]])
        for bad_id in ("x; drop", "9" * 5000):  # Python converts no number of so many digits
            again = b"".join([part async for part in server_sent_events(job, last_event_id=bad_id)])
            assert events_in(again) == numbered


@pytest.mark.looptime
async def test_a_stream_without_events_stays_open(make_world: MakeWorld) -> None:
    """While a job waits for its slot, comments keep proxies from closing the connection."""
    async with make_world().client(max_in_flight=1) as client:
        first, waiting = client.submit(a_request()), client.submit(a_request())
        await first.submitted()
        parts = [part async for part in server_sent_events(waiting, heartbeat=3)]
    assert parts.count(b": still here\n\n") >= 5


@pytest.mark.looptime
async def test_a_stream_of_a_detached_job_has_no_end_event(make_world: MakeWorld) -> None:
    """The job goes on at the service, so the stream just stops, and the browser connects again."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        await job.submitted()
        await client.aclose(drain=False)
        found = events_in(b"".join([part async for part in server_sent_events(job)]))
    assert {event["event"] for event in found} == {"progress"}


@pytest.mark.looptime
async def test_a_failed_job_ends_its_stream_with_the_reason(make_world: MakeWorld) -> None:
    """A reader that closes its stream early leaves no task behind."""
    async with make_world(faults=[Rule(Fault.JOB_FAILS, times=1)]).client() as client:
        failing, other = client.submit(a_request()), client.submit(a_request())
        stream = server_sent_events(failing)
        await anext(stream)
        before = len(asyncio.all_tasks())
        await stream.aclose()
        assert len(asyncio.all_tasks()) < before
        found = events_in(b"".join([part async for part in server_sent_events(failing)]))
        assert (found[-1]["state"], found[-1]["event"]) == ("failed", "end")
        assert "failed the job" in found[-1]["error"]
        await other


# --- servers ---


@asynccontextmanager
async def running_emulator(**options: Any) -> AsyncIterator[Emulator]:
    async with Emulator(**{"speed": 200, "render": skeleton, "eta": {"good": 1}, **options}) as emulator:
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
        assert response.content_type == EVENT_STREAM
        return ref, events_in(await response.read())


def starlette_app(make: Callable[[], Client], webhook: Webhook) -> Starlette:
    jobs = {}

    async def submit(request: StarletteRequest) -> JSONResponse:
        job = request.state.modelslab.submit(prompt="zoom", init_image=PNG)
        jobs[job.ref] = job
        return JSONResponse({"ref": job.ref})

    async def follow(request: StarletteRequest) -> StreamingResponse:
        return StreamingResponse(server_sent_events(jobs[request.path_params["ref"]]), media_type=EVENT_STREAM)

    routes = [
        Route("/videos", submit, methods=["POST"]),
        Route("/videos/{ref}/events", follow),
        Mount("/hooks", webhook),
    ]
    return Starlette(routes=routes, lifespan=lifespan(make))


def fastapi_app(make: Callable[[], Client], webhook: Webhook) -> FastAPI:
    app, jobs = FastAPI(lifespan=lifespan(make)), {}

    async def submit(request: Request) -> dict[str, str]:
        job = request.state.modelslab.submit(prompt="zoom", init_image=PNG)
        jobs[job.ref] = job
        return {"ref": job.ref}

    async def follow(ref: str) -> StreamingResponse:
        return StreamingResponse(server_sent_events(jobs[ref]), media_type=EVENT_STREAM)

    app.add_api_route("/videos", submit, methods=["POST"])
    app.add_api_route("/videos/{ref}/events", follow, response_class=StreamingResponse)
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
        app.cleanup_ctx.append(cleanup_ctx(make, CLIENT))
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
            cwd=Path(__file__).parent,
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
