"""The pages in `docs/`: their Python blocks run, their commands have the flags that they name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modelslab_async import OPERATIONS
from modelslab_async.emulator import Fault
from modelslab_async.emulator.__main__ import parser
from modelslab_async.emulator.faults import fault_named

ROOT = Path(__file__).parents[2]
EMULATOR = (ROOT / "docs" / "emulator.md").read_text(encoding="utf-8")
OPERATIONS_PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", EMULATOR + OPERATIONS_PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block: str, tmp_path: Path) -> None:
    """Each block is a program that exits with 0 and without a warning, or a test that passes."""
    (tmp_path / "test_mine.py").write_text(block, encoding="utf-8")
    is_test = "def test_" in block and "unittest" not in block
    command = (
        ["-m", "pytest", "-q", "-p", "no:looptime_plugin", "test_mine.py"]
        if is_test
        else ["-W", "error", "test_mine.py"]
    )
    run = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, "Traceback" in run.stderr) == (0, False), run.stdout + run.stderr


def test_named_flags_exist() -> None:
    """Each flag that the page names is one of the command's."""
    known = parser().format_help()
    named = set(re.findall(r"`?(--[a-z][a-z-]+)", EMULATOR)) - {"--help"}
    assert len(named) > 10
    assert {flag for flag in named if flag not in known} == set()


def test_named_faults_and_their_number() -> None:
    """The page names faults that exist, and about their number."""
    assert fault_named(re.findall(r"fault:(\w+):ANYTHING", EMULATOR)[0]) is Fault.RESET_AFTER
    (about,) = re.findall(r"about (\d+) kinds", EMULATOR)
    assert abs(int(about) - len(Fault)) <= 5


def test_the_page_says_that_this_is_not_modelslab() -> None:
    """The first paragraph says so."""
    assert "**It is not ModelsLab**" in EMULATOR.split("\n\n")[1]


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_pages_list_each_operation(name: str) -> None:
    """The page of operations has the row's facts, and the README its price and how sure its parameters are."""
    row = OPERATIONS[name]
    price = "unknown" if row.price is None else f"${row.price:.2f}"
    facts = f"| `{name}` | `{row.request_type.__name__}` | {row.summary} | {price} | {row.confidence} |"
    assert facts in OPERATIONS_PAGE
    (line,) = [line for line in README.splitlines() if line.startswith("|") and f"`{name}`" in line.split("|")[1]]
    assert line.endswith(f"| {price} | {row.confidence} |")
    assert row.request_type.__name__ in line
