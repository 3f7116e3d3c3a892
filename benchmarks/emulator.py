"""Measure the emulator as a server: submits and polls a second, memory over many jobs, and videos a second.

    python -m benchmarks.emulator [--jobs N] [--json] [--check]       takes about four minutes; Linux only

The emulator runs in a process of its own, as `python -m modelslab_async.emulator`, and this process sends the requests,
50 at a time. The baseline is a bare aiohttp server that answers every POST with the same text. Each job has an inline
picture. The memory is the resident memory of the emulator's process after all jobs, each of which has ended. The videos
have 81 frames of 832x480; while they wait for their turn, further submits are timed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks._common import Figure, Samples, Target, log, parse_options, print_figures
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.wire import fetch_path, submit_path

AT_ONCE = 50
REQUESTS, ROUNDS = 2000, 3
VIDEOS, TIMED = 20, 100
MEMORY_LIMIT = 150.0
"""MB of a process that has served 100,000 jobs."""
_SUBMIT = submit_path("img2video_ultra", Deployment.V6)
_ROCKET = Path(__file__).resolve().parents[1] / "examples" / "rocket.jpg"
_TINY = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
_PHOTOGRAPH = base64.b64encode(_ROCKET.read_bytes()).decode()
_BARE, _SUBMITS, _POLLS = "bare aiohttp server", "submits", "polls"


@asynccontextmanager
async def emulator(*flags: str) -> AsyncIterator[tuple[str, int]]:
    """Run the command; yield its URL and the id of its process."""
    command = [sys.executable, "-m", "modelslab_async.emulator", "--port", "0", "--queue-limit", "1000000", *flags]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout
    try:
        yield json.loads(await process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def bare_server() -> AsyncIterator[str]:
    """Run the baseline in another process; yield its URL."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.emulator", "--bare"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


async def serve_bare() -> None:
    """Serve the baseline until the process is ended."""

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(text='{"status": "processing"}', content_type="application/json")

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


async def each(count: int, act: Callable[[int], Awaitable[object]]) -> float:
    """Call *act* with each number below *count*, 50 at a time; return the calls per second."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await act(number)

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(worker())
    return count / (time.perf_counter() - begun)


def submit(session: aiohttp.ClientSession, url: str, ids: list[int]) -> Callable[[int], Awaitable[None]]:
    """Return a function that submits a tiny job and keeps its id."""

    async def act(number: int) -> None:
        params = {"key": "any", "prompt": f"zoom {number}", "track_id": f"ref-{number}", "webhook": None}
        body: dict[str, Any] = {**params, "base64": True, "init_image": _TINY, "seed": number, "num_frames": 81}
        async with session.post(url + _SUBMIT, json=body) as response:
            reply = json.loads(await response.read())
        assert reply["status"] != "error", reply
        ids.append(reply.get("id", number))

    return act


def poll(session: aiohttp.ClientSession, url: str, ids: list[int]) -> Callable[[int], Awaitable[None]]:
    """Return a function that fetches one of the newest jobs."""

    async def act(number: int) -> None:
        path = fetch_path(Deployment.V6, str(ids[-1 - number % 1000]))
        async with session.post(url + path, json={"key": "any"}) as response:
            assert json.loads(await response.read())["status"] in ("processing", "success")

    return act


async def throughput() -> dict[str, Samples]:
    """Return the requests per second of each kind, which take turns."""
    values: dict[str, list[float]] = {_BARE: [], _SUBMITS: [], _POLLS: []}
    flags = ("--render", "skeleton", "--eta", "good")
    async with bare_server() as bare, emulator(*flags) as (url, _), aiohttp.ClientSession() as session:
        ids: list[int] = []
        await each(200, submit(session, url, ids))
        for _ in range(ROUNDS):
            values[_BARE].append(await each(REQUESTS, submit(session, bare, [])))
            values[_SUBMITS].append(await each(REQUESTS, submit(session, url, ids)))
            values[_POLLS].append(await each(REQUESTS, poll(session, url, ids)))
    return {name: Samples(samples) for name, samples in values.items()}


async def memory(jobs: int) -> tuple[float, float]:
    """Return the MB of an emulator that has just started, and after *jobs* jobs."""
    async with emulator("--render", "skeleton", "--speed", "100000") as (url, pid), aiohttp.ClientSession() as session:
        ids: list[int] = []
        await each(10, submit(session, url, ids))
        before = _resident(pid)
        await each(jobs, submit(session, url, ids))
        async with session.get(f"{url}/emulator/ledger") as response:
            assert (await response.json())["count"] == jobs + 10
        return before, _resident(pid)


def _resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


async def rendering() -> tuple[float, float]:
    """Return the videos per second, and the longest submit in seconds while they wait for their turn."""
    async with emulator("--speed", "1000000") as (url, _), aiohttp.ClientSession() as session:
        longest, ids = 0.0, []
        begun = time.perf_counter()
        for number in range(VIDEOS + TIMED):
            size = {} if number < VIDEOS else {"num_frames": 8, "resolution": 64}
            body = {"key": "any", "prompt": "zoom", "base64": True, "init_image": _PHOTOGRAPH, "seed": number, **size}
            started = time.perf_counter()
            async with session.post(url + _SUBMIT, json=body) as response:
                reply = json.loads(await response.read())
            longest = max(longest, time.perf_counter() - started)
            ids += [reply["id"]] if number < VIDEOS else []
        for job_id in ids:
            while True:
                async with session.get(f"{url}/emulator/jobs/{job_id}") as response:
                    if (await response.json())["state"] == "success":
                        break
                await asyncio.sleep(0.05)
        return VIDEOS / (time.perf_counter() - begun), longest


async def measure(jobs: int) -> tuple[list[Figure], list[Target]]:
    """Return the figures and the targets."""
    log(f"{REQUESTS} submits and polls, {ROUNDS} rounds")
    rates = await throughput()
    log(f"{jobs} jobs")
    before, after = await memory(jobs)
    log(f"{VIDEOS} videos")
    videos, longest = await rendering()
    figures = [
        Figure("HTTP requests", "requests per second", rates, digits=0),
        Figure(
            "memory of the process",
            "MB",
            {"just started": Samples([before]), f"after {jobs} jobs": Samples([after])},
            MEMORY_LIMIT,
        ),
        Figure("videos of 81 frames, 832x480", "videos per second", {"all cores": Samples([videos])}, digits=2),
        Figure("longest submit while videos wait", "seconds", {"submit": Samples([longest])}, 1.0, digits=3),
    ]
    targets = [
        Target(f"MB of the process after {jobs} jobs", after, MEMORY_LIMIT),
        Target("seconds of the longest submit while videos wait", longest, 1.0),
        Target("requests of a bare server ÷ submits", rates[_BARE].ratio_to(rates[_SUBMITS]).median, 4.0),
        Target("requests of a bare server ÷ polls", rates[_BARE].ratio_to(rates[_POLLS]).median, 4.0),
    ]
    return figures, targets


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--jobs", type=int, default=100_000, metavar="N", help="jobs of the memory (default: 100000)")
    options, args = parse_options(__doc__, more)
    figures, targets = asyncio.run(measure(args.jobs))
    conditions = f"{AT_ONCE} requests at a time on loopback, with keep-alive"
    return print_figures(options, "emulator", conditions, figures, targets)


if __name__ == "__main__":
    if sys.argv[1:] == ["--bare"]:
        asyncio.run(serve_bare())
    else:
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            sys.exit(130)
