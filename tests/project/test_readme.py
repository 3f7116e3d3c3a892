"""The shop window: every Python block of the README runs, and its commands are the ones that CI runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PROGRAMS = [block for block in BLOCKS if "asyncio.run(" in block]
TESTS = [block for block in BLOCKS if "async def test_" in block]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MODELSLAB_API_KEY"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder in which the README's paths exist."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "rocket.jpg").write_bytes((ROOT / "examples" / "rocket.jpg").read_bytes())
    return tmp_path


def test_every_block_is_one_or_the_other() -> None:
    """No Python block escapes: each is a program or a test."""
    assert len(PROGRAMS) + len(TESTS) == len(BLOCKS) > 0


@pytest.mark.parametrize("block", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_run(block: str, folder: Path) -> None:
    """Each program ends well, in silence on stderr, and tells something; videos that it saves are there."""
    (folder / "program.py").write_text(block, encoding="utf-8")
    result = run("-W", "error", "program.py", folder=folder)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    saves = ".save(" in block or "run_batch(" in block
    assert bool(list(folder.rglob("*.mp4"))) == saves


@pytest.mark.parametrize("block", TESTS, ids=range(len(TESTS)))
def test_tests_pass(block: str, folder: Path) -> None:
    """The example test passes as it stands, with the plugin of the installed package."""
    (folder / "test_mine.py").write_text(block, encoding="utf-8")
    result = run("-m", "pytest", "-q", "-o", "asyncio_mode=auto", "test_mine.py", folder=folder)
    assert result.returncode == 0, result.stdout


def test_the_quickstart(folder: Path) -> None:
    """The first command: says that it is an emulator, shows every state, saves a whole mp4 and prints its facts."""
    result = run(str(ROOT / "examples" / "quickstart.py"), folder=folder)
    assert result.returncode == 0, result.stderr
    words = ["not ModelsLab", "waiting", "submitting", "processing", "ready", "832x480", "81 frames at 16 fps"]
    positions = [result.stdout.find(word) for word in words]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert (folder / "rocket.mp4").stat().st_size > 10_000


def test_a_key_alone_never_spends_money(folder: Path) -> None:
    """--live without a key says what is missing; without --live the emulator is used whatever the environment says."""
    result = run(str(ROOT / "examples" / "quickstart.py"), "--live", folder=folder)
    assert result.returncode != 0
    assert "MODELSLAB_API_KEY" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_commands_are_there() -> None:
    """The two commands that the project promises stand in the README, each on a line of its own."""
    assert "python -m pip install -e '.[emulator]' && python examples/quickstart.py" in README.splitlines()
    assert "python -m pip install -e '.[dev]' && python -m pytest" in README.splitlines()


def test_every_promise_is_linked_to_its_test() -> None:
    """Each row of the table of promises names a test, and that test is there."""
    text = README
    table = text[text.index("## What it promises about money") : text.index("## When the process dies")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        links = re.findall(r"\[`(test_\w+)`\]\((tests/[\w/]+\.py)\)", row)
        assert len(links) == 1, row
        name, path = links[0]
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), row
