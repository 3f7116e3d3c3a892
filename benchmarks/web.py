"""A web backend under load: 200 open streams of progress and 1,000 webhook deliveries a second, beside doing nothing.

    python -m benchmarks.web [--json] [--check]

One process serves an application by uvicorn: its client has 200 jobs at an emulator, each followed by a stream. Another
process reads the streams and repeats deliveries for those jobs; all of it on loopback. The event loop's lag is how much
later than asked for a sleep of 5 ms ends, in the serving process. "Nothing" is a handler that reads the delivery and
answers, without a client.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Mount, Route

from benchmarks._common import Reach, Server, conclude, options, say, table
from modelslab_async import Client, Job
from modelslab_async.web import EVENT_STREAM, server_sent_events
from modelslab_async.webhook import Webhook

STREAMS, RATE, SECONDS = 200, 1000.0, 8.0
SLOWLY = 0.1
"""The emulator's speed: a job takes some minutes, so all of them run until the end."""
_SLEEP = 0.005
_ROOT = Path(__file__).resolve().parents[1]


@attrs.frozen(kw_only=True)
class Seen:
    """Deliveries a second, streams that were open to the end, and milliseconds: answers' times and the loop's lag."""

    rate: float
    streams: int
    answer_median: float
    answer_p99: float
    lag_median: float
    lag_p99: float


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    figures = asyncio.run(_measured())
    head = ("handler", "deliveries/s", "streams", "answer ms", "p99", "lag ms", "p99")
    rows = [
        (name, f"{seen.rate:.0f}", str(seen.streams), *(f"{figure:.1f}" for figure in attrs.astuple(seen)[2:]))
        for name, seen in figures.items()
    ]
    webhook = figures["webhook, with streams"]
    reaches = [
        Reach("event loop's lag with the webhook, p99, ms", webhook.lag_p99, 50.0),
        Reach("wanted rate of deliveries, of the one seen", RATE / webhook.rate, 1.05),
        Reach("streams that broke", STREAMS - webhook.streams, 0.0),
    ]
    told = {name: attrs.asdict(seen) for name, seen in figures.items()}
    return conclude(wanted, table(head, rows), {"benchmark": "web", "seen": told}, reaches)


async def _measured() -> dict[str, Seen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    webhook = Webhook(public_url=f"{url}/hooks", secret="a secret of the benchmark")
    with Server(SLOWLY) as server:
        async with Client("any", base_url=server.url, webhook=webhook, max_in_flight=STREAMS) as client:
            jobs = {
                job.ref: job
                for _ in range(STREAMS)
                if (job := client.submit(prompt="zoom", init_image="https://picture.invalid/a.png"))
            }
            await asyncio.gather(*(job.submitted() for job in jobs.values()))
            async with _served(_app(webhook, jobs), port):
                say(f"{RATE:.0f} deliveries a second to a handler that does nothing")
                nothing = await _loaded([], [f"{url}/nothing"])
                say(f"the same to the webhook, with {STREAMS} streams")
                deliveries = [str(job.request.webhook) for job in jobs.values() if job.request]
                hooked = await _loaded([f"{url}/events/{ref}" for ref in jobs], deliveries)
            assert not any(job.done() for job in jobs.values())
            await client.aclose(drain=False)
    return {"nothing": nothing, "webhook, with streams": hooked}


def _app(webhook: Webhook, jobs: dict[str, Job]) -> Starlette:
    async def nothing(request: Request) -> Response:
        await request.body()
        return Response("ok")

    async def events(request: Request) -> StreamingResponse:
        return StreamingResponse(server_sent_events(jobs[request.path_params["ref"]]), media_type=EVENT_STREAM)

    routes = [Route("/nothing", nothing, methods=["POST"]), Route("/events/{ref}", events), Mount("/hooks", webhook)]
    return Starlette(routes=routes)


@asynccontextmanager
async def _served(app: Any, port: int) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", access_log=False, lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def _loaded(streams: Sequence[str], deliveries: Sequence[str]) -> Seen:
    lags: list[float] = []
    watching = asyncio.create_task(_watch(lags))
    told = {"streams": streams, "deliveries": deliveries, "rate": RATE, "seconds": SECONDS}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks._web_load"),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(json.dumps(told).encode())
    watching.cancel()
    seen = json.loads(out)
    answers, lags = seen["latencies"], sorted(lags)
    return Seen(
        rate=seen["rate"],
        streams=seen["open"],
        answer_median=_part(answers, 0.5),
        answer_p99=_part(answers, 0.99),
        lag_median=_part(lags, 0.5),
        lag_p99=_part(lags, 0.99),
    )


async def _watch(lags: list[float]) -> None:
    while True:
        begun = time.monotonic()
        await asyncio.sleep(_SLEEP)
        lags.append(time.monotonic() - begun - _SLEEP)


def _part(ordered: Sequence[float], part: float) -> float:
    """A quantile, in milliseconds."""
    return 1000 * ordered[min(int(part * len(ordered)), len(ordered) - 1)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
