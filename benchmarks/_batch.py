"""Run a batch of the command, kill it, start it again, and count its videos and charges."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import attrs

from modelslab_async import JobState
from modelslab_async.batch import Result, read_results
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton

SLOTS = 15
SPEED = 100.0
"""A job of 40 s then takes 0.4 s."""
_TIMEOUT = 120.0
"""Seconds."""
_PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
_HARMLESS = [
    *(Rule(fault, on="submit", rate=0.05) for fault in (Fault.RATE_LIMIT, Fault.UNAVAILABLE_503)),
    *(
        Rule(fault, on="fetch", rate=0.02)
        for fault in (Fault.RESET_AFTER, Fault.HTML_502, Fault.TRUNCATED_JSON, Fault.ERROR_500, Fault.EMPTY_OUTPUT)
    ),
    *(Rule(fault, on="file", rate=0.05) for fault in (Fault.BROKEN_DOWNLOAD, Fault.HTML_AS_MP4)),
]
"""Faults of one in ten submits, fetches and files. None loses the reply to a submit: only the kills do."""


@attrs.frozen(kw_only=True)
class Outcome:
    """The outcome of a batch. It ran for `seconds`; `resolved` jobs were uncertain and had to be resolved by hand."""

    jobs: int
    kills: int
    videos: int
    files: int
    charges: int
    charged_twice: int
    resolved: int
    seconds: float

    @property
    def is_right(self) -> bool:
        """Whether each job has one video and one charge."""
        return self.videos == self.files == self.charges == self.jobs and not self.charged_twice


async def outcome(jobs: int, kills: int, lasts: float, rng: random.Random) -> Outcome:
    """Run a batch until it ends, after *kills* kills, each in the first *lasts* seconds of its run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.png").write_bytes(_PNG)
        shots = [{"prompt": "zoom", "init_image": "a.png", "seed": seed} for seed in range(jobs)]
        (folder / "shots.jsonl").write_text("".join(json.dumps(shot) + "\n" for shot in shots))
        options: dict[str, Any] = {"speed": SPEED, "queue_limit": SLOTS, "render": skeleton, "faults": _HARMLESS}
        async with Emulator(**options) as emulator:
            resolved, seconds = 0, 0.0
            for _ in range(kills):
                seconds += await _batch(folder, emulator, kill_after=rng.uniform(0.0, lasts))
                resolved += await _resolve(folder, emulator)
            seconds += await _batch(folder, emulator)
            charged = Counter(emulator.ledger.track_ids())
        made = {result.item: result for result in read_results(folder / "out") if _is_made(result)}
        return Outcome(
            jobs=jobs,
            kills=kills,
            videos=len(made),
            files=len(list((folder / "out").glob("*.mp4"))),
            charges=charged.total(),
            charged_twice=sum(times > 1 for times in charged.values()),
            resolved=resolved,
            seconds=seconds,
        )


def _is_made(result: Result) -> bool:
    return result.state is JobState.READY and result.file is not None


async def _batch(folder: Path, emulator: Emulator, *, kill_after: float | None = None) -> float:
    """Run the command once, or kill it after *kill_after* seconds. Return its duration in seconds."""
    begun = time.monotonic()
    arguments = ["batch", "shots.jsonl", "-o", "out", "--yes", "--max-in-flight", str(SLOTS)]
    process = await _start(folder, emulator, *arguments)
    waiting = asyncio.create_task(process.communicate())
    if kill_after is not None:
        await asyncio.wait([waiting], timeout=kill_after)
        if not waiting.done():
            process.send_signal(signal.SIGKILL)
    _, err = await asyncio.wait_for(waiting, _TIMEOUT)
    if kill_after is None and process.returncode:
        raise SystemExit(f"the batch exited with code {process.returncode}:\n{err.decode()[-2000:]}")
    return time.monotonic() - begun


async def _resolve(folder: Path, emulator: Emulator) -> int:
    """Resolve the uncertain jobs from the ledger, as a user would from the account. Return their number."""
    process = await _start(folder, emulator, "recover", "--json")
    out, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT)
    ids = {charge.track_id: charge.job_id for charge in emulator.ledger.charges}
    uncertain: list[str] = [row["ref"] for row in json.loads(out)["uncertain"]]
    for ref in uncertain:
        resolution = ["--id", str(ids[ref])] if ref in ids else ["--lost"]
        process = await _start(folder, emulator, "resolve", ref, *resolution)
        await asyncio.wait_for(process.communicate(), _TIMEOUT)
    return len(uncertain)


async def _start(folder: Path, emulator: Emulator, *arguments: str) -> asyncio.subprocess.Process:
    settings = {
        "MODELSLAB_API_KEY": "any",
        "MODELSLAB_BASE_URL": emulator.url,
        "MODELSLAB_JOURNAL": str(folder / "jobs.db"),
    }
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelslab_async", *arguments),
        cwd=folder,
        env={**os.environ, **settings},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
