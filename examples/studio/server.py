"""A studio in the browser: upload a picture and a prompt, watch the progress, and get a video and a gallery.

    python examples/studio/server.py           uses an emulator on this machine: no account, no money
    python examples/studio/server.py --live    uses ModelsLab, with MODELSLAB_API_KEY: $0.20 a video, at most $5 a day

A cookie tells visitors apart. The ref of a job begins with the digest of its visitor's cookie, so no visitor can reach
the jobs of another.
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
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from modelslab_async import Budget, BudgetExceededError, Client, InvalidRequestError, Job, JobRecord, ModelsLabError
from modelslab_async.emulator import Emulator
from modelslab_async.errors import Problem
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
    """The application's state: its client, its open jobs, and the folder of its videos."""

    client: Client
    videos: Path
    budget: Budget
    is_emulated: bool
    jobs: dict[str, Job] = attrs.field(factory=dict[str, Job])
    saves: dict[str, asyncio.Task[None]] = attrs.field(factory=dict[str, "asyncio.Task[None]"])

    def save_when_ready(self, job: Job) -> None:
        """Start a task that saves the job's video. The journal records how the job ended."""
        self.jobs[job.ref] = job
        self.saves[job.ref] = asyncio.create_task(self._save(job))

    async def _save(self, job: Job) -> None:
        try:
            with suppress(ModelsLabError, OSError):  # the page shows the error from the journal
                await job.save(self.videos / f"{job.ref}.mp4")
        finally:
            del self.jobs[job.ref], self.saves[job.ref]

    def open_jobs(self, visitor: str = "") -> int:
        """Return the number of unfinished jobs of a visitor, or of all visitors."""
        return sum(ref.startswith(visitor) and not job.done() for ref, job in self.jobs.items())


# --- routes ---


async def page(request: Request) -> Response:
    """Serve the page, and set the cookie that tells visitors apart."""
    nonce = secrets.token_urlsafe(16)
    response = HTMLResponse(PAGE.read_text(encoding="utf-8").replace("NONCE", nonce))
    sources = f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; media-src 'self'"
    policy = f"default-src 'none'; {sources}; img-src 'self' blob: data:; form-action 'self'; base-uri 'none'"
    response.headers["Content-Security-Policy"] = policy
    if COOKIE not in request.cookies:
        response.set_cookie(COOKIE, secrets.token_urlsafe(24), max_age=31_536_000, httponly=True, samesite="strict")
    return response


async def status(request: Request) -> Response:
    """Return the price, the slots, the queue and the rest of today's budget."""
    studio: Studio = request.state.studio
    statistics = studio.client.statistics()
    waiting = studio.open_jobs() - statistics.in_flight
    left = studio.budget.jobs_left(studio.client.prices, time.time())
    price = f"{studio.client.prices.usd:.2f}"
    queue = {"running": statistics.in_flight, "waiting": max(waiting, 0), "slots": statistics.cap}
    return JSONResponse({"price": price, **queue, "left_today": left, "emulated": studio.is_emulated})


async def submit(request: Request) -> Response:
    """Submit a picture and a prompt. All checks come before the paid request."""
    studio, visitor = request.state.studio, _visitor(request)
    if studio.open_jobs(visitor) >= MAX_OPEN_JOBS_A_VISITOR:
        raise HTTPException(429, "Three of your videos are in progress. Wait until one of them is finished.")
    if studio.open_jobs() >= MAX_OPEN_JOBS:
        raise HTTPException(503, "The studio is busy. Try again in a few minutes.")
    prompt, picture = await _upload(request)
    ref = f"{visitor}-{secrets.token_hex(16)}"
    try:
        job = studio.client.submit(prompt=prompt, init_image=picture, num_frames=FRAMES, fps=FPS, track_id=ref)
    except InvalidRequestError as error:
        raise HTTPException(422, " ".join(_explain(problem) for problem in error.problems)) from error
    if isinstance(job.error, BudgetExceededError):
        raise HTTPException(429, "Today's budget is used up. Come back tomorrow.")
    studio.save_when_ready(job)
    return JSONResponse({"ref": ref}, 201)


async def gallery(request: Request) -> Response:
    """Return the visitor's last 100 jobs, the newest first."""
    studio, visitor = request.state.studio, _visitor(request)
    rows = [row for row in await studio.client.history(1000) if row.ref.startswith(visitor)]
    return JSONResponse([_as_json(studio, row) for row in rows[:100]])


async def follow(request: Request) -> Response:
    """Stream a job's progress as server-sent events."""
    studio, ref = request.state.studio, _own_ref(request)
    if job := studio.jobs.get(ref):
        events = server_sent_events(job, last_event_id=request.headers.get("Last-Event-ID"))
        return StreamingResponse(events, media_type=EVENT_STREAM, headers={"Cache-Control": "no-store"})
    row = await studio.client.find(ref)
    if row is None:
        raise HTTPException(404, "This video does not exist.")
    last = json.dumps({"state": row.state.value, "eta": None, "error": row.error})
    return Response(f"event: end\ndata: {last}\n\n", media_type=EVENT_STREAM)


async def video(request: Request) -> Response:
    """Serve a job's video once it is saved."""
    studio, ref = request.state.studio, _own_ref(request)
    if saving := studio.saves.get(ref):
        await asyncio.wait([saving], timeout=30)
    path = studio.videos / f"{ref}.mp4"
    if not path.is_file():
        raise HTTPException(404, "This video does not exist.")
    name = "video.mp4" if "download" in request.query_params else None
    return FileResponse(path, media_type="video/mp4", filename=name)


# --- helpers ---


def _visitor(request: Request) -> str:
    """Return the digest of the visitor's cookie. The cookie cannot be computed from it."""
    cookie = request.cookies.get(COOKIE, "")
    if len(cookie) < 20:
        raise HTTPException(403, "Open the page of the studio first.")
    return hashlib.sha256(cookie.encode()).hexdigest()[:16]


def _own_ref(request: Request) -> str:
    """Return the ref in the path. Raise 404 if it belongs to another visitor."""
    ref = str(request.path_params["ref"])
    if not _REF.fullmatch(ref) or not secrets.compare_digest(ref[:16], _visitor(request)):
        raise HTTPException(404, "This video does not exist.")
    return ref


async def _upload(request: Request) -> tuple[str, bytes]:
    """Return the prompt and the picture of the form. Refuse a form that is too large before it is read."""
    length = request.headers.get("Content-Length", "")
    if not length.isdigit():
        raise HTTPException(411, "The request has no Content-Length.")
    if int(length) > MAX_UPLOAD_BYTES + 10_000:
        raise HTTPException(413, "The picture is larger than 5 MB. Choose a smaller one.")
    async with request.form(max_files=1, max_fields=1) as form:
        prompt, picture = form.get("prompt"), form.get("picture")
        if not isinstance(prompt, str) or picture is None or isinstance(picture, str):
            raise HTTPException(422, "Choose a picture and describe the video.")
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise HTTPException(422, f"The prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
        return prompt, await picture.read()


def _explain(problem: Problem) -> str:
    """Return what the visitor can do about a problem of the request."""
    match problem.field:
        case "init_image":
            return "This file is not a picture that the studio can use. Choose a PNG, JPEG, WebP or GIF file."
        case "prompt":
            return "Describe what should happen in the video."
        case _:
            return f"{problem.field} {problem.requirement}."


def _as_json(studio: Studio, row: JobRecord) -> Mapping[str, Any]:
    return {
        "ref": row.ref,
        "state": row.state.value,
        "prompt": (row.request or {}).get("prompt", ""),
        "error": row.error,
        "seed": row.seed,
        "video": (studio.videos / f"{row.ref}.mp4").is_file(),
        "open": row.ref in studio.jobs,
    }


async def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the only type it is registered for
    return JSONResponse({"error": error.detail}, error.status_code)


def make_app(*, live: bool, folder: Path, budget: float = 5.0) -> Starlette:
    """Return the application. Its journal and videos are in *folder*; *budget* is in USD per day."""
    public_url = os.environ.get("STUDIO_PUBLIC_URL")
    secret = os.environ.get("STUDIO_SECRET", "")
    webhook = Webhook(public_url=f"{public_url}/hooks", secret=secret) if public_url else None
    limit = Budget(usd=budget, per="day")

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Studio]]:
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
                studio.save_when_ready(job)
            yield {"studio": studio}
            await client.aclose(drain=False)  # the next start recovers the unfinished jobs from the journal

    routes: list[BaseRoute] = [
        Route("/", page),
        Route("/status", status),
        Route("/jobs", submit, methods=["POST"]),
        Route("/jobs", gallery, methods=["GET"]),
        Route("/jobs/{ref}/events", follow),
        Route("/jobs/{ref}/video", video),
    ]
    hooks = [Mount("/hooks", webhook)] if webhook else []
    return Starlette(routes=[*routes, *hooks], lifespan=lifespan, exception_handlers={HTTPException: _error_response})


class Server(uvicorn.Server):
    """Close the client before the connections, so that open streams end. Browsers reconnect after a restart."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down at SIGTERM or Ctrl-C."""
        await self._app.state.client.aclose(drain=False)
        await super().shutdown(sockets)


def main() -> None:
    """Serve the studio until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="use ModelsLab, which costs money, instead of an emulator")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any free one (default: 8000)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("studio-data"),
        help="folder for the journal and the videos (default: studio-data)",
    )
    parser.add_argument("--budget", type=float, default=5.0, metavar="USD", help="most dollars a day (default: 5)")
    args = parser.parse_args()
    if args.live and not os.environ.get("MODELSLAB_API_KEY"):
        parser.error("--live: needs an API key (hint: set MODELSLAB_API_KEY, or omit --live)")
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        app = make_app(live=args.live, folder=args.folder, budget=args.budget)
        listening = socket.create_server(("127.0.0.1", args.port))
    except (ModelsLabError, OSError, OverflowError) as error:
        parser.error(f"{error}")
    print(f"The studio is at http://127.0.0.1:{listening.getsockname()[1]} (stop it with Ctrl-C)", flush=True)
    Server(app).run(sockets=[listening])


if __name__ == "__main__":
    main()
