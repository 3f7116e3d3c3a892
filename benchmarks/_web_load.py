"""Put a load on a web backend from another process: read server-sent events and send deliveries at a given rate.

`python -m benchmarks._web_load` reads its order as JSON from stdin and prints what it measured. Loopback only.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

import aiohttp

_BODY = json.dumps({"status": "success", "id": 1, "output": []}).encode()


async def load(streams: Sequence[str], deliveries: Sequence[str], rate: float, seconds: float) -> dict[str, Any]:
    """Read the streams while deliveries are sent. Return the rate, the open streams and the latencies in seconds."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        reading = [asyncio.create_task(_read(session, url)) for url in streams]
        await asyncio.sleep(1.0)
        latencies: list[float] = []
        begun, sending = time.monotonic(), set[asyncio.Task[None]]()
        for number, url in enumerate(islice(cycle(deliveries), int(rate * seconds))):
            wait = begun + number / rate - time.monotonic()
            if wait > 0:
                await asyncio.sleep(wait)
            task = asyncio.create_task(_deliver(session, url, latencies))
            sending.add(task)
            task.add_done_callback(sending.discard)
        await asyncio.gather(*sending)
        took = time.monotonic() - begun
        still_open = sum(not task.done() for task in reading)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    return {"rate": len(latencies) / took, "open": still_open, "latencies": sorted(latencies)}


async def _read(session: aiohttp.ClientSession, url: str) -> None:
    async with session.get(url) as answer:
        assert answer.status == 200
        async for _ in answer.content:
            pass


async def _deliver(session: aiohttp.ClientSession, url: str, latencies: list[float]) -> None:
    begun = time.monotonic()
    async with session.post(url, data=_BODY) as answer:
        await answer.read()
        assert answer.status == 200
    latencies.append(time.monotonic() - begun)


if __name__ == "__main__":
    print(json.dumps(asyncio.run(load(**json.load(sys.stdin)))))
