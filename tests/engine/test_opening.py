"""A client with a journal, until it is open."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from helpers.inside import engine_of
from helpers.world import MakeWorld, a_request

from modelslab_async import Budget, ClientStateError, JournalError

pytestmark = pytest.mark.looptime


async def test_a_client_with_a_journal_must_be_entered(make_world: MakeWorld, tmp_path: Path) -> None:
    """Before that, the client does not know the slots that other clients use. `recover` needs a journal."""
    client = make_world().client(journal=tmp_path / "jobs.db")
    with pytest.raises(ClientStateError, match="async with"):
        client.submit(a_request())
    await client.aclose()
    world = make_world()
    async with world.client() as bare:
        with pytest.raises(ClientStateError, match="no journal"):
            await bare.recover(search=True)
    assert world.count("assets") == 0


async def test_a_journal_that_cannot_be_opened_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    """Entering the client raises JournalError, before anything is submitted."""
    (tmp_path / "jobs.db").write_bytes(b"not a database, certainly not one" * 100)
    with pytest.raises(JournalError, match="not a database"):
        async with make_world().client(journal=tmp_path / "jobs.db"):
            pytest.fail("the client was opened")
    (tmp_path / "a.db").symlink_to(tmp_path / "a.db")
    with pytest.raises(JournalError, match=r"a\.db"):
        async with make_world().client(journal=tmp_path / "a.db"):
            pytest.fail("the client was opened")


async def test_a_client_that_fails_to_open_releases_its_journal(make_world: MakeWorld, tmp_path: Path) -> None:
    """After an unreadable row the journal is closed again, and the client's lock file is gone."""
    path = tmp_path / "jobs.db"
    async with make_world().client(journal=path) as client:
        await client.submit(a_request()).submitted()
        await client.aclose(drain=False)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE jobs SET details = '{'")
    other.close()
    client = make_world().client(journal=path, budget=Budget(jobs=9, per="day"))
    with pytest.raises(JournalError):
        await client.__aenter__()
    assert not engine_of(client).recorder.is_open
    assert not list(tmp_path.glob("*alive*"))
