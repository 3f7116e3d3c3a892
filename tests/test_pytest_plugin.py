"""The pytest fixtures that the installed package provides, in the suites of strangers."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from decimal import Decimal
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from modelslab_async import Client, JobState
from modelslab_async.emulator import Emulator, EmulatorOptions
from modelslab_async.pytest_plugin import SPEED

PICTURE = Path(__file__).parent.parent / "examples" / "rocket.jpg"


async def test_an_asynchronous_test(modelslab_emulator: Emulator, tmp_path: Path) -> None:
    """A client of the test's own loop is served: a job ends within a second, and the ledger has its charge."""
    async with Client("any", base_url=modelslab_emulator.url, poll_cost=0.01) as client:
        job = client.submit(prompt="zoom in", init_image=PICTURE, resolution=96, num_frames=9, fps=8)
        saved = await job.save(tmp_path / "video.mp4")
    assert job.state is JobState.READY
    assert saved.path.read_bytes()[4:8] == b"ftyp"
    assert modelslab_emulator.ledger.track_ids() == [job.ref]
    assert modelslab_emulator.ledger.total() == Decimal("0.20")


def test_a_synchronous_test(modelslab_emulator: Emulator) -> None:
    """A synchronous client without a timeout is answered."""
    with urllib.request.urlopen(modelslab_emulator.url) as response:  # noqa: S310 - the emulator's own URL
        assert response.status == 200


async def test_each_test_has_its_own_emulator(modelslab_emulator: Emulator) -> None:
    """A test gets a new emulator on this machine, with an empty ledger."""
    assert modelslab_emulator.url.startswith("http://127.0.0.1:")
    assert modelslab_emulator.ledger.charges == []


def test_the_plugin_is_an_entry_point() -> None:
    """Pytest finds the plugin by the entry point of the installed package."""
    (point,) = [point for point in entry_points(group="pytest11") if point.name == "modelslab_async"]
    assert point.value == "modelslab_async.pytest_plugin"


class TestOptions:
    """A test class that overrides the emulator's options."""

    @pytest.fixture
    def modelslab_emulator_options(self) -> EmulatorOptions:
        return {"speed": 1000.0, "queue_limit": 2, "keys": {"any"}, "wallet": Decimal("0.10")}

    def test_a_fixture_overrides_the_options(self, modelslab_emulator: Emulator) -> None:
        """A fixture named `modelslab_emulator_options` chooses the emulator's options."""
        assert (modelslab_emulator.service.speed, modelslab_emulator.service.queue.limit) == (1000.0, 2)


class TestOneOption:
    """A test class that overrides one option."""

    @pytest.fixture
    def modelslab_emulator_options(self) -> EmulatorOptions:
        return {"queue_limit": 2}

    def test_other_options_keep_their_defaults(self, modelslab_emulator: Emulator) -> None:
        """Overriding one option leaves the fixture's speed as it is."""
        assert (modelslab_emulator.service.speed, modelslab_emulator.service.queue.limit) == (SPEED, 2)


SYNCHRONOUS = """
import json, urllib.request

def post(url, **params):
    body = json.dumps({"key": "any", **params}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)

def balance(emulator):
    return post(emulator.url + "/api/wallet_balance")["data"]["balance"]
"""
FIXTURES = """
def test_synchronous(modelslab_emulator):
    assert balance(modelslab_emulator) == 100

def test_session(modelslab_emulator_session):
    assert balance(modelslab_emulator_session) == 100

def test_both(modelslab_emulator, modelslab_emulator_session):
    assert modelslab_emulator.url != modelslab_emulator_session.url
"""
ASYNCHRONOUS = """
import pytest
from modelslab_async import Client

{mark}
async def test_asynchronous(modelslab_emulator, modelslab_emulator_session):
    for emulator in (modelslab_emulator, modelslab_emulator_session):
        async with Client("any", base_url=emulator.url) as client:
            assert (await client.balance()).amount == 100

{mark}
async def test_both_ways(modelslab_emulator):
    assert balance(modelslab_emulator) == 100
"""
ANYIO = (
    ASYNCHRONOUS.format(mark="@pytest.mark.anyio") + "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
)
UNITTEST = """
import unittest
from modelslab_async import Client
from modelslab_async.emulator import EmulatorMixin

class Synchronous(EmulatorMixin, unittest.TestCase):
    emulator_options = {"wallet": 7}

    def test_balance(self):
        self.assertEqual(balance(self.emulator), 7)

class Asynchronous(EmulatorMixin, unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        super().setUp()
        self.url = self.emulator.url

    async def test_balance(self):
        self.assertEqual(balance(self.emulator), 100)
        async with Client("any", base_url=self.url) as client:
            self.assertEqual((await client.balance()).amount, 100)
"""
# pytest-asyncio itself leaks an event loop if a synchronous test comes first, which is an unraisable exception.
WARNINGS = ("-W", "error", "-W", "ignore::pytest.PytestUnraisableExceptionWarning")
PYTEST = ("pytest", "-q", "-p", "no:cacheprovider", "-p", "no:looptime_plugin", *WARNINGS, "test_mine.py")
STRICT = ("-p", "no:xdist", "-o", "asyncio_mode=strict", "-o", "asyncio_default_fixture_loop_scope=function")
ALONE = ("-p", "no:asyncio")
AUTO = (*STRICT, "-o", "asyncio_mode=auto")
RUNNERS = {
    "pytest-asyncio, strict": (ASYNCHRONOUS.format(mark="@pytest.mark.asyncio"), STRICT, 5),
    "pytest-asyncio, auto": (ASYNCHRONOUS.format(mark=""), AUTO, 5),
    "pytest-asyncio, one loop": (ASYNCHRONOUS.format(mark="@pytest.mark.asyncio(loop_scope='session')"), STRICT, 5),
    "anyio": (ANYIO, (*ALONE, "-p", "no:xdist"), 5),
    "anyio beside pytest-asyncio": (ANYIO, STRICT, 5),
    "pytest alone": ("", (*ALONE, "-p", "no:anyio", "-p", "no:xdist"), 3),
    "pytest-xdist": ("", (*ALONE, "-n", "2"), 3),
}
ROOT = Path(__file__).parent.parent


def run_tests(folder: Path, tests: str, *arguments: str) -> tuple[int, str]:
    """Run *tests* in a folder of their own. Return the exit code and the output."""
    (folder / "test_mine.py").write_text(SYNCHRONOUS + tests, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return run.returncode, run.stdout + run.stderr


@pytest.mark.parametrize("name", RUNNERS)
def test_the_fixtures_work_in_a_strangers_suite(tmp_path: Path, name: str) -> None:
    """Both fixtures serve synchronous and asynchronous tests under each runner, and warnings are errors."""
    tests, options, count = RUNNERS[name]
    code, output = run_tests(tmp_path, FIXTURES + tests, *PYTEST, *options)
    assert (code, f"{count} passed" in output) == (0, True), output


@pytest.mark.parametrize(
    ("runner", "report"),
    [(("unittest",), "Ran 2 tests"), ((*PYTEST, *STRICT), "2 passed")],
    ids=["unittest", "pytest"],
)
def test_the_mixin_works_in_a_strangers_suite(tmp_path: Path, runner: tuple[str, ...], report: str) -> None:
    """The mixin serves `TestCase` and `IsolatedAsyncioTestCase`, under unittest's own runner and under pytest."""
    code, output = run_tests(tmp_path, UNITTEST, *runner)
    assert (code, report in output) == (0, True), output
