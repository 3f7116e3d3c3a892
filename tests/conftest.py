"""Shared fixtures."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from helpers.browser import browser_for_session
from helpers.databases import Server
from helpers.world import MakeWorld, World
from hypothesis import settings

from modelslab_async.emulator import InProcess, Service

settings.register_profile("law", deadline=None)  # on a busy machine an example may be slow; pytest-timeout bounds it
settings.load_profile("law")
asyncio.set_event_loop(None)  # looptime asks for the loop in tests without one; asyncio must not make one
# Without cached bytecode, each worker and each child process compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
_SLOW_ROOMS = ("project", "cli", "system", "batch")
browsed = pytest_asyncio.fixture(scope="session", loop_scope="session")(browser_for_session)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the rooms with long tests first, so that no worker still runs one when the others are done."""
    items.sort(key=lambda item: item.path.parent.name not in _SLOW_ROOMS)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """Return a PostgreSQL server that all workers share. Skip the test if there is none for this platform.

    Its folder is not pytest's, which other runs make private: as root, the server runs as another user.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", os.getpid())
    server = Server(Path(tempfile.gettempdir()) / f"modelslab_async-postgres-{run}")
    yield server
    server.close()


@pytest.fixture(scope="module")
def shared_database(postgres: Server) -> str:
    """Return a database that the tests of one module use in turn."""
    return asyncio.run(postgres.make_database())


@pytest.fixture
async def database(postgres: Server, shared_database: str) -> str:
    """Return a database without the journal's schema. To create one takes longer than to empty it."""
    await postgres.run("DROP SCHEMA IF EXISTS modelslab_async CASCADE", database=shared_database)
    return shared_database


@pytest.fixture
def make_world() -> MakeWorld:
    """Return a function that makes an emulated service. Its options are those of `Service`."""

    def make(**options: Any) -> World:
        service = Service(**{"eta": {"good": 1}, **options})
        return World(service, InProcess(service))

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> MakeWorld:
    """Return `make_world`, under an older name."""
    return make_world


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """Collect the log of all loggers, DEBUG included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)
