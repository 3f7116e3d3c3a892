"""The README: every Python block runs, its commands exist, and each promise has a test."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.asgi import answer_of, body_part, messages_sent, receive_of, started
from procrastinate.testing import InMemoryConnector

from modelslab_async.emulator import Emulator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TASKS = [block for block in BLOCKS if "@celery.task" in block]
PROGRAMS = [block for block in BLOCKS if "asyncio.run(" in block and block not in TASKS]
TESTS = [block for block in BLOCKS if "async def test_" in block]
APPLICATIONS = [block for block in BLOCKS if "app = Starlette(" in block]


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MODELSLAB_API_KEY"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that has the picture that the README uses, and nothing else."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "rocket.jpg").write_bytes((ROOT / "examples" / "rocket.jpg").read_bytes())
    return tmp_path


def test_every_block_is_run() -> None:
    """Each Python block is a program, a test, an application or tasks of a queue, so that all of them run here."""
    assert len(PROGRAMS) + len(TESTS) + len(APPLICATIONS) + len(TASKS) == len(BLOCKS) > 0


@pytest.mark.parametrize("block", PROGRAMS, ids=range(len(PROGRAMS)))
def test_programs_run(block: str, folder: Path) -> None:
    """Each program exits with 0 and without a traceback. It saves a video if its text says so."""
    (folder / "program.py").write_text(block, encoding="utf-8")
    result = run("-W", "error", "program.py", folder=folder)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    saves = ".save(" in block or "run_batch(" in block
    assert bool(list(folder.rglob("*.mp4"))) == saves


@pytest.mark.parametrize("block", TESTS, ids=range(len(TESTS)))
def test_tests_pass(block: str, folder: Path) -> None:
    """The example test passes with the fixtures that the package installs."""
    (folder / "test_mine.py").write_text(block, encoding="utf-8")
    result = run("-m", "pytest", "-q", "-o", "asyncio_mode=auto", "test_mine.py", folder=folder)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("block", APPLICATIONS, ids=range(len(APPLICATIONS)))
async def test_applications_work(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A visitor submits twice, pays once, follows the job to its end, and comes back; an unknown ref is not found."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    async with Emulator(speed=100, eta={"good": 1}) as emulator:
        options = f"api_key='any', base_url={emulator.url!r}, poll_cost=0.01, journal="
        exec(block.replace("Client(journal=", f"Client({options}"), names)  # noqa: S102 - the README's own code
        app = names["app"]
        async with started(app) as state:
            order = body_part(b'{"prompt": "zoom in", "id": "1001"}')
            for _ in range(2):
                start, end = await messages_sent(app, "/videos", receive_of(order), state={**state})
                assert (start["status"], json.loads(end["body"])) == (202, {"ref": "1001"})
            for _ in range(2):
                status, body = await answer_of(app, "/videos/1001/events", state)
                assert (status, b"event: end" in body) == (200, True)
            status, body = await answer_of(app, "/videos/unknown/events", state)
            assert (status, json.loads(body)["code"]) == (404, "not_found")
            assert len(emulator.ledger.charges) == 1


@pytest.mark.parametrize("block", TASKS, ids=range(len(TASKS)))
async def test_tasks_pay_once(block: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order in two task queues, each of which runs it twice, is paid for once."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    async with Emulator(speed=100, eta={"good": 1}) as emulator:
        options = f"api_key='any', base_url={emulator.url!r}, poll_cost=0.01, journal='jobs.db'"
        exec(re.sub(r"Client\(journal=[^)]*", f"Client({options}", block), names)  # noqa: S102 - the README's own code
        order = {"order": "1001", "prompt": "zoom in", "picture": "examples/rocket.jpg"}
        results = [await asyncio.to_thread(names["make_with_celery"].apply, kwargs=order) for _ in range(2)]
        with names["queue"].replace_connector(InMemoryConnector()) as queue:
            for _ in range(2):
                await names["make_with_procrastinate"].defer_async(**order)
            await queue.run_worker_async(wait=False)
            jobs = list(await queue.job_manager.list_jobs_async())
        assert len({result.get() for result in results}) == 1
        assert [job.status for job in jobs] == ["succeeded"] * 2
        assert len(emulator.ledger.charges) == 1


def test_the_quickstart_saves_a_video(folder: Path) -> None:
    """The first command says that it uses an emulator, prints every state, and saves a whole mp4."""
    result = run(str(ROOT / "examples" / "quickstart.py"), folder=folder)
    assert result.returncode == 0, result.stderr
    texts = ["not ModelsLab", "waiting", "submitting", "processing", "ready", "832x480", "81 frames at 16 fps"]
    positions = [result.stdout.find(text) for text in texts]
    assert -1 not in positions
    assert positions == sorted(positions)
    assert (folder / "rocket.mp4").stat().st_size > 10_000


def test_live_without_a_key_is_refused(folder: Path) -> None:
    """`--live` without a key names the missing variable and spends nothing."""
    result = run(str(ROOT / "examples" / "quickstart.py"), "--live", folder=folder)
    assert result.returncode != 0
    assert "MODELSLAB_API_KEY" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_two_main_commands_are_in_the_readme() -> None:
    """The command to try the package and the command to test it have a line of their own."""
    assert "python -m pip install -e '.[emulator]' && python examples/quickstart.py" in README.splitlines()
    assert "python -m pip install -e '.[dev]' && python -m pytest" in README.splitlines()


def test_every_promise_links_to_a_test_that_exists() -> None:
    """Each row of the table of promises links to a test, and the test exists."""
    text = README
    table = text[text.index("## What it promises about money") : text.index("## When the process dies")]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for row in rows:
        links = re.findall(r"\[`(test_\w+)`\]\((tests/[\w/]+\.py)\)", row)
        assert len(links) == 1, row
        name, path = links[0]
        assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), row
