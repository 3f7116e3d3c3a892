"""Download a large file over loopback to the disk with `save`. The baselines are `curl -o` and a bare aiohttp loop.

    python -m benchmarks.download [--json] [--check] [--folder FOLDER]       takes about two minutes; Linux only

Each download runs in another process; the contenders take turns, and ratios are taken round by round. The bare loop
reads and writes. `save` also parses the mp4, computes its SHA-256, and moves the file to its name only when it is
whole. It flushes the file to the disk (fsync), and starts writing to the disk while the rest arrives. So the others are
measured with an fsync at their end. curl is also measured without fsync, as users call it: its file is then in memory
only. Imports and the start of the interpreter are not counted; curl's start of a few milliseconds is. Memory is the
highest value of a Python process, at 500 MB and at 50 MB. Before any figure is printed, the benchmark checks each
file's length and digest, and the digest that `save` reports.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks._common import Figure, Samples, Target, log, parse_options, print_figures
from modelslab_async import Client

ROUNDS = 9
LARGE, SMALL = 500, 50
"""Megabytes."""
CURL, LOOP, OURS = "curl -o", "bare aiohttp loop", "modelslab_async"
CURL_UNFLUSHED = "curl -o, without fsync"
_ROOT = Path(__file__).resolve().parents[1]
_BLOCK = 2**20


# --- in another process ---


async def loop(url: str, path: str) -> None:
    """A minimal loop that downloads in constant memory."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        with Path(path).open("wb") as file:  # noqa: ASYNC230 - a plain loop, as in many programs
            async for chunk in response.content.iter_any():
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())


async def ours(url: str, path: str) -> str:
    """This package. Return the SHA-256 that it reports."""
    async with Client("a key of a benchmark") as client:
        return (await client.download(url, path)).sha256


_WAYS: dict[str, Callable[[str, str], Coroutine[Any, Any, str | None]]] = {LOOP: loop, OURS: ours}


def _run(name: str, url: str, path: str) -> dict[str, float]:
    at, cpu = time.perf_counter(), time.process_time()
    digest = asyncio.run(_WAYS[name](url, path))
    seconds, cpu = time.perf_counter() - at, time.process_time() - cpu
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert digest in (None, _digest(Path(path)))
    return {"seconds": seconds, "cpu": cpu, "peak": int(peak.split()[1]) / 1024}


def _serve(folder: str) -> None:
    app = web.Application()
    app.router.add_static("/", folder)
    web.run_app(app, host="127.0.0.1", port=0, print=lambda text: print(text.split()[3], flush=True))


# --- the parent ---


def _make(path: Path, megabytes: int) -> None:
    """Write a whole mp4 of about this size: its boxes, and random content."""
    blocks = megabytes * 10**6 // _BLOCK
    head = ((8, b"ftyp"), (8, b"moov"), (8 + blocks * _BLOCK, b"mdat"))
    noise = os.urandom(_BLOCK)
    with path.open("wb") as file:
        file.writelines((*(size.to_bytes(4) + kind for size, kind in head), *repeat(noise, blocks)))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _curl(url: str, path: Path, *, flushed: bool = True) -> dict[str, float]:
    at = time.perf_counter()
    process = subprocess.Popen([shutil.which("curl") or "curl", "-s", "-S", "-o", str(path), url])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, process.returncode
    if flushed:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return {"seconds": time.perf_counter() - at, "cpu": usage.ru_utime + usage.ru_stime}


def _python(name: str, url: str, path: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.download", "--way", name, url, str(path)]
    result: dict[str, float] = json.loads(subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return result


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Serve the files of a folder from another process."""
    command = [sys.executable, "-m", "benchmarks.download", "--serve", str(folder)]
    with subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measure(folder: Path, megabytes: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """Return all downloads of each contender. They take turns, round by round."""
    ways: dict[str, Callable[[str, Path], dict[str, float]]] = {
        **({CURL: _curl, CURL_UNFLUSHED: partial(_curl, flushed=False)} if shutil.which("curl") else {}),
        **{name: partial(_python, name) for name in _WAYS},
    }
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    served, got = folder / "served", folder / "got.mp4"
    served.mkdir()
    _make(served / "large.mp4", megabytes)
    digest = _digest(served / "large.mp4")
    with _server(served) as url:
        for turn in range(rounds):
            log(f"{megabytes} MB: round {turn + 1} of {rounds}")
            for name, way in ways.items():
                laps[name].append(way(f"{url}/large.mp4", got))
                assert _digest(got) == digest, name
                got.unlink()
    shutil.rmtree(served)
    return laps


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--folder", help="folder for the files (default: a temporary folder)")
    options, args = parse_options(__doc__, more)
    if not shutil.which("curl"):
        log("curl is not installed, so the bare aiohttp loop is the only baseline")
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        large, small = measure(Path(folder), LARGE, ROUNDS), measure(Path(folder), SMALL, ROUNDS)
    rate = {name: Samples([LARGE / lap["seconds"] for lap in laps]) for name, laps in large.items()}
    cpu = {name: Samples([lap["cpu"] for lap in laps]) for name, laps in large.items()}
    peak = {name: Samples([lap["peak"] for lap in laps]) for name, laps in large.items() if name in _WAYS}
    less = {name: Samples([lap["peak"] for lap in laps]) for name, laps in small.items() if name in _WAYS}
    figures = [
        Figure(f"download of {LARGE} MB to the disk", "MB/s", rate, digits=0),
        Figure("CPU time of the process", "s", cpu, digits=2),
        Figure(f"highest memory, {LARGE} MB", "MiB", peak),
        Figure(f"highest memory, {SMALL} MB", "MiB", less),
    ]
    allowed = [(CURL, 0.9), (LOOP, 0.95)]
    times = [limit * rate[name].ratio_to(rate[OURS]).median for name, limit in allowed if name in rate]
    targets = [
        Target("time ÷ the time that 0.9 of curl's or 0.95 of the bare loop's throughput needs", min(times), 1.0),
        Target(f"highest memory at {LARGE} MB ÷ that at {SMALL} MB", peak[OURS].ratio_to(less[OURS]).median, 1.05),
    ]  # fmt: skip
    return print_figures(options, "download", f"{ROUNDS} rounds, each download in another process", figures, targets)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        _serve(sys.argv[2])
    elif sys.argv[1:2] == ["--way"]:
        print(json.dumps(_run(*sys.argv[2:])))
    else:
        try:
            sys.exit(main())
        except KeyboardInterrupt:
            sys.exit(130)
