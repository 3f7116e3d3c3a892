"""Read a stream of server-sent events as a browser reads it."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable
from typing import Any


def events_in(body: bytes) -> list[dict[str, Any]]:
    """Return the data of each message of a stream, with its `event` and its `id`."""
    found = []
    for block in body.decode().split("\n\n"):
        fields = dict(re.findall(r"^(\w+): (.*)$", block, re.MULTILINE))
        if "data" in fields:
            found.append({**json.loads(fields["data"]), "id": fields.get("id"), "event": fields["event"]})
    return found


async def events_of(parts: AsyncIterable[bytes]) -> list[dict[str, Any]]:
    """Return the messages of a whole stream."""
    return events_in(b"".join([part async for part in parts]))
