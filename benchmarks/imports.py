"""What the package weighs before it does anything: the time of its import, what it drags in, its size on disk.

    python -m benchmarks.imports [--json] [--check]       takes about half a minute

Every import is a process of its own, with compiled bytecode, and round by round: only `aiohttp`, then
`modelslab_async`, which imports aiohttp too. The size is that of the core's sources: everything but the command, the
emulator and batches. Before anything is printed: no optional package was imported.
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
at = time.perf_counter()
import {}
print(time.perf_counter() - at, *sys.modules)
"""
_MODULES = {"opentelemetry-api": "opentelemetry", "pillow": "PIL", "python-multipart": "python_multipart"}
"""Where a distribution's module has another name."""


def _import(name: str, cache: str) -> tuple[float, set[str]]:
    """Milliseconds of an import, and all modules that there are then."""
    around = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    words = [sys.executable, "-c", _TIMED.format(name)]
    told = subprocess.run(
        words,
        env={**around, "PYTHONPYCACHEPREFIX": cache},
        cwd=_PACKAGE.parent,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    return 1000 * float(told[0]), set(told[1:])


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
    """Milliseconds of each import."""
    taken: dict[str, list[float]] = {AIOHTTP: [], OURS: []}
    with tempfile.TemporaryDirectory() as cache:
        for turn in range(-1, ROUNDS):  # the first compiles
            for name, values in taken.items():
                milliseconds, modules = _import(name, cache)
                extra = optional() & modules
                assert not extra, extra
                if turn >= 0:
                    values.append(milliseconds)
    return {name: Seen(values) for name, values in taken.items()}


def main() -> int:
    """Measure, and print the figures."""
    wanted, _ = options(__doc__)
    say(f"{ROUNDS} rounds of imports")
    taken, kilobytes = measure(), size() / 1000
    added = taken[OURS].beyond(taken[AIOHTTP])
    figures = [
        Figure("import", "ms", taken),
        Figure("import of modelslab_async beyond aiohttp's", "ms", {OURS: added}, limit=25),
        Figure("sources of the core", "KB", {OURS: Seen([kilobytes])}, limit=300),
    ]
    reaches = [
        Reach("ms of import beyond aiohttp's", added.median, 25),
        Reach("KB of the core's sources", kilobytes, 300),
    ]
    return tell(wanted, "imports", f"{ROUNDS} rounds, each import a fresh process", figures, reaches)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
