"""The command as a person and a script use it: real processes, real HTTP, an emulator in this one."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers.command import SLOW, Done, Shell, charges, emulated, manifest, until_charged, until_done
from helpers.world import KEY, PNG

import modelslab_async
from modelslab_async.cli.app import _COMMANDS, app
from modelslab_async.cli.exit_codes import Exit
from modelslab_async.cli.output import _AS_FLAGS, Output, words_of
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals")


async def test_a_picture_becomes_a_video(tmp_path: Path) -> None:
    """The price first, the states as they come, then the path and the facts on stdout."""
    async with emulated(tmp_path) as (shell, emulator):
        done = await shell.run("generate", "a.png", "-p", "zoom in", "--seed", "7", "--num-frames", "17", "-o", "b.mp4")
    assert (done.code, charges(emulator)) == (0, 1)
    assert done.out.startswith("b.mp4  ")
    assert "seed 7" in done.out
    told = done.err.splitlines()
    assert told[0] == "$0.20 for one video"
    assert [line.split()[2].strip(",") for line in told[1:]] == ["waiting", "submitting", "processing", "ready"]
    assert (tmp_path / "b.mp4").stat().st_size > 0


async def test_json_is_all_there_is_on_stdout(tmp_path: Path) -> None:
    """One object, with the file, its digest, and what it cost."""
    async with emulated(tmp_path) as (shell, _):
        done = await shell.run("generate", "a.png", "-p", "zoom", "--json")
    told = done.told
    assert (told["state"], told["cost"]) == ("ready", "0.2")
    assert (tmp_path / told["path"]).stat().st_size == told["size_bytes"]
    assert len(told["sha256"]) == 64


@pytest.mark.parametrize(
    ("code", "service", "words"),
    [
        (Exit.FAILED, {"faults": [Rule(Fault.JOB_FAILS)]}, ["generate", "a.png", "-p", "zoom"]),
        (Exit.USAGE, {}, ["generate", "a.png", "-p", "zoom", "--fps", "99"]),
        (Exit.USAGE, {}, ["generate", "gone.png", "-p", "zoom"]),
        (Exit.USAGE, {}, ["generate", "a.png", "-p", "zoom", "-o", "a.png"]),
        (Exit.USAGE, {}, ["generate", "a.png", "-p", "zoom", "-o", "a.png/b.mp4"]),
        (Exit.USAGE, {}, ["generate", "a.png", "-p", "zoom", "-o", ".", "--force"]),
        (Exit.USAGE, {}, ["batch", ".", "-p", "zoom", "-o", "out", "--budget", "$20"]),
        (Exit.USAGE, {}, ["generate", "a.png", "-p", "zoom", "--no-wait", "--emulate"]),
        (Exit.USAGE, {}, ["nothing"]),
        (Exit.KEY, {"keys": ["another"]}, ["generate", "a.png", "-p", "zoom"]),
        (Exit.RATE, {"faults": [Rule(Fault.RATE_LIMIT, on="call")]}, ["balance"]),
        (Exit.NOT_FOUND, {}, ["show", "nobody"]),
        (Exit.PAYMENT, {"wallet": 0}, ["generate", "a.png", "-p", "zoom"]),
        (Exit.TIMEOUT, {"speed": 1}, ["generate", "a.png", "-p", "zoom", "--timeout", "0.5"]),
        (Exit.NETWORK, {"faults": [Rule(Fault.HTML_502, on="call")]}, ["balance"]),
    ],
)
async def test_exit_codes(tmp_path: Path, code: Exit, service: Mapping[str, Any], words: list[str]) -> None:
    """Each kind of failure has its own, a word on stderr, and with --json an object on stdout."""
    async with emulated(tmp_path, **service) as (shell, emulator):
        done = await shell.run(*words, "--json")
    assert done.code == code, done
    assert charges(emulator) == 0 or code is not Exit.USAGE
    assert done.err.strip()
    assert "Traceback" not in done.err
    if "Usage:" not in done.err:
        assert done.told["error"]["message"]


async def test_without_a_key_both_ways_are_named(tmp_path: Path) -> None:
    """The key's variable, and the emulator."""
    done = await Shell(tmp_path).run("balance", changes={"MODELSLAB_API_KEY": ""})
    assert done.code == Exit.KEY
    assert "MODELSLAB_API_KEY" in done.err
    assert "--emulate" in done.err


@pytest.mark.parametrize(
    "words", [["balance"], ["jobs"], ["recover", "--search"], ["generate", "a.png", "-p", "zoom", "--num-frames", "9"]]
)
async def test_an_emulator_of_its_own(tmp_path: Path, words: list[str]) -> None:
    """Without an account, and it says that it is not the service: to people, and to programs that read JSON."""
    (tmp_path / "a.png").write_bytes(Path("examples/rocket.jpg").read_bytes())
    done = await Shell(tmp_path).run(*words, "--emulate", "--json", changes={"MODELSLAB_API_KEY": ""})
    assert done.code == 0, done.err
    assert "not ModelsLab" in done.err
    assert (done.told["emulator"], len(done.told) > 1) == (True, True)


async def test_what_an_emulator_of_its_own_had_cannot_be_collected(tmp_path: Path) -> None:
    """Ctrl-C ends the emulator, and the job with it: no word of payment, and no command that asks the real service."""
    (tmp_path / "a.png").write_bytes(Path("examples/rocket.jpg").read_bytes())
    terminal = await Shell(tmp_path).terminal("generate", "a.png", "-p", "zoom", "--num-frames", "1000", "--emulate")
    await terminal.until("processing")
    terminal.type("\x03")
    assert await terminal.done() == Exit.INTERRUPTED
    assert "ended with its emulator" in terminal.text
    assert "collect" not in terminal.text


async def test_submitted_now_and_collected_later(tmp_path: Path) -> None:
    """--no-wait prints the command that collects; jobs and show know the job; it is paid for once."""
    async with emulated(tmp_path, speed=100) as (shell, emulator):
        left = await shell.run("generate", "a.png", "-p", "zoom", "--seed", "3", "--no-wait", "--json")
        ref = left.told["ref"]
        listed, shown = await asyncio.gather(shell.run("jobs", "--json"), shell.run("show", ref, "--json"))
        assert [job["ref"] for job in listed.told["jobs"]] == [ref]
        assert (shown.told["state"], shown.told["job_id"]) == ("processing", left.told["job_id"])
        words = left.told["collect"].split()
        assert words[0] == "modelslab-async"
        collected = await shell.run(*words[1:])
        assert (collected.code, collected.out) == (0, "a-3.mp4\n")
        assert (await shell.run("jobs", "--json")).told == {"jobs": []}
        assert [job["state"] for job in (await shell.run("jobs", "--all", "--json")).told["jobs"]] == ["ready"]
    assert charges(emulator) == 1
    assert (tmp_path / "a-3.mp4").exists()


async def test_an_uncertain_job_is_shown_and_resolved(tmp_path: Path) -> None:
    """Recover lists it, with the account's videos that nobody knows; a person's word makes it one to collect."""
    async with emulated(tmp_path, faults=[Rule(Fault.RESET_AFTER, times=1)]) as (shell, emulator):
        assert (await shell.run("generate", "a.png", "-p", "zoom")).code == Exit.FAILED
        await until_done(emulator)
        found = (await shell.run("recover", "--search", "--json")).told
        [uncertain], [candidate] = found["uncertain"], found["candidates"]
        wrong = await shell.run("resolve", uncertain["ref"], "--id", "99999")
        assert (wrong.code, "knows no such job" in wrong.err) == (Exit.USAGE, True)
        resolved = await shell.run("resolve", uncertain["ref"], "--id", candidate["job_id"])
        assert resolved.code == 0, resolved.err
        assert (await shell.run("collect", uncertain["ref"])).code == 0
        assert (await shell.run("resolve", uncertain["ref"], "--lost")).code == Exit.USAGE
    assert charges(emulator) == 1


async def test_a_ref_may_be_told_by_its_beginning(tmp_path: Path) -> None:
    """If it is the only one that begins so."""
    async with emulated(tmp_path) as (shell, _):
        first = (await shell.run("generate", "a.png", "-p", "日本", "--track-id", "one-1", "--json")).told
        listed = await shell.run("jobs", "--all", changes={"PYTHONIOENCODING": "latin-1"})
        assert (listed.code, "one-1" in listed.out) == (0, True), listed.err
        assert (await shell.run("show", "one", "--json")).told["job_id"] == first["job_id"]
        await shell.run("generate", "a.png", "-p", "zoom", "--track-id", "one-2", "--no-wait")
        collected, many, none = await asyncio.gather(
            shell.run("collect", "one-2"), shell.run("show", "one"), shell.run("show", "two")
        )
    assert (collected.code, many.code, none.code) == (0, Exit.NOT_FOUND, Exit.NOT_FOUND), collected
    assert "2 jobs one..." in many.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resolve", "ref", "--id", "1", "--lost"], "pass what you know of the job: --id ID or --lost"),
        (["resolve", "ref"], "pass what you know of the job: --id ID or --lost"),
        (["generate", "a.png", "-p", "zoom", "--fps", "20"], "or pass --limits warn to send"),
        (["genrate", "a.png"], "Did you mean generate?"),
        (["batch", "empty.jsonl", "-o", "out", "--yes"], "no lines in it"),
        (["cost", "empty.jsonl"], "no lines in it"),
        (["collect", "--name", "{foo}.mp4"], "cannot have {foo}"),
        (["cost", "odd.jsonl"], 'pass it in "extra": {"colour": ...}'),
        (["batch", "empty", "-p", "zoom", "-o", "out", "--yes"], "no pictures in it"),
    ],
)
async def test_mistakes_are_told_as_one_types(tmp_path: Path, words: list[str], told: str) -> None:
    """In names of commands and flags, with the way out; nothing is sent."""
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "odd.jsonl").write_text('{"prompt": "a", "init_image": "a.png", "colour": 1}')
    (tmp_path / "empty").mkdir()
    async with emulated(tmp_path) as (shell, emulator):
        done = await shell.run(*words)
    assert (done.code, charges(emulator)) == (Exit.USAGE, 0), done
    assert told in done.err


def typed(*words: str, **environment: str) -> Result:
    """A command that ends before anything begins, in this process."""
    return CliRunner().invoke(app, words, prog_name="modelslab-async", env=environment)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["batch", ".", "-o", "out"], "with -p PROMPT"),
        (["cost", "."], "with -p PROMPT"),
        (["batch", ".", "-p", "zoom", "-o", "out", "--budget", "-1"], "no number of dollars"),
        (["batch", ".", "-p", "zoom", "-o", "out", "--budget", "inf"], "no number of dollars"),
        (["genrate", "a.png"], "Did you mean generate?"),
        (["jobs", "--nope"], "--nope"),
    ],
)
def test_a_usage_error_is_json_too(words: list[str], told: str) -> None:
    """For who asked for JSON: one object, and nothing was charged. For all others nothing is on stdout."""
    done = typed(*words, "--json")
    assert (done.exit_code, typed(*words).stdout) == (Exit.USAGE, "")
    error = json.loads(done.stdout)["error"]
    assert (told in error["message"], error["charged"], error["problems"]) == (True, False, [])


def test_a_mistake_in_the_environment_is_not_blamed_on_a_flag() -> None:
    """The variable is named."""
    assert "MODELSLAB_MAX_IN_FLIGHT" in typed("jobs", MODELSLAB_MAX_IN_FLIGHT="abc").stderr


def test_problems_of_a_manifest_are_json_too(tmp_path: Path) -> None:
    """Each with line, value, rule and way out, in the words of those who type."""
    (tmp_path / "m.csv").write_text("prompt,init_image,seed\na,https://x.org/a.png,x\n")
    done = json.loads(typed("cost", str(tmp_path / "m.csv"), "--json").stdout)
    assert (done["videos"], done["problem_count"]) == (0, 1)
    assert done["problems"] == [
        {
            "field": "line 2: seed",
            "value": "'x'",
            "requirement": "must be an integer",
            "hint": "pass a whole number",
            "overridable": False,
        }
    ]


def test_a_port_that_is_taken() -> None:
    """Told in a line, with the way out."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = typed("emulator", "--port", str(taken.getsockname()[1]))
    assert (done.exit_code, "--port 0 finds a free one" in done.stderr) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EEXIST, "another name"), (errno.EACCES, "may write"), (errno.ENOSPC, "room")],
)
def test_what_a_disk_says_no_to(number: int, hint: str) -> None:
    """The path, why, and the way out; no number."""
    words = words_of(OSError(number, os.strerror(number), "a.mp4"))
    assert words.startswith(f"a.mp4: {os.strerror(number)}; ")
    assert hint in words


async def test_what_goes_beyond_the_documentation_is_told_as_a_line(tmp_path: Path) -> None:
    """Not as a warning of Python's, with a path and a line of our source."""
    async with emulated(tmp_path) as (shell, emulator):
        words = ["generate", "a.png", "-p", "zoom", "--fps", "20", "--limits", "warn", "-o", "b.mp4"]
        done = await shell.run(*words, changes={"PYTHONWARNINGS": ""})
    assert (done.code, charges(emulator)) == (0, 1)
    assert done.err.splitlines()[0] == "beyond the documented limits: fps=20: must be at most 16"
    assert ".py" not in done.err


def test_what_is_said_otherwise_to_those_who_type_is_said_somewhere() -> None:
    """Each phrase of the library that the command replaces is still one of the library."""
    package = Path(modelslab_async.__file__).parent
    sources = " ".join(path.read_text() for path in package.rglob("*.py") if "cli" not in path.parts)
    said = re.sub(r"\{\w+(\.\w+)*!r\}", "'x'", sources.replace("{{", "{").replace("}}", "}"))
    assert [phrase for phrase in _AS_FLAGS if not re.search(phrase.removeprefix("^(line .*)"), said)] == []


async def test_what_failed_cannot_be_collected(tmp_path: Path) -> None:
    """Nor is that said of it."""
    async with emulated(tmp_path, faults=[Rule(Fault.JOB_FAILS)]) as (shell, _):
        done = await shell.run("generate", "a.png", "-p", "zoom")
    assert "may have been charged" in done.err
    assert "collect" not in done.err


async def test_a_file_that_is_no_report_is_not_replaced(tmp_path: Path) -> None:
    """A video lies where somebody wants the page."""
    async with emulated(tmp_path) as (shell, _):
        assert (await shell.run("batch", ".", "-p", "zoom", "-o", "out", "--yes", "--report")).code == 0
        [video] = (tmp_path / "out").glob("*.mp4")
        refused = await shell.run("report", "out", "-o", str(video))
        again = await shell.run("report", "out")
    assert (refused.code, again.code) == (Exit.USAGE, 0)
    assert "a file that is no report is there" in refused.err
    assert video.read_bytes()[4:8] == b"ftyp"


async def test_what_a_manifest_costs(tmp_path: Path) -> None:
    """Counted and checked without a key, a journal or a network."""
    (tmp_path / "a.png").write_bytes(PNG)
    path, shell = manifest(tmp_path, 3), Shell(tmp_path)
    (tmp_path / "half.jsonl").write_text(path.read_text() * 2 + "not JSON\n")
    done, bad, half = await asyncio.gather(
        shell.run("cost", path.name, "--json", changes={"MODELSLAB_API_KEY": ""}),
        shell.run("cost", path.name, "--set", "fps=99"),
        shell.run("cost", "half.jsonl"),
    )
    warned = await shell.run("cost", path.name, "--set", "num_inference_steps=30", "--limits", "warn", "--json")
    assert (warned.code, warned.told["videos"]) == (0, 3), warned
    assert (half.code, half.out.split(" (")[0], half.err.count("line ")) == (Exit.USAGE, "3 videos: $0.60", 7), half
    credit = {"basic": 93, "standard": 129}
    assert done.told == {
        "lines": 3, "videos": 3, "usd": "0.6", "credits": credit, "problems": [], "problem_count": 0
    }  # fmt: skip
    assert (bad.code, bad.err.count("fps=99")) == (Exit.USAGE, 3)
    assert list(tmp_path.glob("jobs.db*")) == []


async def test_generate_can_be_left_at_any_time(tmp_path: Path) -> None:
    """Ctrl-C prints the command that collects the job; before that is done, just the same is not paid for again."""
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


async def test_the_same_picture_by_another_way_is_not_paid_for_again(tmp_path: Path) -> None:
    """A path with detours leads to the same file."""
    (tmp_path / "sub").mkdir()
    async with emulated(tmp_path) as (shell, emulator):
        first = await shell.run("generate", "sub/../a.png", "-p", "zoom", "--no-wait")
        again = [await shell.run("generate", picture, "-p", "zoom") for picture in ("sub/../a.png", "./a.png")]
    assert (first.code, charges(emulator)) == (0, 1)
    assert [done.code for done in again] == [Exit.USAGE] * 2
    assert all("modelslab-async collect" in done.err for done in again)


async def test_what_died_while_it_submitted_can_be_resolved(tmp_path: Path) -> None:
    """As the next `generate` says."""
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


async def test_a_job_that_takes_too_long_is_collected_where_it_was_meant_to_go(tmp_path: Path) -> None:
    """The command that is printed names the file."""
    async with emulated(tmp_path, speed=SLOW) as (shell, _):
        done = await shell.run("generate", "a.png", "-p", "zoom", "-o", "b.mp4", "--timeout", "0.2")
    assert done.code == Exit.TIMEOUT
    assert re.search(r"it is paid for; collect it with: modelslab-async collect \w+ -o b.mp4", done.err)


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the encoding of stdout is, it is JSON."""
    Output(as_json=True).json({"prompt": "château \U0001f3f0"})
    told = capsys.readouterr().out
    assert told.isascii()
    assert json.loads(told) == {"prompt": "château \U0001f3f0"}


async def test_settings_come_by_flag_environment_and_file(tmp_path: Path) -> None:
    """In this order; the key from a file that only its owner can read."""
    async with emulated(tmp_path) as (shell, emulator):
        key_file, config = tmp_path / "key", tmp_path / "config.toml"
        key_file.write_text(f"{KEY}\n")
        config.write_text(f'base_url = "{emulator.url}"\nkey_file = "{key_file}"\n')
        changes = {"MODELSLAB_API_KEY": "", "MODELSLAB_BASE_URL": "", "MODELSLAB_CONFIG": str(config)}

        async def balance(*words: str, **more: str) -> Done:
            return await shell.run("balance", *words, changes={**changes, **more})

        key_file.chmod(0o644)
        assert "chmod 600" in (await balance()).err
        key_file.chmod(0o600)
        dead = "http://127.0.0.1:1/"
        fine, flag, variable = await asyncio.gather(
            balance(),
            balance("--base-url", emulator.url, MODELSLAB_BASE_URL="http://example.org"),
            balance(MODELSLAB_BASE_URL="http://example.org"),
        )
        assert (fine.code, flag.code, variable.code) == (0, 0, Exit.USAGE), (fine.err, flag.err, dead)
        for text, words in (
            (f'api_key = "{KEY}"', "does not belong there"),
            ("speed = 1", "speed is not known"),
            (f'key_file = "{key_file}"', "MODELSLAB_BASE_URL is empty"),
            ("base_url = ", "cannot be read"),
        ):
            config.write_text(text)
            wrong = await balance()
            assert (wrong.code, words in wrong.err) == (Exit.USAGE, True), wrong.err


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(command: str) -> None:
    """For each command, in a terminal of 80 columns."""
    done = CliRunner().invoke(app, [command, "--help"], prog_name="modelslab-async", terminal_width=80)
    assert done.exit_code == 0
    assert f"modelslab-async {command}" in done.output.split("Example:")[1]
    assert len(done.output.splitlines()) <= (36 if command == "generate" else 28)
    assert max(len(line) for line in done.output.splitlines()) <= 80


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_shells_complete_it(tmp_path: Path, shell: str) -> None:
    """What is printed is what the shell asks for; the names of commands come when it asks."""
    typed = {"COMP_WORDS": "modelslab-async ba", "COMP_CWORD": "1", "_MODELSLAB_ASYNC_COMPLETE": "bash_complete"}
    printed, completed = await asyncio.gather(
        Shell(tmp_path).run("completion", shell),
        Shell(tmp_path).run(changes=typed),
    )
    assert "_MODELSLAB_ASYNC_COMPLETE" in printed.out
    assert {"plain,batch", "plain,balance"} == set(completed.out.split())


async def test_it_needs_its_extra(tmp_path: Path) -> None:
    """Without it one line says what to install."""
    code = "import sys; sys.modules['rich'] = None; from modelslab_async.cli import main; main()"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stderr=asyncio.subprocess.PIPE, env={**os.environ}
    )
    _, err = await process.communicate()
    assert (process.returncode, err.decode().count("\n")) == (2, 1)
    assert "modelslab_async[cli]" in err.decode()


async def test_the_emulator_ends_with_ctrl_c(tmp_path: Path) -> None:
    """It says where it is, and what it is not."""
    terminal = await Shell(tmp_path).terminal("emulator", "--port", "0")
    await terminal.until("not ModelsLab")
    terminal.type("\x03")
    assert await terminal.done() == 0
