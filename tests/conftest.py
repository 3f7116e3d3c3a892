"""Shared fixtures."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers.world import World
from hypothesis import settings

from modelslab_async.emulator import InProcess, Service

settings.register_profile("law", deadline=None)  # a law holds on a busy machine too; pytest-timeout bounds each test
settings.load_profile("law")
asyncio.set_event_loop(None)  # looptime asks for the loop of tests that have none: none is made for them then


@pytest.fixture
def world() -> Callable[..., World]:
    """Makes worlds; the options are those of `Service`."""

    def make(**options: Any) -> World:
        service = Service(**{"eta": {"good": 1}, **options})
        return World(service, InProcess(service))

    return make


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """All logs of all loggers, DEBUG included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)
