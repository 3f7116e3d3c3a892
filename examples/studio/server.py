"""Serve a web page on which visitors upload a picture and a prompt, watch the progress, and get their videos.

    python examples/studio/server.py           uses an emulator on this machine: no account, no money
    python examples/studio/server.py --live    uses ModelsLab, with MODELSLAB_API_KEY: $0.20 a video, at most $5 a day

A cookie identifies each visitor. A job's ref begins with the digest of its visitor's cookie, so no visitor can reach
another's jobs. The digest of the picture and the prompt follows, so the studio asks before it makes a video twice.

The server answers only to the host names that it was started for. Otherwise a page of another site could reach it
under a name that its owner controls (DNS rebinding).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from modelslab_async import (
    Budget,
    BudgetExceededError,
    Client,
    InvalidRequestError,
    Job,
    JobRecord,
    JobState,
    ModelsLabError,
)
from modelslab_async.emulator import Emulator
from modelslab_async.errors import Problem
from modelslab_async.web import event_stream
from modelslab_async.webhook import Webhook

MAX_UPLOAD_BYTES = 5_000_000
MAX_PROMPT_CHARACTERS = 1000
MAX_OPEN_JOBS = 50
MAX_OPEN_JOBS_A_VISITOR = 3
FRAMES, FPS = 49, 16
COOKIE = "visitor"
PAGE = Path(__file__).with_name("page.html")
LOCAL_HOSTS = ("localhost", "127.0.0.1")
_REF = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{16}")
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_HAS_MORE_TO_COME = (JobState.SUBMITTING, JobState.PROCESSING, JobState.READY, JobState.TIMED_OUT)
"""States in which a job without a saved video is worth attaching to."""
_NO_VIDEO = (JobState.REFUSED, JobState.CANCELLED, JobState.FAILED)


@attrs.define
class Studio:
    """The application's state: its client, its open jobs, and the folders of its pictures and videos."""

    client: Client
    pictures: Path
    videos: Path
    budget: Budget
    is_emulated: bool
    jobs: dict[str, Job] = attrs.field(factory=dict[str, Job])
    saves: dict[str, asyncio.Task[None]] = attrs.field(factory=dict[str, "asyncio.Task[None]"])

    def save_when_ready(self, job: Job) -> None:
        """Start a task that saves the job's video, once for each job. The journal records how the job ended."""
        if job.ref not in self.jobs:
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

    def require_room(self, visitor: str) -> None:
        """Raise HTTPException if the visitor, or the studio, has too many unfinished jobs."""
        if self.open_jobs(visitor) >= MAX_OPEN_JOBS_A_VISITOR:
            raise HTTPException(429, "Three of your videos are in progress. Wait until one of them is finished.")
        if self.open_jobs() >= MAX_OPEN_JOBS:
            raise HTTPException(503, "The studio is busy. Try again in a few minutes.")

    def require_first(self, prefix: str, rows: Iterable[JobRecord]) -> None:
        """Raise HTTPException (409) with a question if the same video was, or may be, made before.

        prefix: how the refs of the visitor's jobs with the same picture and prompt begin.
        rows: the journal's rows.
        """
        states = [row.state for row in rows if row.ref.startswith(prefix) and row.state not in _NO_VIDEO]
        if any(ref.startswith(prefix) for ref in self.jobs):
            happened = "This video is being made."
        elif JobState.READY in states:
            happened = "You made this video before."
        elif states:
            happened = "You requested this video before, and it may still be finished."
        else:
            return
        raise HTTPException(409, f"{happened} Make another for ${self.client.prices.usd:.2f}?")

    def submit(self, prompt: str, picture: Path, ref: str) -> Job:
        """Submit a job. Raise HTTPException, which says what the visitor can do, if it is refused."""
        try:
            job = self.client.submit(prompt=prompt, init_image=picture, num_frames=FRAMES, fps=FPS, track_id=ref)
        except InvalidRequestError as error:
            raise HTTPException(422, " ".join(_explain(problem) for problem in error.problems)) from error
        if isinstance(job.error, BudgetExceededError):
            raise HTTPException(429, "Today's budget is used up. Come back tomorrow.")
        self.save_when_ready(job)
        return job


# --- routes ---


async def page(request: Request) -> Response:
    """Serve the page, and set the cookie that identifies the visitor."""
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
    studio.require_room(visitor)
    prompt, content, is_confirmed = await _upload(request)
    prefix = f"{visitor}-{_digest(hashlib.sha256(content).digest() + prompt.encode())}-"
    rows = () if is_confirmed else await studio.client.history(1000)
    ref = prefix + secrets.token_hex(8)
    path = studio.pictures / ref
    try:
        await asyncio.to_thread(path.write_bytes, content)
        # Other uploads may have been accepted meanwhile. From these checks to the submit there must be no await.
        studio.require_room(visitor)
        if not is_confirmed:
            studio.require_first(prefix, rows)
        studio.submit(prompt, path, ref)
    except Exception:
        path.unlink(missing_ok=True)
        raise
    return JSONResponse({"ref": ref, "prompt": prompt}, 201)


async def gallery(request: Request) -> Response:
    """Return the visitor's last 100 jobs, the newest first."""
    studio, visitor = request.state.studio, _visitor(request)
    rows = [row for row in await studio.client.history(1000) if row.ref.startswith(visitor)]
    return JSONResponse([_as_json(studio, row) for row in rows[:100]])


async def follow(request: Request) -> Response:
    """Stream a job's progress as server-sent events. The stream of a job that ended has its end at once."""
    studio, ref = request.state.studio, _own_ref(request)
    job = studio.jobs.get(ref)
    if job is None:
        if await studio.client.find(ref) is None:
            raise HTTPException(404, "This video does not exist.")
        try:
            job = await studio.client.attach(ref)
        except InvalidRequestError as error:
            raise HTTPException(503, "Another server is making this video. Try again later.") from error
        if not (studio.videos / f"{ref}.mp4").is_file():
            studio.save_when_ready(job)
    return await event_stream(job, request)


async def picture(request: Request) -> Response:
    """Serve the picture of a job. An `<img>` recognises its format; opened by itself it is a download, never a page."""
    path = request.state.studio.pictures / _own_ref(request)
    if not path.is_file():
        raise HTTPException(404, "This picture does not exist.")
    return FileResponse(path, media_type="application/octet-stream", filename="picture")


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
    return _digest(cookie.encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _own_ref(request: Request) -> str:
    """Return the ref in the path. Raise 404 if it belongs to another visitor."""
    ref = str(request.path_params["ref"])
    if not _REF.fullmatch(ref) or not secrets.compare_digest(ref[:16], _visitor(request)):
        raise HTTPException(404, "This video does not exist.")
    return ref


async def _upload(request: Request) -> tuple[str, bytes, bool]:
    """Return the form's prompt and picture, and whether the visitor confirmed to pay for the same video again.

    Refuse a form that is too large before it is read.
    """
    length = request.headers.get("Content-Length", "")
    if not length.isdigit():
        raise HTTPException(411, "The request has no Content-Length.")
    if int(length) > MAX_UPLOAD_BYTES + 10_000:
        raise HTTPException(413, "The picture is larger than 5 MB. Choose a smaller one.")
    async with request.form(max_files=1, max_fields=2) as form:
        prompt, file = form.get("prompt"), form.get("picture")
        if not isinstance(prompt, str) or file is None or isinstance(file, str):
            raise HTTPException(422, "Choose a picture and write a prompt.")
        prompt = prompt.replace("\r\n", "\n").strip()  # forms send each line break as two characters
        if len(prompt) > MAX_PROMPT_CHARACTERS:
            raise HTTPException(422, f"The prompt is longer than {MAX_PROMPT_CHARACTERS} characters.")
        return prompt, await file.read(), "again" in form


def _explain(problem: Problem) -> str:
    """Return what the visitor can do about a problem of the request."""
    match problem.field:
        case "init_image":
            return "This file is not a picture that the studio can use. Choose a PNG, JPEG, WebP or GIF file."
        case "prompt":
            return "Write a prompt: what should happen in the video?"
        case _:
            return f"{problem.field} {problem.requirement}."


def _as_json(studio: Studio, row: JobRecord) -> Mapping[str, Any]:
    is_saved = (studio.videos / f"{row.ref}.mp4").is_file()
    return {
        "ref": row.ref,
        "state": row.state.value,
        "prompt": (row.request or {}).get("prompt", ""),
        "error": row.error,
        "seed": row.seed,
        "video": is_saved,
        "open": row.ref in studio.jobs or (row.state in _HAS_MORE_TO_COME and not is_saved),
    }


async def _error_response(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the only type it is registered for
    return JSONResponse({"error": error.detail}, error.status_code)


def make_app(*, live: bool, folder: Path, budget: float = 5.0, hosts: Iterable[str] = LOCAL_HOSTS) -> Starlette:
    """Return the application.

    folder: for the journal, the pictures and the videos.
    budget: USD per day.
    hosts: the host names to answer to. That of STUDIO_PUBLIC_URL is added.
    """
    public_url = os.environ.get("STUDIO_PUBLIC_URL")
    secret = os.environ.get("STUDIO_SECRET", "")
    webhook = Webhook(public_url=f"{public_url}/hooks", secret=secret) if public_url else None
    limit = Budget(usd=budget, per="day")
    names = [*hosts, *filter(None, [urlsplit(public_url or "").hostname])]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Studio]]:
        async with AsyncExitStack() as stack:
            options: dict[str, Any] = {"base_url": os.environ.get("MODELSLAB_BASE_URL", "https://modelslab.com")}
            if not live:
                emulator = await stack.enter_async_context(Emulator(speed=4))
                options = {"api_key": "any", "base_url": emulator.url, "poll_cost": 0.25}
            pictures, videos = folder / "pictures", folder / "videos"
            for each in (pictures, videos):
                each.mkdir(parents=True, exist_ok=True)
            client = Client(journal=folder / "jobs.db", budget=limit, webhook=webhook, **options)
            await stack.enter_async_context(client)
            app.state.client = client
            studio = Studio(client, pictures, videos, limit, is_emulated=not live)
            recovery = await client.recover()
            for job in [*recovery.jobs, *await client.resubmit(recovery.unsent)]:
                studio.save_when_ready(job)
            yield {"studio": studio}
            await client.aclose(drain=False)  # the next start recovers the unfinished jobs from the journal

    routes: list[BaseRoute] = [
        Route("/", page),
        Route("/status", status),
        Route("/jobs", submit, methods=["POST"]),
        Route("/jobs", gallery, methods=["GET"]),
        Route("/jobs/{ref}/events", follow),
        Route("/jobs/{ref}/picture", picture),
        Route("/jobs/{ref}/video", video),
    ]
    hooks = [Mount("/hooks", webhook)] if webhook else []
    return Starlette(
        routes=[*routes, *hooks],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*map(str.lower, names)], www_redirect=False)],
        lifespan=lifespan,
        exception_handlers={HTTPException: _error_response},
    )


class Server(uvicorn.Server):
    """Close the client before the connections, so that open streams end. Browsers reconnect after a restart."""

    def __init__(self, app: Starlette) -> None:
        super().__init__(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down at SIGTERM or Ctrl-C."""
        await self._app.state.client.aclose(drain=False)
        await super().shutdown(sockets)


def _host_name(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a name without scheme and port, such as studio.example.com")
    return text


def main() -> None:
    """Serve the studio until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="use ModelsLab, which costs money, instead of an emulator")
    parser.add_argument(
        "--host", type=_host_name, default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any free one (default: 8000)")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("studio-data"),
        help="folder for the journal, the pictures and the videos (default: studio-data)",
    )
    parser.add_argument("--budget", type=float, default=5.0, metavar="USD", help="most dollars a day (default: 5)")
    parser.add_argument(
        "--allowed-host",
        type=_host_name,
        action="append",
        default=[],
        metavar="NAME",
        help="another host name by which browsers reach the studio, for example through a proxy; may be repeated",
    )
    args = parser.parse_args()
    if args.live and not os.environ.get("MODELSLAB_API_KEY"):
        parser.error("--live: needs an API key (hint: set MODELSLAB_API_KEY, or omit --live)")
    try:
        args.folder.mkdir(parents=True, exist_ok=True)
        hosts = {*LOCAL_HOSTS, args.host, *args.allowed_host}
        app = make_app(live=args.live, folder=args.folder, budget=args.budget, hosts=hosts)
        listening = socket.create_server((args.host, args.port))
    except (ModelsLabError, OSError, OverflowError) as error:
        parser.error(f"{error}")
    print(f"The studio is at http://{args.host}:{listening.getsockname()[1]} (stop it with Ctrl-C)", flush=True)
    Server(app).run(sockets=[listening])


if __name__ == "__main__":
    main()
