"""Run the applications of docs/web.md under real servers, and take their visitors through a deploy.

Servers, workers and the emulator are on loopback. The emulator runs in this process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import aiohttp
import attrs

from modelslab_async.emulator import Emulator, skeleton

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 2
RUNNING, QUEUED = 5, 3
SPEED = 8.0
"""The emulator's speed: a job takes about 5 s."""
STREAM_GRACE = 2
"""Seconds after which a server that stops ends the streams that are open."""
JOB_GRACE = 1.0
"""Seconds for which the client then waits for jobs."""
KILL_AFTER = 4
"""Seconds after which granian and gunicorn kill a worker that has not stopped. They end no streams before."""
_RETRY = 0.2
"""Seconds until a visitor connects again. A browser waits one second."""
_START_SECONDS = _WAIT_SECONDS = 40.0
_PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(24)
_APPLICATION = re.compile(r"```python\n# (\w+\.py).*?\n(.*?)```", re.DOTALL)

Command = Callable[[str, int, int], Sequence[str]]
"""The arguments of Python that serve a module on a port with a number of workers."""


def _uvicorn(module: str, port: int, workers: int) -> Sequence[str]:
    grace = ("--timeout-graceful-shutdown", str(STREAM_GRACE))
    return ("-m", "uvicorn", f"{module}:app", "--port", str(port), "--workers", str(workers), *grace)


def _hypercorn(module: str, port: int, workers: int) -> Sequence[str]:
    where = ("--bind", f"127.0.0.1:{port}", "--workers", str(workers))
    return ("-m", "hypercorn", f"{module}:app", *where, "--graceful-timeout", str(STREAM_GRACE))


def _granian(module: str, port: int, workers: int) -> Sequence[str]:
    where = ("--port", str(port), "--workers", str(workers))
    return ("-m", "granian", f"{module}:app", "--interface", "asgi", *where, "--workers-kill-timeout", str(KILL_AFTER))


def _gunicorn(worker: str) -> Command:
    def command(module: str, port: int, workers: int) -> Sequence[str]:
        where = ("--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--worker-class", worker)
        target = "make_app()" if "aiohttp" in worker else "app"
        return ("-m", "gunicorn", f"{module}:{target}", *where, "--graceful-timeout", str(KILL_AFTER))

    return command


def _sanic(module: str, port: int, workers: int) -> Sequence[str]:
    return ("-m", "sanic", f"{module}:app", "--port", str(port), "--workers", str(workers))


def _itself(module: str, *_: int) -> Sequence[str]:
    return (f"{module}.py",)


@attrs.frozen
class Served:
    """A way to serve a framework's application.

    framework, server: names of their packages.
    command: see `Command`.
    is_one_worker: whether the command starts one worker, so that it is started for each. They share the port.
    """

    framework: str
    server: str
    command: Command
    is_one_worker: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether the framework and the server can be imported."""
        names = [self.framework, *self.server.removesuffix(" asgi").split()]
        return all(find_spec(name) for name in names)

    def __str__(self) -> str:
        return f"{self.framework} under {self.server}"


_ASGI: Mapping[str, Command] = {
    "uvicorn": _uvicorn,
    "hypercorn": _hypercorn,
    "granian": _granian,
    "gunicorn uvicorn_worker": _gunicorn("uvicorn_worker.UvicornWorker"),
    "gunicorn asgi": _gunicorn("asgi"),
}
MATRIX = (
    *(
        Served(framework, server, command)
        for framework in ("fastapi", "starlette", "litestar", "django", "quart")
        for server, command in _ASGI.items()
    ),
    Served("sanic", "sanic", _sanic),
    Served("aiohttp", "aiohttp", _itself, is_one_worker=True),
    Served("aiohttp", "gunicorn", _gunicorn("aiohttp.GunicornWebWorker")),
)


@attrs.frozen(kw_only=True)
class Visit:
    """What happened to the visitors of one application.

    framework, server: as in `Served`.
    streams: streams that showed their job's end, once, of all streams.
    backwards: streams whose progress went back.
    webhooks: deliveries that were answered with 200, of the jobs before the deploy.
    stopped_after: seconds from SIGTERM until the last process had ended.
    tracebacks: in the server's log; own_tracebacks: those with a frame of the package or the application.
    recovered_after: seconds from the start of the new server until all videos were there.
    lost: jobs without an end that their visitors saw.
    twice: jobs that were paid for more than once.
    """

    framework: str
    server: str
    streams: str
    backwards: int
    webhooks: str
    stopped_after: float
    tracebacks: int
    own_tracebacks: int
    recovered_after: float
    lost: int
    twice: int

    @property
    def is_right(self) -> bool:
        """Whether each visitor saw one end, nothing is lost, and each job is paid for once."""
        return (self.lost, self.twice, self.backwards, self.own_tracebacks) == (0, 0, 0, 0)


class Gallery(Emulator):
    """An emulator for which every URL is a picture."""

    async def fetch_picture(self, url: str) -> bytes:  # noqa: ARG002 - the name is that of the base class
        """Return a picture, without a download."""
        return _PICTURE


def emulator(speed: float = SPEED) -> Gallery:
    """Return an emulator with five slots, whose videos are made quickly."""
    return Gallery(speed=speed, eta={"good": 1}, render=skeleton)


def free_port() -> int:
    """Return a port of this host that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def applications() -> dict[str, str]:
    """Return the applications of docs/web.md: the code of each file, by its name."""
    return dict(_APPLICATION.findall((ROOT / "docs" / "web.md").read_text(encoding="utf-8")))


@attrs.define
class Deployment:
    """An application in a folder, with the processes that serve it on one port.

    folder: has the application's files, its journal and its videos.
    service: the URL of the emulator.
    module: the file that is served, without its ending. None serves the application of docs/web.md.
    workers: how many workers serve it.
    """

    served: Served
    folder: Path
    service: str
    module: str | None = None
    workers: int = WORKERS
    port: int = attrs.field(factory=free_port)
    processes: list[asyncio.subprocess.Process] = attrs.field(factory=list[asyncio.subprocess.Process])

    def __attrs_post_init__(self) -> None:
        for name, code in applications().items():
            patched = code.replace("on_recovered=save", f"on_recovered=save, grace={JOB_GRACE}")
            patched = patched.replace("shutdown_timeout=5", f"shutdown_timeout={STREAM_GRACE}")
            (self.folder / name).write_text(patched, encoding="utf-8")

    @property
    def url(self) -> str:
        """Where visitors reach the application."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What all processes wrote so far."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")

    async def start(self) -> None:
        """Start the server, and wait until it answers."""
        module = self.module or f"app_{self.served.framework}"
        settings = {
            "MODELSLAB_API_KEY": "any",
            "MODELSLAB_BASE_URL": self.service,
            "PUBLIC_URL": self.url,
            "WEBHOOK_SECRET": "a secret that is long enough",
            "PORT": str(self.port),
            "PYTHONPATH": os.pathsep.join([str(self.folder), str(ROOT)]),
        }
        is_one = self.served.is_one_worker
        with (self.folder / "server.log").open("ab") as log:
            self.processes = [
                await asyncio.create_subprocess_exec(
                    *(sys.executable, *self.served.command(module, self.port, 1 if is_one else self.workers)),
                    cwd=self.folder,
                    env={**os.environ, **settings},
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                for _ in range(self.workers if is_one else 1)
            ]
        async with asyncio.timeout(_START_SECONDS), a_session() as session:
            while await status_of(session, f"{self.url}/videos/unknown/events") != 404:
                if any(process.returncode is not None for process in self.processes):
                    raise RuntimeError(f"{self.served} did not start:\n{self.log}")
                await asyncio.sleep(0.1)

    async def stop(self) -> float:
        """Stop the server as a deploy does, by SIGTERM. Return the seconds until its last process had ended."""
        begun = time.monotonic()
        for process in self.processes:
            process.terminate()
        async with asyncio.timeout(_WAIT_SECONDS):
            await asyncio.gather(*(process.wait() for process in self.processes))
        return time.monotonic() - begun

    async def kill(self) -> None:
        """Kill all processes of the server that are left."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def a_session() -> aiohttp.ClientSession:
    """Return a session that makes a new connection for each request, so that each may reach another worker."""
    connector = aiohttp.TCPConnector(force_close=True, limit=0)
    return aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=5))


async def status_of(session: aiohttp.ClientSession, url: str) -> int | None:
    """Return the status of the answer to a GET, or None if nothing answers."""
    with suppress(aiohttp.ClientError, TimeoutError):
        async with session.get(url) as answer:
            return answer.status
    return None


async def submit(session: aiohttp.ClientSession, url: str, order: str) -> None:
    """Ask for a video. Raises RuntimeError unless the answer is 202."""
    body = {"id": order, "prompt": "zoom in", "picture": "https://pictures.invalid/a.png"}
    async with session.post(f"{url}/videos", json=body) as answer:
        if answer.status != 202:
            raise RuntimeError(f"HTTP {answer.status}: {await answer.text()}")


@attrs.define(eq=False)
class Visitor:
    """A browser's EventSource for one job.

    bar: the progress of each message.
    ends: the data of each end.
    refusal: the status at which an EventSource stops for good; 204 after an end.
    """

    bar: list[float] = attrs.field(factory=list[float])
    ends: list[dict[str, Any]] = attrs.field(factory=list[dict[str, Any]])
    connections: int = 0
    refusal: int | None = None
    _last_id: str | None = None

    async def watch(self, session: aiohttp.ClientSession, url: str) -> None:
        """Connect again and again, until the server sends the browser away."""
        while self.refusal is None:
            headers = {} if self._last_id is None else {"Last-Event-ID": self._last_id}
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get(url, headers=headers) as answer:
                    if answer.status == 200 and answer.content_type == "text/event-stream":
                        self.connections += 1
                        await self._read(answer.content)
                    else:
                        self.refusal = answer.status
            await asyncio.sleep(_RETRY)

    async def _read(self, content: aiohttp.StreamReader) -> None:
        fields = dict[str, str]()
        async for line in content:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
                continue
            if "data" in fields:
                data = json.loads(fields["data"])
                self._last_id = fields["id"]
                self.bar.append(data["progress"])
                if fields["event"] == "end":
                    self.ends.append(data)
            fields.clear()


class _DeliveryStatuses(logging.Handler):
    """Collect the statuses with which the application answered the emulator's deliveries."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = list[int]()

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg == "webhook to %s: HTTP %d" and isinstance(record.args, tuple):
            self.seen.append(int(str(record.args[1])))


@asynccontextmanager
async def _delivery_statuses() -> AsyncIterator[list[int]]:
    handler, logger = _DeliveryStatuses(), logging.getLogger("modelslab_async.emulator")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.seen
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


async def visit(served: Served, folder: Path) -> Visit:
    """Serve an application, watch four jobs to their end, deploy while eight more run and wait, and watch these."""
    async with emulator() as service, a_session() as session, _delivery_statuses() as statuses:
        deployment = Deployment(served, folder, service.url)
        try:
            await deployment.start()
            first = await _visitors(session, deployment.url, "first", 4)
            await asyncio.wait_for(asyncio.gather(*first.values()), _WAIT_SECONDS)
            answered = Counter(statuses)[200]
            later = await _visitors(session, deployment.url, "later", RUNNING + QUEUED)
            async with asyncio.timeout(_WAIT_SECONDS):
                while len(service.ledger.charges) < len(first) + RUNNING:  # noqa: ASYNC110 - it has no event for it
                    await asyncio.sleep(0.05)
            await asyncio.sleep(1.0)
            stopped_after = await deployment.stop()
            await deployment.start()
            begun = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(*later.values()), _WAIT_SECONDS)
            recovered_after = time.monotonic() - begun
        finally:
            await deployment.kill()
        visitors = [*first, *later]
        tracebacks = re.findall(r"^Traceback.*\n(?:  .*\n)*.*", deployment.log, re.MULTILINE)
        paid = Counter(charge.track_id for charge in service.ledger.charges)
        right = [each for each in visitors if each.refusal == 204 and len(each.ends) == 1 and not each.ends[0]["error"]]
        return Visit(
            framework=served.framework,
            server=served.server,
            streams=f"{len(right)}/{len(visitors)}",
            backwards=sum(each.bar != sorted(each.bar) for each in visitors),
            webhooks=f"{answered}/{len(first)}",
            stopped_after=stopped_after,
            tracebacks=len(tracebacks),
            own_tracebacks=sum("modelslab_async" in each or f"app_{served.framework}" in each for each in tracebacks),
            recovered_after=recovered_after,
            lost=len(visitors) - len(right),
            twice=sum(times > 1 for times in paid.values()),
        )


async def _visitors(
    session: aiohttp.ClientSession, url: str, name: str, number: int
) -> dict[Visitor, asyncio.Task[None]]:
    """Submit jobs, and start a visitor for each."""
    found = dict[Visitor, asyncio.Task[None]]()
    orders = [f"{name}-{each}-{secrets.token_hex(4)}" for each in range(number)]
    await asyncio.gather(*(submit(session, url, order) for order in orders))
    for order in orders:
        visitor = Visitor()
        found[visitor] = asyncio.create_task(visitor.watch(session, f"{url}/videos/{order}/events"))
    return found
