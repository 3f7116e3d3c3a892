"""Turn a photograph into an mp4.

    python examples/quickstart.py           uses an emulator on this machine: no account, no money
    python examples/quickstart.py --live    uses ModelsLab, with the key in MODELSLAB_API_KEY: one call, $0.20

The photograph shows DSCOVR on a Falcon 9 at Cape Canaveral. SpaceX released it into the public domain (CC0).
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from modelslab_async import Client, ModelsLabError
from modelslab_async.emulator import Emulator

PHOTOGRAPH = Path(__file__).with_name("rocket.jpg")
SPEED = 8


@asynccontextmanager
async def open_client(*, live: bool) -> AsyncIterator[Client]:
    """Open a client of ModelsLab, or of an emulator on this machine."""
    if live:
        print("ModelsLab renders this video and charges about $0.20.")
        async with Client() as client:
            yield client
    else:
        async with Emulator(speed=SPEED) as emulator:
            print(f"This is an emulator at {emulator.url}, {SPEED} times as fast, not ModelsLab. It needs no account.")
            async with Client(api_key="any", base_url=emulator.url) as client:
                yield client


async def main(*, live: bool) -> None:
    """Submit a job, print its progress, and save the video."""
    async with open_client(live=live) as client:
        job = client.submit(prompt="the rocket stands in the evening light, zoom in", init_image=PHOTOGRAPH, fps=16)
        async for event in job.events():
            left = f", about {event.eta:.0f} s left" if event.eta else ""
            print(f"{event.elapsed:7.2f} s  {event.state.value}{left}")
        saved = await job.save("rocket.mp4")
    print(f"{saved.path.resolve()}: {saved.size_bytes} bytes, {saved.width}x{saved.height}, ", end="")
    print(f"{saved.frames} frames at {saved.fps:g} fps, {saved.duration:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Turn a photograph into an mp4, with an emulator on this machine.")
    parser.add_argument(
        "--live", action="store_true", help="use ModelsLab instead, with MODELSLAB_API_KEY; costs $0.20"
    )
    try:
        asyncio.run(main(live=parser.parse_args().live))
    except ModelsLabError as error:
        sys.exit(f"{type(error).__name__}: {error}")
