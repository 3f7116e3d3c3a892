"""The README: its commands work, it stays short, and each promise of the money contract has a test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from helpers.pages import ROOT, text_of

README = text_of("README.md")


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MODELSLAB_API_KEY"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


def test_the_quickstart_saves_a_video(tmp_path: Path) -> None:
    """The first command says that it uses an emulator, prints every state, and saves a whole mp4."""
    result = run(str(ROOT / "examples" / "quickstart.py"), folder=tmp_path)
    assert result.returncode == 0, result.stderr
    texts = ["not ModelsLab", "waiting", "submitting", "processing", "ready", "832x480", "81 frames at 16 fps"]
    positions = [result.stdout.find(text) for text in texts]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert (tmp_path / "rocket.mp4").stat().st_size > 10_000


def test_live_without_a_key_is_refused(tmp_path: Path) -> None:
    """`--live` without a key names the missing variable and spends nothing."""
    result = run(str(ROOT / "examples" / "quickstart.py"), "--live", folder=tmp_path)
    assert result.returncode != 0
    assert "MODELSLAB_API_KEY" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_two_main_commands_are_in_the_readme() -> None:
    """The command to try the package and the command to test it have a line of their own."""
    assert "python -m pip install -e '.[emulator]' && python examples/quickstart.py" in README.splitlines()
    assert "python -m pip install -e '.[dev]' && python -m pytest" in README.splitlines()


def test_the_readme_is_short() -> None:
    """The README is a way in. What needs more room has a page in `docs/`."""
    assert len(README.splitlines()) <= 150


def test_every_promise_names_a_test_that_exists() -> None:
    """Each row of the money contract names a test, and the test exists."""
    text = text_of("docs/money.md")
    table = text[text.index("## What you pay") : text.index("## Budgets and prices")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        names = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert len(names) == 1, row
        path, name = names[0]
        assert f"def {name}(" in text_of(path), row


def test_the_readme_promises_what_the_contract_has() -> None:
    """Each row of the README's table says what a row of the contract says: what you pay is the same."""
    contract = {*_rows("docs/money.md", "## What you pay", "## Budgets and prices")}
    rows = _rows("README.md", "## What it promises about money", "## When something goes wrong")
    assert len(rows) >= 10
    assert {*rows} <= contract


def _rows(page: str, begin: str, end: str) -> list[tuple[str, str]]:
    """Return what the client does and what the user pays, of each row of a table."""
    text = text_of(page)
    lines = text[text.index(begin) : text.index(end)].splitlines()
    cells = [line.split(" | ") for line in lines if line.startswith("| ")][1:]
    return [(does, pays.removesuffix(" |")) for _, does, pays, *_ in cells]
