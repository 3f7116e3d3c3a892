"""Slots that other clients on the same journal use."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.world import MakeWorld, a_request

from modelslab_async import JobState

pytestmark = pytest.mark.looptime
S = JobState


async def test_jobs_of_other_clients_hold_slots(make_world: MakeWorld, tmp_path: Path) -> None:
    """A client counts the jobs of another living client on its journal, and waits for a slot among them."""
    world = make_world()
    path = tmp_path / "jobs.db"
    async with world.client(journal=path, max_in_flight=2) as one:
        running = [one.submit(a_request()) for _ in range(2)]
        for job in running:
            await job.submitted()
        async with world.client(journal=path, max_in_flight=2) as other:
            waiting = other.submit(a_request())
            assert len((await other.recover()).owned_elsewhere) == 2
            assert (waiting.state, other.statistics().in_flight) == (S.WAITING, 0)
            await asyncio.wait([asyncio.ensure_future(job.wait()) for job in running], return_when="FIRST_COMPLETED")
            await asyncio.sleep(3)
            assert waiting.state in (S.SUBMITTING, S.PROCESSING)
            await waiting
