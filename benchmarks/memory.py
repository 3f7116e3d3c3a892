"""Measure the memory per job: waiting for a slot, watched, and after its end; and the memory of a long `map`.

    python -m benchmarks.memory [--json] [--check]       takes about ten minutes; Linux only

Each figure is the growth of the resident memory of a fresh process, divided by the number of jobs. The baseline is a
bare asyncio task that sleeps. The replies are canned; they echo a request as the documentation's sample does. A watched
job is measured three times: just accepted, after four polls on average, and while `gather` awaits all jobs, which makes
a task for each.

After all jobs ended and no reference to them is left, the share of Python's memory blocks that remains is measured. The
long `map` runs over a million requests, each of which succeeds in the reply to its submit. Its highest memory is
compared with the memory after its first 10,000 jobs.
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
from benchmarks._common import Figure, Samples, Target, log, parse_options, print_figures
from modelslab_async import Client, ImageToVideoUltra, Job, JobState, Timeouts

ROUNDS = 3
WAITING, WATCHED = 100_000, 10_000
FEED, FIRST, SAMPLED = 1_000_000, 10_000, 50_000
POLLS = 4
AT_ONCE = 100
"""Submits at once: as many as the client opens connections."""
_ROOT = Path(__file__).resolve().parents[1]
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def _request(number: int) -> ImageToVideoUltra:
    return ImageToVideoUltra(prompt="zoom in", init_image=PICTURE, seed=number, num_frames=81, resolution=480)


def _resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


# --- in another process ---


async def tasks(count: int) -> dict[str, float]:
    """Return the bytes per sleeping task."""
    before = _resident()
    sleeping = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(count)]
    await asyncio.sleep(0)
    result = _per_item(before, count, sleeping)
    assert all(task.cancel() for task in sleeping)
    return result


async def waiting(count: int) -> dict[str, float]:
    """Return the bytes per job that waits for a slot. The requests are not counted."""
    requests = [_request(number) for number in range(count)]
    service = Canned()
    async with Client("any", base_url=URL, transport=service, max_in_flight=1, timeouts=Timeouts(submit=1)) as client:
        await client.submit(requests[0]).submitted()
        before, blocks = _resident(), sys.getallocatedblocks()
        jobs = [client.submit(request) for request in requests]
        result = _per_item(before, count, jobs)
        used = sys.getallocatedblocks() - blocks
        assert all(job.cancel() for job in jobs)
        del jobs
        await asyncio.sleep(0.01)
        result["left"] = _left(blocks, used)
        service.release()
        await client.aclose(drain=False)
    return result


async def watched(count: int) -> dict[str, float]:
    """Return the bytes per job that runs at the service: just accepted, after POLLS polls, and awaited."""
    requests = [_request(number) for number in range(count)]
    service = Canned()
    options: dict[str, Any] = {"max_in_flight": count + 1, "max_polls_per_second": None, "poll_cost": 0.05}
    async with Client("any", base_url=URL, transport=service, **options) as client:
        await client.submit(_request(0)).submitted()
        before, blocks = _resident(), sys.getallocatedblocks()
        jobs = await _submitted(client, requests)
        accepted = _per_item(before, count, jobs)["each"]
        while service.fetches < POLLS * count:  # noqa: ASYNC110 - no event marks a count
            await asyncio.sleep(0.1)
        result = {"accepted": accepted, **_per_item(before, count, jobs)}
        assert all(job.state is JobState.PROCESSING for job in jobs)
        used = sys.getallocatedblocks() - blocks
        awaiting = asyncio.gather(*jobs)
        await asyncio.sleep(0)
        result["awaited"] = _per_item(before, count, jobs)["each"]
        service.release()
        for job in jobs:
            job.wake()
        assert len(await awaiting) == service.submits - 1 == count
        del jobs, awaiting
        await asyncio.sleep(0.01)
        result["left"] = _left(blocks, used)
    return result


async def _submitted(client: Client, requests: Sequence[ImageToVideoUltra]) -> list[Job]:
    jobs: list[Job] = []
    for begun in range(0, len(requests), AT_ONCE):
        jobs += [client.submit(request) for request in requests[begun : begun + AT_ONCE]]
        await asyncio.gather(*(job.submitted() for job in jobs[begun:]))
    return jobs


async def feed(count: int) -> dict[str, float]:
    """Return the highest resident memory of a long `map` as a multiple of the memory after its first jobs."""

    def requests() -> Iterator[ImageToVideoUltra]:
        for number in range(count):
            yield _request(number)

    yielded, first, most, at = 0, 0, 0, time.monotonic()
    async with Client("any", base_url=URL, transport=Canned(at_once=True), max_in_flight=20) as client:
        async for job in client.map(requests()):
            assert job.state is JobState.READY
            yielded += 1
            if yielded == FIRST:
                first = _resident()
            if yielded % SAMPLED == 0:
                most = max(most, _resident())
    assert yielded == count
    return {"grown": most / first, "per_second": count / (time.monotonic() - at)}


def _per_item(before: int, count: int, held: list[Any]) -> dict[str, float]:
    assert len(held) == count
    return {"each": (_resident() - before) / count}


def _left(blocks: int, used: int) -> float:
    gc.collect()
    return (sys.getallocatedblocks() - blocks) / used


_KINDS = {work.__name__: work for work in (tasks, waiting, watched, feed)}


# --- the parent ---


def _measure(kind: str, count: int) -> dict[str, Samples]:
    results: list[dict[str, float]] = []
    for turn in range(ROUNDS):
        log(f"{kind}, {count:,}: round {turn + 1} of {ROUNDS}")
        command = [sys.executable, "-m", "benchmarks.memory", kind, str(count)]
        results.append(json.loads(subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE).stdout))
    return {name: Samples([each[name] for each in results]) for name in results[0]}


def _kib(samples: Samples) -> Samples:
    return Samples([value / 1024 for value in samples.values])


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    many, some = _measure("tasks", WAITING)["each"], _measure("tasks", WATCHED)["each"]
    idle, busy = _measure("waiting", WAITING), _measure("watched", WATCHED)
    endless = _measure("feed", FEED)
    task, job = "sleeping asyncio task", "job of modelslab_async"
    runs = {
        task: some,
        f"{job}, just accepted": busy["accepted"],
        f"{job}, after {POLLS} polls": busy["each"],
        f"{job}, then awaited by gather": busy["awaited"],
    }
    figures = [
        Figure(
            f"memory while {WAITING:,} jobs wait for a slot",
            "KiB per job",
            {task: _kib(many), job: _kib(idle["each"])},
            1.5,
            2,
        ),
        Figure(
            f"memory while {WATCHED:,} jobs are watched",
            "KiB per job",
            {name: _kib(samples) for name, samples in runs.items()},
            digits=2,
        ),
        Figure(
            "blocks that remain after all jobs ended",
            "share of those allocated",
            {"waiting": idle["left"], "watched": busy["left"]},
            None,
            4,
        ),
        Figure(
            f"highest memory of map over {FEED:,} requests",
            "× that after the first 10,000",
            {job: endless["grown"]},
            1.05,
            3,
        ),
        Figure(f"map over {FEED:,} requests", "jobs per second", {job: endless["per_second"]}, None, 0),
    ]
    targets = [
        Target("memory of a waiting job, KiB", _kib(idle["each"]).median, 1.5),
        Target("blocks that remain of waiting jobs, as a share", idle["left"].median, 0.01),
        Target("blocks that remain of watched jobs, as a share", busy["left"].median, 0.01),
        Target("highest memory of a long map ÷ memory after the first 10,000 jobs", endless["grown"].median, 1.05),
    ]
    return print_figures(options, "memory", f"{ROUNDS} rounds, each in another process", figures, targets)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in _KINDS:
        logging.disable(logging.CRITICAL)
        print(json.dumps(asyncio.run(_KINDS[sys.argv[1]](int(sys.argv[2])))))
        sys.exit()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
