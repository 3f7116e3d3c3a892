"""The command's logic: in this process, over real HTTP, with an emulator in a thread."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import sys
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers.command import SLOW, Done, Shell, charges, emulated_aside, manifest, wait_until
from helpers.world import KEY, PNG

import modelslab_async
from modelslab_async.cli.app import app
from modelslab_async.cli.exit_codes import Exit
from modelslab_async.cli.output import AS_FLAGS, Output, message_of
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals")


# --- generate ---


def test_a_picture_becomes_a_video(tmp_path: Path) -> None:
    """`generate` prints the price, then each state, and at the end the path and the facts on stdout."""
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("generate", "a.png", "-p", "zoom in", "--seed", "7", "--num-frames", "17", "-o", "b.mp4")
    assert (done.code, charges(emulator)) == (0, 1)
    assert done.out.startswith("b.mp4  ")
    assert "seed 7" in done.out
    lines = done.err.splitlines()
    assert lines[0] == "$0.20 for one video"
    assert [line.split()[2].strip(",") for line in lines[1:]] == ["waiting", "submitting", "processing", "ready"]
    assert (tmp_path / "b.mp4").stat().st_size > 0


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
        (Exit.NOT_FOUND, {}, ["show", "unknown"]),
        (Exit.DONE, {}, ["generate", "a.png", "-p", "zoom"]),
        (Exit.FAILED, {"faults": [Rule(Fault.JOB_FAILS)]}, ["batch", ".", "-p", "zoom", "-o", "out", "--yes"]),
        (Exit.FAILED, {}, ["jobs", "--journal", "a.png"]),
        (Exit.USAGE, {}, ["batch", "a.png", "-p", "zoom", "-o", "out", "--yes"]),
        (Exit.USAGE, {}, ["show", ""]),
        (Exit.KEY, {}, ["balance", "--key-file", "gone"]),
        (Exit.PAYMENT, {"wallet": 0}, ["generate", "a.png", "-p", "zoom"]),
        (Exit.PAYMENT, {"wallet": 0}, ["batch", ".", "-p", "zoom", "-o", "out", "--yes"]),
        (Exit.PAYMENT, {}, ["batch", ".", "-p", "zoom", "-o", "out", "--yes", "--budget", "0.1"]),
        (
            Exit.PAYMENT,
            {"wallet": Decimal("0.1")},
            ["batch", ".", "-p", "zoom", "-o", "out", "--yes", "--check-wallet"],
        ),
        (Exit.TIMEOUT, {"speed": 1}, ["generate", "a.png", "-p", "zoom", "--timeout", "0.5"]),
        (Exit.NETWORK, {"faults": [Rule(Fault.HTML_502, on="call")]}, ["balance"]),
    ],
)
def test_exit_codes(tmp_path: Path, code: Exit, service: Mapping[str, Any], words: list[str]) -> None:
    """Each exit code has its reasons; a failure has a message on stderr, and with --json an object on stdout."""
    changes = {"MODELSLAB_API_KEY": ""} if "--key-file" in words else {}
    with emulated_aside(tmp_path, **service) as (shell, emulator):
        done = shell.run(*words, "--json", changes=changes)
    assert done.code == code, done
    assert charges(emulator) == 0 or code not in (Exit.USAGE, Exit.PAYMENT)
    assert done.err.strip()
    assert "Traceback" not in done.err
    if code is not Exit.DONE and words[0] != "batch":
        assert done.json["error"]["message"]


@pytest.mark.parametrize(
    "words", [["generate", "a.png", "-p", "zoom", "--num-frames", "9"], ["batch", "a.csv", "-o", "out"]]
)
def test_emulate_needs_no_account(tmp_path: Path, words: list[str]) -> None:
    """With --emulate no key is needed, and both stderr and the JSON say that this is not ModelsLab."""
    (tmp_path / "a.png").write_bytes(Path("examples/rocket.jpg").read_bytes())
    (tmp_path / "a.csv").write_text("prompt,init_image,num_frames\nzoom,a.png,9\n")
    done = Shell(tmp_path).run(*words, "--emulate", "--json", changes={"MODELSLAB_API_KEY": ""})
    assert done.code == 0, done.err
    assert "not ModelsLab" in done.err
    objects = done.json if isinstance(done.json, list) else [done.json]
    assert all(values["emulator"] and len(values) > 1 for values in objects)


def test_a_request_beyond_the_limits_is_reported_in_a_line(tmp_path: Path) -> None:
    """With --limits warn it is sent, after one line on stderr that names no line of source."""
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("generate", "a.png", "-p", "zoom", "--fps", "20", "--limits", "warn", "-o", "b.mp4")
    assert (done.code, charges(emulator)) == (0, 1)
    assert done.err.splitlines()[0].startswith("beyond the documented limits: fps=20: ")
    assert "at most 16" in done.err.splitlines()[0]
    assert ".py" not in done.err


def test_a_failed_job_is_not_offered_for_collection(tmp_path: Path) -> None:
    """The message says that it may have been charged, and names no command that collects it."""
    with emulated_aside(tmp_path, faults=[Rule(Fault.JOB_FAILS)]) as (shell, _):
        done = shell.run("generate", "a.png", "-p", "zoom")
    assert "may have been charged" in done.err
    assert "collect" not in done.err


def test_the_same_picture_by_another_path_is_not_paid_for_again(tmp_path: Path) -> None:
    """Paths with "." and ".." name the same file."""
    (tmp_path / "sub").mkdir()
    with emulated_aside(tmp_path) as (shell, emulator):
        first = shell.run("generate", "sub/../a.png", "-p", "zoom", "--no-wait")
        again = [shell.run("generate", picture, "-p", "zoom") for picture in ("sub/../a.png", "./a.png")]
    assert (first.code, charges(emulator)) == (0, 1)
    assert [done.code for done in again] == [Exit.USAGE] * 2
    assert all("modelslab-async collect" in done.err for done in again)


def test_a_job_that_takes_too_long_is_collected_into_its_file(tmp_path: Path) -> None:
    """After --timeout, the command that collects the job is printed. It saves the video under the first run's -o."""
    with emulated_aside(tmp_path, speed=SLOW) as (shell, _):
        done = shell.run("generate", "a.png", "-p", "zoom", "-o", "sub/b.mp4", "--timeout", "0.2")
        assert done.code == Exit.TIMEOUT
        printed = re.search(r"it is paid for; collect it with: modelslab-async (collect \w+)\n", done.err)
        assert printed, done.err
        collected = shell.run(*printed[1].split())
    assert (collected.code, collected.out) == (0, "sub/b.mp4\n"), collected
    assert (tmp_path / "sub" / "b.mp4").exists()


# --- jobs of the journal ---


def test_a_job_is_submitted_now_and_collected_later(tmp_path: Path) -> None:
    """--no-wait prints the command that collects; `jobs` and `show` know the job; it is paid for once."""
    with emulated_aside(tmp_path, speed=100) as (shell, emulator):
        left = shell.run("generate", "a.png", "-p", "zoom", "--seed", "3", "--no-wait", "--json").json
        listed, shown = shell.run("jobs", "--json").json, shell.run("show", left["ref"], "--json").json
        assert [job["ref"] for job in listed["jobs"]] == [left["ref"]]
        assert (shown["state"], shown["job_id"]) == ("processing", left["job_id"])
        words = left["collect"].split()
        assert words[0] == "modelslab-async"
        collected = shell.run(*words[1:])
        assert (collected.code, collected.out) == (0, "a-3.mp4\n")
        assert shell.run("jobs", "--json").json == {"jobs": []}
        assert [job["state"] for job in shell.run("jobs", "--all", "--json").json["jobs"]] == ["ready"]
    assert charges(emulator) == 1
    assert (tmp_path / "a-3.mp4").exists()


def test_an_uncertain_job_is_listed_and_resolved(tmp_path: Path) -> None:
    """`recover --search` lists it with the unknown videos; after `resolve --id` it can be collected."""
    with emulated_aside(tmp_path, faults=[Rule(Fault.RESET_AFTER, times=1)]) as (shell, emulator):
        uncertain = shell.run("generate", "a.png", "-p", "zoom")
        assert uncertain.code == Exit.FAILED
        assert "modelslab-async recover --search" in uncertain.err
        wait_until(lambda: shell.run("recover", "--search", "--json").json["candidates"] != [])
        found = shell.run("recover", "--search", "--json").json
        [row], [candidate] = found["uncertain"], found["candidates"]
        wrong = shell.run("resolve", row["ref"], "--id", "99999")
        assert (wrong.code, "id=99999" in wrong.err) == (Exit.USAGE, True)
        resolved = shell.run("resolve", row["ref"], "--id", candidate["job_id"])
        assert resolved.code == 0, resolved.err
        assert shell.run("collect", row["ref"]).code == 0
        assert shell.run("resolve", row["ref"], "--lost").code == Exit.USAGE
    assert charges(emulator) == 1


def test_a_ref_may_be_shortened_to_its_beginning(tmp_path: Path) -> None:
    """The beginning of a ref is enough if only one job's ref begins so."""
    with emulated_aside(tmp_path) as (shell, _):
        first = shell.run("generate", "a.png", "-p", "日本", "--track-id", "one-1", "--json").json
        assert shell.run("show", "one", "--json").json["job_id"] == first["job_id"]
        shell.run("generate", "a.png", "-p", "zoom", "--track-id", "one-2", "--no-wait")
        collected, many, none = shell.run("collect", "one-2"), shell.run("show", "one"), shell.run("show", "two")
        latin = shell.run_process("jobs", "--all", changes={"PYTHONIOENCODING": "latin-1"})
    assert (collected.code, many.code, none.code) == (0, Exit.NOT_FOUND, Exit.NOT_FOUND), collected
    assert "2 jobs whose refs begin with one" in many.err
    assert (latin.code, "one-1" in latin.out) == (0, True), latin.err  # though latin-1 cannot write the prompt


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resolve", "ref", "--id", "1", "--lost"], "pass either --id ID or --lost"),
        (["resolve", "ref"], "pass either --id ID or --lost"),
        (["generate", "a.png", "-p", "zoom", "--fps", "20"], "or pass --limits warn to send"),
        (["genrate", "a.png"], "Did you mean generate?"),
        (["batch", "empty.jsonl", "-o", "out", "--yes"], "must hold lines"),
        (["cost", "empty.jsonl"], "must hold lines"),
        (["collect", "--name", "{foo}.mp4"], "cannot have {foo}"),
        (["cost", "odd.jsonl"], '"extra": {"colour": ...}'),
        (["batch", "empty", "-p", "zoom", "-o", "out", "--yes"], "must hold pictures"),
    ],
)
def test_mistakes_are_reported_with_flags(tmp_path: Path, words: list[str], message: str) -> None:
    """Messages name commands and flags and say how to correct the mistake; nothing is sent."""
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "odd.jsonl").write_text('{"prompt": "a", "init_image": "a.png", "colour": 1}')
    (tmp_path / "empty").mkdir()
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run(*words)
    assert (done.code, charges(emulator)) == (Exit.USAGE, 0), done
    assert message in done.err


def invoke(*words: str, **environment: str) -> Result:
    """Run a command that needs no service."""
    return CliRunner().invoke(app, words, prog_name="modelslab-async", env=environment)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["batch", ".", "-o", "out"], "with -p PROMPT"),
        (["cost", "."], "with -p PROMPT"),
        (["batch", ".", "-p", "zoom", "-o", "out", "--budget", "-1"], "must be an amount in dollars"),
        (["batch", ".", "-p", "zoom", "-o", "out", "--budget", "inf"], "must be an amount in dollars"),
        (["batch", ".", "-p", "zoom", "-o", "out", "--set", "speed=1"], "speed: unknown parameter"),
        (["batch", ".", "-p", "zoom", "-o", "out", "--set", "fps"], "must be NAME=VALUE"),
        (["generate", "a.png", "-p", "zoom", "--extra", "lora=x"], "must be JSON"),
        (["genrate", "a.png"], "Did you mean generate?"),
        (["jobs", "--nope"], "--nope"),
    ],
)
def test_a_usage_error_is_json_too(words: list[str], message: str) -> None:
    """With --json it is one object, which says that nothing was charged; without, nothing is on stdout."""
    done = invoke(*words, "--json")
    assert (done.exit_code, invoke(*words).stdout) == (Exit.USAGE, "")
    error = json.loads(done.stdout)["error"]
    assert (message in error["message"], error["charged"], error["problems"]) == (True, False, [])


def test_a_mistake_in_the_environment_is_not_blamed_on_a_flag() -> None:
    """The message names the variable."""
    assert "MODELSLAB_MAX_IN_FLIGHT" in invoke("collect", MODELSLAB_MAX_IN_FLIGHT="abc").stderr


def test_problems_of_a_manifest_are_json_too(tmp_path: Path) -> None:
    """Each problem has the line, the value, the requirement, and a hint for the command line."""
    (tmp_path / "m.csv").write_text("prompt,init_image,seed\na,https://x.org/a.png,x\n")
    done = json.loads(invoke("cost", str(tmp_path / "m.csv"), "--json").stdout)
    assert (done["videos"], done["problem_count"]) == (0, 1)
    [problem] = done["problems"]
    assert (problem["field"], problem["value"], problem["overridable"]) == ("line 2: seed", "'x'", False)
    assert "an integer" in problem["requirement"]
    assert problem["hint"] == "pass a whole number"


def test_a_port_in_use_is_reported() -> None:
    """The message is one line, with a hint."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = invoke("emulator", "--port", str(taken.getsockname()[1]))
    assert (done.exit_code, "--port 0 picks a free port" in done.stderr) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.EEXIST, "another name"), (errno.EACCES, "may write"), (errno.ENOSPC, "room")],
)
def test_errors_of_the_disk(number: int, hint: str) -> None:
    """The message names the path and the reason, has a hint, and shows no error number."""
    message = message_of(OSError(number, os.strerror(number), "a.mp4"))
    assert message.startswith(f"a.mp4: {os.strerror(number)} (hint: ")
    assert hint in message


def test_each_phrase_for_the_command_line_replaces_one_of_the_library() -> None:
    """Each phrase that the command replaces still occurs in a message of the library."""
    package = Path(modelslab_async.__file__).parent
    paths = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] != "cli"]
    sources = " ".join(path.read_text() for path in paths).replace("{{", "{").replace("}}", "}")
    messages = re.sub(r"\{[\w. ]+!r\}", "'x'", sources)
    assert [phrase for phrase in AS_FLAGS if not re.search(phrase.removeprefix("^(line .*)"), messages)] == []


# --- cost and report ---


def test_a_file_that_is_no_report_is_not_replaced(tmp_path: Path) -> None:
    """`report -o` refuses to write over a video."""
    with emulated_aside(tmp_path) as (shell, _):
        assert shell.run("batch", ".", "-p", "zoom", "-o", "out", "--yes", "--report").code == 0
        [video] = (tmp_path / "out").glob("*.mp4")
        refused = shell.run("report", "out", "-o", str(video))
        again = shell.run("report", "out")
    assert (refused.code, again.code) == (Exit.USAGE, 0)
    assert "the file is not a report" in refused.err
    assert video.read_bytes()[4:8] == b"ftyp"


def test_the_cost_of_a_manifest(tmp_path: Path) -> None:
    """`cost` counts and checks the lines without a key, a journal or a network."""
    (tmp_path / "a.png").write_bytes(PNG)
    path, shell = manifest(tmp_path, 3), Shell(tmp_path)
    (tmp_path / "half.jsonl").write_text(path.read_text() * 2 + "not JSON\n")
    done = shell.run("cost", path.name, "--json", changes={"MODELSLAB_API_KEY": ""})
    bad = shell.run("cost", path.name, "--set", "fps=99")
    half = shell.run("cost", "half.jsonl")
    warned = shell.run("cost", path.name, "--set", "num_inference_steps=30", "--limits", "warn", "--json")
    assert (warned.code, warned.json["videos"]) == (0, 3), warned
    assert (half.code, half.out.split(" (")[0]) == (Exit.USAGE, "3 videos: $0.60"), half
    assert sum(line.startswith("line ") for line in half.err.splitlines()) == 4
    credit = {"basic": 93, "standard": 129}
    assert done.json == {
        "lines": 3, "videos": 3, "usd": "0.6", "credits": credit, "problems": [], "problem_count": 0
    }  # fmt: skip
    assert (bad.code, bad.err.count("fps=99")) == (Exit.USAGE, 3)
    assert list(tmp_path.glob("jobs.db*")) == []


def test_json_is_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the encoding of stdout is, the output is JSON."""
    Output(as_json=True).json({"prompt": "château \U0001f3f0"})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == {"prompt": "château \U0001f3f0"}


# --- settings, help, completion ---


def test_settings_come_from_flags_environment_and_file(tmp_path: Path) -> None:
    """Flags precede variables, which precede config.toml; a key file must be private to its owner."""
    with emulated_aside(tmp_path) as (shell, emulator):
        key_file, config = tmp_path / "key", tmp_path / "config.toml"
        key_file.write_text(f"{KEY}\n")
        config.write_text(f'base_url = "{emulator.url}"\nkey_file = "{key_file}"\n')
        changes = {"MODELSLAB_API_KEY": "", "MODELSLAB_BASE_URL": "", "MODELSLAB_CONFIG": str(config)}

        def balance(*words: str, **more: str) -> Done:
            return shell.run("balance", *words, changes={**changes, **more})

        key_file.chmod(0o644)
        assert "chmod 600" in balance().err
        key_file.chmod(0o600)
        fine = balance()
        flag = balance("--base-url", emulator.url, MODELSLAB_BASE_URL="http://example.org")
        variable = balance(MODELSLAB_BASE_URL="http://example.org")
        assert (fine.code, flag.code, variable.code) == (0, 0, Exit.USAGE), (fine.err, flag.err)
        for text, message in (
            (f'api_key = "{KEY}"', "cannot hold the API key"),
            ("speed = 1", "unknown setting speed"),
            (f'key_file = "{key_file}"', "MODELSLAB_BASE_URL is empty"),
            ("base_url = ", "cannot be read"),
        ):
            config.write_text(text)
            wrong = balance()
            assert (wrong.code, message in wrong.err) == (Exit.USAGE, True), wrong.err


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe"])
def test_a_key_file_without_a_key_is_reported(tmp_path: Path, content: bytes) -> None:
    """The message names the file and shows nothing of its content."""
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(content)
    done = Shell(tmp_path).run("balance", "--key-file", str(path), changes={"MODELSLAB_API_KEY": ""})
    assert (done.code, f"key file {path}: " in done.err) == (Exit.KEY, True)
    assert "xff" not in done.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_completion_is_printed(shell: str) -> None:
    """The script sets the variable with which the shell asks the command for completions."""
    assert "_MODELSLAB_ASYNC_COMPLETE" in invoke("completion", shell).stdout


def test_names_of_commands_are_completed() -> None:
    """The shell gets every command that begins with the typed letters."""
    typed = {"COMP_WORDS": "modelslab-async ba", "COMP_CWORD": "1", "_MODELSLAB_ASYNC_COMPLETE": "bash_complete"}
    assert {"plain,batch", "plain,balance"} == set(invoke(**typed).stdout.split())
