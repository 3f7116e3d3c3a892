"""The Python blocks of the README and the documentation: programs run, tests pass, tasks pay once."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import DOCS, ROOT, blocks_of
from procrastinate.testing import InMemoryConnector

from modelslab_async.emulator import Emulator

APPLICATIONS = ("docs/web.md", "docs/deploys.md")
"""Pages whose blocks are the files of applications, which test_web_pages.py runs."""
NAMES = {
    block: f"{page} {number}"
    for page in ("README.md", *DOCS)
    if page not in APPLICATIONS
    for number, block in enumerate(blocks_of(page), 1)
}
BLOCKS = {name: block for block, name in NAMES.items()}
"""The blocks by name. A block that several pages show is run once."""
TASKS = {name: block for name, block in BLOCKS.items() if "@celery.task" in block}
TESTS = {name: block for name, block in BLOCKS.items() if "def test_" in block and "unittest" not in block}
SERVICE = {name: block for name, block in BLOCKS.items() if "Emulator" not in block and name not in {*TASKS, *TESTS}}
"""Programs that use the service itself. The test lets them use an emulator."""
PROGRAMS = {name: block for name, block in BLOCKS.items() if name not in {*TASKS, *TESTS, *SERVICE}}
PEER = "modelslab_py"
"""The service's own client. Its warnings are not ours."""


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MODELSLAB_API_KEY"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that has the picture that the pages use, and nothing else."""
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "rocket.jpg").write_bytes((ROOT / "examples" / "rocket.jpg").read_bytes())
    return tmp_path


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_run(name: str, folder: Path) -> None:
    """Each program exits with 0 and without a traceback. It saves a video if its text says so."""
    block = PROGRAMS[name]
    (folder / "program.py").write_text(block, encoding="utf-8")
    warnings = () if PEER in block else ("-W", "error")
    result = run(*warnings, "program.py", folder=folder)
    assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
    saves = any(text in block for text in (".save(", "run_batch(", "batch.run(", ".write_bytes("))
    assert bool(list(folder.rglob("*.mp4"))) == saves


@pytest.mark.parametrize("name", SERVICE)
async def test_programs_for_the_service_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each program that uses the service runs in the same way against an emulator, and pays once."""
    monkeypatch.chdir(folder)
    async with Emulator(speed=100, eta={"good": 1}) as emulator:
        options = f"'any', base_url={emulator.url!r}, poll_cost=0.01, "
        program = BLOCKS[name].replace("Client(", f"Client({options}")
        (folder / "program.py").write_text(program, encoding="utf-8")
        result = await asyncio.to_thread(run, "-W", "error", "program.py", folder=folder)
        assert (result.returncode, "Traceback" in result.stderr) == (0, False), result.stderr
        assert len(emulator.ledger.charges) == len(list(folder.glob("*.mp4"))) == 1


@pytest.mark.parametrize("name", TESTS)
def test_tests_pass(name: str, folder: Path) -> None:
    """Each example of a test passes with the fixtures that the package installs."""
    (folder / "test_mine.py").write_text(TESTS[name], encoding="utf-8")
    options = ("-q", "-p", "no:looptime_plugin", "-o", "asyncio_mode=auto")
    result = run("-m", "pytest", *options, "test_mine.py", folder=folder)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", TASKS)
async def test_tasks_pay_once(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same order in two task queues, each of which runs it twice, is paid for once."""
    monkeypatch.chdir(folder)
    block, names = TASKS[name], dict[str, Any]()
    async with Emulator(speed=100, eta={"good": 1}) as emulator:
        options = f"api_key='any', base_url={emulator.url!r}, poll_cost=0.01, journal='jobs.db'"
        exec(re.sub(r"Client\(journal=[^)]*", f"Client({options}", block), names)  # noqa: S102 - the page's own code
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
