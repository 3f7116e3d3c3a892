"""Pytest fixtures for tests of programs that use `modelslab_async`. Pytest loads them from the installed package.

They run in the test's own event loop, under pytest-asyncio, or under anyio's plugin if pytest-asyncio is missing.
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
"""Default speed of the emulator: a job of 40 s takes 0.4 s."""

fixture: Callable[..., Any] = import_module("pytest_asyncio" if find_spec("pytest_asyncio") else "pytest").fixture


@pytest.fixture
def modelslab_emulator_options() -> dict[str, object]:
    """Return options for `Emulator`, such as its faults. Override this fixture; an omitted option keeps its default."""
    return {}


@fixture
async def modelslab_emulator(modelslab_emulator_options: dict[str, object]) -> AsyncIterator[Emulator]:
    """Run an emulator on a free port of this machine, 100 times as fast as the service."""
    from modelslab_async.emulator import Emulator  # noqa: PLC0415 - heavy, and most test sessions do not use it

    options: dict[str, Any] = {"speed": SPEED, "eta": {"good": 1}, **modelslab_emulator_options}
    async with Emulator(**options) as emulator:
        yield emulator


@fixture
async def modelslab_client(modelslab_emulator: Emulator) -> AsyncIterator[Client]:
    """Open a Client that is connected to `modelslab_emulator`. After the test it detaches from unfinished jobs.

    Its poll cost is divided by the emulator's speed, so that the time between two polls is as short as the jobs are.
    """
    from modelslab_async import Client  # noqa: PLC0415 - heavy, and most test sessions do not use it

    client = Client(api_key="any", base_url=modelslab_emulator.url, poll_cost=1 / modelslab_emulator.service.speed)
    yield client
    await client.aclose(drain=False)
