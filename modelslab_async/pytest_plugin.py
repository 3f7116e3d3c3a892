"""Pytest fixtures for tests of programs that use `modelslab_async`. Pytest loads them from the installed package.

They run in the test's own event loop, under pytest-asyncio, or under anyio's plugin if pytest-asyncio is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from modelslab_async import Client
    from modelslab_async.emulator import Emulator

SPEED = 100.0
"""Default speed of the emulator: a job of 40 s takes 0.4 s."""

_LOOP = pytest.StashKey[asyncio.AbstractEventLoop]()
"""The event loop in which a test's emulator serves."""
_OTHER_LOOP = (
    "modelslab_emulator serves in another event loop than the one this test runs in, so a request would hang "
    "(hint: set asyncio_default_fixture_loop_scope to the tests' loop scope, or leave the test's loop_scope out)"
)

fixture: Callable[..., Any] = import_module("pytest_asyncio" if find_spec("pytest_asyncio") else "pytest").fixture


@pytest.fixture
def modelslab_emulator_options() -> dict[str, object]:
    """Return options for `Emulator`, such as its faults. Override this fixture; an omitted option keeps its default."""
    return {}


@fixture
async def modelslab_emulator(
    request: pytest.FixtureRequest, modelslab_emulator_options: dict[str, object]
) -> AsyncIterator[Emulator]:
    """Run an emulator on a free port of this machine, 100 times as fast as the service.

    It serves in the event loop of the fixture, which must be the test's own. A test in another loop fails at once.
    """
    from modelslab_async.emulator import Emulator  # noqa: PLC0415 - heavy, and most test sessions do not use it

    options: dict[str, Any] = {"speed": SPEED, "eta": {"good": 1}, **modelslab_emulator_options}
    request.node.stash[_LOOP] = asyncio.get_running_loop()
    async with Emulator(**options) as emulator:
        yield emulator


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Have an asynchronous test fail at once if its event loop is not the one that its emulator serves in."""
    loop = item.stash.get(_LOOP, None)
    if loop is None or not isinstance(item, pytest.Function) or not iscoroutinefunction(item.obj):
        return
    test = item.obj

    @wraps(test)
    async def checked(*args: Any, **kwargs: Any) -> Any:
        if asyncio.get_running_loop() is not loop:
            pytest.fail(_OTHER_LOOP, pytrace=False)
        return await test(*args, **kwargs)

    item.obj = checked


@fixture
async def modelslab_client(modelslab_emulator: Emulator) -> AsyncIterator[Client]:
    """Open a Client that is connected to `modelslab_emulator`. After the test it detaches from unfinished jobs.

    Its poll cost is divided by the emulator's speed, so that the time between two polls is as short as the jobs are.
    """
    from modelslab_async import Client  # noqa: PLC0415 - heavy, and most test sessions do not use it

    client = Client(api_key="any", base_url=modelslab_emulator.url, poll_cost=1 / modelslab_emulator.service.speed)
    yield client
    await client.aclose(drain=False)
