"""Harnesses that run the conformance checks on our own journals."""

from __future__ import annotations

import time
import uuid
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from modelslab_async import Journal
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage
from modelslab_async.journal.sqlite import SqliteJournal


class BaseHarness:
    """Close the clients at the end, and use a new account."""

    def __init__(self) -> None:
        self.account = f"account {uuid.uuid4()}"
        self.clients = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.clients.aclose()

    async def opened(self, journal: Journal) -> None:
        await journal.open()
        self.clients.push_async_callback(journal.close)


class MemoryHarness(BaseHarness):
    """Clients of one storage, with a clock that jumps."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self.storage = MemoryStorage(lambda: time.time() + self.passed)

    async def open(self) -> MemoryJournal:
        journal = MemoryJournal(self.storage)
        await self.opened(journal)
        return journal

    async def kill(self, journal: Journal) -> None:
        del self.storage.alive[journal.owner]

    async def let_pass(self, seconds: float) -> None:
        self.passed += seconds


class SqliteHarness(BaseHarness):
    """Clients of one file. Time passes by moving the times in the file into the past."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.journals: dict[str, SqliteJournal] = {}

    async def open(self) -> SqliteJournal:
        journal = SqliteJournal(self.path)
        await self.opened(journal)
        self.journals[journal.owner] = journal
        return journal

    async def kill(self, journal: Journal) -> None:
        self.journals[journal.owner].store.liveness.release()

    async def let_pass(self, seconds: float) -> None:
        connection = next(iter(self.journals.values())).store.connection
        connection.execute("UPDATE asks SET since = since - ?, asked_at = asked_at - ?", (seconds, seconds))
        sql = "UPDATE accounts SET retry_at = retry_at - ?, refused_at = refused_at - ?"
        connection.execute(sql, (seconds, seconds))
