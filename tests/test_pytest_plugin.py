"""The pytest fixtures that the installed package provides."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from modelslab_async import Client, JobState
from modelslab_async.emulator import Emulator
from modelslab_async.pytest_plugin import SPEED

PICTURE = Path(__file__).parent.parent / "examples" / "rocket.jpg"


async def test_the_fixtures(modelslab_emulator: Emulator, modelslab_client: Client, tmp_path: Path) -> None:
    """The client is connected to the emulator: a job ends within a second, and the ledger has its charge."""
    job = modelslab_client.submit(prompt="zoom in", init_image=PICTURE, resolution=96, num_frames=9, fps=8)
    saved = await job.save(tmp_path / "video.mp4")
    assert job.state is JobState.READY
    assert saved.path.read_bytes()[4:8] == b"ftyp"
    assert modelslab_emulator.ledger.track_ids() == [job.ref]
    assert modelslab_emulator.ledger.total() == Decimal("0.20")


async def test_each_test_has_its_own_emulator(modelslab_emulator: Emulator) -> None:
    """A test gets a new emulator on this machine, with an empty ledger."""
    assert modelslab_emulator.url.startswith("http://127.0.0.1:")
    assert modelslab_emulator.ledger.charges == []


async def test_a_test_may_end_while_its_job_runs(modelslab_client: Client) -> None:
    """The client detaches from a job that still runs when the test ends."""
    job = modelslab_client.submit(prompt="zoom in", init_image=PICTURE)
    assert not job.done()


def test_the_plugin_is_an_entry_point() -> None:
    """Pytest finds the plugin by the entry point of the installed package."""
    (point,) = [point for point in entry_points(group="pytest11") if point.name == "modelslab_async"]
    assert point.value == "modelslab_async.pytest_plugin"


class TestOptions:
    """A test class that overrides the emulator's options."""

    @pytest.fixture
    def modelslab_emulator_options(self) -> dict[str, object]:
        return {"speed": 1000.0, "queue_limit": 2, "keys": {"any"}, "wallet": Decimal("0.10")}

    async def test_a_fixture_overrides_the_options(self, modelslab_emulator: Emulator) -> None:
        """A fixture named `modelslab_emulator_options` chooses the emulator's options."""
        assert (modelslab_emulator.service.speed, modelslab_emulator.service.queue.limit) == (1000.0, 2)


class TestOneOption:
    """A test class that overrides one option."""

    @pytest.fixture
    def modelslab_emulator_options(self) -> dict[str, object]:
        return {"queue_limit": 2}

    async def test_other_options_keep_their_defaults(self, modelslab_emulator: Emulator) -> None:
        """Overriding one option leaves the fixture's speed as it is."""
        assert (modelslab_emulator.service.speed, modelslab_emulator.service.queue.limit) == (SPEED, 2)


SETTINGS = """
[pytest]
asyncio_mode = auto
filterwarnings = error
"""
USERS_TESTS = """
async def test_mine(modelslab_client, modelslab_emulator):
    job = modelslab_client.submit(prompt="p", init_image={picture!r}, resolution=32, num_frames=17)
    assert (await job).links
    assert len(modelslab_emulator.ledger.charges) == 1

def test_another():
    assert True
"""


def run_users_tests(folder: Path, settings: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a project of its own."""
    (folder / "test_users.py").write_text(USERS_TESTS.format(picture=str(PICTURE)), encoding="utf-8")
    (folder / "pytest.ini").write_text(SETTINGS + settings, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("scope", ["function", "session"])
def test_the_plugin_works_in_a_users_project(tmp_path: Path, scope: str) -> None:
    """A project can use the fixtures, which leak nothing, with a loop for each test or one for all of them."""
    settings = f"asyncio_default_fixture_loop_scope = {scope}\nasyncio_default_test_loop_scope = {scope}\n"
    run = run_users_tests(tmp_path, settings)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


def test_a_test_in_another_loop_fails_at_once(tmp_path: Path) -> None:
    """A test whose loop is not the fixtures' would hang; it fails with the cure instead."""
    settings = "asyncio_default_fixture_loop_scope = function\nasyncio_default_test_loop_scope = session\n"
    run = run_users_tests(tmp_path, settings)
    assert "1 failed, 1 passed" in run.stdout
    assert "hint: set asyncio_default_fixture_loop_scope" in run.stdout
