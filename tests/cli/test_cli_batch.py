"""The command `batch`: its logic in this process, signals and terminals as real processes."""

from __future__ import annotations

import asyncio
import io
import random
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.command import SLOW, Held, charges, emulated, emulated_aside, made, manifest, until_charged, until_known
from helpers.world import KEY, PNG
from rich.console import Console

from benchmarks import _batch
from modelslab_async.cli import batch
from modelslab_async.cli.display import BatchDisplay
from modelslab_async.cli.exit_codes import Exit
from modelslab_async.cli.output import Output
from modelslab_async.emulator import Fault, Rule, skeleton

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals")


def test_a_batch(tmp_path: Path) -> None:
    """It prints a JSON line for each event; a second run keeps every video; no file holds the key."""
    with emulated_aside(tmp_path) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 6).name, "-o", "Vidéos für dich", "--yes", "--json"]
        done = shell.run(*words)
        assert (done.code, charges(emulator)) == (0, 6), done.err
        kinds = [event["event"] for event in done.json]
        assert (kinds[0], kinds[-1], kinds.count("begun"), kinds.count("ended")) == ("plan", "summary", 6, 6)
        assert done.json[-1]["spent"] == "1.2"
        again = shell.run(*words, "--report")
    assert (again.code, charges(emulator)) == (0, 6)
    assert [event["event"] for event in again.json] == ["plan", *["kept"] * 6, "summary", "report"]
    assert len(made(tmp_path / "Vidéos für dich")) == 6
    assert (tmp_path / "Vidéos für dich" / "report.html").exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_folder_of_pictures_is_a_batch(tmp_path: Path) -> None:
    """Each picture is a line with the same prompt, and files can be named after the pictures."""
    (tmp_path / "pictures").mkdir()
    for name in ("one.png", "two.png"):
        (tmp_path / "pictures" / name).write_bytes(PNG)
    with emulated_aside(tmp_path) as (shell, _):
        words = ["batch", "pictures", "-p", "zoom", "--set", "fps=12", "--name", "{stem}.mp4", "-o", "out", "--yes"]
        done = shell.run(*words)
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["one.mp4", "two.mp4"]


async def test_rows_show_the_pictures_in_natural_order(tmp_path: Path) -> None:
    """The rows of a folder name its pictures, and 2 comes before 10."""
    (tmp_path / "pictures").mkdir()
    for name in ("shot 2.png", "shot 10.png", "shot 1.png"):
        (tmp_path / "pictures" / name).write_bytes(PNG)
    async with emulated(tmp_path, speed=SLOW) as (shell, _):
        terminal = await shell.terminal("batch", "pictures", "-p", "one prompt", "-o", "out", "--yes")
        await terminal.until("shot 10.png, line 3")
        assert "shot 1.png, line 1" in terminal.text
        assert "shot 2.png, line 2" in terminal.text
        assert await terminal.done() == 0
    assert "one prompt" not in terminal.text


def test_a_batchs_job_is_collected_into_its_folder(tmp_path: Path) -> None:
    """`collect` saves the videos that a batch did not wait for in the batch's folder; the batch then keeps them."""
    with emulated_aside(tmp_path, speed=SLOW) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 2).name, "-o", "out", "--yes"]
        assert shell.run(*words, "--timeout", "0.2").code != 0
        collected = shell.run("collect")
        again = shell.run(*words)
    assert collected.code == 0, collected
    assert sorted(collected.out.splitlines()) == ["out/a-0.mp4", "out/a-1.mp4"]
    assert (again.code, charges(emulator), len(made(tmp_path / "out"))) == (0, 2, 2), again.err


MISTAKES = [
    ("line=hidden", '{"prompt": "a"'),
    ("line=hidden", '["a"]'),
    ("promt", '{"prompt": "a", "init_image": "a.png", "promt": 1}'),
    ("prompt", '{"init_image": "a.png"}'),
    ("init_image", '{"prompt": "a"}'),
    ('prompt=" "', '{"prompt": " ", "init_image": "a.png"}'),
    ("No such file", '{"prompt": "a", "init_image": "gone.png"}'),
    ("init_image=", '{"prompt": "a", "init_image": "text.png"}'),
    ("init_image=", '{"prompt": "a", "init_image": "empty.png"}'),
    ("5000000 bytes", '{"prompt": "a", "init_image": "huge.png"}'),
    ("fps=20", '{"prompt": "a", "init_image": "a.png", "fps": 20}'),
    ("seed=seven", '{"prompt": "a", "init_image": "a.png", "seed": "seven"}'),
    ("fps=9", '{"prompt": "a", "init_image": "a.png", "fps": 9, "num_frames": 9}'),
    ("line=duplicate: must differ from line 1,", '{"prompt": "same", "init_image": "a.png"}'),
    ("track_id=mine: must differ from line 2", '{"prompt": "other", "init_image": "a.png", "track_id": "mine"}'),
    ("key", f'{{"prompt": "a", "init_image": "a.png", "key": "{KEY}"}}'),
]
"""A part of the message, and a line with a mistake."""


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """Each mistake is reported with line, field and hint, and nothing is sent."""
    for name, content in {"text.png": b"text", "empty.png": b"", "huge.png": PNG + bytes(5_000_000)}.items():
        (tmp_path / name).write_bytes(content)
    fine = ['{"prompt": "same", "init_image": "a.png"}', '{"prompt": "a", "init_image": "a.png", "track_id": "mine"}']
    (tmp_path / "shots.jsonl").write_text("\n".join([*fine, *(mistake for _, mistake in MISTAKES)]))
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("batch", "shots.jsonl", "-o", "out", "--yes", "--budget", "2")
    printed = done.err.splitlines()
    for line, (part, _) in enumerate(MISTAKES, len(fine) + 1):
        messages = [each for each in printed if each.startswith(f"line {line}: ")]
        assert any(part in each for each in messages), (part, messages)
    assert any(each.startswith("budget=") for each in printed)
    assert (done.code, charges(emulator)) == (Exit.USAGE, 0)
    assert made(tmp_path / "out") == {}


def test_a_failed_line_never_stops_the_others(tmp_path: Path) -> None:
    """The exit code is 1; a second run leaves the line, and --retry-failed pays for it again."""
    with emulated_aside(tmp_path, faults=[Rule(Fault.JOB_FAILS, times=1)]) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 4).name, "-o", "out", "--yes"]
        codes = [shell.run(*words, *more).code for more in ([], [], ["--retry-failed"], [])]
    assert codes == [1, 1, 0, 0]
    assert (charges(emulator), len(made(tmp_path / "out"))) == (5, 4)


def test_failed_lines_come_with_a_hint(tmp_path: Path) -> None:
    """The hint is --retry-failed, since the same command would not submit them again."""
    with emulated_aside(tmp_path, faults=[Rule(Fault.JOB_FAILS, times=1)]) as (shell, _):
        words = ["batch", manifest(tmp_path, 2).name, "-o", "out", "--yes"]
        first = shell.run(*words)
        second = shell.run(*words)
    for done in (first, second):
        assert (done.code, "--retry-failed" in done.err, "to continue" in done.err) == (Exit.FAILED, True, False)


async def test_lines_that_are_added_later_are_not_paid_for(tmp_path: Path) -> None:
    """A manifest may grow while its videos are made: only the lines of the plan are submitted."""
    held = Held()
    async with emulated(tmp_path, render=held) as (shell, emulator):
        path = manifest(tmp_path, 70)  # more than the lookahead of 64
        running = await shell.start("batch", path.name, "-o", "out", "--yes")
        await until_charged(emulator, 1)
        with path.open("a") as file:
            file.write('{"prompt": "more", "init_image": "a.png"}\n')
        held.open()
        done = await running.done()
    assert (done.code, charges(emulator)) == (0, 70), done.err


def test_a_report_does_not_hide_why_it_failed(tmp_path: Path) -> None:
    """Without results there is no report, and the exit code is still that of a refused key."""
    with emulated_aside(tmp_path, keys=["another"]) as (shell, _):
        done = shell.run("batch", manifest(tmp_path, 2).name, "-o", "out", "--yes", "--report", "--json")
    assert done.code == Exit.KEY
    assert [values["error"]["type"] for values in done.json if "error" in values] == ["AuthenticationError"]


def test_without_a_terminal_nothing_is_paid_for(tmp_path: Path) -> None:
    """Without a terminal to ask at, the batch needs --yes."""
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("batch", manifest(tmp_path, 2).name, "-o", "out")
    assert (done.code, charges(emulator)) == (Exit.USAGE, 0)
    assert "--yes" in done.err


@pytest.mark.parametrize("answer", ["n\n", "\n", "no\n", "maybe\n", ""])
def test_any_answer_but_yes_pays_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """No answer, an empty one and an unknown one are not a yes."""
    monkeypatch.setattr(batch, "can_ask", lambda: True)
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("batch", manifest(tmp_path, 3).name, "-o", "out", typed=answer)
    assert (done.code, charges(emulator)) == (Exit.FAILED, 0)
    assert "Spend $0.60?" in done.err


async def test_the_user_is_asked_for_confirmation(tmp_path: Path) -> None:
    """The question names the price; Ctrl-C ends it and pays nothing; yes pays."""
    async with emulated(tmp_path) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 3).name, "-o", "out"]
        terminal = await shell.terminal(*words)
        await terminal.until("Spend $0.60?")
        await terminal.type_until_it_ends("\x03")
        assert (await terminal.done(), charges(emulator)) == (Exit.INTERRUPTED, 0)
        assert "nothing was sent" in terminal.text
        terminal = await shell.terminal(*words)
        await terminal.until("Spend $0.60?")
        terminal.type("y\n")
        assert (await terminal.done(), charges(emulator)) == (0, 3), terminal.text
    assert "3 of 3 done" in terminal.text


async def test_a_terminal_is_drawn_on(tmp_path: Path) -> None:
    """A terminal shows bars for the batch and its running jobs; NO_COLOR and pipes get no colours."""
    async with emulated(tmp_path, speed=SLOW) as (shell, _):
        words = ["batch", manifest(tmp_path, 7).name, "-o", "out", "--yes"]
        terminal = await shell.terminal(*words)
        await terminal.until("5 running, 2 waiting")
        await terminal.until("processing")
        await terminal.until("of 7 done, 2 running")
        await terminal.until(" left")
        assert await terminal.done() == 0
        assert b"\x1b[?25l" in terminal.raw
        assert "Error" not in terminal.text
        plain = await shell.terminal("generate", "a.png", "-p", "zoom", "--fps", "99", changes={"NO_COLOR": "1"})
        await plain.done()
        coloured = await shell.terminal("generate", "a.png", "-p", "zoom", "--fps", "99")
        await coloured.done()
        piped = await shell.run(*words[:3], "second", "--yes")
    assert b"\x1b[31m" in coloured.raw
    assert b"\x1b[3" not in plain.raw
    assert "\x1b" not in piped.err + piped.out


async def test_one_ctrl_c_lets_the_running_jobs_end(tmp_path: Path) -> None:
    """No more lines are submitted, and the printed command continues the batch."""
    held = Held()
    async with emulated(tmp_path, render=held) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 9).name, "-o", "out", "--yes"]
        terminal = await shell.terminal(*words)
        await terminal.until("5 running")
        terminal.type("\x03")
        await terminal.until("stopping")
        held.open()
        assert await terminal.done() == Exit.INTERRUPTED
        assert (charges(emulator), len(made(tmp_path / "out"))) == (5, 5)
        assert f"to continue: modelslab-async {' '.join(words)}" in terminal.text.replace("\r\n", "")
        assert (await shell.run(*words)).code == 0
    assert (charges(emulator), len(made(tmp_path / "out"))) == (9, 9)


@pytest.mark.parametrize("how", ["ctrl-c twice", "SIGTERM", "SIGKILL"])
async def test_a_batch_can_be_left_at_any_time(tmp_path: Path, how: str) -> None:
    """The second run collects the jobs that ran, and pays only for the other lines."""
    held = Held()
    async with emulated(tmp_path, render=held) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 8).name, "-o", "out", "--yes"]
        terminal = await shell.terminal(*words)
        await terminal.until("5 running")
        await until_known(tmp_path, 5)
        if how == "ctrl-c twice":
            terminal.type("\x03")
            await terminal.until("stopping")
            terminal.type("\x03")
        else:
            terminal.process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        code = await terminal.done()
        last = r"0 of 8 done, 5 running, .*\$1\.00 spent"
        assert how == "SIGKILL" or re.search(last, terminal.text.replace("\r\n", " "))
        assert code == (-signal.SIGKILL if how == "SIGKILL" else Exit.INTERRUPTED)
        assert (charges(emulator), made(tmp_path / "out")) == (5, {})
        unfinished = (await shell.run("jobs", "--json")).json["jobs"]
        assert [job["state"] for job in unfinished] == ["processing"] * 5
        held.open()
        again = await shell.run(*words)
        assert again.code == 0, again.err
        assert "5 to collect" in again.err
        assert "8 of 8 done, 0 running, 0 waiting, $0.60 spent" in again.err
    assert (charges(emulator), len(made(tmp_path / "out"))) == (8, 8)


@pytest.mark.looptime
async def test_without_a_terminal_a_status_line_is_printed_every_minute() -> None:
    """The line is printed as long as the display is shown."""
    printed = io.StringIO()
    display = BatchDisplay(Output(as_json=False, err=Console(file=printed)), 7, "spent")
    with display.shown():
        await asyncio.sleep(200)
    await asyncio.sleep(200)
    assert printed.getvalue().splitlines() == ["0 of 7 done, 0 running, 7 waiting, $0.00 spent"] * 3


async def test_a_full_disk_stops_the_batch(tmp_path: Path) -> None:
    """The batch reports the error, and once there is room, the next run collects the paid jobs."""
    import resource  # noqa: PLC0415 - not on Windows

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    def large(work: Any) -> bytes:
        video = skeleton(work)
        return video + (400_008).to_bytes(4) + b"free" + bytes(400_000)

    async with emulated(tmp_path, render=large) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 12).name, "-o", "out", "--yes"]
        done = await shell.run(*words, preexec_fn=little_room)
        assert (done.code, made(tmp_path / "out")) == (Exit.FAILED, {}), done.err
        assert "File too large" in done.err
        paid = charges(emulator)
        assert f"${paid * 0.2:.2f} spent" in done.err
        assert 0 < paid <= 10  # five whose ends may be seen at one tick, and the five that then got their slots
        again = await shell.run(*words)
        assert again.code == 0, again.err
    assert (charges(emulator), len(made(tmp_path / "out"))) == (12, 12)


@pytest.mark.parametrize(("path", "code"), [("a.png/out", Exit.USAGE), ("/proc/out", Exit.FAILED)])
def test_a_folder_that_cannot_be_written(tmp_path: Path, path: str, code: Exit) -> None:
    """A folder that cannot be made is reported before anything is sent."""
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("batch", manifest(tmp_path, 2).name, "-o", path, "--yes")
    assert (done.code, charges(emulator)) == (code, 0)
    assert "out" in done.err


async def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path) -> None:
    """The first run continues undisturbed."""
    held = Held()
    async with emulated(tmp_path, render=held) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 5).name, "-o", "out", "--yes"]
        first = await shell.terminal(*words)
        await first.until("5 running")
        second = await shell.run(*words)
        held.open()
        assert await first.done() == 0
    assert (second.code, charges(emulator)) == (Exit.USAGE, 5)
    assert "another run" in second.err


async def test_killed_at_random_moments() -> None:
    """Each line has one video and one charge, with faults on one of ten requests."""
    outcome = await _batch.outcome(20, kills=3, lasts=0.8, rng=random.Random(3))
    assert outcome.is_right, outcome
