"""How the house is built: who may import whom, what is public, what loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import modelslab_async
import modelslab_async.emulator
import modelslab_async.errors

PACKAGE = Path(modelslab_async.__file__).parent
ROOMS = (
    "errors", "aio", "protocol", "polling", "transport", "journal", "media", "job", "telemetry", "webhook", "engine",
    "client", "web", "otel", "batch", "emulator", "pytest_plugin", "cli", "__main__",
)  # fmt: skip
"""From the ground up: a module imports from rooms before its own, and from its own room."""
PURE = ("protocol", "polling")
IMPURE = {"asyncio", "aiohttp", "time", "datetime", "secrets", "socket", "pathlib", "logging", "threading", "io"}


def imported(path: Path) -> set[str]:
    """The dotted names that a file imports at run time."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own(names: set[str]) -> set[str]:
    """The parts of our package among them."""
    return {name.split(".")[1] for name in names if name.startswith("modelslab_async.")}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """A module imports from the rooms before its own, never from a later one."""
    room = part_of(path)
    allowed = {*ROOMS[: ROOMS.index(room) + 1]}
    used = own(imported(path)) & {*ROOMS}
    assert used <= allowed, f"{room} may not import {used - allowed}"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "emulator").glob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_emulator_does_not_stand_on_the_client(path: Path) -> None:
    """emulator/ imports protocol/, the picture sniffer, the errors, aio and, in `InProcess`, the Transport protocol."""
    allowed = {"emulator", "errors", "aio", "protocol", "media.images.sniff", "media.images.MAX_IMAGE_BYTES"}
    if path.name == "inprocess.py":
        allowed.add("transport.base")
    prefixes = tuple(f"modelslab_async.{name}." for name in allowed)
    used = {f"{name}." for name in imported(path) if name.split(".")[0] == "modelslab_async"}
    assert {name for name in used if not name.startswith(prefixes)} == set()


@pytest.mark.parametrize(
    "path", [path for path in FILES if part_of(path) in PURE], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_core_is_pure(path: Path) -> None:
    """protocol/ and polling/ have no I/O, no clock and no loop; of `random` only the type, of `os` only PathLike."""
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE
    text = path.read_text(encoding="utf-8")
    assert "os.environ" not in text
    assert "random.random(" not in text
    assert "open(" not in text.replace("_open(", "")


def test_public_names() -> None:
    """What a user may import, pinned: a name more or less is a decision, not an accident."""
    assert modelslab_async.__all__ == sorted(modelslab_async.__all__)
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    errors = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    others = {
        "Asset",
        "Balance",
        "BeyondDocumentationWarning",
        "Budget",
        "Client",
        "Estimate",
        "ImageToVideoUltra",
        "Job",
        "JobState",
        "Journal",
        "Plan",
        "PriceList",
        "Recovery",
        "SavedVideo",
        "Statistics",
        "JobEvent",
        "JobRecord",
        "Timeouts",
        "Video",
    }
    assert {*modelslab_async.__all__} == errors | others | {"__version__"}
    assert all(getattr(modelslab_async, name) for name in modelslab_async.__all__)
    assert modelslab_async.emulator.__all__ == sorted(modelslab_async.emulator.__all__)


def test_importing_is_light() -> None:
    """`import modelslab_async` loads neither the emulator nor a renderer, server or test framework."""
    code = "import sys, modelslab_async; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"av", "PIL", "numpy", "pytest", "aiohttp.web", "modelslab_async.emulator"} & set(loaded)


def test_the_emulator_serves_without_the_renderer() -> None:
    """`modelslab_async.emulator` imports without PyAV and Pillow: only a real video needs the extra."""
    code = "import sys; sys.modules['av'] = sys.modules['PIL'] = None; import modelslab_async.emulator"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_library_logs_nothing_to_stderr_by_itself() -> None:
    """An application that configures no logging sees none of ours."""
    code = "import logging, modelslab_async; logging.getLogger('modelslab_async').error('no handler')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
