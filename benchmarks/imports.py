"""What the package weighs before it does anything: the time of its import, what it drags in, its size on disk.

    python -m benchmarks.imports [--json] [--check]       takes about half a minute

Every round is a process of its own, with compiled bytecode. It imports `aiohttp` and then `modelslab_async`, which
needs it; so what the second import takes is what comes on top. Some of what is needed is imported later: then a client
is made and a request written as it is sent, and what that takes the first time is printed too. Sizes are those of the
core's sources (everything but the command, the emulator and batches, which come with the same package), of all sources,
and of all with the bytecode that pip compiles. Before anything is printed: no optional package was imported.

The command's help is measured beside `import click, rich`, which it needs: in a pipe, and as a coloured terminal gets
it. A round takes both in turn, as whole processes less the start of an interpreter, in seconds of CPU: what disturbs
the machine adds nothing to them.
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

from benchmarks._common import Figure, Reach, Seen, options, say, tell

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
    async with modelslab_async.Client("any-long-key") as client:
        client.check({"prompt": "zoom in", "init_image": "https://picture.invalid/a.png"})
        request = modelslab_async.ImageToVideoUltra(prompt="zoom in", init_image="https://picture.invalid/a.png")
        wire.encode_body(wire.encode_request(request, ref="a"), ApiKey("any-long-key"))
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


def measure_help() -> dict[str, Seen]:
    """Milliseconds of CPU of `import click, rich` and of the command's help, each without the interpreter's start."""
    taken: dict[str, list[float]] = {name: [] for name in _PROGRAMS}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(-1, HELP_ROUNDS):  # the first compiles
            for name, program in _PROGRAMS.items():
                each = _cpu_time(program, cache)
                taken[name] += [each] if turn >= 0 else []
    start = median(taken.pop(START))
    return {name: Seen([each - start for each in values]) for name, values in taken.items()}


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    say(f"{ROUNDS} rounds of imports")
    taken = measure()
    parts = {"all sources and bytecode": size(()) + _bytecode(), "all sources": size(()), f"{OURS}, its core's": size()}
    sizes = {name: Seen([each / 1000]) for name, each in parts.items()}
    say(f"{HELP_ROUNDS} rounds of the command's help")
    helped = measure_help()
    reaches = [
        Reach(f"{name}, over {NEEDED}", seen.median / helped[NEEDED].median, HELP_LIMIT)
        for name, seen in helped.items()
        if name != NEEDED
    ]
    figures = [
        Figure("import, of modelslab_async what it takes beyond aiohttp", "ms", taken),
        Figure("size", "KB", sizes),
        Figure("the command's help, of CPU beyond an interpreter's start", "ms", helped),
    ]
    return tell(wanted, "imports", f"{ROUNDS} rounds, each import a fresh process", figures, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
