"""Run an emulator on this machine and talk to it over HTTP, with a second server for pictures and webhooks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
from aiohttp import web

from modelslab_async.emulator import Emulator, skeleton

KEY = "a-key-that-no-answer-may-show"
ROCKET = (Path(__file__).parents[2] / "examples" / "rocket.jpg").read_bytes()
SUBMIT = "/api/v6/video/img2video_ultra"
FETCH = "/api/v6/video/fetch/"
UPLOAD = "/api/v6/base64_to_url"
BALANCE = "/api/wallet_balance"
INLINE_PICTURE: dict[str, Any] = {"base64": True, "init_image": base64.b64encode(ROCKET).decode()}


@attrs.define
class RunningEmulator:
    """An emulator and an HTTP session that calls it."""

    emulator: Emulator
    session: aiohttp.ClientSession

    async def post(self, path: str, **params: Any) -> tuple[int, Any]:
        """Post *params* with the key; return the status and the JSON of the reply."""
        async with self.session.post(self.emulator.url + path, json={"key": KEY, **params}) as response:
            return response.status, json.loads(await response.read())

    async def submit(self, **changes: Any) -> tuple[int, Any]:
        """Submit a usual job with *changes*; return the status and the JSON of the reply."""
        return await self.post(SUBMIT, **{"prompt": "zoom in", **INLINE_PICTURE, **changes})

    async def get(self, url: str, **headers: str) -> tuple[int, bytes]:
        """Get a URL; return the status and the body."""
        async with self.session.get(url, headers=headers) as response:
            return response.status, await response.read()

    async def poll_until(self, job_id: int, states: Iterable[str] = ("success", "failed")) -> dict[str, Any]:
        """Fetch the job until its status is one of *states*; return the JSON of the reply."""
        while True:
            _, reply = await self.post(f"{FETCH}{job_id}")
            if reply["status"] in states and reply.get("message") not in ("Try Again", "Request not found"):
                fetched: dict[str, Any] = reply
                return fetched

    async def wait_for_file(self, link: str) -> bytes:
        """Get a link until its file exists; return the file."""
        while True:
            status, content = await self.get(link)
            if status == 200:
                return content

    async def finish_job(self, **changes: Any) -> tuple[int, str]:
        """Submit a job and wait until its file exists; return its id and link."""
        _, reply = await self.submit(**changes)
        link = (await self.poll_until(reply["id"]))["output"][0]
        await self.wait_for_file(link)
        return reply["id"], link


@asynccontextmanager
async def running_emulator(**options: Any) -> AsyncIterator[RunningEmulator]:
    """Run an emulator 400 times as fast as the service and without real videos, unless *options* say otherwise."""
    usual: dict[str, Any] = {"speed": 400.0, "render": skeleton}
    async with (
        asyncio.timeout(20),
        Emulator(**{**usual, **options}) as emulator,
        aiohttp.ClientSession() as session,
    ):
        yield RunningEmulator(emulator, session)


@asynccontextmanager
async def other_server(**handlers: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """Run another server on this machine with one handler per path; yield its URL."""
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_route("*", f"/{name}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
