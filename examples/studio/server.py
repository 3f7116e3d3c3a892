"""A studio in the browser: a picture and a prompt become a video, with honest progress and a gallery.

    python examples/studio/server.py           with an emulator on this machine: no account, no money
    python examples/studio/server.py --live    at ModelsLab, with MODELSLAB_API_KEY: $0.20 a video, $5 a day at most

Visitors are told apart by a cookie. A job's ref begins with the digest of its visitor's, so nobody reaches another's.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from modelslab_async import Budget, BudgetExceededError, Client, InvalidRequestError, Job, JobRecord, ModelsLabError
from modelslab_async.emulator import Emulator
from modelslab_async.web import EVENT_STREAM, server_sent_events
from modelslab_async.webhook import Webhook

MAX_UPLOAD_BYTES = 5_000_000
MAX_PROMPT_CHARACTERS = 1000
MAX_OPEN_JOBS = 50
MAX_OPEN_JOBS_A_VISITOR = 3
FRAMES, FPS = 49, 16
COOKIE = "visitor"
PAGE = Path(__file__).with_name("page.html")
_REF = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}")


@attrs.define
class Studio:
    """The application's state: its client, the jobs that are open, and where videos are kept."""

    client: Client
    videos: Path
    budget: Budget
    is_emulated: bool
    jobs: dict[str, Job] = attrs.field(factory=dict[str, Job])
    saves: dict[str, asyncio.Task[None]] = attrs.field(factory=dict[str, "asyncio.Task[None]"])

    def keep(self, job: Job) -> None:
        """Save the job's video when it is there; the journal knows the rest."""
        self.jobs[job.ref] = job
        self.saves[job.ref] = asyncio.create_task(self._save(job))

    async def _save(self, job: Job) -> None:
        try:
            with suppress(ModelsLabError, OSError):  # its page tells why there is none
                await job.save(self.videos / f"{job.ref}.mp4")
        finally:
            del self.jobs[job.ref], self.saves[job.ref]

    def open_jobs(self, visitor: str = "") -> int:
        """How many run or wait, of a visitor or of all."""
        return sum(ref.startswith(visitor) and not job.done() for ref, job in self.jobs.items())


class SaidError(Exception):
    """Something to tell the visitor, with an HTTP status."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


# --- what a visitor may ask for ---


async def page(request: Request) -> Response:
    """The one page. The cookie that tells visitors apart is made here."""
    nonce = secrets.token_urlsafe(16)
    response = HTMLResponse(PAGE.read_text(encoding="utf-8").replace("NONCE", nonce))
    own = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; media-src 'self'"
    policy = f"default-src 'none'; {own}; img-src 'self' blob: data:; form-action 'self'; base-uri 'none'"
    response.headers["Content-Security-Policy"] = policy
    if COOKIE not in request.cookies:
        response.set_cookie(COOKIE, secrets.token_urlsafe(24), max_age=31_536_000, httponly=True, samesite="strict")
    return response


async def status(request: Request) -> Response:
    """Price, places, the queue, and what is left of today's budget."""
    studio: Studio = request.state.studio
    statistics = studio.client.statistics()
    waiting = studio.open_jobs() - statistics.in_flight
    left = studio.budget.jobs_left(studio.client.prices, time.time())
    price = f"{studio.client.prices.usd:.2f}"
    told = {"price": price, "running": statistics.in_flight, "waiting": max(waiting, 0), "places": statistics.cap}
    return JSONResponse({**told, "left_today": left, "emulated": studio.is_emulated})


async def submit(request: Request) -> Response:
    """A picture and a prompt: everything is checked before it is paid for."""
    studio, visitor = request.state.studio, _visitor(request)
    if studio.open_jobs(visitor) >= MAX_OPEN_JOBS_A_VISITOR:
        raise SaidError(429, "Three of your videos are being made: wait for one of them.")
    if studio.open_jobs() >= MAX_OPEN_JOBS:
        raise SaidError(503, "The studio is full: try again in a few minutes.")
    prompt, picture = await _upload(request)
    ref = f"{visitor}-{secrets.token_hex(16)}"
    try:
        job = studio.client.submit(prompt=prompt, init_image=picture, num_frames=FRAMES, fps=FPS, track_id=ref)
    except BudgetExceededError as error:
        raise SaidError(429, "Today's budget is used up: come back tomorrow.") from error
    except InvalidRequestError as error:
        names = {"init_image": "The picture", "prompt": "The prompt"}
        words = (f"{names.get(each.field, each.field)} is {each.requirement}; {each.hint}." for each in error.problems)
        raise SaidError(422, " ".join(words)) from error
    studio.keep(job)
    return JSONResponse({"ref": ref}, 201)


async def gallery(request: Request) -> Response:
    """The visitor's jobs, the newest first."""
    studio, visitor = request.state.studio, _visitor(request)
    rows = [row for row in await studio.client.history(1000) if row.ref.startswith(visitor)]
    return JSONResponse([_told(studio, row) for row in rows[:100]])


async def follow(request: Request) -> Response:
    """A job's progress."""
    studio, ref = request.state.studio, _own(request)
    if job := studio.jobs.get(ref):
        events = server_sent_events(job, last_event_id=request.headers.get("Last-Event-ID"))
        return StreamingResponse(events, media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})
    row = await studio.client.find(ref)
    if row is None:
        raise SaidError(404, "There is no such video.")
    last = json.dumps({"state": row.state.value, "eta": None, "error": row.error})
    return Response(f"event: end\ndata: {last}\n\n", media_type=EVENT_STREAM)


async def video(request: Request) -> Response:
    """A job's video, once it is saved."""
    studio, ref = request.state.studio, _own(request)
    if saving := studio.saves.get(ref):
        await asyncio.wait([saving], timeout=30)
    path = studio.videos / f"{ref}.mp4"
    if not path.is_file():
        raise SaidError(404, "There is no such video.")
    name = "video.mp4" if "download" in request.query_params else None
    return FileResponse(path, media_type="video/mp4", filename=name)


# --- inside ---


def _visitor(request: Request) -> str:
    """The digest of the visitor's cookie: who has the one cannot make the other."""
    cookie = request.cookies.get(COOKIE, "")
    if len(cookie) < 20:
        raise SaidError(403, "Open the page first.")
    return hashlib.sha256(cookie.encode()).hexdigest()[:16]


def _own(request: Request) -> str:
    """The ref in the path, if it is this visitor's."""
    ref = str(request.path_params["ref"])
    if not _REF.fullmatch(ref) or not secrets.compare_digest(ref[:16], _visitor(request)):
        raise SaidError(404, "There is no such video.")
    return ref


async def _upload(request: Request) -> tuple[str, bytes]:
    length = request.headers.get("Content-Length", "")
    if not length.isdigit():
        raise SaidError(411, "Say how large the picture is.")
    if int(length) > MAX_UPLOAD_BYTES + 10_000:
        raise SaidError(413, "The picture is larger than 5 MB: make it smaller.")
    async with request.form(max_files=1, max_fields=1) as form:
        prompt, picture = form.get("prompt"), form.get("picture")
        if not isinstance(prompt, str) or picture is None or isinstance(picture, str):
            raise SaidError(422, "Choose a picture and describe what should be seen.")
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise SaidError(422, f"The prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
        return prompt, await picture.read()


def _told(studio: Studio, row: JobRecord) -> Mapping[str, Any]:
    is_there = (studio.videos / f"{row.ref}.mp4").is_file()
    prompt = (row.request or {}).get("prompt", "")
    return {
        "ref": row.ref,
        "state": row.state.value,
        "prompt": prompt,
        "error": row.error,
        "seed": row.seed,
        "video": is_there,
        "open": row.ref in studio.jobs,
    }


async def _said(_: Request, error: Exception) -> Response:
    assert isinstance(error, SaidError)  # noqa: S101 - registered for nothing else
    return JSONResponse({"error": str(error)}, error.status)


def make_app(*, live: bool, folder: Path, budget: float = 5.0) -> Starlette:
    """The application; its journal and its videos are in `folder`."""
    public_url = os.environ.get("STUDIO_PUBLIC_URL")
    secret = os.environ.get("STUDIO_SECRET", "")
    webhook = Webhook(public_url=f"{public_url}/hooks", secret=secret) if public_url else None
    limit = Budget(usd=budget, per="day")

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[dict[str, Studio]]:
        async with AsyncExitStack() as stack:
            options: dict[str, Any] = {"base_url": os.environ.get("MODELSLAB_BASE_URL", "https://modelslab.com")}
            if not live:
                emulator = await stack.enter_async_context(Emulator(speed=4))
                options = {"api_key": "any", "base_url": emulator.url, "poll_cost": 0.25}
            (folder / "videos").mkdir(parents=True, exist_ok=True)
            client = Client(journal=folder / "jobs.db", budget=limit, webhook=webhook, **options)
            await stack.enter_async_context(client)
            app.state.client = client
            studio = Studio(client, folder / "videos", limit, is_emulated=not live)
            for job in (await client.recover()).jobs:
                studio.keep(job)
            yield {"studio": studio}
            await client.aclose(drain=False)  # what runs is in the journal: the next start goes on with it

    routes: list[BaseRoute] = [
        Route("/", page),
        Route("/status", status),
        Route("/jobs", submit, methods=["POST"]),
        Route("/jobs", gallery, methods=["GET"]),
        Route("/jobs/{ref}/events", follow),
        Route("/jobs/{ref}/video", video),
    ]
    hooks = [Mount("/hooks", webhook)] if webhook else []
    return Starlette(routes=[*routes, *hooks], lifespan=living, exception_handlers={SaidError: _said})


class Server(uvicorn.Server):
    """Closes the client before the connections: then open streams end, and their browsers come again to the next."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """At SIGTERM and Ctrl-C."""
        await self._app.state.client.aclose(drain=False)
        await super().shutdown(sockets)


def main() -> None:
    """Serve it until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="at ModelsLab, for money")
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one")
    parser.add_argument("--folder", type=Path, default=Path("studio-data"), help="journal and videos")
    parser.add_argument("--budget", type=float, default=5.0, metavar="USD", help="a day")
    given = parser.parse_args()
    if given.live and not os.environ.get("MODELSLAB_API_KEY"):
        parser.error("--live: set MODELSLAB_API_KEY; without an account, leave --live out")
    try:
        given.folder.mkdir(parents=True, exist_ok=True)
        app = make_app(live=given.live, folder=given.folder, budget=given.budget)
        listening = socket.create_server(("127.0.0.1", given.port))
    except (ModelsLabError, OSError, OverflowError) as error:
        parser.error(f"{error}")
    print(f"The studio is at http://127.0.0.1:{listening.getsockname()[1]} , Ctrl-C ends it.", flush=True)
    Server(app).run(sockets=[listening])


if __name__ == "__main__":
    main()
