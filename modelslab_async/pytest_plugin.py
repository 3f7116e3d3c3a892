"""Fixtures for tests of programs that use `modelslab_async`; installed with the package, loaded by pytest.

They live in the test's own event loop: with pytest-asyncio, or with anyio's plugin where that is missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from modelslab_async import Client
    from modelslab_async.emulator import Emulator

SPEED = 100.0
"""A job of 40 s takes 0.4 s."""

fixture: Callable[..., Any] = import_module("pytest_asyncio" if find_spec("pytest_asyncio") else "pytest").fixture


@pytest.fixture
def modelslab_emulator_options() -> dict[str, object]:
    """Override it to choose options of the `Emulator`, for instance its faults; what it leaves out stays as it is."""
    return {}


@fixture
async def modelslab_emulator(modelslab_emulator_options: dict[str, object]) -> AsyncIterator[Emulator]:
    """An emulator on a free port of this machine, a hundred times as fast as the service."""
    from modelslab_async.emulator import Emulator  # noqa: PLC0415 - loaded only by tests that use it

    options: dict[str, Any] = {"speed": SPEED, "eta": {"good": 1}, **modelslab_emulator_options}
    async with Emulator(**options) as emulator:
        yield emulator


@fixture
async def modelslab_client(modelslab_emulator: Emulator) -> AsyncIterator[Client]:
    """A Client of that emulator. At the end it lets go of jobs that still run.

    Time is dearer here by the emulator's speed, so looks are cheaper: tests do not wait for the next one.
    """
    from modelslab_async import Client  # noqa: PLC0415 - as above

    client = Client(api_key="any", base_url=modelslab_emulator.url, poll_cost=1 / modelslab_emulator.service.speed)
    yield client
    await client.aclose(drain=False)
