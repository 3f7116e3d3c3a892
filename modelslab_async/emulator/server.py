"""The emulator on aiohttp.web: `Service` behind real HTTP, with rendered videos."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar, Unpack
from urllib.parse import urlsplit

import aiohttp
import attrs
from aiohttp import web

from modelslab_async import __version__
from modelslab_async.aio import wait_for_event
from modelslab_async.emulator.control import ControlCall, control, read_params
from modelslab_async.emulator.faults import Rule
from modelslab_async.emulator.files import FileAnswer, file_response
from modelslab_async.emulator.ids import fresh_ids
from modelslab_async.emulator.job import EmulatedJob
from modelslab_async.emulator.leaks import find_leak
from modelslab_async.emulator.ledger import Ledger
from modelslab_async.emulator.options import EmulatorOptions, check_server_options, split_options
from modelslab_async.emulator.page import page
from modelslab_async.emulator.params import Picture, check_file
from modelslab_async.emulator.pictures import PictureFetcher
from modelslab_async.emulator.recording import Recorder, Replay
from modelslab_async.emulator.render import MISSING, is_available, picture_problem
from modelslab_async.emulator.replies import Action, Answer, Delivery, Kind, Links
from modelslab_async.emulator.service import Call, Service
from modelslab_async.emulator.store import FolderStore, digest_of
from modelslab_async.emulator.threads import LoopGuard, entered_in_thread
from modelslab_async.emulator.videos import Videos
from modelslab_async.errors import InvalidRequestError
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.request import is_http_url

NOTICE = "modelslab_async emulator on this machine; not ModelsLab"
"""Value of the header `X-Emulator`, which every response carries."""
_MAX_BODY_BYTES = 16 * 2**20
_LISTEN_RETRY_SECONDS = 0.2
_STALL_CHECK_SECONDS = 0.2
"""Time between two checks whether the client of a stalled request is still connected."""
_CHECKED_PICTURES = 1000
"""How many pictures are known to be readable, so that they are not decoded again."""
_WEBHOOK_TIMEOUT = aiohttp.ClientTimeout(total=30)
_REQUEST_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError)
"""UnicodeError: a host with an empty label, like "a..b"."""
_BODY_ERRORS = (ConnectionError, web.RequestPayloadError)
"""Raised for a body that breaks off, or is not encoded as its headers say."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - the user asked for it
"""Which host reaches a server that listens on all interfaces."""
_HOST = re.compile(r"([a-z\d]([\w.-]*[a-z\d])?|\[[\da-f:.]+\])(:\d+)?", re.ASCII | re.IGNORECASE)
"""A Host header that may be part of a link: a name or an address, and perhaps a port."""
_FILE_PATH = "/{folder:generations|temp}/{name}"
_MAX_ADVANCE = 10 * 365 * 86400.0
"""Seconds."""
_CONTROL_SECONDS = 60.0
"""How long a call from another thread waits for the emulator's event loop."""
_T = TypeVar("_T")
_log = logging.getLogger("modelslab_async.emulator")


class Emulator:
    """An HTTP server on this machine that speaks the service's protocol, without an account. It is not ModelsLab.

    `async with Emulator() as emulator: Client(api_key="any", base_url=emulator.url)` serves in the running event loop.
    `with Emulator.running() as emulator:` serves in a separate thread, as synchronous code needs it. If synchronous
    code blocks the event loop of an emulator, its request gets HTTP 503 and the reason after 5 s.

    `emulator.ledger` and `GET /emulator/ledger` say what ModelsLab would have charged. `GET /` is a page for people.
    The paths under `/emulator/` control the emulator from any language, and so do the methods from any thread.

    profile: "documented" answers errors with their HTTP codes; "legacy" answers HTTP 200, as the service often does;
        "strict" also enforces the documented limits, and answers 404 for unknown ids.
    queue_limit: how many jobs a key may have queued or processing at a time.
    workers: how many of a key's jobs are processed at a time. None: all.
    speed: divides all times. A job of 480p, 81 frames and 20 steps takes about 40 s at speed 1. No job is done before
        its video is rendered, and its eta includes the videos that are rendered before it.
    seed: the seed of all random draws. The ids and file names still differ in each run.
    deterministic: use the same ids and file names in each run. Use a new journal then, because the journal of an
        earlier run has the same ids.
    eta: weights of the kinds of eta, such as {"good": 1}.
    faults: the faults to inject, see `Rule`. A job whose track_id is "fault:NAME:ANYTHING" gets this fault.
    keys: the accepted keys. None: any.
    wallet: USD that each key may spend. None: no limit, and the balance starts at 100.
    keep: how many jobs, charges, uploads and accounts are kept, the newest ones. Totals count all.
    offline_pictures: fetch pictures from this machine only. Any other URL, and one that cannot be fetched, gives a
        placeholder. Without the option, a picture that cannot be fetched is refused.
    host, port: where to listen; by default on loopback, on a free port. With "0.0.0.0", other hosts can use the
        emulator, see `Client(allow_http=True)`: links follow the Host header of the request.
    public_url: begins all links, for an emulator behind a proxy. None: links follow the Host header of the request.
    files_origin: begins the links to files, such as "http://127.0.0.1:8788". The emulator listens on its port too (0
        for a free port), and serves only files there. None: the files are where the API is. A key that comes with a
        request for a file is reported in the ledger in any case.
    record: a file to which each exchange with the API, and each file, is appended, without the key.
    replay: a file that `record` wrote, from which all requests are answered. Nothing is charged or rendered then.
    render: called in a thread with a job's work; returns its file. None renders a real mp4, which needs the extra
        `emulator`. `skeleton` makes only the boxes of an mp4, which takes no time.

    Raises InvalidRequestError if an option is wrong. Entering the context raises OSError if a port is taken, and
    ImportError if the extra is needed and missing.
    """

    def __init__(self, **options: Unpack[EmulatorOptions]) -> None:
        own, of_service = split_options(options)
        check_server_options(own)
        self._is_deterministic = own.get("deterministic", False)
        self._store = FolderStore()
        self.service = Service(
            **of_service,
            # A journal must not take a job for one of an earlier emulator, and an old link must not lead to a new file.
            ids=None if self._is_deterministic else fresh_ids(),
            name_seed="" if self._is_deterministic else secrets.token_hex(16),
            store=self._store,
        )
        self._host, self._port = own.get("host", "127.0.0.1"), own.get("port", 0)
        self._public_url = (own.get("public_url") or "").rstrip("/")
        self._files_origin = (own.get("files_origin") or "").rstrip("/")
        self._is_offline = own.get("offline_pictures", False)
        self._render = own.get("render")
        record, replay = own.get("record"), own.get("replay")
        self._record_to = None if record is None else Path(record)
        self._recorder: Recorder | None = None
        self._replay = None if replay is None else Replay(Path(replay))
        self._readable: OrderedDict[str, str] = OrderedDict()
        """The problem of each picture that was checked lately, by digest; "" if there is none."""
        self._videos = Videos(self.service, self._store, self._render)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started = self._offset = 0.0
        self._clock_changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._site: web.SockSite | None = None
        self._files_runner: web.AppRunner | None = None
        self._sockets: list[socket.socket] = []
        self._is_in_own_thread = False
        self._guard: LoopGuard | None = None

    @classmethod
    @contextmanager
    def running(cls, **options: Unpack[EmulatorOptions]) -> Iterator[Self]:
        """Run an emulator in a separate thread with a separate event loop, for synchronous programs and tests.

        `with Emulator.running() as emulator: requests.post(emulator.url + ...)`. The options are those of the class.

        Raises what the class and its `async with` raise.
        """
        emulator = cls(**options)
        emulator._is_in_own_thread = True
        with entered_in_thread(emulator):
            yield emulator

    @property
    def url(self) -> str:
        """The base URL to pass to a Client on this machine."""
        return self.service.origin

    @property
    def ledger(self) -> Ledger:
        """What ModelsLab would have charged."""
        return self.service.ledger

    def now(self) -> float:
        """Return the seconds since the emulator started, `advance` included: the clock of its jobs and deliveries."""
        return 0.0 if self._loop is None else self._loop.time() - self._started + self._offset

    # --- control, from any thread ---

    def reset(self, key: str | None = None) -> None:
        """Forget jobs, charges and settings of *key*; all of them if it is None, and return to the first faults."""
        self._on_loop(lambda: self.service.reset(key))

    def set_faults(self, rules: list[Rule]) -> None:
        """Replace the fault rules; `times` of each rule counts anew."""
        self._on_loop(lambda: self.service.set_faults(rules))

    def finish_job(self, job_id: int) -> None:
        """Let a job succeed now, or when its video is rendered. Raise LookupError if no unfinished job has the id."""
        self._end_job(job_id, "")

    def fail_job(self, job_id: int, message: str = "Something went wrong while generating the video.") -> None:
        """Let a job fail now. Raise LookupError if no unfinished job has the id."""
        self._end_job(job_id, message)

    def advance(self, seconds: float) -> None:
        """Move the clock forward by *seconds* of the service's time, which `speed` divides as it divides all times."""

        def advance() -> None:
            self._offset += max(seconds, 0.0) / self.service.speed

        self._on_loop(advance)

    def _end_job(self, job_id: int, failure: str) -> None:
        def end() -> bool:
            job = self.service.jobs.get(job_id)
            return job is not None and self.service.end_job(self.now(), job, failure)

        if not self._on_loop(end):
            raise LookupError(f"id={job_id}: no unfinished job")

    def _on_loop(self, function: Callable[[], _T]) -> _T:
        """Call *function* in the emulator's event loop, and let everything that waits notice the change.

        Raise TimeoutError if the loop does not react.
        """

        def call() -> _T:
            try:
                return function()
            finally:
                self._wake()

        if self._loop is None:  # not started
            return function()
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:  # no loop runs in this thread
            running = None
        if running is self._loop:
            return call()
        result: Future[_T] = Future()

        def deliver() -> None:
            try:
                result.set_result(call())
            except Exception as error:  # noqa: BLE001 - raised in the caller's thread
                result.set_exception(error)

        self._loop.call_soon_threadsafe(deliver)
        return result.result(_CONTROL_SECONDS)

    def _wake(self) -> None:
        """Let everything that waits for a time check the clock again."""
        changed, self._clock_changed = self._clock_changed, asyncio.Event()
        changed.set()
        self._videos.reschedule()

    async def _sleep_until(self, at: Callable[[], float]) -> None:
        """Sleep until the clock shows the time that *at* returns, which may change."""
        while (seconds := at() - self.now()) > 0:
            await wait_for_event(self._clock_changed, seconds)

    # --- start and end ---

    async def __aenter__(self) -> Self:
        if self._render is None and self._replay is None and not is_available():
            raise ImportError(MISSING)
        if self._is_deterministic:
            _log.warning(
                "deterministic: a journal of an earlier run takes the ids for those of its jobs (hint: use a new one)"
            )
        self._recorder = Recorder(self._record_to) if self._record_to else None
        self._closing.clear()
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._videos.open(self.now)
        self._session = aiohttp.ClientSession()
        self._fetcher = PictureFetcher(offline=self._is_offline)
        try:
            await self._listen()
            if self._files_origin:
                await self._listen_for_files()
        except BaseException:
            await self.__aexit__()
            raise
        if not self._is_in_own_thread:
            self._guard = LoopGuard(lambda: tuple(self._sockets), NOTICE)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        if self._guard:
            self._guard.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for runner in (self._runner, self._files_runner):
            if runner:
                await runner.cleanup()
        await self._videos.close()
        await self._session.close()
        await self._fetcher.close()
        self._store.close()
        if self._recorder:
            self._recorder.close()

    async def _listen(self) -> None:
        if self._runner is None or not self._runner.server:
            self._runner = await _runner(
                ("GET", "/", self._show_page),
                ("*", "/emulator/{tail:.*}", self._control),
                ("GET", _FILE_PATH, self._file),
                ("POST", "/{path:.*}", self._post),
                ("*", "/{path:.*}", _no_route),
            )
        self._sockets = [await _listening_socket(self._host, self._port)]
        self._site = web.SockSite(self._runner, self._sockets[0])
        await self._site.start()
        self._port = self._sockets[0].getsockname()[1]
        host = _LOOPBACK.get(self._host, self._host)
        self.service.origin = f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    async def _listen_for_files(self) -> None:
        """Listen at the port of the files' origin, unless another server does that for it."""
        parts = urlsplit(self._files_origin)
        if parts.scheme != "http" or (parts.port or 80) == self._port:
            return
        self._files_runner = await _runner(("GET", _FILE_PATH, self._file), ("*", "/{path:.*}", self._no_file))
        listening = await _listening_socket(self._host, parts.port if parts.port is not None else 80)
        await web.SockSite(self._files_runner, listening).start()
        if parts.port == 0:
            self._files_origin = f"{self._files_origin.removesuffix(':0')}:{listening.getsockname()[1]}"

    # --- requests ---

    async def _post(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except _BODY_ERRORS as error:
            return web.Response(status=400, text=f"the body broke off: {type(error).__name__}")
        call = self.service.read(request.path, body)
        links = Links(self.origin_for(request), self._files_origin or self.origin_for(request))
        if self._replay:
            return await self._perform(request, self._replay.post(call.path, call.shown, links))
        picture = await self._picture(call)
        answer = self.service.answer(self.now(), call, picture, links, render_seconds=self._videos.seconds_until_ready)
        if answer.job:
            self._start_job(answer.job)
        self._videos.prefer(call.path.rpartition("/")[2])
        if self._recorder:
            self._recorder.post(call.path, call.shown, answer, links)
        logged = self.service.requests[-1]
        fault = f", fault {logged.fault.name.lower()}" if logged.fault else ""
        _log.info("POST %s: %s, HTTP %d%s", call.path, call.account or "no account", answer.status, fault)
        return await self._perform(request, answer)

    async def _perform(self, request: web.Request, answer: Answer) -> web.StreamResponse:
        match answer.action:
            case Action.REPLY:
                if answer.delay:
                    due = self.now() + answer.delay
                    await self._sleep_until(lambda: due)
                if answer.if_late and answer.job and answer.job.is_rendering:
                    answer = answer.if_late
                return web.Response(body=answer.body, status=answer.status, content_type=answer.content_type)
            case Action.STALL:
                while request.transport and not await wait_for_event(self._closing, _STALL_CHECK_SECONDS):
                    pass  # the client is still connected
            case Action.REFUSE:
                await self.stop_listening(answer.delay)
            case Action.RESET:
                pass
        return _reset(request)

    async def _picture(self, call: Call) -> Picture | None:
        """Return the picture of a call, or the reason why there is none. Return None if the call needs none."""
        if call.picture is None:
            return None
        fetched = await self.fetch_picture(call.picture) if isinstance(call.picture, str) else call.picture
        picture = fetched if isinstance(fetched, Picture) else check_file(fetched, call.operation)
        main = call.operation and call.operation.main_file
        if picture.problem or self._render is not None or (main and main.kind != "image"):
            return picture if picture.problem else check_file(picture.content, call.operation)
        digest = digest_of(picture.content)
        if digest not in self._readable:
            self._readable[digest] = await asyncio.to_thread(picture_problem, picture.content)
            if len(self._readable) > _CHECKED_PICTURES:
                self._readable.popitem(last=False)
        return attrs.evolve(picture, problem=self._readable[digest])

    async def fetch_picture(self, url: str) -> Picture | bytes | None:
        """Fetch the picture of a submit, as the service does. Return None, or the reason, if it cannot be fetched.

        A subclass may override it to keep tests off the network.
        """
        return await self._fetcher.fetch(url)

    def origin_for(self, request: web.Request) -> str:
        """Return scheme and host of the links in the reply to *request*: `public_url`, or those that its client used.

        A Host header that is not just a host and a port is ignored, and the links begin with `url`. A subclass may
        override the method, for example to name a proxy.
        """
        if self._public_url:
            return self._public_url
        origin = f"http://{request.headers.get('Host', '')}"
        is_plain = _HOST.fullmatch(origin.removeprefix("http://")) and is_http_url(origin)
        return origin if is_plain else self.url

    async def stop_listening(self, seconds: float) -> None:
        """Reset all connections, and refuse new connections for *seconds*. Then listen on the same port again."""
        if self._site and self._runner and self._runner.server:
            site, self._site, self._sockets = self._site, None, []
            await site.stop()
            for connection in self._runner.server.connections:
                if connection.transport:
                    connection.transport.abort()
            self._spawn(self._listen_again(seconds))

    async def _listen_again(self, seconds: float) -> None:
        """Listen after *seconds*, or later if another process has taken the port: then retry until it is free."""
        while True:
            await asyncio.sleep(seconds)
            try:
                return await self._listen()
            except OSError as error:
                _log.error("the emulator cannot listen again; next try in %g s: %s", _LISTEN_RETRY_SECONDS, error)
                seconds = _LISTEN_RETRY_SECONDS

    # --- jobs ---

    def _start_job(self, job: EmulatedJob) -> None:
        """Order the job's video, and schedule its deliveries."""
        rendering = self._videos.order(job)
        for delivery in self.service.deliveries(job):
            self._spawn(self._deliver(delivery, rendering))

    async def _deliver(self, delivery: Delivery, rendering: asyncio.Future[Any] | None) -> None:
        """Post *delivery* when it is due. A true delivery also waits for the renderer: the job may fail there."""
        await self._sleep_until(lambda: delivery.at)
        if delivery.kind is Kind.OUTCOME and rendering and not rendering.done():
            await asyncio.wait([rendering])
        if delivery.job.id not in self.service.jobs:
            return  # the emulator was reset
        with suppress(*_REQUEST_ERRORS):
            async with self._session.post(delivery.url, json=delivery.payload, timeout=_WEBHOOK_TIMEOUT) as response:
                _log.info("webhook to %s: HTTP %d", delivery.url, response.status)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run *coroutine* in a task that closing the emulator cancels."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- files and pages ---

    async def _file(self, request: web.Request) -> web.StreamResponse:
        await self._report_key(request)
        recorded = self._replay.file(request.path) if self._replay else None
        if recorded is not None:
            replayed = FileAnswer(200, upload=recorded, is_video=request.path.endswith(".mp4"))
            file = file_response(replayed, recorded, request.headers)
            return web.Response(status=file.status, headers=file.headers, body=file.body)
        answer = self.service.file(self.now(), request.match_info["name"], request.headers.get("Range", ""))
        try:
            content = self._videos.content(answer.job) if answer.job else answer.upload
        except (LookupError, OSError):  # the file was removed meanwhile
            return web.Response(status=404)
        if self._recorder and answer.status == 200:
            self._recorder.file(request.path, content)
        file = file_response(answer, content, request.headers)
        if not file.breaks_off:
            return web.Response(status=file.status, headers=file.headers, body=file.body)
        response = web.StreamResponse(status=file.status, headers=file.headers)
        await response.prepare(request)
        await response.write(file.body)
        await asyncio.sleep(0)  # lets the body be sent before the connection is reset
        return _reset(request)

    async def _no_file(self, request: web.Request) -> web.Response:
        await self._report_key(request)
        return await _no_route(request)

    async def _report_key(self, request: web.Request) -> None:
        """Report a key that comes with a request for a file."""
        body = b""
        with suppress(*_BODY_ERRORS, web.HTTPException):
            body = await request.read()
        leak = find_leak(
            request.path,
            [*request.query.items()],
            request.headers,
            body,
            is_known=lambda name: self.service.accounts.find(name) is not None,
            at=self.now(),
        )
        if leak:
            self.ledger.report(leak)
            _log.warning("a key came with a request for a file: %s", leak.where)

    async def _show_page(self, request: web.Request) -> web.Response:
        body = page(self.service, self.now(), self.origin_for(request)).encode(errors="replace")
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    async def _control(self, request: web.Request) -> web.Response:
        """Answer a call of the control API. A page of another origin may not call it."""
        origin = request.headers.get("Origin")
        if origin and urlsplit(origin).netloc != request.headers.get("Host"):
            return web.json_response({"error": f"Origin={origin}: must be the emulator's own page"}, status=403)
        try:
            params = read_params(request.query, await request.read())
        except InvalidRequestError as error:
            return web.json_response({"error": str(error)}, status=400)
        parts = tuple(part for part in request.match_info["tail"].split("/") if part)
        status, value = self._answer_control(request, parts, params)
        self._wake()
        return web.json_response(value, status=status)

    def _answer_control(
        self, request: web.Request, parts: tuple[str, ...], params: dict[str, Any]
    ) -> tuple[int, dict[str, Any]]:
        if parts == ("health",):
            facts = {"version": __version__, "pid": os.getpid(), "url": self.url, "now": self.now()}
            return 200, {"emulator": True, "status": "ok", "notice": NOTICE, **facts}
        if parts == ("time",):
            seconds = params.get("advance", 0)
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < _MAX_ADVANCE:
                problem = refusal("advance", seconds, "must be a number of seconds of at least 0", "pass 86400")
                return 400, {"error": str(problem)}
            self.advance(seconds)
            return 200, {"emulator": True, "now": self.now(), "speed": self.service.speed}
        return control(ControlCall(self.service, self.now(), self.url, request.method, parts, params))


async def _runner(*routes: tuple[str, str, Callable[[web.Request], Any]]) -> web.AppRunner:
    """Return a server of these routes, which does not listen yet."""
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.on_response_prepare.append(_add_notice)
    for method, path, handler in routes:
        app.router.add_route(method, path, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    return runner


async def _listening_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens at *host* and *port*; 0 for a free port. Raise OSError if it cannot."""
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(addresses, key=lambda each: each[0] != socket.AF_INET)
    listening = socket.create_server(address[:2], family=family)
    listening.setblocking(False)
    return listening


async def _no_route(_: web.Request) -> web.Response:
    return web.json_response({"status": "error", "message": "The route could not be found."}, status=404)


def _reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection. Return the response that aiohttp demands and never sends."""
    if request.transport:
        request.transport.abort()
    return web.Response(status=500)


async def _add_notice(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Emulator"] = NOTICE
