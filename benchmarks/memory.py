"""Memory of jobs: for each that waits for a slot, for each that is watched, what is left, and a feed without end.

    python -m benchmarks.memory [--json] [--check]       takes about ten minutes

Each figure is taken in a process of its own: resident memory after, less before, over the number of jobs. Beside it a
bare asyncio task that sleeps. Replies are canned, and echo a request as the documentation's sample does. A watched job
is measured when it was just accepted, when it was looked at four times on the average (that is held to the reach), and
when `gather` awaits all of them, which makes a task for each. "Left" is what of Python's own blocks is still there once
all jobs ended and nobody holds them. The feed is `Client.map` over so many requests, each done in the reply to its
submit: the most that it ever took, beside what it took after its first 10,000. Linux only.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks._canned import PICTURE, URL, Canned
from benchmarks._common import Figure, Reach, Seen, options, say, tell
from modelslab_async import Client, ImageToVideoUltra, Job, JobState, Timeouts

ROUNDS = 3
WAITING, WATCHED = 100_000, 10_000
FEED, FIRST, SAMPLED = 1_000_000, 10_000, 50_000
LOOKS = 4
AT_ONCE = 100
"""Submits under way, as many as the client opens connections."""
_ROOT = Path(__file__).resolve().parents[1]
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def _request(number: int) -> ImageToVideoUltra:
    return ImageToVideoUltra(prompt="zoom in", init_image=PICTURE, seed=number, num_frames=81, resolution=480)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


# --- in a process of its own ---


async def tasks(count: int) -> dict[str, float]:
    """Bytes for each task that sleeps."""
    before = _resident()
    sleeping = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(count)]
    await asyncio.sleep(0)
    told = _told(before, count, sleeping)
    assert all(task.cancel() for task in sleeping)
    return told


async def waiting(count: int) -> dict[str, float]:
    """Bytes for each job that waits; the requests are the caller's."""
    requests = [_request(number) for number in range(count)]
    service = Canned()
    async with Client("any", base_url=URL, transport=service, max_in_flight=1, timeouts=Timeouts(submit=1)) as client:
        await client.submit(requests[0]).submitted()
        before, blocks = _resident(), sys.getallocatedblocks()
        jobs = [client.submit(request) for request in requests]
        told = _told(before, count, jobs)
        used = sys.getallocatedblocks() - blocks
        assert all(job.cancel() for job in jobs)
        del jobs
        await asyncio.sleep(0.01)
        told["left"] = _left(blocks, used)
        service.release()
        await client.aclose(drain=False)
    return told


async def watched(count: int) -> dict[str, float]:
    """Bytes for each job that runs at the service: just accepted, looked at, and awaited."""
    requests = [_request(number) for number in range(count)]
    service = Canned()
    options: dict[str, Any] = {"max_in_flight": count + 1, "max_polls_per_second": None, "poll_cost": 0.05}
    async with Client("any", base_url=URL, transport=service, **options) as client:
        await client.submit(_request(0)).submitted()
        before, blocks = _resident(), sys.getallocatedblocks()
        jobs = await _submitted(client, requests)
        accepted = _told(before, count, jobs)["each"]
        while service.fetches < LOOKS * count:  # noqa: ASYNC110 - a count is no event
            await asyncio.sleep(0.1)
        told = {"accepted": accepted, **_told(before, count, jobs)}
        assert all(job.state is JobState.PROCESSING for job in jobs)
        used = sys.getallocatedblocks() - blocks
        awaiting = asyncio.gather(*jobs)
        await asyncio.sleep(0)
        told["awaited"] = _told(before, count, jobs)["each"]
        service.release()
        for job in jobs:
            job.wake()
        assert len(await awaiting) == service.submits - 1 == count
        del jobs, awaiting
        await asyncio.sleep(0.01)
        told["left"] = _left(blocks, used)
    return told


async def _submitted(client: Client, requests: Sequence[ImageToVideoUltra]) -> list[Job]:
    jobs: list[Job] = []
    for begun in range(0, len(requests), AT_ONCE):
        jobs += [client.submit(request) for request in requests[begun : begun + AT_ONCE]]
        await asyncio.gather(*(job.submitted() for job in jobs[begun:]))
    return jobs


async def feed(count: int) -> dict[str, float]:
    """The most resident bytes of an endless feed, of those after its first jobs."""

    def requests() -> Iterator[ImageToVideoUltra]:
        for number in range(count):
            yield _request(number)

    given, first, most, at = 0, 0, 0, time.monotonic()
    async with Client("any", base_url=URL, transport=Canned(at_once=True), max_in_flight=20) as client:
        async for job in client.map(requests()):
            assert job.state is JobState.READY
            given += 1
            if given == FIRST:
                first = _resident()
            if given % SAMPLED == 0:
                most = max(most, _resident())
    assert given == count
    return {"grown": most / first, "per_second": count / (time.monotonic() - at)}


def _told(before: int, count: int, held: list[Any]) -> dict[str, float]:
    assert len(held) == count
    return {"each": (_resident() - before) / count}


def _left(blocks: int, used: int) -> float:
    gc.collect()
    return (sys.getallocatedblocks() - blocks) / used


_KINDS = {work.__name__: work for work in (tasks, waiting, watched, feed)}


# --- the parent ---


def _seen(kind: str, count: int) -> dict[str, Seen]:
    told: list[dict[str, float]] = []
    for turn in range(ROUNDS):
        say(f"{kind}, {count:,}: round {turn + 1} of {ROUNDS}")
        words = [sys.executable, "-m", "benchmarks.memory", kind, str(count)]
        told.append(json.loads(subprocess.run(words, cwd=_ROOT, check=True, stdout=subprocess.PIPE).stdout))
    return {name: Seen([each[name] for each in told]) for name in told[0]}


def _kib(seen: Seen) -> Seen:
    return Seen([value / 1024 for value in seen.values])


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    many, some = _seen("tasks", WAITING)["each"], _seen("tasks", WATCHED)["each"]
    idle, busy = _seen("waiting", WAITING), _seen("watched", WATCHED)
    endless = _seen("feed", FEED)
    task, job = "asyncio task that sleeps", "job of modelslab_async"
    runs = {
        task: some,
        f"{job}, just accepted": busy["accepted"],
        f"{job}, after {LOOKS} looks": busy["each"],
        f"{job}, then awaited by gather": busy["awaited"],
    }
    figures = [
        Figure(f"memory of each of {WAITING:,} that wait", "KiB", {task: _kib(many), job: _kib(idle["each"])}, 1.5, 2),
        Figure(
            f"memory of each of {WATCHED:,} watched", "KiB", {name: _kib(seen) for name, seen in runs.items()}, digits=2
        ),
        Figure("left when they ended", "of it", {"waiting": idle["left"], "watched": busy["left"]}, None, 4),
        Figure(f"map over {FEED:,} requests", "of the first 10,000's", {job: endless["grown"]}, 1.05, 3),
        Figure(f"map over {FEED:,} requests", "jobs a second", {job: endless["per_second"]}, None, 0),
    ]
    reaches = [
        Reach("KiB of a job that waits", _kib(idle["each"]).median, 1.5),
        Reach("left of those that waited", idle["left"].median, 0.01),
        Reach("left of those that were watched", busy["left"].median, 0.01),
        Reach("memory of a feed without end, of the first 10,000's", endless["grown"].median, 1.05),
    ]
    return tell(wanted, "memory", f"{ROUNDS} rounds, each in a process of its own", figures, reaches)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in _KINDS:
        logging.disable(logging.CRITICAL)
        print(json.dumps(asyncio.run(_KINDS[sys.argv[1]](int(sys.argv[2])))))
        sys.exit()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
