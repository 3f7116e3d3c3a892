"""Load a web backend with 200 open progress streams and 1,000 webhook deliveries per second.

    python -m benchmarks.web [--json] [--check]

One process serves an application with uvicorn. Its client has 200 jobs at an emulator, and each job has a stream that
follows it. Another process reads the streams and repeats deliveries for those jobs, all over loopback. The lag of the
event loop is how much later than requested a sleep of 5 ms ends in the serving process. The baseline, "nothing", is a
handler that reads the delivery and answers it, without a client.
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
from starlette.responses import Response
from starlette.routing import Mount, Route

from benchmarks._common import Server, Target, log, parse_options, print_results, table
from modelslab_async import Client, Job
from modelslab_async.web import event_stream
from modelslab_async.webhook import Webhook

STREAMS, RATE, SECONDS = 200, 1000.0, 8.0
SPEED = 0.1
"""The emulator's speed. A job takes several minutes, so that no job ends during the benchmark."""
_SLEEP = 0.005
_ROOT = Path(__file__).resolve().parents[1]


@attrs.frozen(kw_only=True)
class Load:
    """The measured load of one handler.

    rate: deliveries per second.
    streams: streams that stayed open to the end.
    answer_median, answer_p99: time until a delivery was answered, in milliseconds.
    lag_median, lag_p99: lag of the event loop, in milliseconds.
    """

    rate: float
    streams: int
    answer_median: float
    answer_p99: float
    lag_median: float
    lag_p99: float


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    figures = asyncio.run(_measure())
    head = ("handler", "deliveries/s", "streams", "answer, ms", "p99, ms", "lag, ms", "p99, ms")
    rows = [
        (name, f"{load.rate:.0f}", str(load.streams), *(f"{figure:.1f}" for figure in attrs.astuple(load)[2:]))
        for name, load in figures.items()
    ]
    webhook = figures["webhook, with streams"]
    targets = [
        Target("lag of the event loop with the webhook, 99th percentile, ms", webhook.lag_p99, 50.0),
        Target("intended deliveries per second ÷ measured ones", RATE / webhook.rate, 1.05),
        Target("streams that ended early", STREAMS - webhook.streams, 0.0),
    ]
    measured = {name: attrs.asdict(load) for name, load in figures.items()}
    return print_results(options, table(head, rows), {"benchmark": "web", "measured": measured}, targets)


async def _measure() -> dict[str, Load]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    webhook = Webhook(public_url=f"{url}/hooks", secret="a secret of the benchmark")
    with Server(SPEED) as server:
        async with Client("any", base_url=server.url, webhook=webhook, max_in_flight=STREAMS) as client:
            jobs = {
                job.ref: job
                for _ in range(STREAMS)
                if (job := client.submit(prompt="zoom", init_image="https://picture.invalid/a.png"))
            }
            await asyncio.gather(*(job.submitted() for job in jobs.values()))
            async with _served(_app(webhook, jobs), port):
                log(f"{RATE:.0f} deliveries per second to a handler that does nothing")
                baseline = await _load([], [f"{url}/nothing"])
                log(f"the same to the webhook, with {STREAMS} streams")
                deliveries = [str(job.request.webhook) for job in jobs.values() if job.request]
                hooked = await _load([f"{url}/events/{ref}" for ref in jobs], deliveries)
            assert not any(job.done() for job in jobs.values())
            await client.aclose(drain=False)
    return {"nothing": baseline, "webhook, with streams": hooked}


def _app(webhook: Webhook, jobs: dict[str, Job]) -> Starlette:
    async def nothing(request: Request) -> Response:
        await request.body()
        return Response("ok")

    async def events(request: Request) -> Response:
        return await event_stream(jobs[request.path_params["ref"]], request)

    routes = [Route("/nothing", nothing, methods=["POST"]), Route("/events/{ref}", events), Mount("/hooks", webhook)]
    return Starlette(routes=routes)


@asynccontextmanager
async def _served(app: Any, port: int) -> AsyncIterator[None]:
    quiet: Any = {"log_level": "warning", "access_log": False, "lifespan": "off"}
    server = uvicorn.Server(uvicorn.Config(app, port=port, timeout_keep_alive=60, **quiet))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = server.force_exit = True
        await serving


async def _load(streams: Sequence[str], deliveries: Sequence[str]) -> Load:
    lags: list[float] = []
    sampling = asyncio.create_task(_sample_lag(lags))
    order = {"streams": streams, "deliveries": deliveries, "rate": RATE, "seconds": SECONDS}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks._web_load"),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate(json.dumps(order).encode())
    sampling.cancel()
    data = json.loads(out)
    answers, lags = data["latencies"], sorted(lags)
    return Load(
        rate=data["rate"],
        streams=data["open"],
        answer_median=_quantile(answers, 0.5),
        answer_p99=_quantile(answers, 0.99),
        lag_median=_quantile(lags, 0.5),
        lag_p99=_quantile(lags, 0.99),
    )


async def _sample_lag(lags: list[float]) -> None:
    while True:
        begun = time.monotonic()
        await asyncio.sleep(_SLEEP)
        lags.append(time.monotonic() - begun - _SLEEP)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of seconds in rising order, in milliseconds."""
    return 1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
