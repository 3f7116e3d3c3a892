"""The command as a process: its output and exit code, signals, a terminal, and being killed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from helpers.command import SLOW, AsyncShell, Shell, charges, emulated, emulated_aside, until_charged

from modelslab_async.cli.exit_codes import Exit
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals")


def test_json_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    """With --json, stdout is one object, with the file, its digest and its cost."""
    with emulated_aside(tmp_path) as (shell, _):
        done = shell.run_process("generate", "a.png", "-p", "zoom", "--json")
    assert done.code == 0, done
    values = done.json
    assert (values["state"], values["cost"]) == ("ready", "0.2")
    assert (tmp_path / values["path"]).stat().st_size == values["size_bytes"]
    assert len(values["sha256"]) == 64


def test_without_a_key_both_ways_are_named(tmp_path: Path) -> None:
    """The message names the key's variable and --emulate, and the process ends with the code for keys."""
    done = Shell(tmp_path).run_process("balance", changes={"MODELSLAB_API_KEY": ""})
    assert done.code == Exit.KEY
    assert "MODELSLAB_API_KEY" in done.err
    assert "--emulate" in done.err


async def test_a_job_of_an_emulator_of_its_own_is_not_offered_for_collection(tmp_path: Path) -> None:
    """Ctrl-C ends the emulator with its job: no payment is mentioned, and no command asks the real service."""
    (tmp_path / "a.png").write_bytes(Path("examples/rocket.jpg").read_bytes())
    words = ["generate", "a.png", "-p", "zoom", "--num-frames", "1000", "--emulate"]
    terminal = await AsyncShell(tmp_path).terminal(*words)
    await terminal.until("processing")
    terminal.type("\x03")
    assert await terminal.done() == Exit.INTERRUPTED
    assert "ended with its emulator" in terminal.text
    assert "collect" not in terminal.text


async def test_generate_can_be_left_at_any_time(tmp_path: Path) -> None:
    """Ctrl-C prints the command that collects the job; until it ran, the same request is not paid for again."""
    async with emulated(tmp_path, speed=SLOW) as (shell, emulator):
        words = ["generate", "a.png", "-p", "zoom", "-o", "b.mp4"]
        terminal = await shell.terminal(*words)
        await terminal.until("processing")
        terminal.type("\x03")
        assert await terminal.done() == Exit.INTERRUPTED
        again = await shell.run(*words)
        assert (again.code, charges(emulator)) == (Exit.USAGE, 1)
        assert "modelslab-async collect" in again.err
        command = next(line for line in terminal.text.splitlines() if line.startswith("modelslab-async collect"))
        assert (await shell.run(*command.split()[1:])).code == 0
    assert (charges(emulator), (tmp_path / "b.mp4").exists()) == (1, True)


async def test_a_job_whose_process_died_while_submitting_can_be_resolved(tmp_path: Path) -> None:
    """`resolve` accepts the job of a dead process without a `recover` before."""
    async with emulated(tmp_path, faults=[Rule(Fault.STALL, times=1)]) as (shell, emulator):
        words = ["generate", "a.png", "-p", "zoom", "--track-id", "mine"]
        running = await shell.start(*words)
        await until_charged(emulator, 1)
        running.process.kill()
        await running.done()
        resolved = await shell.run("resolve", "mine", "--id", str(emulator.ledger.charges[0].job_id))
        assert resolved.code == 0, resolved.err
        assert (await shell.run("collect", "mine")).code == 0
    assert charges(emulator) == 1


async def test_the_emulator_ends_with_ctrl_c(tmp_path: Path) -> None:
    """`emulator` prints its address and that it is not ModelsLab, and runs until Ctrl-C."""
    terminal = await AsyncShell(tmp_path).terminal("emulator", "--port", "0")
    await terminal.until("not ModelsLab")
    terminal.type("\x03")
    assert await terminal.done() == 0
