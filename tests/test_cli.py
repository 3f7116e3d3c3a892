"""The command as a person and a script use it: real processes, real HTTP, an emulator in this one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from _command import Done, Shell
from conftest import KEY, PNG

from modelslab_async.batch import Result, read_results
from modelslab_async.cli.app import _COMMANDS
from modelslab_async.cli.exits import Exit
from modelslab_async.emulator import Emulator, Fault, Rule
from modelslab_async.emulator.order import skeleton

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals")
Start = Callable[..., AbstractAsyncContextManager[tuple[Shell, Emulator]]]
SLOW = 40.0
"""At this speed a job takes a second."""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A shell in a folder of its own, and an emulator in this process."""

    @asynccontextmanager
    async def started(**options: Any) -> AsyncIterator[tuple[Shell, Emulator]]:
        async with Emulator(**{"speed": 400, "render": skeleton, "eta": {"good": 1}, **options}) as emulator:
            yield Shell(tmp_path, emulator.url), emulator

    (tmp_path / "a.png").write_bytes(PNG)
    return started


def manifest(folder: Path, count: int) -> Path:
    path = folder / "shots.jsonl"
    path.write_text(
        "".join(json.dumps({"prompt": "zoom", "init_image": "a.png", "seed": n}) + "\n" for n in range(count))
    )
    return path


def charges(emulator: Emulator) -> int:
    return len(emulator.ledger.charges)


def made(folder: Path) -> dict[str, Result]:
    return {result.item: result for result in read_results(folder) if result.file}


async def test_a_picture_becomes_a_video(start: Start, tmp_path: Path) -> None:
    """The price first, the states as they come, then the path and the facts on stdout."""
    async with start() as (shell, emulator):
        done = await shell.run("generate", "a.png", "-p", "zoom in", "--seed", "7", "--num-frames", "17", "-o", "b.mp4")
    assert (done.code, charges(emulator)) == (0, 1)
    assert done.out.startswith("b.mp4  ")
    assert "seed 7" in done.out
    told = done.err.splitlines()
    assert told[0] == "$0.20 for one video"
    assert [line.split()[2].strip(",") for line in told[1:]] == ["waiting", "submitting", "processing", "ready"]
    assert (tmp_path / "b.mp4").stat().st_size > 0


async def test_json_is_all_there_is_on_stdout(start: Start, tmp_path: Path) -> None:
    """One object, with the file, its digest, and what it cost."""
    async with start() as (shell, _):
        done = await shell.run("generate", "a.png", "-p", "zoom", "--json")
    told = done.told
    assert (told["state"], told["cost"]) == ("ready", "0.2")
    assert (tmp_path / told["path"]).stat().st_size == told["size_bytes"]
    assert len(told["sha256"]) == 64


@pytest.mark.parametrize(
    ("code", "emulated", "words"),
    [
        (Exit.FAILED, {"faults": [Rule(Fault.JOB_FAILS)]}, ["generate", "a.png", "-p", "zoom"]),
        (Exit.USAGE, {}, ["generate", "a.png", "-p", "zoom", "--fps", "99"]),
        (Exit.USAGE, {}, ["generate", "gone.png", "-p", "zoom"]),
        (Exit.USAGE, {}, ["generate", "a.png", "-p", "zoom", "-o", "a.png"]),
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
async def test_exit_codes(start: Start, code: Exit, emulated: Mapping[str, Any], words: list[str]) -> None:
    """Each kind of failure has its own, a word on stderr, and with --json an object on stdout."""
    async with start(**emulated) as (shell, _):
        done, as_json = await asyncio.gather(shell.run(*words), shell.run(*words, "--json"))
    assert (done.code, as_json.code) == (code, code), done
    assert done.err.strip()
    assert "Traceback" not in done.err + as_json.err
    if "Usage:" not in done.err:
        assert as_json.told["error"]["message"]


async def test_without_a_key_both_ways_are_named(tmp_path: Path) -> None:
    """The key's variable, and the emulator."""
    done = await Shell(tmp_path).run("balance", changes={"MODELSLAB_API_KEY": ""})
    assert done.code == Exit.KEY
    assert "MODELSLAB_API_KEY" in done.err
    assert "--emulate" in done.err


@pytest.mark.parametrize("words", [["balance"], ["jobs"], ["recover", "--search"], ["generate", "a.png", "-p", "zoom"]])
async def test_an_emulator_of_its_own(tmp_path: Path, words: list[str]) -> None:
    """Without an account, and it says that it is not the service."""
    (tmp_path / "a.png").write_bytes(Path("examples/rocket.jpg").read_bytes())
    done = await Shell(tmp_path).run(*words, "--emulate", changes={"MODELSLAB_API_KEY": ""})
    assert done.code == 0, done.err
    assert "not ModelsLab" in done.err


async def test_submitted_now_and_collected_later(start: Start, tmp_path: Path) -> None:
    """--no-wait prints the command that collects; jobs and show know the job; it is paid for once."""
    async with start(speed=100) as (shell, emulator):
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


async def test_an_uncertain_job_is_shown_and_resolved(start: Start) -> None:
    """Recover lists it, with the account's videos that nobody knows; a person's word makes it one to collect."""
    async with start(faults=[Rule(Fault.RESET_AFTER, times=1)]) as (shell, emulator):
        assert (await shell.run("generate", "a.png", "-p", "zoom")).code == Exit.FAILED
        await asyncio.sleep(0.3)
        found = (await shell.run("recover", "--search", "--json")).told
        [uncertain], [candidate] = found["uncertain"], found["candidates"]
        resolved = await shell.run("resolve", uncertain["ref"], "--id", candidate["job_id"])
        assert resolved.code == 0, resolved.err
        assert (await shell.run("collect", uncertain["ref"])).code == 0
        assert (await shell.run("resolve", uncertain["ref"], "--lost")).code == Exit.USAGE
    assert charges(emulator) == 1


async def test_what_a_manifest_costs(tmp_path: Path) -> None:
    """Counted and checked without a key, a journal or a network."""
    (tmp_path / "a.png").write_bytes(PNG)
    path, shell = manifest(tmp_path, 3), Shell(tmp_path)
    done, bad = await asyncio.gather(
        shell.run("cost", path.name, "--json", changes={"MODELSLAB_API_KEY": ""}),
        shell.run("cost", path.name, "--set", "fps=99"),
    )
    assert done.told == {"lines": 3, "usd": "0.6", "credits": {"basic": 93, "standard": 129}, "problems": 0}
    assert (bad.code, bad.err.count("fps=99")) == (Exit.USAGE, 3)
    assert list(tmp_path.glob("jobs.db*")) == []


async def test_a_batch(start: Start, tmp_path: Path) -> None:
    """JSON lines while it runs; a second run keeps all; folders with spaces and other letters are fine."""
    async with start() as (shell, emulator):
        words = ["batch", manifest(tmp_path, 6).name, "-o", "Vidéos für dich", "--yes", "--json"]
        done = await shell.run(*words)
        assert (done.code, charges(emulator)) == (0, 6), done.err
        kinds = [told["event"] for told in done.told]
        assert (kinds[0], kinds[-1], kinds.count("begun"), kinds.count("ended")) == ("plan", "summary", 6, 6)
        assert done.told[-1]["spent"] == "1.2"
        again = await shell.run(*words, "--report")
    assert (again.code, charges(emulator)) == (0, 6)
    assert [told["event"] for told in again.told] == ["plan", *["kept"] * 6, "summary", "report"]
    assert len(made(tmp_path / "Vidéos für dich")) == 6
    assert (tmp_path / "Vidéos für dich" / "report.html").exists()


async def test_a_folder_of_pictures_is_a_batch(start: Start, tmp_path: Path) -> None:
    """One prompt for all; the files are called after the pictures."""
    (tmp_path / "pictures").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "pictures" / name).write_bytes(PNG)
    async with start() as (shell, _):
        words = ["batch", "pictures", "-p", "zoom", "--set", "fps=12", "--name", "{stem}.mp4", "-o", "out", "--yes"]
        done = await shell.run(*words)
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["one.mp4", "two.mp4"]


MISTAKES = {
    "not JSON": '{"prompt": "a"',
    "not an object": '["a"]',
    "no such parameter": '{"prompt": "a", "init_image": "a.png", "promt": 1}',
    "prompt=missing": '{"init_image": "a.png"}',
    "init_image=missing": '{"prompt": "a"}',
    "a text that is not empty": '{"prompt": " ", "init_image": "a.png"}',
    "No such file": '{"prompt": "a", "init_image": "gone.png"}',
    "not a picture": '{"prompt": "a", "init_image": "text.png"}',
    "empty": '{"prompt": "a", "init_image": "empty.png"}',
    "more than 5000000 bytes": '{"prompt": "a", "init_image": "huge.png"}',
    "at most 16": '{"prompt": "a", "init_image": "a.png", "fps": 20}',
    "an integer": '{"prompt": "a", "init_image": "a.png", "seed": "seven"}',
    "less than num_frames": '{"prompt": "a", "init_image": "a.png", "fps": 9, "num_frames": 9}',
    "asks for it already": '{"prompt": "same", "init_image": "a.png"}',
    "has it already": '{"prompt": "other", "init_image": "a.png", "track_id": "mine"}',
    "the key is no parameter": f'{{"prompt": "a", "init_image": "a.png", "key": "{KEY}"}}',
}


async def test_all_mistakes_are_told_in_one_go(start: Start, tmp_path: Path) -> None:
    """By line and field, with the way out, and nothing is sent."""
    for name, content in {"text.png": b"text", "empty.png": b"", "huge.png": PNG + bytes(5_000_000)}.items():
        (tmp_path / name).write_bytes(content)
    fine = ['{"prompt": "same", "init_image": "a.png"}', '{"prompt": "a", "init_image": "a.png", "track_id": "mine"}']
    (tmp_path / "shots.jsonl").write_text("\n".join([*fine, *MISTAKES.values()]))
    async with start() as (shell, emulator):
        done = await shell.run("batch", "shots.jsonl", "-o", "out", "--yes", "--budget", "2")
    told = done.err.splitlines()
    for line, words in enumerate(MISTAKES, len(fine) + 1):
        mine = [each for each in told if each.startswith(f"line {line}: ")]
        assert any(words in each for each in mine), (words, mine)
    assert any(each.startswith("budget=") for each in told)
    assert (done.code, charges(emulator)) == (Exit.USAGE, 0)
    assert made(tmp_path / "out") == {}


async def test_a_failed_line_never_stops_the_others(start: Start, tmp_path: Path) -> None:
    """Exit code 1; a second run leaves it, and --retry-failed pays for it again."""
    async with start(faults=[Rule(Fault.JOB_FAILS, times=1)]) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 4).name, "-o", "out", "--yes"]
        codes = [(await shell.run(*words, *more)).code for more in ([], [], ["--retry-failed"], [])]
    assert codes == [1, 1, 0, 0]
    assert (charges(emulator), len(made(tmp_path / "out"))) == (5, 4)


async def test_nobody_is_asked_where_nobody_is(start: Start, tmp_path: Path) -> None:
    """Without a terminal and without --yes nothing is paid."""
    async with start() as (shell, emulator):
        done = await shell.run("batch", manifest(tmp_path, 2).name, "-o", "out")
    assert (done.code, charges(emulator)) == (Exit.USAGE, 0)
    assert "--yes" in done.err


async def test_a_person_is_asked(start: Start, tmp_path: Path) -> None:
    """The price is in the question; anything but yes pays nothing; a Ctrl-C ends the question."""
    async with start() as (shell, emulator):
        words = ["batch", manifest(tmp_path, 3).name, "-o", "out"]
        for answer in ("n\n", "\n", "\x03"):
            terminal = await shell.terminal(*words)
            await terminal.until("Spend $0.60?")
            terminal.type(answer)
            assert (await terminal.done(), charges(emulator)) == (1, 0)
        terminal = await shell.terminal(*words)
        await terminal.until("Spend $0.60?")
        terminal.type("y\n")
        assert (await terminal.done(), charges(emulator)) == (0, 3), terminal.text
    assert "3 of 3 done" in terminal.text


async def test_a_terminal_is_drawn_on(start: Start, tmp_path: Path) -> None:
    """A bar for the whole and for those that run; without colours where they are not wanted."""
    async with start(speed=SLOW) as (shell, _):
        words = ["batch", manifest(tmp_path, 7).name, "-o", "out", "--yes"]
        terminal = await shell.terminal(*words)
        await terminal.until("5 running, 2 waiting")
        await terminal.until("processing")
        assert await terminal.done() == 0
        assert b"\x1b[?25l" in terminal.raw
        plain = await shell.terminal("generate", "a.png", "-p", "zoom", "--fps", "99", changes={"NO_COLOR": "1"})
        await plain.done()
        coloured = await shell.terminal("generate", "a.png", "-p", "zoom", "--fps", "99")
        await coloured.done()
        piped = await shell.run(*words[:3], "second", "--yes")
    assert b"\x1b[31m" in coloured.raw
    assert b"\x1b[3" not in plain.raw
    assert "\x1b" not in piped.err + piped.out


async def test_ctrl_c_once_ends_it_when_those_that_run_are_done(start: Start, tmp_path: Path) -> None:
    """Nothing more is submitted; the way on is printed, and goes on."""
    async with start(speed=SLOW) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 9).name, "-o", "out", "--yes"]
        terminal = await shell.terminal(*words)
        await terminal.until("5 running")
        terminal.type("\x03")
        assert await terminal.done() == Exit.INTERRUPTED
        assert (charges(emulator), len(made(tmp_path / "out"))) == (5, 5)
        assert f"to go on: modelslab-async {' '.join(words)}" in terminal.text.replace("\r\n", "")
        assert (await shell.run(*words)).code == 0
    assert (charges(emulator), len(made(tmp_path / "out"))) == (9, 9)


@pytest.mark.parametrize("how", ["ctrl-c twice", "SIGTERM", "SIGKILL"])
async def test_it_can_be_left_at_any_time(start: Start, tmp_path: Path, how: str) -> None:
    """Those that run are paid for: the second run collects them, and pays only for the rest."""
    async with start(speed=SLOW) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 8).name, "-o", "out", "--yes"]
        terminal = await shell.terminal(*words)
        await terminal.until("5 running")
        await terminal.until("processing")
        if how == "ctrl-c twice":
            terminal.type("\x03")
            await terminal.until("stopping")
            terminal.type("\x03")
        else:
            terminal.process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        code = await terminal.done()
        assert code == (-signal.SIGKILL if how == "SIGKILL" else Exit.INTERRUPTED)
        assert (charges(emulator), made(tmp_path / "out")) == (5, {})
        again = await shell.run(*words)
        assert again.code == 0, again.err
        assert "5 to collect" in again.err
    assert (charges(emulator), len(made(tmp_path / "out"))) == (8, 8)


async def test_generate_can_be_left_at_any_time(start: Start, tmp_path: Path) -> None:
    """Ctrl-C prints the command that collects the job."""
    async with start(speed=SLOW) as (shell, emulator):
        terminal = await shell.terminal("generate", "a.png", "-p", "zoom", "-o", "b.mp4")
        await terminal.until("processing")
        terminal.type("\x03")
        assert await terminal.done() == Exit.INTERRUPTED
        command = next(line for line in terminal.text.splitlines() if line.startswith("modelslab-async collect"))
        assert (await shell.run(*command.split()[1:])).code == 0
    assert (charges(emulator), (tmp_path / "b.mp4").exists()) == (1, True)


async def test_a_full_disk(start: Start, tmp_path: Path) -> None:
    """It stops, says so, and what was paid is collected once there is room."""
    import resource  # noqa: PLC0415 - not on Windows

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    def large(work: Any) -> bytes:
        video = skeleton(work)
        return video + (400_008).to_bytes(4) + b"free" + bytes(400_000)

    async with start(render=large) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 9).name, "-o", "out", "--yes"]
        done = await shell.run(*words, preexec_fn=little_room)
        assert (done.code, made(tmp_path / "out")) == (Exit.FAILED, {}), done.err
        assert "File too large" in done.err
        paid = charges(emulator)
        assert 0 < paid < 9
        again = await shell.run(*words)
        assert again.code == 0, again.err
    assert (charges(emulator), len(made(tmp_path / "out"))) == (9, 9)


@pytest.mark.parametrize("place", ["a.png/out", "/proc/out"])
async def test_a_folder_that_cannot_be_written(start: Start, tmp_path: Path, place: str) -> None:
    """Told before anything is sent."""
    async with start() as (shell, emulator):
        done = await shell.run("batch", manifest(tmp_path, 2).name, "-o", place, "--yes")
    assert (done.code, charges(emulator)) == (Exit.FAILED, 0)
    assert "out" in done.err


async def test_a_second_run_at_the_same_time_is_refused(start: Start, tmp_path: Path) -> None:
    """The first goes on undisturbed."""
    async with start(speed=SLOW) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 5).name, "-o", "out", "--yes"]
        first = await shell.terminal(*words)
        await first.until("5 running")
        second = await shell.run(*words)
        assert await first.done() == 0
    assert (second.code, charges(emulator)) == (Exit.USAGE, 5)
    assert "another run" in second.err


async def test_settings_come_by_flag_environment_and_file(start: Start, tmp_path: Path) -> None:
    """In this order; the key from a file that only its owner can read."""
    async with start() as (shell, emulator):
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
            ("base_url = ", "cannot be read"),
        ):
            config.write_text(text)
            wrong = await balance()
            assert (wrong.code, words in wrong.err) == (Exit.USAGE, True), wrong.err


@pytest.mark.parametrize("command", _COMMANDS)
async def test_help_fits_a_screen_and_shows_an_example(tmp_path: Path, command: str) -> None:
    """For each command."""
    done = await Shell(tmp_path).run(command, "--help", changes={"COLUMNS": "80"})
    assert done.code == 0
    assert f"modelslab-async {command}" in done.out.split("Example:")[1]
    assert len(done.out.splitlines()) <= (36 if command == "generate" else 28)
    assert max(len(line) for line in done.out.splitlines()) <= 80


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
