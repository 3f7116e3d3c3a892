"""Serve a web page on which visitors upload a picture and a prompt, watch the progress, and get their videos.

    python examples/studio/server.py           uses an emulator on this machine: no account, no money
    python examples/studio/server.py --live    uses ModelsLab, with MODELSLAB_API_KEY: $0.20 a video, at most $5 a day

A cookie identifies each visitor. A job's ref begins with the digest of its visitor's cookie, so no visitor can reach
another's jobs. The digest of the picture and the prompt follows, so the studio asks before it makes a video twice.

With --workers, several processes serve the page, and share the journal. Each can show the progress of every job. If a
process dies, another one takes over its jobs.

The server answers only to the host names that it was started for. Otherwise a page of another site could reach it
under a name that its owner controls (DNS rebinding).
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
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from decimal import Decimal
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
from modelslab_async.web import client_of, event_stream, lifespan, public_error
from modelslab_async.webhook import Webhook

MAX_UPLOAD_BYTES = 5_000_000
MAX_PROMPT_CHARACTERS = 1000
MAX_OPEN_JOBS = 50
MAX_OPEN_JOBS_A_VISITOR = 3
MAX_ROWS = 1000
"""The journal's latest jobs, among which a visitor's own are searched."""
FRAMES, FPS = 49, 16
COOKIE = "visitor"
PAGE = Path(__file__).with_name("page.html")
LOCAL_HOSTS = ("localhost", "127.0.0.1")
SETTINGS = "STUDIO_SETTINGS"
"""The environment variable from which the worker processes read their settings, in JSON."""
_REF = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}-[0-9a-f]{16}")
_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_IS_OPEN = (JobState.WAITING, JobState.SUBMITTING, JobState.PROCESSING)
_HAS_MORE_TO_COME = (*_IS_OPEN, JobState.READY, JobState.TIMED_OUT)
"""States in which a job without a saved video is worth following."""
_NO_VIDEO = (JobState.REFUSED, JobState.CANCELLED, JobState.FAILED)
_SECONDS_A_DAY = 86_400
_STATUS_EVERY = 0.5
"""Seconds for which all visitors get the same status."""
_SAVING_SECONDS = 30.0


@attrs.frozen
class Settings:
    """How the studio was started.

    folder: for the journal, the pictures and the videos.
    budget: USD per day.
    hosts: the host names to answer to. That of STUDIO_PUBLIC_URL is added.
    """

    folder: Path
    budget: float
    hosts: Sequence[str]
    is_emulated: bool

    def as_json(self) -> str:
        """Return the settings as text."""
        return json.dumps({**attrs.asdict(self), "folder": str(self.folder)})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """Return the settings of a text."""
        values = json.loads(text)
        return cls(**{**values, "folder": Path(values["folder"])})


class Studio:
    """The application's state: its open jobs, and the folders of its pictures and videos."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.pictures, self.videos = settings.folder / "pictures", settings.folder / "videos"
        self.budget = Budget(usd=settings.budget, per="day")
        self.jobs: dict[str, Job] = {}
        """The jobs whose videos this process saves, until they are saved."""
        self._saves = dict[str, asyncio.Task[None]]()
        self._status: tuple[float, Mapping[str, Any]] = (0.0, {})

    def make_client(self, webhook: Webhook | None) -> Client:
        """Return the client of this process."""
        for each in (self.pictures, self.videos):
            each.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"base_url": os.environ.get("MODELSLAB_BASE_URL", "https://modelslab.com")}
        if self.settings.is_emulated:
            options |= {"api_key": "any", "poll_cost": 0.25}
        return Client(journal=self.settings.folder / "jobs.db", budget=self.budget, webhook=webhook, **options)

    def video_of(self, ref: str) -> Path:
        """Return where the job's video is saved."""
        return self.videos / f"{ref}.mp4"

    def save_when_ready(self, job: Job) -> None:
        """Start a task that saves the job's video, once for each job. The journal records how the job ended."""
        if job.ref not in self.jobs:
            self.jobs[job.ref] = job
            self._saves[job.ref] = asyncio.create_task(self._save(job))

    async def _save(self, job: Job) -> None:
        try:
            with suppress(ModelsLabError, OSError):  # the page shows the error from the journal
                await job.save(self.video_of(job.ref))
        finally:
            del self.jobs[job.ref], self._saves[job.ref]

    async def recovered(self, job: Job) -> None:
        """Save the video of a job that another process left."""
        self.save_when_ready(job)

    def open_refs(self, rows: Sequence[JobRecord]) -> set[str]:
        """Return the refs of unfinished jobs of all processes. *rows* are the journal's."""
        known = {row.ref for row in rows}
        here = {ref for ref, job in self.jobs.items() if not job.done() and ref not in known}
        return here | {row.ref for row in rows if row.state in _IS_OPEN}

    def require_room(self, visitor: str, rows: Sequence[JobRecord]) -> None:
        """Raise HTTPException if the visitor, or the studio, has too many unfinished jobs."""
        refs = self.open_refs(rows)
        if sum(ref.startswith(visitor) for ref in refs) >= MAX_OPEN_JOBS_A_VISITOR:
            raise HTTPException(429, "Three of your videos are in progress. Wait until one of them is finished.")
        if len(refs) >= MAX_OPEN_JOBS:
            raise HTTPException(503, "The studio is busy. Try again in a few minutes.")

    def require_first(self, prefix: str, rows: Sequence[JobRecord], price: str) -> None:
        """Raise HTTPException (409) with a question if the same video was, or may have been, made before.

        prefix: how the refs of the visitor's jobs with the same picture and prompt begin.
        rows: the journal's rows.
        """
        states = [row.state for row in rows if row.ref.startswith(prefix) and row.state not in _NO_VIDEO]
        if any(ref.startswith(prefix) for ref in self.open_refs(rows)):
            happened = "This video is being made."
        elif JobState.READY in states:
            happened = "You made this video before."
        elif states:
            happened = "You requested this video before, and it may still be finished."
        else:
            return
        raise HTTPException(409, f"{happened} Make another for ${price}?")

    async def submit(self, client: Client, prompt: str, picture: Path, ref: str) -> Job:
        """Submit a job. Return it once each process can find it in the journal.

        Raise HTTPException, which says what the visitor can do, if it is refused.
        """
        try:
            job = client.submit(prompt=prompt, init_image=picture, num_frames=FRAMES, fps=FPS, track_id=ref)
        except InvalidRequestError as error:
            raise HTTPException(422, " ".join(_explain(problem) for problem in error.problems)) from error
        if isinstance(job.error, BudgetExceededError):
            raise HTTPException(429, "Today's budget is used up. Come back tomorrow.")
        self.save_when_ready(job)
        await client.find(ref)
        return job

    async def status(self, client: Client) -> Mapping[str, Any]:
        """Return the price, the slots, the queue and the rest of today's budget, across all processes."""
        at, known = self._status
        if time.monotonic() - at < _STATUS_EVERY:
            return known
        rows = await client.history(MAX_ROWS)
        states = [row.state for row in rows]
        price = client.prices.usd
        status = {
            "price": f"{price:.2f}",
            "running": states.count(JobState.SUBMITTING) + states.count(JobState.PROCESSING),
            "waiting": states.count(JobState.WAITING),
            "slots": client.statistics().cap,
            "left_today": int((_usd(self.settings.budget) - _spent_today(rows)) // price),
            "emulated": self.settings.is_emulated,
        }
        self._status = time.monotonic(), status
        return status


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
    return JSONResponse(await _studio_of(request).status(client_of(request)))


async def submit(request: Request) -> Response:
    """Submit a picture and a prompt. All checks come before the paid request."""
    studio, client, visitor = _studio_of(request), client_of(request), _visitor(request)
    rows = await client.history(MAX_ROWS)
    studio.require_room(visitor, rows)
    prompt, content, is_confirmed = await _upload(request)
    prefix = f"{visitor}-{_digest(hashlib.sha256(content).digest() + prompt.encode())}-"
    ref = prefix + secrets.token_hex(8)
    path = studio.pictures / ref
    try:
        await asyncio.to_thread(path.write_bytes, content)
        # Other uploads may have been accepted meanwhile. From these checks to the submit there must be no await.
        studio.require_room(visitor, rows)
        if not is_confirmed:
            studio.require_first(prefix, rows, f"{client.prices.usd:.2f}")
        await studio.submit(client, prompt, path, ref)
    except Exception:
        path.unlink(missing_ok=True)
        raise
    return JSONResponse({"ref": ref, "prompt": prompt}, 201)


async def gallery(request: Request) -> Response:
    """Return the visitor's last 100 jobs, the newest first."""
    visitor = _visitor(request)
    rows = [row for row in await client_of(request).history(MAX_ROWS) if row.ref.startswith(visitor)]
    return JSONResponse([_as_json(_studio_of(request), row) for row in rows[:100]])


async def follow(request: Request) -> Response:
    """Stream the progress of a job of any process. The stream of a job that ended has its end at once."""
    studio, client, ref = _studio_of(request), client_of(request), _own_ref(request)
    job = await client.follow(ref)
    is_own = client.journal and job.record and job.record.owner == client.journal.owner
    if (is_own or job.done()) and not studio.video_of(ref).is_file():  # else its own process saves it
        studio.save_when_ready(job)
    return await event_stream(job, request)


async def picture(request: Request) -> Response:
    """Serve the picture of a job. An `<img>` recognises its format; opened by itself it is a download, never a page."""
    path = _studio_of(request).pictures / _own_ref(request)
    if not path.is_file():
        raise HTTPException(404, "This picture does not exist.")
    return FileResponse(path, media_type="application/octet-stream", filename="picture")


async def video(request: Request) -> Response:
    """Serve a job's video once a process has saved it."""
    path, row = _studio_of(request).video_of(_own_ref(request)), await client_of(request).find(_own_ref(request))
    if row and row.state in _HAS_MORE_TO_COME:
        with suppress(TimeoutError):
            async with asyncio.timeout(_SAVING_SECONDS):
                while not path.is_file():  # noqa: ASYNC110 - another process may save it
                    await asyncio.sleep(0.1)
    if not path.is_file():
        raise HTTPException(404, "This video does not exist.")
    name = "video.mp4" if "download" in request.query_params else None
    return FileResponse(path, media_type="video/mp4", filename=name)


# --- helpers ---


def _studio_of(request: Request) -> Studio:
    studio: Studio = request.app.state.studio
    return studio


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


def _usd(amount: object) -> Decimal:
    return Decimal(str(amount))


def _spent_today(rows: Sequence[JobRecord]) -> Decimal:
    """Return what the jobs of this UTC day cost, or will cost."""
    since = time.time() // _SECONDS_A_DAY * _SECONDS_A_DAY
    counted = [row for row in rows if row.charged is not False or row.state in _IS_OPEN]
    return sum((row.price for row in counted if (row.accepted_at or row.created_at) >= since), Decimal(0))


def _as_json(studio: Studio, row: JobRecord) -> Mapping[str, Any]:
    is_saved = studio.video_of(row.ref).is_file()
    return {
        "ref": row.ref,
        "state": row.state.value,
        "prompt": (row.request or {}).get("prompt", ""),
        "seed": row.seed,
        "video": is_saved,
        "open": row.state in _HAS_MORE_TO_COME and not is_saved,
    }


async def _answer_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - the only type it is registered for
    return JSONResponse({"error": error.detail}, error.status_code)


async def _answer_error(_: Request, error: Exception) -> Response:
    """Answer in words for a visitor. The log has the error itself."""
    public = public_error(error)
    return JSONResponse({"error": public.message}, public.status)


def make_app(settings: Settings | None = None) -> Starlette:
    """Return the application. None takes the settings from the environment, as in a worker process."""
    settings = settings or Settings.from_json(os.environ[SETTINGS])
    public_url = os.environ.get("STUDIO_PUBLIC_URL")
    secret = os.environ.get("STUDIO_SECRET", "")
    webhook = Webhook(public_url=f"{public_url}/hooks", secret=secret) if public_url else None
    names = [*settings.hosts, *filter(None, [urlsplit(public_url or "").hostname])]
    studio = Studio(settings)
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
    app = Starlette(
        routes=[*routes, *hooks],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[*map(str.lower, names)], www_redirect=False)],
        # At the end, no job is waited for: another process, or the next start, takes over what this one leaves.
        lifespan=lifespan(lambda: studio.make_client(webhook), grace=0.0, on_recovered=studio.recovered),
        exception_handlers={HTTPException: _answer_http_error, ModelsLabError: _answer_error},
    )
    app.state.studio = studio
    return app


def _host_name(text: str) -> str:
    if not _HOST_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a name without scheme and port, such as studio.example.com")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number from 1 to 64")
    return int(text)


def main() -> None:
    """Serve the studio until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--live", action="store_true", help="use ModelsLab, which costs money, instead of an emulator")
    parser.add_argument(
        "--host", type=_host_name, default="127.0.0.1", help="address to listen on (default: 127.0.0.1)"
    )
    parser.add_argument("--port", type=int, default=8000, help="port to listen on, 0 for any free one (default: 8000)")
    parser.add_argument("--workers", type=_count, default=1, metavar="N", help="processes (default: 1)")
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
    hosts = sorted({*LOCAL_HOSTS, args.host, *args.allowed_host})
    settings = Settings(args.folder, args.budget, hosts, is_emulated=not args.live)
    with ExitStack() as stack:
        try:
            args.folder.mkdir(parents=True, exist_ok=True)
            make_app(settings)  # it checks the settings
            listening = socket.create_server((args.host, args.port))
            if not args.live:
                os.environ["MODELSLAB_BASE_URL"] = stack.enter_context(Emulator.running(speed=4)).url
        except (ModelsLabError, OSError, OverflowError) as error:
            parser.error(f"{error}")
        os.environ[SETTINGS] = settings.as_json()
        print(f"The studio is at http://{args.host}:{listening.getsockname()[1]} (stop it with Ctrl-C)", flush=True)
        _serve(listening, args.workers)


def _serve(listening: socket.socket, workers: int) -> None:
    host, port = listening.getsockname()[:2]
    options: dict[str, Any] = {
        "factory": True,
        "log_level": "warning",
        "timeout_graceful_shutdown": 2,  # then the open streams end, and the browsers connect again
    }
    if workers == 1:
        uvicorn.Server(uvicorn.Config("server:make_app", **options)).run(sockets=[listening])
    else:
        listening.close()  # uvicorn opens it again for all of its processes
        uvicorn.run("server:make_app", host=host, port=port, workers=workers, **options)


if __name__ == "__main__":
    main()
