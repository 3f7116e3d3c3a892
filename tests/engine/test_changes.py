"""Changes of the journal reach all that wait for them, also those that were busy when a change came."""

from __future__ import annotations

import asyncio

import pytest
from helpers.journals import opened

from modelslab_async.engine.changes import Changes
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage
from modelslab_async.protocol.record import JobRecord

pytestmark = pytest.mark.looptime


async def test_a_change_that_came_meanwhile_is_not_lost() -> None:
    """Another caller that waits takes no change away from one that is busy."""
    storage = MemoryStorage()
    async with opened(MemoryJournal(storage)) as journal, opened(MemoryJournal(storage)) as other:
        changes = Changes(journal)
        await changes.wait(changes.count, 60.0)  # the other client was opened
        seen = changes.count
        waiting = asyncio.create_task(changes.wait(seen, 60.0))
        await asyncio.sleep(0.5)
        other.note(JobRecord("a", "r", other.owner, 1.0))
        await waiting
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await changes.wait(seen, 60.0)
        assert loop.time() == begun
        await changes.close()


async def test_without_a_change_the_wait_ends_after_two_seconds() -> None:
    """A journal may not notice a change, so one is assumed."""
    async with opened(MemoryJournal()) as journal:
        changes, loop = Changes(journal), asyncio.get_running_loop()
        begun = loop.time()
        await changes.wait(changes.count, 60.0)
        assert loop.time() - begun == pytest.approx(2.0)
        await changes.close()
