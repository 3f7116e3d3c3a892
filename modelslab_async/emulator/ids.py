"""Ids of jobs that no earlier emulator of this user gave out, below 2^31 as the service's are."""

from __future__ import annotations

import getpass
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

LIMIT = 2**31
_BLOCK, _MAX_BLOCK = 100, 10_000
_IDS_PER_SECOND = 60
_EPOCH = 1_767_225_600
"""2026-01-01. A machine without memory of earlier emulators begins with 60 ids for each second since then."""


def fresh_ids(folder: Path | None = None) -> Iterator[int]:
    """Yield ids that no emulator before this one, and none beside it, yields.

    Blocks of ids are reserved in a small file that all emulators of the user share. If it cannot be written, the ids
    depend on the time. After 2^31 ids they begin again.

    folder: where the file is; None for the user's own folder among the temporary files.
    """
    size = _BLOCK
    while True:
        first = _reserve(size, folder or _own_folder())
        yield from (1 + (first + number) % (LIMIT - 1) for number in range(size))
        size = min(2 * size, _MAX_BLOCK)


def _own_folder() -> Path:
    try:
        user = getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user, as in some containers
        user = "user"
    return Path(tempfile.gettempdir()) / f"modelslab_async-emulator-ids-{user}"


def _reserve(size: int, folder: Path) -> int:
    """Return the first of *size* numbers that nothing else gets."""
    by_time = int((time.time() - _EPOCH) * _IDS_PER_SECOND)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(folder / "ids.db", timeout=5, isolation_level=None)) as database:
            database.execute("PRAGMA synchronous = OFF")
            database.execute("CREATE TABLE IF NOT EXISTS ids (one INTEGER PRIMARY KEY, next INTEGER NOT NULL)")
            (end,) = database.execute(
                "INSERT INTO ids VALUES (1, max(?1, 0) + ?2)"
                " ON CONFLICT (one) DO UPDATE SET next = max(next, ?1) + ?2 RETURNING next",
                (by_time, size),
            ).fetchone()
            return int(end) - size
    except (OSError, sqlite3.Error):
        return by_time
