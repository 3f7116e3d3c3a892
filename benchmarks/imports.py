"""What the package weighs before it does anything: the time of its import, what it drags in, its size on disk.

    python -m benchmarks.imports [--json] [--check]       takes about half a minute

Every round is a process of its own, with compiled bytecode. It imports `aiohttp` and then `modelslab_async`, which
needs it; so what the second import takes is what comes on top. The size is that of the core's sources: everything but
the command, the emulator and batches. Before anything is printed: no optional package was imported.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from benchmarks._common import Figure, Reach, Seen, options, say, tell

ROUNDS = 40
AIOHTTP, OURS = "aiohttp", "modelslab_async"
NOT_CORE = ("batch", "cli", "emulator")
_PACKAGE = Path(__file__).resolve().parents[1] / OURS
_TIMED = """
import sys, time
begun = time.perf_counter()
import aiohttp
between = time.perf_counter()
import modelslab_async
print(between - begun, time.perf_counter() - between, *sys.modules)
"""
_MODULES = {"opentelemetry-api": "opentelemetry", "pillow": "PIL", "python-multipart": "python_multipart"}
"""Where a distribution's module has another name."""


def _imports(cache: str) -> tuple[float, float, set[str]]:
    """Milliseconds of the two imports, and all modules that there are then."""
    around = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    told = subprocess.run(
        [sys.executable, "-c", _TIMED],
        env={**around, "PYTHONPYCACHEPREFIX": cache},
        cwd=_PACKAGE.parent,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    return 1000 * float(told[0]), 1000 * float(told[1]), set(told[2:])


def optional() -> set[str]:
    """The modules of the packages that only extras name."""
    names = set()
    for line in metadata.requires(OURS) or ():
        if "extra ==" in line and (found := re.match(r"[\w-]+", line)):
            names.add(_MODULES.get(found[0].lower(), found[0].lower().replace("-", "_")))
    return names - {OURS}


def size() -> int:
    """Bytes of the core's sources."""
    files = (path for path in _PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sum(path.stat().st_size for path in files if path.relative_to(_PACKAGE).parts[0] not in NOT_CORE)


def measure() -> dict[str, Seen]:
    """Milliseconds of aiohttp's import, and of ours after it."""
    taken: dict[str, list[float]] = {AIOHTTP: [], OURS: []}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(-1, ROUNDS):  # the first compiles
            theirs, mine, modules = _imports(cache)
            extra = optional() & modules
            assert not extra, extra
            if turn >= 0:
                taken[AIOHTTP].append(theirs)
                taken[OURS].append(mine)
    return {name: Seen(values) for name, values in taken.items()}


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    say(f"{ROUNDS} rounds of imports")
    taken, kilobytes = measure(), size() / 1000
    figures = [
        Figure("import, of modelslab_async what it takes beyond aiohttp", "ms", taken, limit=25),
        Figure("sources of the core", "KB", {OURS: Seen([kilobytes])}, limit=300),
    ]
    reaches = [
        Reach("ms of import beyond aiohttp's", taken[OURS].median, 25),
        Reach("KB of the core's sources", kilobytes, 300),
    ]
    return tell(wanted, "imports", f"{ROUNDS} rounds, each import a fresh process", figures, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
