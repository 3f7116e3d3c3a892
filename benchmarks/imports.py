"""Measure what the package costs before it does anything: the time of its import and its size on disk.

    python -m benchmarks.imports [--json] [--check]       takes about 30 seconds

Each round is a fresh process with compiled bytecode. It imports `aiohttp` and then `modelslab_async`, which needs it;
so the second time is what our package adds. Some modules are loaded later, so the time to make the first client and to
encode the first request is measured too. The core is all sources without the command, the emulator and batches, which
come with the same package. Before any figure is printed, the benchmark checks that no optional package was imported.
"""

from __future__ import annotations

import marshal
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path

from benchmarks._common import Figure, Samples, log, parse_options, print_figures

ROUNDS = 40
AIOHTTP, OURS, FIRST = "aiohttp", "modelslab_async", "first client and first encoded request after it"
NOT_CORE = ("batch", "cli", "emulator")
_PACKAGE = Path(__file__).resolve().parents[1] / OURS
_TIMED = """
import sys, time
begun = time.perf_counter()
import aiohttp
between = time.perf_counter()
import modelslab_async
imported = time.perf_counter()
print(between - begun, imported - between, *sys.modules)
begun = time.perf_counter()
import asyncio
from modelslab_async.protocol import wire
from modelslab_async.protocol.secret import ApiKey
KEY = "a key of a benchmark"
async def first():
    async with modelslab_async.Client(KEY) as client:
        client.check({"prompt": "zoom in", "init_image": "https://picture.invalid/a.png"})
        request = modelslab_async.ImageToVideoUltra(prompt="zoom in", init_image="https://picture.invalid/a.png")
        wire.encode_body(wire.encode_request(request, ref="a"), ApiKey(KEY))
asyncio.run(first())
print(time.perf_counter() - begun)
"""
_MODULES = {"opentelemetry-api": "opentelemetry", "pillow": "PIL", "python-multipart": "python_multipart"}
"""Modules whose name differs from the name of their distribution."""


def _imports(cache: str) -> tuple[list[float], set[str]]:
    """Return the milliseconds of the two imports and of the first use, and the modules loaded by the imports."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    output = subprocess.run(
        [sys.executable, "-c", _TIMED],
        env={**environment, "PYTHONPYCACHEPREFIX": cache},
        cwd=_PACKAGE.parent,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    return [1000 * float(seconds) for seconds in (*output[:2], output[-1])], set(output[2:-1])


def optional() -> set[str]:
    """Return the modules of the packages that only extras require."""
    names = set()
    for line in metadata.requires(OURS) or ():
        if "extra ==" in line and (found := re.match(r"[\w-]+", line)):
            names.add(_MODULES.get(found[0].lower(), found[0].lower().replace("-", "_")))
    return names - {OURS}


def size(exclude: Collection[str] = NOT_CORE) -> int:
    """Return the bytes of the sources without the folders in *exclude*."""
    files = (path for path in _PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files if path.relative_to(_PACKAGE).parts[0] not in exclude)


def _bytecode() -> int:
    """Return the bytes of the bytecode of all sources."""
    sources = (path.read_bytes() for path in _PACKAGE.rglob("*.py"))
    return sum(len(marshal.dumps(compile(source, "", "exec"))) for source in sources)


def measure() -> dict[str, Samples]:
    """Return the milliseconds of aiohttp's import, of ours after it, and of the first use."""
    extras = optional()
    assert extras, "the package's metadata names no extras"
    taken: dict[str, list[float]] = {AIOHTTP: [], OURS: [], FIRST: []}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(-1, ROUNDS):  # the first round compiles
            times, modules = _imports(cache)
            assert not extras & modules, extras & modules
            for name, each in zip(taken, times, strict=True):
                taken[name] += [each] if turn >= 0 else []
    return {name: Samples(values) for name, values in taken.items()}


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    options, _ = parse_options(__doc__)
    log(f"{ROUNDS} rounds of imports")
    taken = measure()
    parts = {
        "all sources and bytecode": size(()) + _bytecode(),
        "all sources": size(()),
        f"core sources of {OURS}": size(),
    }
    sizes = {name: Samples([each / 1000]) for name, each in parts.items()}
    figures = [
        Figure("import; for modelslab_async, the time after aiohttp is imported", "ms", taken),
        Figure("size on disk", "KB", sizes),
    ]
    return print_figures(options, "imports", f"{ROUNDS} rounds, each in a fresh process", figures, [])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
