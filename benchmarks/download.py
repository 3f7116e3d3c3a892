"""A large file from loopback to the disk: `save` beside `curl -o` and a bare aiohttp loop.

    python -m benchmarks.download [--json] [--check] [--folder FOLDER]       takes about two minutes

Each download is a process of its own, in turn, several rounds; ratios are taken round by round. The bare loop reads
what is there and writes it. `save` also walks the mp4, takes its SHA-256, and puts the file to its name only when it
is whole. It flushes the file to the disk (fsync), and begins to write to the disk while the rest arrives. So the others
are measured with an fsync at their end, the time of which counts, and curl also without: as users call it, the file is
then in memory only. Imports and the interpreter's start are not counted, curl's few milliseconds are. Memory is the
peak of a Python process, at 500 MB beside 50 MB. Before anything is printed: each file has the right length and digest,
and `save` told that digest. Linux only.
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

from benchmarks._common import Figure, Reach, Seen, options, say, tell
from modelslab_async import Client

ROUNDS = 9
LARGE, SMALL = 500, 50
"""Megabytes."""
CURL, LOOP, OURS = "curl -o", "bare aiohttp loop", "modelslab_async"
CURL_UNFLUSHED = "curl -o, not flushed"
_ROOT = Path(__file__).resolve().parents[1]
_BLOCK = 2**20


# --- in processes of their own ---


async def loop(url: str, path: str) -> None:
    """The least that downloads in constant memory."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        with Path(path).open("wb") as file:  # noqa: ASYNC230 - as users write it
            async for chunk in response.content.iter_any():
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())


async def ours(url: str, path: str) -> str:
    """This package; gives the digest that it told."""
    async with Client("any") as client:
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
    web.run_app(app, host="127.0.0.1", port=0, print=lambda words: print(words.split()[3], flush=True))


# --- the parent ---


def _make(path: Path, megabytes: int) -> None:
    """The boxes of a whole mp4 of that size, in blocks."""
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
    words = [sys.executable, "-m", "benchmarks.download", "--way", name, url, str(path)]
    told: dict[str, float] = json.loads(subprocess.run(words, cwd=_ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return told


@contextmanager
def _server(folder: Path) -> Iterator[str]:
    """Sends the files of a folder, from another process."""
    words = [sys.executable, "-m", "benchmarks.download", "--serve", str(folder)]
    with subprocess.Popen(words, cwd=_ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def measure(folder: Path, megabytes: int, rounds: int) -> dict[str, list[dict[str, float]]]:
    """All downloads of each way: one after the other, round by round."""
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
            say(f"{megabytes} MB: round {turn + 1} of {rounds}")
            for name, way in ways.items():
                laps[name].append(way(f"{url}/large.mp4", got))
                assert _digest(got) == digest, name
                got.unlink()
    shutil.rmtree(served)
    return laps


def main() -> int:
    """Measure, and print the figures."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--folder", help="where to put the files; a temporary folder")
    wanted, given = options(__doc__, more)
    if not shutil.which("curl"):
        say("curl is not installed, and left out: the bare loop alone is what is compared with")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        large, small = measure(Path(folder), LARGE, ROUNDS), measure(Path(folder), SMALL, ROUNDS)
    rate = {name: Seen([LARGE / lap["seconds"] for lap in laps]) for name, laps in large.items()}
    cpu = {name: Seen([lap["cpu"] for lap in laps]) for name, laps in large.items()}
    peak = {name: Seen([lap["peak"] for lap in laps]) for name, laps in large.items() if name in _WAYS}
    less = {name: Seen([lap["peak"] for lap in laps]) for name, laps in small.items() if name in _WAYS}
    figures = [
        Figure(f"{LARGE} MB to the disk", "MB/s", rate, digits=0),
        Figure("CPU of the process", "s", cpu, digits=2),
        Figure(f"peak memory, {LARGE} MB", "MiB", peak),
        Figure(f"peak memory, {SMALL} MB", "MiB", less),
    ]
    allowed = [(CURL, 0.9), (LOOP, 0.95)]
    times = [limit * rate[name].over(rate[OURS]).median for name, limit in allowed if name in rate]
    reaches = [
        Reach("time, of what 0.9 of curl's throughput or 0.95 of the loop's allows", min(times), 1.0),
        Reach(f"peak memory at {LARGE} MB, of that at {SMALL}", peak[OURS].over(less[OURS]).median, 1.05),
    ]  # fmt: skip
    return tell(wanted, "download", f"{ROUNDS} rounds, each download a process of its own", figures, reaches)


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
