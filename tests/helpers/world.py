"""An emulated service in this process, on virtual time, and clients for it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from helpers.inside import engine_of
from modelslab_async import Client, ImageToVideoUltra
from modelslab_async.emulator import InProcess, Service
from modelslab_async.journal.memory import MemoryJournal
from modelslab_async.journal.sqlite import SqliteJournal

KEY = "secret-key-that-nobody-may-see"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)


_STARTS = WeakKeyDictionary[asyncio.AbstractEventLoop, float]()
"""The unix time at which the time of each loop was 0, seconds."""


def share_the_loops_time(client: Client) -> None:
    """Let the client and its journal read unix time from the event loop, which may be virtual."""
    loop = asyncio.get_running_loop()
    start = _STARTS.setdefault(loop, time.time() - loop.time())

    def unix_time() -> float:
        return start + loop.time()

    engine_of(client).recorder.clock = unix_time
    if isinstance(client.journal, SqliteJournal):
        client.journal.store.clock = unix_time
    elif isinstance(client.journal, MemoryJournal):
        client.journal.storage.clock = unix_time


def a_request(**changes: Any) -> ImageToVideoUltra:
    """Return a request, with *changes*. The emulator processes a request of this size in about 40 s."""
    defaults = {"prompt": "moving character", "init_image": "https://pictures.invalid/a.png"}
    return ImageToVideoUltra(**{**defaults, **changes})


@attrs.define
class World:
    """An emulated service, and a factory of clients for it."""

    service: Service
    transport: InProcess

    def client(self, **options: Any) -> Client:
        """Return a client of the service. The options are those of `Client`; its randomness is seeded."""
        seeded = {"api_key": KEY, "transport": self.transport, "rng": random.Random(1)}
        client = Client(**{**seeded, **options})
        with suppress(RuntimeError):  # some clients are made outside of a loop
            share_the_loops_time(client)
        return client

    def count(self, part: str) -> int:
        """Return how many requests had *part* in their path."""
        return sum(part in path for path in self.transport.requests)

    def charged_id(self, number: int = 0) -> str:
        """Return the service's id of the job that was charged first, or after *number* others."""
        return str(self.service.ledger.charges[number].job_id)


MakeWorld = Callable[..., World]
"""The type of the fixture `make_world`."""
