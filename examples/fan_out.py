"""Make several videos of one picture at once. All slots stay in use, and each video is saved when it is ready.

python examples/fan_out.py           uses an emulator on this machine: no account, no money
python examples/fan_out.py --live    uses ModelsLab, with MODELSLAB_API_KEY: four calls, $0.80
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from modelslab_async import Budget, Client, ModelsLabError
from modelslab_async.emulator import Emulator

PICTURE = Path(__file__).with_name("rocket.jpg")
PROMPTS = ["zoom in on the lights", "fog rolls in", "the camera rises", "the evening turns to night"]


async def main(*, live: bool) -> None:
    """Submit all jobs, and save each video when its job ends."""
    async with AsyncExitStack() as stack:
        if live:
            client = await stack.enter_async_context(Client(budget=Budget(usd=1)))
        else:
            emulator = await stack.enter_async_context(Emulator(speed=40))
            print("This is an emulator on this machine, not ModelsLab.")
            client = await stack.enter_async_context(Client("any", base_url=emulator.url, poll_cost=0.02))
        jobs = [client.submit(prompt=prompt, init_image=PICTURE, num_frames=17) for prompt in PROMPTS]
        async for job in client.as_completed(jobs):
            try:
                saved = await job.save(f"{job.ref}.mp4")
            except ModelsLabError as error:
                print(f"no video: {error}")
            else:
                print(f"{saved.path}: {job.request.prompt if job.request else ''}")


if __name__ == "__main__":
    asyncio.run(main(live="--live" in sys.argv[1:]))
