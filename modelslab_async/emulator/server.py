"""The emulator on aiohttp.web: `Service` behind real HTTP, with real videos."""

from __future__ import annotations

import asyncio
import logging
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
from modelslab_async.emulator.files import served
from modelslab_async.emulator.options import Profile
from modelslab_async.emulator.order import EtaKind, Ledger, Order, Work
from modelslab_async.emulator.page import ledger_json, page
from modelslab_async.emulator.render import UnreadablePictureError, render
from modelslab_async.emulator.replies import Answer, Deed, Delivery, failed
from modelslab_async.emulator.service import Service
from modelslab_async.media.images import MAX_IMAGE_BYTES

NOTICE = "modelslab_async emulator on this machine; not ModelsLab"
_MAX_BODY_BYTES = 16 * 2**20
_AGAIN = 0.2
"""Seconds until it tries once more to listen."""
_STALLED = 0.2
"""Seconds between two looks whether the sender of a request that stalls is still there."""
_FETCH_PICTURE = aiohttp.ClientTimeout(total=10)
_WEBHOOK = aiohttp.ClientTimeout(total=30)
_UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError)
"""UnicodeError: a host with an empty label, like "a..b"."""
_BROKEN = (ConnectionError, web.RequestPayloadError)
"""A body that breaks off, or is not coded as its headers say."""
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is asked for, and how to get there
_log = logging.getLogger("modelslab_async.emulator")


class Emulator:
    """The service's protocol on this machine, without an account. It is not the service.

    `async with Emulator() as emulator: Client(api_key="any", base_url=emulator.url)`. `emulator.ledger` tells what
    would have been paid, `GET /emulator/ledger` tells other processes, and `GET /` is a page for people.

    profile: "documented" answers errors with their HTTP codes, "legacy" at HTTP 200, as the service often does.
    queue_limit: jobs that a key may have queued or processing; workers: how many of them are processed at a time
        (None: all).
    speed: divides all times; a job of 480p, 81 frames and 20 steps takes about 40 s, and is not done before its video
        is rendered, one after the other, a second each.
    seed: of all noise. eta: weights of the kinds of eta. faults: what goes wrong, see `Rule`.
    keys: the keys that are accepted, None: any. wallet: USD of each key, None: 100, and never refused.
    host, port: where to listen; on loopback, and a free port, unless told otherwise.
    render: makes a file of a job's work; None renders a real mp4, which needs the extra `emulator`.
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
            first_id=secrets.randbelow(2**40),  # an emulator that starts again takes no job for one of before
        )
        self._host, self._port = host, port
        self._render = render or self._real
        self._files: dict[str, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    @property
    def url(self) -> str:
        """The base URL to give to a Client."""
        return self.service.origin

    @property
    def ledger(self) -> Ledger:
        """What would have been paid."""
        return self.service.ledger

    async def __aenter__(self) -> Self:
        self._closing.clear()
        self._started = asyncio.get_running_loop().time()
        self._threads = ThreadPoolExecutor(1, "modelslab_async emulator")
        self._session = aiohttp.ClientSession()
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        app.on_response_prepare.append(_say_what_this_is)
        app.router.add_get("/", self._page)
        app.router.add_get("/emulator/ledger", self._ledger)
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
        assert self._runner is not None  # noqa: S101 - made before
        self._site = web.TCPSite(self._runner, self._host, self._port, reuse_address=True)
        await self._site.start()
        self._port = self._runner.addresses[0][1]
        host = _ANYWHERE.get(self._host, self._host)
        self.service.origin = f"http://{f'[{host}]' if ':' in host else host}:{self._port}"

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._started

    # --- requests ---

    async def _post(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except _BROKEN as error:
            return web.Response(status=400, text=f"the body broke off: {type(error).__name__}")
        url = self.service.picture_url(request.path, body)
        picture = await self._fetch_picture(url) if url else None
        answer = self.service.handle(self._now(), request.path, body, picture)
        rendered = self._start(answer.order) if answer.order else None
        return await self._perform(request, answer, rendered)

    async def _perform(
        self, request: web.Request, answer: Answer, rendered: asyncio.Task[None] | None
    ) -> web.StreamResponse:
        match answer.deed:
            case Deed.REPLY:
                await asyncio.sleep(answer.delay)
                if answer.is_end and answer.order and rendered:
                    await asyncio.wait([rendered])
                    answer = failed(answer.order) if answer.order.failed else answer
                return web.Response(body=answer.body, status=answer.status, content_type=answer.content_type)
            case Deed.STALL:
                while request.transport and not await wait_for_event(self._closing, _STALLED):
                    pass  # the sender is still there
            case Deed.REFUSE:
                await self._stop_listening(answer.delay)
            case Deed.RESET:
                pass
        return _reset(request)

    async def _fetch_picture(self, url: str) -> bytes | None:
        """The service fetches pictures by itself; http and https only, within limits."""
        with suppress(*_UNREACHABLE):
            async with self._session.get(url, timeout=_FETCH_PICTURE) as response:
                data = await response.content.read(MAX_IMAGE_BYTES + 1)
                while len(data) <= MAX_IMAGE_BYTES and (more := await response.content.readany()):
                    data += more
                if response.status == 200 and len(data) <= MAX_IMAGE_BYTES:
                    return data
        return None

    async def _stop_listening(self, seconds: float) -> None:
        if self._site and self._runner and self._runner.server:
            site, self._site = self._site, None
            await site.stop()
            for connection in self._runner.server.connections:
                if connection.transport:
                    connection.transport.abort()
            self._go(self._listen_again(seconds))

    async def _listen_again(self, seconds: float) -> None:
        """As soon as nobody else has the port."""
        while True:
            await asyncio.sleep(seconds)
            try:
                return await self._listen()
            except OSError as error:
                _log.error("the emulator cannot listen again, and goes on to try: %s", error)
                seconds = _AGAIN

    # --- jobs ---

    def _start(self, order: Order) -> asyncio.Task[None]:
        self.service.book.render(order)
        rendered = self._go(self._rendered(order))
        for delivery in self.service.deliveries(order):
            self._go(self._deliver(delivery, rendered))
        return rendered

    async def _rendered(self, order: Order) -> None:
        """Make its file. Whatever fails there, the job fails, as at the service."""
        reason = ""
        try:
            rendering = asyncio.get_running_loop().run_in_executor(self._threads, self._render, order.work)
            self._files[order.name] = await rendering
        except UnreadablePictureError as error:
            reason = f"The picture could not be read: {error}"
        except ImportError as error:
            reason = f"the emulator cannot render: {error}; python -m pip install 'modelslab_async[emulator]'"
        except Exception as error:  # noqa: BLE001 - a full disk, or a renderer of somebody's own
            reason = f"the emulator could not render it: {error!r}"
        if reason:
            _log.error("job %d: %s", order.id, reason)
        order.work = attrs.evolve(order.work, picture=b"")
        self.service.book.rendered(order, self._now(), reason)

    def _real(self, work: Work) -> bytes:
        return render(work, is_wanted=lambda: not self._closing.is_set())

    async def _deliver(self, delivery: Delivery, rendered: asyncio.Task[None]) -> None:
        """When it is due, and no true end is told before it is known: a picture may prove broken."""
        await asyncio.sleep(delivery.at - self._now())
        if not (delivery.forged or rendered.done()):
            await asyncio.wait([rendered])
        with suppress(*_UNREACHABLE):
            async with self._session.post(delivery.url, json=delivery.payload, timeout=_WEBHOOK) as response:
                _log.info("webhook to %s: HTTP %d", delivery.url, response.status)

    def _go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- files and pages ---

    async def _file(self, request: web.Request) -> web.StreamResponse:
        answer = self.service.file(self._now(), request.match_info["name"], request.headers.get("Range", ""))
        content = self._files[answer.order.name] if answer.order else answer.upload
        status, headers, body, breaks_off = served(answer, content, request.headers)
        if not breaks_off:
            return web.Response(status=status, headers=headers, body=body)
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        await response.write(body)
        await asyncio.sleep(0)  # what was written leaves before the connection breaks
        return _reset(request)

    async def _page(self, _: web.Request) -> web.Response:
        body = page(self.service, self._now()).encode(errors="replace")
        return web.Response(body=body, content_type="text/html", charset="utf-8")

    async def _ledger(self, _: web.Request) -> web.Response:
        return web.json_response(ledger_json(self.service))


def _reset(request: web.Request) -> web.StreamResponse:
    if request.transport:
        request.transport.abort()
    return web.Response(status=500)


async def _say_what_this_is(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["X-Emulator"] = NOTICE
