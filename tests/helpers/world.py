"""A small world: an emulator in the same process, on virtual time, and clients of it."""

from __future__ import annotations

import random
from typing import Any

import attrs

from modelslab_async import Client, ImageToVideoUltra
from modelslab_async.emulator import InProcess, Service

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
