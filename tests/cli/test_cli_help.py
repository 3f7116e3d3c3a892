"""The command's help and its errors: in groups, in colour only on a terminal, and without the client."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from helpers.command import AsyncShell, Shell

from modelslab_async.cli.app import COMMANDS, app

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals")


def help_of(*words: str) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="modelslab-async", terminal_width=80)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_all_options_in_groups_and_one_example(command: str) -> None:
    """Each option has a line, in 80 columns, under the heading of a group; the example stands at the end."""
    text = help_of(command)
    loaded = app.get_command(click.Context(app), command)
    assert loaded is not None
    options = [each for each in loaded.params if isinstance(each, click.Option)]
    assert all(re.search(rf"^  (-\w, )?{option.opts[-1]} ", text, re.MULTILINE) for option in options)
    assert "\nOptions:" not in text
    head, _, example = text.partition("Example:\n")
    assert re.fullmatch(rf" *(eval \"\$\()?modelslab-async {command}.*\n", example)
    assert "Example" not in head
    assert max(map(len, text.splitlines())) <= 80


def test_the_groups_help_lists_commands_and_exit_codes() -> None:
    """Every command has a line in a group; the exit codes and one example follow."""
    text = help_of()
    assert all(re.search(rf"^  {command} +[A-Z]", text, re.MULTILINE) for command in COMMANDS)
    assert "130  interrupted" in text
    assert text.count("Example") == 1


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_the_groups_help_imports_no_client(tmp_path: Path, words: list[str]) -> None:
    """It imports neither aiohttp nor attrs nor the client, and no command, so that it comes at once."""
    code = "\n".join([
        "import atexit, sys",
        "atexit.register(lambda: print(*sys.modules))",
        "from modelslab_async.cli import main",
        f"sys.argv = ['modelslab-async', *{words!r}]",
        "main()",
    ])  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=Shell(tmp_path).environment(), capture_output=True, text=True, check=False
    )
    modules = set(done.stdout.splitlines()[-1].split())
    assert "modelslab_async.cli.app" in modules, done
    heavy = {"aiohttp", "attr", "cattrs", "modelslab_async.client", "modelslab_async.cli.generate", "rich.console"}
    assert not heavy & modules


async def test_help_and_errors_are_coloured_on_a_terminal_only(tmp_path: Path) -> None:
    """A terminal shows panels in colour; under NO_COLOR, and in a pipe, help and errors are plain text."""
    shell = AsyncShell(tmp_path)
    for words, title in (["generate", "--help"], "The request"), (["generate", "--nope"], "Error"):
        coloured, plain = await shell.terminal(*words), await shell.terminal(*words, changes={"NO_COLOR": "1"})
        codes = await coloured.done(), await plain.done()
        piped = await shell.run(*words)
        assert codes == (piped.code, piped.code)
        assert f"╭─ {title} ─" in coloured.text
        assert b"\x1b[36m" in coloured.raw
        assert f"{title}:" in plain.text
        assert b"\x1b" not in plain.raw
        assert "\x1b" not in piped.out + piped.err
        assert "╭" not in plain.text + piped.out + piped.err
        widths = {len(line) for line in coloured.text.splitlines() if line.startswith(("│", "╭", "╰"))}
        assert len(widths) == 1, coloured.text


def test_only_commands_with_a_job_of_their_own_emulate() -> None:
    """An emulator ends with its command, so --emulate makes sense where a job begins and ends. Others say what does."""
    emulating = [command for command in COMMANDS if "--emulate" in help_of(command)]
    assert emulating == ["generate", "batch"]
    refused = CliRunner().invoke(app, ["jobs", "--emulate"], prog_name="modelslab-async")
    assert refused.exit_code == 2
    assert "modelslab-async emulator" in refused.stderr


@pytest.mark.parametrize(
    ("module", "words", "hint"),
    [
        ("click", ["--help"], "modelslab_async[cli]"),
        ("rich", ["--help"], "modelslab_async[cli]"),
        ("platformdirs", ["jobs"], "modelslab_async[cli]"),
        ("av", ["generate", "a.png", "-p", "zoom", "--emulate"], "modelslab_async[emulator]"),
        ("PIL", ["batch", "a.csv", "-o", "out", "--emulate"], "modelslab_async[emulator]"),
        ("av", ["emulator", "--port", "0"], "modelslab_async[emulator]"),
        ("keyring", ["balance"], "modelslab_async[keyring]"),
    ],
)
def test_without_a_package_the_command_names_its_extra(
    tmp_path: Path, module: str, words: list[str], hint: str
) -> None:
    """The last line says what to install, before anything is sent, and there is no traceback."""
    (tmp_path / "a.csv").touch()
    code = f"import sys; sys.modules[{module!r}] = None; sys.argv = ['modelslab-async', *{words!r}]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; from modelslab_async.cli import main; main()"],
        cwd=tmp_path,
        env=Shell(tmp_path).environment({"MODELSLAB_API_KEY": ""}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (3 if module == "keyring" else 2)
    assert f"python -m pip install '{hint}'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
