"""Shared fixtures: a small world with an emulator in the same process, on virtual time."""

from __future__ import annotations

import asyncio
import io
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from hypothesis import settings

from modelslab_async import Client, ImageToVideoUltra
from modelslab_async.emulator import InProcess, Service

settings.register_profile("law", deadline=None)  # a law holds on a busy machine too; pytest-timeout bounds each test
settings.load_profile("law")
asyncio.set_event_loop(None)  # looptime asks for the loop of tests that have none: none is made for them then

KEY = "secret-key-that-nobody-may-see"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)


def a_request(**changes: Any) -> ImageToVideoUltra:
    """A request of a size that the emulator processes in about 40 s."""
    defaults = {"prompt": "moving character", "init_image": "https://pictures.invalid/a.png"}
    return ImageToVideoUltra(**{**defaults, **changes})


@attrs.define
class World:
    """One emulated service, and the clients that are made for it."""

    service: Service
    transport: InProcess

    def client(self, **options: Any) -> Client:
        seeded = {"api_key": KEY, "transport": self.transport, "rng": random.Random(1)}
        return Client(**{**seeded, **options})

    def count(self, part: str) -> int:
        """How many requests went to paths with this part."""
        return sum(part in path for path in self.transport.requests)


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
