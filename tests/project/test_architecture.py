"""The architecture: the order of imports, the public names, and what an import loads."""

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
    "client", "web", "otel", "batch", "cluster", "emulator", "pytest_plugin", "cli", "__main__",
)  # fmt: skip
"""The rooms in order. A module imports only from rooms before its own, and from its own room."""
PURE = ("protocol", "polling")
IMPURE = {"asyncio", "aiohttp", "time", "datetime", "secrets", "socket", "pathlib", "logging", "threading", "io"}


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_of(names: set[str]) -> set[str]:
    """Return the rooms of our package among the names."""
    return {name.split(".")[1] for name in names if name.startswith("modelslab_async.")}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """A module imports from the rooms before its own, never from a later one."""
    room = room_of(path)
    allowed = {*ROOMS[: ROOMS.index(room) + 1]}
    used = rooms_of(imported(path)) & {*ROOMS}
    assert used <= allowed, f"{room} may not import {used - allowed}"


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "emulator").glob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_emulator_does_not_stand_on_the_client(path: Path) -> None:
    """emulator/ imports protocol/, the picture sniffer, the errors, aio and, in `InProcess`, the Transport protocol."""
    allowed = {"emulator", "errors", "aio", "protocol", "__version__"}
    allowed |= {f"media.images.{name}" for name in ("sniff", "sniff_media", "MAX_IMAGE_BYTES")}
    if path.name == "inprocess.py":
        allowed.add("transport.base")
    prefixes = tuple(f"modelslab_async.{name}." for name in allowed)
    used = {f"{name}." for name in imported(path) if name.split(".")[0] == "modelslab_async"}
    assert {name for name in used if not name.startswith(prefixes)} == set()


@pytest.mark.parametrize(
    "path", [path for path in FILES if room_of(path) in PURE], ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_core_is_pure(path: Path) -> None:
    """protocol/ and polling/ have no I/O, no clock and no loop. They use only types of `random` and `os`."""
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE
    text = path.read_text(encoding="utf-8")
    assert "os.environ" not in text
    assert "random.random(" not in text
    assert "open(" not in text.replace("_open(", "")


def test_public_names() -> None:
    """The public names are fixed here, so that adding or removing one is a decision."""
    constants_first = sorted(modelslab_async.__all__, key=lambda name: (not name.isupper(), name))
    assert modelslab_async.__all__ == constants_first
    tree = ast.parse((PACKAGE / "errors.py").read_text(encoding="utf-8"))
    errors = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    others = {
        "Asset",
        "Balance",
        "BeyondDocumentationWarning",
        "Budget",
        "Charge",
        "Client",
        "Estimate",
        "ImageToVideoUltra",
        "InsecureTransportWarning",
        "Job",
        "JobState",
        "Journal",
        "Plan",
        "PriceList",
        "Recovery",
        "OPERATIONS",
        "Operation",
        "Request",
        "RequestParams",
        "TextToVideoUltra",
        "SavedVideo",
        "Statistics",
        "JobEvent",
        "JobRecord",
        "Timeouts",
        "Video",
        "VideoFusion",
        "ImageToVideo",
        "TextToVideo",
    }
    assert {*modelslab_async.__all__} == errors | others | {"__version__"}
    assert all(getattr(modelslab_async, name) for name in modelslab_async.__all__)
    assert modelslab_async.emulator.__all__ == sorted(modelslab_async.emulator.__all__)


def test_import_loads_no_optional_package() -> None:
    """`import modelslab_async` loads no emulator, renderer, server, database driver or test framework."""
    code = "import sys, modelslab_async; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {
        "av",
        "PIL",
        "numpy",
        "pytest",
        "distributed",
        "asyncpg",
        "aiohttp.web",
        "modelslab_async.emulator",
        "modelslab_async.web",
    } & set(loaded)


def test_the_helpers_for_web_applications_load_no_other_framework() -> None:
    """`modelslab_async.web` loads aiohttp's server at most, so that it serves in any framework."""
    code = "import sys, modelslab_async.web; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "modelslab_async.web.streams" in loaded
    assert not {"starlette", "fastapi", "litestar", "django", "quart", "sanic", "anyio"} & set(loaded)


def test_the_emulator_serves_without_the_renderer() -> None:
    """`modelslab_async.emulator` imports without PyAV and Pillow, which only real videos need."""
    code = "import sys; sys.modules['av'] = sys.modules['PIL'] = None; import modelslab_async.emulator"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_library_logs_nothing_to_stderr_by_itself() -> None:
    """Without a logging configuration of the application, the library prints no log line."""
    code = "import logging, modelslab_async; logging.getLogger('modelslab_async').error('no handler')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
