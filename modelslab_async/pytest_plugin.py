"""Pytest fixtures for tests of programs that use the service. Pytest loads them from the installed package.

The emulator serves in a separate thread. So synchronous and asynchronous tests may use the same fixtures, with any
plugin that runs asynchronous tests, or without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from modelslab_async.emulator import Emulator
    from modelslab_async.emulator.options import EmulatorOptions

SPEED = 100.0
"""Default speed of the emulator: a job of 40 s takes 0.4 s."""


def _running(options: EmulatorOptions) -> Iterator[Emulator]:
    from modelslab_async.emulator import Emulator  # noqa: PLC0415 - heavy, and most test sessions do not use it

    with_defaults: EmulatorOptions = {"speed": SPEED, "eta": {"good": 1}, **options}
    with Emulator.running(**with_defaults) as emulator:
        yield emulator


@pytest.fixture
def modelslab_emulator_options() -> EmulatorOptions:
    """Return options for `Emulator`, such as its faults. Override this fixture; an omitted option keeps its default."""
    return {}


@pytest.fixture
def modelslab_emulator(modelslab_emulator_options: EmulatorOptions) -> Iterator[Emulator]:
    """Run an emulator for one test, on a free port of this machine, 100 times as fast as the service."""
    yield from _running(modelslab_emulator_options)


@pytest.fixture(scope="session")
def modelslab_emulator_session_options() -> EmulatorOptions:
    """Return options for `modelslab_emulator_session`. Override this fixture with the scope "session"."""
    return {}


@pytest.fixture(scope="session")
def modelslab_emulator_session(modelslab_emulator_session_options: EmulatorOptions) -> Iterator[Emulator]:
    """Run one emulator for all tests of the session; with pytest-xdist, one for each worker.

    The tests share its ledger and its faults. A test that uses a different key does not see the jobs of the others.
    """
    yield from _running(modelslab_emulator_session_options)
