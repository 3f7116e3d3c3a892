"""The laws of all journals, on each of ours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.databases import PostgresHarness, Server
from helpers.harnesses import MemoryHarness, SqliteHarness

from modelslab_async.journal.conformance import CHECKS, Check


@pytest.fixture(scope="module")
def database(postgres: Server) -> str:
    return asyncio.run(postgres.make_database())


each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


@each_check
async def test_in_memory(check: Check) -> None:
    """`MemoryJournal` passes each check."""
    async with MemoryHarness() as harness:
        await check(harness)


@each_check
async def test_in_a_file(check: Check, tmp_path: Path) -> None:
    """`SqliteJournal` passes each check."""
    async with SqliteHarness(tmp_path / "jobs.db") as harness:
        await check(harness)


@each_check
async def test_in_a_database(check: Check, postgres: Server, database: str) -> None:
    """`PostgresJournal` passes each check."""
    async with PostgresHarness(postgres, database) as harness:
        await check(harness)
