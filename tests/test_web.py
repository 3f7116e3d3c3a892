"""A client inside web applications: real servers on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
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
from helpers.world import KEY, World, a_request
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from modelslab_async import (
    AuthenticationError,
    Budget,
    BudgetExceededError,
    Client,
    ClientStateError,
    InvalidRequestError,
    JobDetachedError,
    JobState,
)
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton
from modelslab_async.web import EVENT_STREAM, cleanup_ctx, lifespan, server_sent_events
from modelslab_async.webhook import Webhook

MakeWorld = Callable[..., World]
S = JobState
SECRET = "a secret that is long enough"
CLIENT = web.AppKey("modelslab", Client)
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(24)


# --- life ---


@pytest.mark.looptime
async def test_closing_waits_for_a_given_time(world: MakeWorld, tmp_path: Path) -> None:
    """Jobs that run are waited for within it, and left to the service after it; no other is begun, and none is lost."""
    here = world(queue_limit=5)
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=2) as client:
        first, slow, third = (client.submit(a_request(seed=1, num_frames=frames)) for frames in (81, 300, 81))
        await asyncio.sleep(1)
        await client.aclose(timeout=60)
        assert asyncio.get_running_loop().time() == pytest.approx(61, abs=1)
    assert (first.state, slow.state, third.state) == (S.READY, S.PROCESSING, S.WAITING)
    assert [type(job.exception()) for job in (first, slow, third)] == [type(None), JobDetachedError, JobDetachedError]
    assert len(here.service.ledger.charges) == 2
    async with here.client(journal=tmp_path / "jobs.db") as client:
        found = await client.recover()
        assert {job.ref for job in found.jobs} == {first.ref, slow.ref}
        assert [record.ref for record in found.unsent] == [third.ref]
        await client.aclose(drain=False)


@pytest.mark.looptime
async def test_accounts_have_places_and_budgets_of_their_own(world: MakeWorld, tmp_path: Path) -> None:
    """One client for many keys: session, journal and experience are shared; a budget binds its own account only."""
    here = world(queue_limit=5)
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=5) as client:
        ann = await client.account("key of Ann", budget=Budget(usd=Decimal("0.2")))
        ben, again = await asyncio.gather(client.account("key of Ben"), client.account("key of Ben"))
        assert ben is again is not ann
        assert await ann.account("key of Ben") is ben
        assert await ann.account(KEY) is await client.account(KEY) is client
        jobs = [each.submit(a_request()) for each in (client, ann, ben)]
        with pytest.raises(BudgetExceededError):
            ann.submit(a_request())
        await asyncio.gather(*jobs)
        assert len({charge.account for charge in here.service.ledger.charges}) == 3
        assert [len(await each.history()) for each in (client, ann, ben)] == [1, 1, 1]
        with pytest.raises(AuthenticationError):
            await client.account(" ")
        left = ben.submit(a_request())
    assert left.state is S.READY
    with pytest.raises(ClientStateError, match="closed"):
        ben.submit(a_request())


# --- server-sent events ---


def events(body: bytes) -> list[dict[str, Any]]:
    """What a browser makes of it."""
    told = []
    for block in body.decode().split("\n\n"):
        fields = dict(re.findall(r"^(\w+): (.*)$", block, re.MULTILINE))
        if "data" in fields:
            told.append({**json.loads(fields["data"]), "id": int(fields.get("id", 0)), "event": fields["event"]})
    return told


@pytest.mark.looptime
async def test_progress_as_server_sent_events(world: MakeWorld) -> None:
    """Each event once, numbered, and progress each second between; the end last; it can be resumed anywhere."""
    async with world().client() as client:
        job = client.submit(a_request())
        whole = b"".join([part async for part in server_sent_events(job)])
        every = events(whole)
        told = [news for news in every if news["id"]]
        assert [news["id"] for news in told] == list(range(1, len(told) + 1))
        assert all(after["elapsed"] - before["elapsed"] <= 1.01 for before, after in pairwise(every))
        assert [news["progress"] for news in every] == sorted(news["progress"] for news in every)
        assert [told[0]["state"], told[-1]["state"], told[-1]["event"]] == ["waiting", "ready", "end"]
        assert (told[-1]["eta"], told[-1]["error"]) == (0, None)
        for last in range(len(told) + 1):
            rest = b"".join([part async for part in server_sent_events(job, last_event_id=str(last))])
            assert events(rest) == (told[last:] or [told[-1]])
        for strange in ("x; drop", "9" * 5000):  # Python makes no number of so many digits
            again = b"".join([part async for part in server_sent_events(job, last_event_id=strange)])
            assert events(again) == told


@pytest.mark.looptime
async def test_a_stream_without_events_stays_open(world: MakeWorld) -> None:
    """While a job waits for its turn, a comment keeps proxies from closing the connection."""
    async with world().client(max_in_flight=1) as client:
        first, waiting = client.submit(a_request()), client.submit(a_request())
        await first.submitted()
        parts = [part async for part in server_sent_events(waiting, heartbeat=3)]
    assert parts.count(b": still here\n\n") >= 5


@pytest.mark.looptime
async def test_a_closed_client_is_no_end_of_the_job(world: MakeWorld) -> None:
    """The stream stops without one, so the browser comes again and resumes."""
    async with world().client() as client:
        job = client.submit(a_request())
        await job.submitted()
        await client.aclose(drain=False)
        told = events(b"".join([part async for part in server_sent_events(job)]))
    assert {news["event"] for news in told} == {"progress"}


@pytest.mark.looptime
async def test_an_end_without_a_video_is_told(world: MakeWorld) -> None:
    """With its reason; and a listener that goes away leaves nothing behind."""
    async with world(faults=[Rule(Fault.JOB_FAILS, times=1)]).client() as client:
        failing, cancelled = client.submit(a_request()), client.submit(a_request())
        listening = server_sent_events(failing)
        await anext(listening)
        before = len(asyncio.all_tasks())
        await listening.aclose()
        assert len(asyncio.all_tasks()) < before
        told = events(b"".join([part async for part in server_sent_events(failing)]))
        assert (told[-1]["state"], told[-1]["event"]) == ("failed", "end")
        assert "failed the job" in told[-1]["error"]
        await cancelled


# --- servers ---


@asynccontextmanager
async def emulated(**options: Any) -> AsyncIterator[Emulator]:
    async with Emulator(**{"speed": 200, "render": skeleton, "eta": {"good": 1}, **options}) as emulator:
        yield emulator


@asynccontextmanager
async def uvicorned(app: Any, port: int) -> AsyncIterator[str]:
    """An ASGI application served by uvicorn in this loop."""
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


async def used(url: str, session: aiohttp.ClientSession) -> tuple[str, list[dict[str, Any]]]:
    """A visitor: asks for a video, follows it, and gives its ref and the events."""
    async with session.post(f"{url}/videos") as response:
        ref = (await response.json())["ref"]
    async with session.get(f"{url}/videos/{ref}/events") as response:
        assert response.content_type == EVENT_STREAM
        return ref, events(await response.read())


def starlette_app(make: Callable[[], Client], webhook: Webhook) -> Starlette:
    jobs = {}

    async def submit(request: StarletteRequest) -> JSONResponse:
        job = request.state.modelslab.submit(prompt="zoom", init_image=PICTURE)
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
        job = request.state.modelslab.submit(prompt="zoom", init_image=PICTURE)
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
    """Mounted in Starlette and FastAPI under uvicorn: jobs are submitted, followed, and their deliveries arrive."""
    async with emulated() as emulator, aiohttp.ClientSession() as session:
        webhook = Webhook(public_url=f"http://127.0.0.1:{unused_tcp_port}/hooks", secret=SECRET)
        make = partial(Client, KEY, base_url=emulator.url, webhook=webhook, poll_cost=0.1)
        async with uvicorned(application(make, webhook), unused_tcp_port) as url:
            ends = await asyncio.gather(*(used(url, session) for _ in range(3)))
            async with session.post(f"{url}/hooks/nobody.x", data=b"{}") as answer:
                forged = answer.status
            async with session.get(f"{url}/hooks/nobody.x") as answer:
                assert answer.status == 405
            async with session.post(f"{url}/hooks/{'x' * 20}", data=bytes(70_000)) as answer:
                assert answer.status == 404
            async with session.post(f"{webhook.url('any', '')}/", data=bytes(70_000)) as answer:
                assert answer.status == 413
        assert forged == 404
        assert all(told[-1]["state"] == "ready" for _, told in ends)
        assert len(emulator.ledger.charges) == 3


async def test_in_an_aiohttp_application(unused_tcp_port: int) -> None:
    """The client lives as long as the application; the webhook is a handler of it."""
    async with emulated() as emulator, aiohttp.ClientSession() as session:
        webhook = Webhook(public_url=f"http://127.0.0.1:{unused_tcp_port}/hooks", secret=SECRET)
        app = web.Application()
        seen: list[Client] = []

        async def submit(request: web.Request) -> web.Response:
            seen.append(request.app[CLIENT])
            video = await request.app[CLIENT].generate(prompt="zoom", init_image=PICTURE)
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
            seen[0].statistics()
        with pytest.raises(ClientStateError, match="closed"):
            seen[0].submit(prompt="zoom", init_image=PICTURE)


@pytest.mark.skipif(sys.platform == "win32", reason="worker processes that share a socket")
async def test_two_workers_share_the_deliveries(tmp_path: Path, unused_tcp_port: int) -> None:
    """A delivery that reaches the worker which did not submit is left for the other in the journal, which sees the end
    though it never looks by itself.
    """
    url = f"http://127.0.0.1:{unused_tcp_port}"
    async with emulated(queue_limit=50) as emulator:
        told = {"HOOKS": f"{url}/hooks", "SERVICE": emulator.url, "JOURNAL": str(tmp_path / "jobs.db")}
        words = ["-m", "uvicorn", "helpers.two_workers:app", "--workers", "2", "--port", str(unused_tcp_port)]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *words),
            cwd=Path(__file__).parent,
            env={**os.environ, **told},
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            answers = await asyncio.wait_for(both_workers(url), 30)
        finally:
            process.terminate()
            await process.communicate()
    assert len({answer["worker"] for answer in answers}) == 2
    assert len({answer["id"] for answer in answers}) == len(answers) == len(emulator.ledger.charges)


async def both_workers(url: str) -> list[dict[str, Any]]:
    """Visitors, each on a connection of its own, until both workers have served some."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:

        async def visit() -> dict[str, Any]:
            while True:
                try:
                    async with session.post(f"{url}/videos") as answer:
                        told: dict[str, Any] = await answer.json()
                        return told
                except aiohttp.ClientConnectorError:  # it starts yet
                    await asyncio.sleep(0.1)

        answers = [await visit()]
        while len({answer["worker"] for answer in answers}) < 2 or len(answers) < 20:
            answers += await asyncio.gather(*(visit() for _ in range(10)))
        return answers


@pytest.mark.looptime
async def test_an_account_takes_nothing_more_while_all_are_closed(world: MakeWorld) -> None:
    """Its jobs would be let go as soon as those of the first client are done."""
    here = world()
    async with here.client() as client:
        ben = await client.account("key of Ben")
        job = client.submit(a_request())
        closing = asyncio.create_task(client.aclose())
        await job.submitted()
        with pytest.raises(ClientStateError, match="closed"):
            ben.submit(a_request())
        await closing
    assert len(here.service.ledger.charges) == 1


async def test_the_client_s_own_key_has_the_client_s_budget(world: MakeWorld) -> None:
    """It gives the client itself: a budget or places for it alone would be an illusion."""
    async with world().client() as client:
        assert await client.account(KEY) is client
        options: dict[str, Any]
        for options in ({"budget": Budget(jobs=1)}, {"max_in_flight": 1}):
            with pytest.raises(InvalidRequestError, match="its budget"):
                await client.account(KEY, **options)


async def test_nobody_listens_for_an_account_that_was_never_opened(world: MakeWorld, tmp_path: Path) -> None:
    """Four are asked for while the client begins to close: all are closed, or none is there."""
    webhook = Webhook(public_url="https://hooks.invalid", secret=SECRET)
    async with world().client(webhook=webhook, journal=tmp_path / "jobs.db") as client:
        asked = [asyncio.create_task(client.account(f"the key of user {number}")) for number in range(4)]
        for _ in range(3):
            await asyncio.sleep(0)
        await client.aclose(drain=False)
        await asyncio.gather(*asked, return_exceptions=True)
    assert webhook._listeners == {}


@pytest.mark.looptime
async def test_an_account_that_opens_while_all_are_closed(world: MakeWorld) -> None:
    """It is closed with the others and never given: nothing can be paid with it, and nobody hears webhooks for it."""
    here, budget = world(faults=[Rule(Fault.SLOW, on="call", seconds=5)]), Budget(usd=5, check_balance=True)
    webhook = Webhook(public_url="https://hooks.invalid", secret=SECRET)
    async with here.client(webhook=webhook) as client:
        opening = asyncio.create_task(client.account("key of Ben", budget=budget))
        await asyncio.sleep(1)
        await client.aclose()
        with pytest.raises(ClientStateError, match="closed"):
            await opening
        assert webhook._listeners == {}
