"""What the package weighs before it does anything: the time of its import, what it drags in, its size on disk.

    python -m benchmarks.imports [--json] [--check]       takes about half a minute

Every round is a process of its own, with compiled bytecode. It imports `aiohttp` and then `modelslab_async`, which
needs it; so what the second import takes is what comes on top. Some of what is needed is imported later: then a client
is made and a request written as it is sent, and what that takes the first time is printed too. Sizes are those of the
core's sources (everything but the command, the emulator and batches, which come with the same package), of all sources,
and of all with the bytecode that pip compiles. Before anything is printed: no optional package was imported.
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

from benchmarks._common import Figure, Seen, options, say, tell

ROUNDS = 40
AIOHTTP, OURS, FIRST = "aiohttp", "modelslab_async", "then a client, and a request as it is sent"
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
async def first():
    async with modelslab_async.Client("any") as client:
        client.check({"prompt": "zoom in", "init_image": "https://picture.invalid/a.png"})
        request = modelslab_async.ImageToVideoUltra(prompt="zoom in", init_image="https://picture.invalid/a.png")
        wire.encode_body(wire.encode_request(request, ref="a"), ApiKey("any"))
asyncio.run(first())
print(time.perf_counter() - begun)
"""
_MODULES = {"opentelemetry-api": "opentelemetry", "pillow": "PIL", "python-multipart": "python_multipart"}
"""Where a distribution's module has another name."""


def _imports(cache: str) -> tuple[list[float], set[str]]:
    """Milliseconds of the two imports and of what is done first, and all modules that there are after the imports."""
    around = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    told = subprocess.run(
        [sys.executable, "-c", _TIMED],
        env={**around, "PYTHONPYCACHEPREFIX": cache},
        cwd=_PACKAGE.parent,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    return [1000 * float(seconds) for seconds in (*told[:2], told[-1])], set(told[2:-1])


def optional() -> set[str]:
    """The modules of the packages that only extras name."""
    names = set()
    for line in metadata.requires(OURS) or ():
        if "extra ==" in line and (found := re.match(r"[\w-]+", line)):
            names.add(_MODULES.get(found[0].lower(), found[0].lower().replace("-", "_")))
    return names - {OURS}


def size(but: Collection[str] = NOT_CORE) -> int:
    """Bytes of the core's sources; of all with `but=()`."""
    files = (path for path in _PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files if path.relative_to(_PACKAGE).parts[0] not in but)


def _bytecode() -> int:
    """Bytes that compiling all sources gives."""
    sources = (path.read_bytes() for path in _PACKAGE.rglob("*.py"))
    return sum(len(marshal.dumps(compile(source, "", "exec"))) for source in sources)


def measure() -> dict[str, Seen]:
    """Milliseconds of aiohttp's import, of ours after it, and of what is done first."""
    extras = optional()
    assert extras, "the package's metadata names no extras"
    taken: dict[str, list[float]] = {AIOHTTP: [], OURS: [], FIRST: []}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(-1, ROUNDS):  # the first compiles
            times, modules = _imports(cache)
            assert not extras & modules, extras & modules
            for name, each in zip(taken, times, strict=True):
                taken[name] += [each] if turn >= 0 else []
    return {name: Seen(values) for name, values in taken.items()}


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    say(f"{ROUNDS} rounds of imports")
    taken = measure()
    parts = {"all sources and bytecode": size(()) + _bytecode(), "all sources": size(()), f"{OURS}, its core's": size()}
    sizes = {name: Seen([each / 1000]) for name, each in parts.items()}
    figures = [
        Figure("import, of modelslab_async what it takes beyond aiohttp", "ms", taken),
        Figure("size", "KB", sizes),
    ]
    return tell(wanted, "imports", f"{ROUNDS} rounds, each import a fresh process", figures, [])


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
