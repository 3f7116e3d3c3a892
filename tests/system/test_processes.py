"""Several processes with one account and one SQLite file. Real processes, real time; a job takes 0.1 s or 1 s."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from benchmarks._hosts import AccountEmulator, Host, hosts_running

pytestmark = pytest.mark.timeout(120)
PROCESSES, SLOTS = 4, 5
FAST = 400.0


async def test_the_account_keeps_its_slots_and_every_process_gets_its_turn(tmp_path: Path) -> None:
    """Each of 200 jobs is paid once, the service refuses none, and all processes get their share of the slots."""
    refs = [[f"{number}-{job}" for job in range(200 // PROCESSES)] for number in range(PROCESSES)]
    async with AccountEmulator(speed=FAST, queue_limit=SLOTS) as emulator, hosts_running(PROCESSES) as processes:
        await _open(processes, emulator, tmp_path / "jobs.db", speed=FAST)
        await asyncio.gather(*(host.do("submit", refs=mine) for host, mine in zip(processes, refs, strict=True)))
        for host, mine in zip(processes, refs, strict=True):
            await host.until_ended(mine)
        await asyncio.gather(*(host.close() for host in processes))
        assert emulator.charges == Counter({ref: 1 for mine in refs for ref in mine})
        assert emulator.refusals == 0
        assert emulator.service.queue.peak_slots_used <= SLOTS
        turns = [str(job.params["track_id"]).partition("-")[0] for job in emulator.jobs]
    contested = turns[2 * SLOTS : 120]  # all processes ask from the start to the first end of a backlog
    shares = Counter(contested)
    assert max(shares.values()) - min(shares.values()) <= 10, turns


async def test_a_lone_job_begins_after_two_ends_of_another_processs_backlog(tmp_path: Path) -> None:
    """A process whose backlog of 100 jobs uses all slots does not keep out another process's only job."""
    async with AccountEmulator(speed=25.0, queue_limit=SLOTS) as emulator, hosts_running(2) as (one, other):
        await _open([one, other], emulator, tmp_path / "jobs.db", speed=25.0)
        await one.do("submit", refs=[f"backlog-{number}" for number in range(100)])
        await one.until(lambda event: event.get("ref") == "backlog-4" and event["event"] == "accepted")
        await asyncio.sleep(0.3)  # the backlog asks for its next slot
        await other.do("submit", refs=["lone"])
        asked = await other.until(lambda event: event.get("ref") == "lone" and event["event"] == "submitted")
        await other.until(lambda event: event.get("ref") == "lone" and event["event"] == "accepted")
        lone = next(job for job in emulator.jobs if job.params["track_id"] == "lone")
        since = asked["at"] - emulator.started
        before = [job for job in emulator.jobs if since < job.accepted_at < lone.accepted_at]
        assert len(before) <= 2
        assert emulator.refusals == 0
        await asyncio.gather(*(host.close(drain=False) for host in (one, other)))


async def test_a_daily_budget_holds_over_all_processes(tmp_path: Path) -> None:
    """Four processes, each with a budget of $1 a day and twenty jobs of $0.20 in all, spend exactly $1 together."""
    refs = [[f"{number}-{job}" for job in range(5)] for number in range(PROCESSES)]
    async with AccountEmulator(speed=FAST, queue_limit=15) as emulator, hosts_running(PROCESSES) as processes:
        await _open(processes, emulator, tmp_path / "jobs.db", speed=FAST, slots=15, usd_per_day="1")
        for host, mine in zip(processes, refs, strict=True):
            await host.do("submit", refs=mine)
        for host, mine in zip(processes, refs, strict=True):
            await host.until_ended(mine)
        await asyncio.gather(*(host.close() for host in processes))
        assert emulator.ledger.total() == 1
    ends = [host.ends()[ref] for host, mine in zip(processes, refs, strict=True) for ref in mine]
    assert Counter(end["error"] for end in ends) == {None: 5, "BudgetExceededError": 15}


async def _open(hosts: list[Host], emulator: AccountEmulator, journal: Path, **options: object) -> None:
    await asyncio.gather(*(host.open(emulator.url, str(journal), **{"slots": SLOTS, **options}) for host in hosts))
