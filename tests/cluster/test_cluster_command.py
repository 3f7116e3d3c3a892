"""The command `batch` on a cluster."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.command import Shell, charges, emulated, emulated_aside, made, manifest


async def test_one_command_shows_it_all(tmp_path: Path) -> None:
    """`--cluster local` starts workers, makes the videos, and ends. The display and its JSON are those of a batch."""
    async with emulated(tmp_path, speed=100) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 6).name, "-o", "out", "--yes", "--json", "--cluster", "local", "--report"]
        done = await shell.run(*words, changes={"PYTHONWARNINGS": "default"})
    assert done.code == 0, done.err
    events = [event["event"] for event in done.json]
    assert (events[0], events.count("ended"), events[-1]) == ("plan", 6, "report")
    assert {event["result"]["host"] for event in done.json if "result" in event} <= {
        f"{platform.node()}/{n}" for n in (0, 1)
    }
    assert charges(emulator) == len(made(tmp_path / "out")) == 6
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("address", "message"),
    [("scheduler", "must be an address"), ("tcp://10.0.0.1:8786", "--journal postgresql://USER@HOST/DATABASE")],
)
def test_a_wrong_address_is_refused(tmp_path: Path, address: str, message: str) -> None:
    """The message names the option, and nothing is paid."""
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("batch", manifest(tmp_path, 1).name, "-o", "out", "--yes", "--cluster", address)
        assert charges(emulator) == 0
    assert (done.code, message in done.err) == (2, True), done.err


def test_without_dask_the_command_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package distributed is optional."""
    for name in [name for name in sys.modules if name.split(".")[0] == "distributed" or ".cluster.driver" in name]:
        monkeypatch.delitem(sys.modules, name)
    missing: Any = None
    monkeypatch.setitem(sys.modules, "distributed", missing)
    (tmp_path / "a.png").touch()
    done = Shell(tmp_path, "http://127.0.0.1:1").run(
        "batch", manifest(tmp_path, 1).name, "-o", "out", "--yes", "--cluster", "local"
    )
    assert (done.code, "modelslab_async[dask]" in done.err) == (2, True), done.err
