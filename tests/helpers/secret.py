"""An API key that no variable of a test holds, and clients that use it.

Reporters of exceptions show the local variables of the test's own frames too, so the key must be in none of them.
"""

from __future__ import annotations

import os
import random
import re
from base64 import b64decode
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from modelslab_async import Client, JobRecord, RequestParams, Timeouts
from modelslab_async.emulator import InProcess, Rule, Service

os.environ["KEY_OF_TESTS"] = "xGsN7d4EwqT2b8rJ0pLkVm5cZyHfA1uQ9oIeXnRtSgKjDvWhMaBiUl3C6F0P"
REQUEST: RequestParams = {"prompt": "a castle", "init_image": "https://pictures.invalid/a.png"}


def secret() -> str:
    """Return the key, as long as a real one. Call this within an expression, so that no variable holds the key."""
    return os.environ["KEY_OF_TESTS"]


def holds_key(text: str) -> bool:
    """Return whether *text* shows the key, whole or only its first 12 characters."""
    return secret()[:12] in text


def client_of(*rules: Rule, keys: list[str] | None = None, **options: Any) -> Client:
    """Return a client of an emulated service in this process, on virtual time, with *rules* for its faults."""
    transport = InProcess(Service(eta={"good": 1}, faults=rules, keys=keys))
    timeouts = Timeouts(submit=5, fetch=5, link=5, job=300)
    return Client(secret(), **{"transport": transport, "rng": random.Random(1), "timeouts": timeouts, **options})


def can_be_read(key: str, text: str) -> bool:
    """Return whether *text* reveals *key*: literally, percent-encoded, or within base64 at any offset."""
    decoded = [text, unquote(text)]
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", "\n".join([*decoded, text.replace("\\/", "/")])):
        for start in range(4):
            letters = run[start:].translate(str.maketrans("-_", "+/"))
            decoded.append(b64decode(letters[: len(letters) // 4 * 4]).decode("latin-1"))
    return any(key in each for each in decoded)


def a_record() -> JobRecord:
    """Return a journal row of a job that was not sent."""
    return JobRecord(account="a", ref="x", owner="o", created_at=1.0, request={"prompt": "a"}, price=Decimal("0.2"))


def written_in(folder: Path) -> str:
    """Return the paths and the contents of all files in *folder*.

    Of videos only the paths, because the emulator writes the prompt into its videos.
    """
    paths = list(folder.rglob("*"))
    content = [path.read_bytes().decode("latin-1") for path in paths if path.is_file() and path.suffix != ".mp4"]
    return "\n".join([*map(str, paths), *content])
