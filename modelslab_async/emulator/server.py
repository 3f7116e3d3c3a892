"""The emulator on aiohttp.web: `Service` behind real HTTP, with rendered videos."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from typing import Any, Self

import aiohttp
import attrs
from aiohttp import web

from modelslab_async.aio import wait_for_event
from modelslab_async.emulator.faults import Rule
from modelslab_async.emulator.files import file_response
from modelslab_async.emulator.job import EmulatedJob, EtaKind, Work
from modelslab_async.emulator.ledger import Ledger
from modelslab_async.emulator.options import Profile
from modelslab_async.emulator.page import ledger_json, page
from modelslab_async.emulator.render import UnreadablePictureError, render
from modelslab_async.emulator.replies import Action, Answer, Delivery, failed_answer
from modelslab_async.emulator.scenes import UnreadableVideoError
from modelslab_async.emulator.service import Service
from modelslab_async.media.images import MAX_IMAGE_BYTES
from modelslab_async.protocol.request import is_http_url

NOTICE = "modelslab_async emulator on this machine; not ModelsLab"
"""Value of the header `X-Emulator`, which every response carries."""
_MAX_BODY_BYTES = 16 * 2**20
_LISTEN_RETRY_SECONDS = 0.2
_STALL_CHECK_SECONDS = 0.2
"""Time between two checks whether the client of a stalled request is still connected."""
_PICTURE_TIMEOUT = aiohttp.ClientTimeout(total=10)
_WEBHOOK_TIMEOUT = aiohttp.ClientTimeout(total=30)
_REQUEST_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError)
"""UnicodeError: a host with an empty label, like "a..b"."""
_BODY_ERRORS = (ConnectionError, web.RequestPayloadError)
"""Raised for a body that breaks off, or is not encoded as its headers say."""
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - the user asked for it
"""Which host reaches a server that listens on all interfaces."""
_HOST = re.compile(r"([a-z\d]([\w.-]*[a-z\d])?|\[[\da-f:.]+\])(:\d+)?", re.ASCII | re.IGNORECASE)
"""A Host header that may be part of a link: a name or an address, and perhaps a port."""
_log = logging.getLogger("modelslab_async.emulator")


class Emulator:
    """An HTTP server on this machine that speaks the service's protocol, without an account. It is not ModelsLab.

    `async with Emulator() as emulator: Client(api_key="any", base_url=emulator.url)`. `emulator.ledger` and
    `GET /emulator/ledger` say what ModelsLab would have charged. `GET /` is a page for people.

    profile: "documented" answers errors with their HTTP codes; "legacy" answers HTTP 200, as the service often does.
    queue_limit: how many jobs a key may have queued or processing at a time.
    workers: how many of a key's jobs are processed at a time. None: all.
    speed: divides all times. A job of 480p, 81 frames and 20 steps takes about 40 s at speed 1. No job is done before
        its video is rendered; videos are rendered one after the other, in about a second each.
    seed: of all random draws.
    eta: weights of the kinds of eta, such as {"good": 1}.
    faults: what goes wrong, see `Rule`.
    keys: the accepted keys. None: any.
    wallet: USD that each key may spend. None: no limit, and the balance starts at 100.
    host, port: where to listen; by default on loopback, on a free port. With "0.0.0.0", other hosts can use the
        emulator, see `Client(allow_http=True)`: links follow the Host header of the request.
    render: called in a thread with a job's work; returns its file. None renders a real mp4, which needs the extra
        `emulator`.

    Raises InvalidRequestError if an option is wrong. Entering the context raises OSError if the port is taken.
    """

    def __init__(
        self,
        *,
        profile: Profile = "documented",
        queue_limit: int = 5,
        workers: int | None = None,
        speed: float = 1.0,
        seed: int = 0,
        eta: Mapping[EtaKind, float] | None = None,
        faults: Sequence[Rule] = (),
        keys: Collection[str] | None = None,
        wallet: Decimal | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        render: Callable[[Work], bytes] | None = None,
    ) -> None:
        self.service = Service(
            profile=profile,
            queue_limit=queue_limit,
            workers=workers,
            speed=speed,
            seed=seed,
            eta=eta,
            faults=faults,
            keys=keys,
            wallet=wallet,
            first_id=secrets.randbelow(2**40),  # a journal must not take a job for one of an earlier emulator
        )
        self._host, self._port = host, port
        self._render = render or self._render_video
        self._files: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        """The base URL to pass to a Client on this machine."""
        return self.service.origin

    @property
    def ledger(self) -> Ledger:
        """What ModelsLab would have charged."""
        return self.service.ledger

    async def __aenter__(self) -> Self:
        self._closing.clear()
        self._started = asyncio.get_running_loop().time()
        self._threads = ThreadPoolExecutor(1, "modelslab_async emulator")
        self._session = aiohttp.ClientSession()
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.on_response_prepare.append(_add_notice)
        app.router.add_get("/", self._show_page)
        app.router.add_get("/emulator/ledger", self._show_ledger)
        app.router.add_get("/{folder:generations|uploads}/{name}", self._file)
        app.router.add_post("/{path:.*}", self._post)
        runner = self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            await self._listen()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._runner:
            await self._runner.cleanup()
        await self._session.close()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _listen(self) -> None:
        assert self._runner is not None  # noqa: S101 - made in __aenter__
        self._site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await self._site.start()
        self._port = self._runner.addresses[0][1]
        host = _LOOPBACK.get(self._host, self._host)
        self.service.origin = f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def now(self) -> float:
        """Return the seconds since the emulator started: the clock of its jobs and deliveries."""
        return asyncio.get_running_loop().time() - self._started

    # --- requests ---

    async def _post(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except _BODY_ERRORS as error:
            return web.Response(status=400, text=f"the body broke off: {type(error).__name__}")
        url = self.service.picture_url(request.path, body)
        picture = await self.fetch_picture(url) if url else None
        answer = self.service.handle(self.now(), request.path, body, picture, origin=self.origin_for(request))
        rendering = self._start_job(answer.job) if answer.job else None
        return await self._perform(request, answer, rendering)

    async def _perform(
        self, request: web.Request, answer: Answer, rendering: asyncio.Task[None] | None
    ) -> web.StreamResponse:
        match answer.action:
            case Action.REPLY:
                await asyncio.sleep(answer.delay)
                if answer.reports_success and answer.job and rendering:
                    await asyncio.wait([rendering])
                    answer = failed_answer(answer.job) if answer.job.failure else answer
                return web.Response(body=answer.body, status=answer.status, content_type=answer.content_type)
            case Action.STALL:
                while request.transport and not await wait_for_event(self._closing, _STALL_CHECK_SECONDS):
                    pass  # the client is still connected
            case Action.REFUSE:
                await self.stop_listening(answer.delay)
            case Action.RESET:
                pass
        return _reset(request)

    async def fetch_picture(self, url: str) -> bytes | None:
        """Fetch the picture of a submit, as the service does. Return None if it cannot be fetched, or is over 5 MB.

        A subclass may override it to keep tests off the network.
        """
        with suppress(*_REQUEST_ERRORS):
            async with self._session.get(url, timeout=_PICTURE_TIMEOUT) as response:
                data = await response.content.read(MAX_IMAGE_BYTES + 1)
                while len(data) <= MAX_IMAGE_BYTES and (more := await response.content.readany()):
                    data += more
                if response.status == 200 and len(data) <= MAX_IMAGE_BYTES:
                    return data
        return None

    def origin_for(self, request: web.Request) -> str:
        """Return scheme and host of the links in the reply to *request*: those that its client used.

        A Host header that is not just a host and a port is ignored, and the links begin with `url`. A subclass may
        override the method, for example to name a proxy.
        """
        origin = f"http://{request.headers.get('Host', '')}"
        is_plain = _HOST.fullmatch(origin.removeprefix("http://")) and is_http_url(origin)
        return origin if is_plain else self.url

    async def stop_listening(self, seconds: float) -> None:
        """Reset all connections, and refuse new connections for *seconds*. Then listen on the same port again."""
        if self._site and self._runner and self._runner.server:
            site, self._site = self._site, None
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

    def _start_job(self, job: EmulatedJob) -> asyncio.Task[None]:
        """Start to render the job's file, and schedule its deliveries. Return the task that renders."""
        self.service.queue.start_rendering(job)
        rendering = self._spawn(self._render_file(job))
        for delivery in self.service.deliveries(job):
            self._spawn(self._deliver(delivery, rendering))
        return rendering

    async def _render_file(self, job: EmulatedJob) -> None:
        """Render the job's file. If the renderer fails, the job fails, as at the service."""
        failure = ""
        try:
            rendering = asyncio.get_running_loop().run_in_executor(self._threads, self._render, job.work)
            self._files[job.file_name] = await rendering
        except (UnreadablePictureError, UnreadableVideoError) as error:
            failure = f"The picture could not be read: {error}"
        except ImportError as error:
            failure = f"the emulator cannot render: {error}; python -m pip install 'modelslab_async[emulator]'"
        except Exception as error:  # noqa: BLE001 - a full disk, or any error of the user's renderer
            failure = f"the emulator could not render it: {error!r}"
        if failure:
            _log.error("job %d failed: %s", job.id, failure)
        job.work = attrs.evolve(job.work, picture=b"")  # frees its memory
        self.service.queue.finish_rendering(job, self.now(), failure)

    def _render_video(self, work: Work) -> bytes:
        return render(work, is_wanted=lambda: not self._closing.is_set())

    async def _deliver(self, delivery: Delivery, rendering: asyncio.Task[None]) -> None:
        """Post *delivery* when it is due. A true delivery also waits for the renderer: the job may fail there."""
        await asyncio.sleep(delivery.at - self.now())
        if not (delivery.forged or rendering.done()):
            await asyncio.wait([rendering])
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
        answer = self.service.file(self.now(), request.match_info["name"], request.headers.get("Range", ""))
        content = self._files[answer.job.file_name] if answer.job else answer.upload
        file = file_response(answer, content, request.headers)
        if not file.breaks_off:
            return web.Response(status=file.status, headers=file.headers, body=file.body)
        response = web.StreamResponse(status=file.status, headers=file.headers)
        await response.prepare(request)
        await response.write(file.body)
        await asyncio.sleep(0)  # lets the body be sent before the connection is reset
        return _reset(request)

    async def _show_page(self, request: web.Request) -> web.Response:
        body = page(self.service, self.now(), self.origin_for(request)).encode(errors="replace")
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    async def _show_ledger(self, _: web.Request) -> web.Response:
        return web.json_response(ledger_json(self.service))


def _reset(request: web.Request) -> web.StreamResponse:
    """Reset the connection. Return the response that aiohttp demands and never sends."""
    if request.transport:
        request.transport.abort()
    return web.Response(status=500)


async def _add_notice(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Emulator"] = NOTICE
