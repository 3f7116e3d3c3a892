"""Measure what the package costs before it does anything: the time of its import and its size on disk.

    python -m benchmarks.imports [--json] [--check]       takes about 30 seconds

Each round is a fresh process with compiled bytecode. It imports `aiohttp` and then `modelslab_async`, which needs it;
so the second time is what our package adds. Some modules are loaded later, so the time to make the first client and to
encode the first request is measured too. The core is all sources without the command, the emulator and batches, which
come with the same package. Before any figure is printed, the benchmark checks that no optional package was imported.

The command's help is measured beside `import click, rich`, which it needs: in a pipe, and as a coloured terminal gets
it. A round measures both in turn, as whole processes less the start of an interpreter, in seconds of CPU, because other
programs on the machine add nothing to those.
"""

from __future__ import annotations

import marshal
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections.abc import Collection
from importlib import metadata
from pathlib import Path
from statistics import median

from benchmarks._common import Figure, Samples, Target, log, parse_options, print_figures

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
_HELP = "from modelslab_async.cli import main; import sys; sys.argv = ['modelslab-async', '--help']; main()"
_COLOURED = f"""
import sys
class Terminal(type(sys.stdout)):
    def isatty(self):
        return True
sys.stdout = Terminal(open(1, "wb", closefd=False), write_through=True)
{_HELP}
"""
NEEDED, PIPED, DRAWN = (
    "import click, rich",
    "modelslab-async --help, in a pipe",
    "modelslab-async --help, on a terminal",
)
START = "start of an interpreter"
_PROGRAMS = {START: "pass", NEEDED: "import click, rich", PIPED: _HELP, DRAWN: _COLOURED}
HELP_ROUNDS = 20
HELP_LIMIT = 2.5
"""What the command's help may take at most, as a multiple of `import click, rich`."""
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


def _cpu_time(program: str, cache: str) -> float:
    """Milliseconds of CPU that a process takes which runs the program."""
    around = {key: value for key, value in os.environ.items() if key not in ("PYTHONDONTWRITEBYTECODE", "NO_COLOR")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", program],
        env={**around, "PYTHONPYCACHEPREFIX": cache, "TERM": "xterm"},
        cwd=_PACKAGE.parent,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def measure_help() -> dict[str, Samples]:
    """Milliseconds of CPU of `import click, rich` and of the command's help, each without the interpreter's start."""
    taken: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(-1, HELP_ROUNDS):  # the first compiles
            for name, program in _PROGRAMS.items():
                each = _cpu_time(program, cache)
                taken[name] += [each] if turn >= 0 else []
    start = median(taken.pop(START))
    return {name: Samples([each - start for each in values]) for name, values in taken.items()}


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
    log(f"{HELP_ROUNDS} rounds of the command's help")
    helped = measure_help()
    targets = [
        Target(f"{name}, over {NEEDED}", measured.median / helped[NEEDED].median, HELP_LIMIT)
        for name, measured in helped.items()
        if name != NEEDED
    ]
    figures = [
        Figure("import; for modelslab_async, the time after aiohttp is imported", "ms", taken),
        Figure("size on disk", "KB", sizes),
        Figure("the command's help: CPU beyond an interpreter's start", "ms", helped),
    ]
    return print_figures(options, "imports", f"{ROUNDS} rounds, each in a fresh process", figures, targets)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
