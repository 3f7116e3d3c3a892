"""The command's messages: in plain words, with values as they are typed."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from helpers.command import Shell, charges, emulated_aside
from helpers.world import PNG

from modelslab_async.cli.exit_codes import Exit

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="paths in messages")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "gone.png", "-p", "zoom"], "init_image=gone.png: "),
        (["generate", "a.png", "-p", " "], 'prompt=" ": '),
        (["generate", "a.png", "-p", "zoom", "--seed", "1.5"], "seed=1.5: "),
        (["generate", "a.png", "-p", "zoom", "--extra", "a=[NaN]"], 'extra={"a": [nan]}: '),
        (["generate", "a.png", "-p", "zoom", "--extra", "a=b"], "the value must be JSON (hint: put text in quotes"),
        (["generate", "a.png", "-p", "zoom", "--timeout", "x"], "is not a valid number."),
        (["generate", "a.png", "-p", "zoom", "--max-in-flight", "x"], "is not a valid whole number."),
        (["generate", "a.png", "-p", "zoom", "-o", "a.png"], "output=a.png: "),
        (["batch", "odd.jsonl", "-o", "out", "--yes"], "line 1: seed=[1, null, true]: "),
        (["batch", "a.png", "-o", "out", "--yes"], "a manifest cannot be a picture"),
        (["batch", ".", "-p", "zoom", "-o", "out", "--budget", "0.1", "--yes"], "budget=$0.10: "),
        (["batch", ".", "-p", "zoom", "-o", "out", "--name", "x"], "name=x: must end in .mp4"),
        (["batch", "gone", "-o", "out"], "'gone' does not exist"),
        (["emulator", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1:8787: "),
        (["balance", "--base-url", "http://127.0.0.1:1"], "127.0.0.1:1 refused it"),
        (["completion"], "Missing argument 'SHELL'"),
    ],
)
def test_values_are_shown_as_they_are_typed(tmp_path: Path, words: list[str], message: str) -> None:
    """No message shows a value as Python writes it: no quotes of its own, tuple, class, None or exception's name."""
    (tmp_path / "odd.jsonl").write_text('{"prompt": "a", "init_image": "a.png", "seed": [1, null, true]}')
    (tmp_path / "a.png").write_bytes(PNG)
    done = Shell(tmp_path).run(*words)
    assert done.code != 0
    assert message in done.err
    assert not re.search(r"='|Path\(|Decimal|None|True|Error:? .*Error|\(\d|\('|<\w+ ", done.err), done.err


def test_a_row_is_shown_in_plain_words(tmp_path: Path) -> None:
    """`show` has a line for each value, and for each parameter of the request."""
    with emulated_aside(tmp_path) as (shell, _):
        shell.run("generate", "a.png", "-p", "zoom", "--fps", "12", "--track-id", "mine")
        shown = shell.run("show", "mine").out
    lines = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert (lines["charged"], lines["price"], lines["request.fps"]) == ("yes", "$0.20", "12")
    assert lines["target"] == str(tmp_path)
    assert not re.search(r"[{}()'<>]|None|True", shown)


def test_plain_http_to_another_host_needs_a_flag(tmp_path: Path) -> None:
    """Without --allow-http nothing is sent. With it, one line warns, and printed commands repeat the flag."""
    with emulated_aside(tmp_path) as (shell, emulator):
        url = emulator.url.replace("127.0.0.1", "0.0.0.0")  # reaches this machine, and is no loopback address
        words = ["generate", "a.png", "-p", "zoom", "-o", "b.mp4", "--no-wait", "--base-url", url]
        refused, left = shell.run(*words), shell.run(*words, "--allow-http")
        collected = shell.run(*shlex.split(left.out)[1:])
    assert (refused.code, "or pass --allow-http for an emulator" in refused.err) == (Exit.USAGE, True), refused
    assert (left.code, left.err.count("in clear text")) == (0, 1), left
    assert (collected.code, collected.out, charges(emulator)) == (0, "b.mp4\n", 1), collected


def test_a_printed_command_reaches_the_same_journal(tmp_path: Path) -> None:
    """The flags that name the account and the journal are repeated, so that the command works when it is copied."""
    with emulated_aside(tmp_path) as (shell, emulator):
        words = ["--journal", "my jobs.db", "--base-url", emulator.url]
        changes = {"MODELSLAB_BASE_URL": "https://service.invalid"}
        left = shell.run("generate", "a.png", "-p", "zoom", "-o", "b.mp4", "--no-wait", *words, changes=changes)
        collected = shell.run(*shlex.split(left.out)[1:], changes=changes)
    assert (left.code, collected.code, collected.out) == (0, 0, "b.mp4\n"), (left, collected)
