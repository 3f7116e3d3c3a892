"""Run a batch again whose lines were all finished before, beside a bare loop over the same JSON and digests."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks._common import Target, log
from modelslab_async import Client
from modelslab_async.batch import Entry, read_manifest, run_batch
from modelslab_async.batch.results import Result, to_json
from modelslab_async.emulator import InProcess, Service

_KEY = "a key of a benchmark"
_PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)


async def measure(folder: Path, lines: int) -> tuple[list[tuple[str, str]], list[Target]]:
    """Return the seconds of a bare loop and of a second run, and what they must be."""
    await asyncio.to_thread(_write_manifest, folder, lines)
    log(f"{lines:,} lines")
    async with _client(folder) as client:
        first = [event async for event in run_batch(client, [next(_entries(folder))], folder / "out")][-1].result
    assert first
    await asyncio.to_thread(_finish_all, folder, first)
    bare = await asyncio.to_thread(_bare, folder)
    until_first, whole = await _again(folder, lines)
    rows = [("bare loop", f"{bare:.2f} s"), ("first event", f"{until_first:.2f} s"), ("whole run", f"{whole:.2f} s")]
    return rows, [
        Target("a finished batch run again: time ÷ time of a bare loop", whole / bare, 3.0),
        Target("a finished batch run again: first event, s", until_first, 1.0),
    ]


def _client(folder: Path) -> Client:
    service = Service(speed=1000.0, keys=[_KEY])
    return Client(_KEY, transport=InProcess(service), journal=folder / "jobs.db", poll_cost=0.001)


def _entries(folder: Path) -> Iterator[Entry]:
    return read_manifest(folder / "shots.jsonl")


def _write_manifest(folder: Path, lines: int) -> None:
    (folder / "a.png").write_bytes(_PNG)
    shots = ({"prompt": f"zoom in, take {seed}", "init_image": "a.png", "seed": seed} for seed in range(lines))
    (folder / "shots.jsonl").write_text("".join(f"{json.dumps(shot)}\n" for shot in shots))


def _finish_all(folder: Path, first: Result) -> None:
    """Write the result and the video of each line, as if an earlier run had made it."""
    video = (folder / "out" / str(first.file)).read_bytes()
    with (folder / "out" / "results.jsonl").open("wb") as file:
        for entry in _entries(folder):
            path = folder / "out" / f"a-{entry.line}.mp4"
            path.write_bytes(video)
            known = attrs.evolve(first, item=entry.item, ref=f"b-{entry.item}", line=entry.line, file=path.name)
            file.write(to_json(attrs.evolve(known, mtime_ns=path.stat().st_mtime_ns)) + b"\n")


def _bare(folder: Path) -> float:
    begun = time.perf_counter()
    with (folder / "shots.jsonl").open("rb") as file:
        for line in file:
            json.loads(line)
    with (folder / "out" / "results.jsonl").open("rb") as file:
        for result in map(json.loads, file):
            assert hashlib.sha256((folder / "out" / result["file"]).read_bytes()).hexdigest() == result["sha256"]
    return time.perf_counter() - begun


async def _again(folder: Path, lines: int) -> tuple[float, float]:
    """Return the seconds until the first event, and until the end."""
    begun, until_first, kept = time.perf_counter(), 0.0, 0
    async with _client(folder) as client:
        async for event in run_batch(client, _entries(folder), folder / "out"):
            until_first = until_first or time.perf_counter() - begun
            kept += event.step.value == "kept"
    assert kept == lines
    return until_first, time.perf_counter() - begun
