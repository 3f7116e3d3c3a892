"""Hosts that share a PostgreSQL database: killed, paused, and at work on the same jobs. Real processes, real time."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from helpers.databases import BEAT, LEASE, Server

from benchmarks._hosts import AccountEmulator, Host, hosts_running
from modelslab_async import JobState

pytestmark = pytest.mark.timeout(120)
SPEED = 40.0
"""A job of 40 s then takes 1 s."""
S = JobState


@asynccontextmanager
async def on_one_account(
    postgres: Server, count: int = 2, *, slots: int = 5
) -> AsyncIterator[tuple[AccountEmulator, Sequence[Host]]]:
    """Run hosts on a new database and an emulator. After the block, nothing was paid twice, and no POST was refused."""
    dsn = postgres.url_of(await postgres.make_database())
    options = {"slots": slots, "speed": SPEED, "lease": LEASE, "beat": BEAT}
    async with AccountEmulator(speed=SPEED, queue_limit=slots) as emulator, hosts_running(count) as hosts:
        await asyncio.gather(*(host.open(emulator.url, dsn, **options) for host in hosts))
        yield emulator, hosts
        assert max(emulator.charges.values()) == 1
        assert emulator.refusals == 0


async def accepted(host: Host, *refs: str) -> None:
    """Wait until the service accepted these jobs from the host."""
    for ref in refs:
        await host.until(lambda event, ref=ref: (event["event"], event.get("ref")) == ("accepted", ref))  # type: ignore[misc]


def states(host: Host) -> dict[str, str]:
    """Return the state in which each job ended at a host, by ref."""
    return {ref: str(end.get("state", end["error"])) for ref, end in host.ends().items()}


async def test_a_killed_hosts_jobs_are_taken_over(postgres: Server) -> None:
    """A follower sees the events of jobs elsewhere. If their host dies, it collects those that run and sends the rest.

    A picture that was passed as bytes is sent too, although only the dead host had it.
    """
    refs = ["running-1", "running-2", "waiting", "with bytes"]
    async with on_one_account(postgres, slots=2) as (emulator, (one, other)):
        await one.do("submit", refs=refs[:3])
        await one.do("ensure", refs=refs[3:], has_bytes=True)
        await accepted(one, *refs[:2])
        await asyncio.sleep(0.5)  # the waiting job's picture is kept
        await other.do("follow", refs=refs)
        await other.until(lambda event: event["event"] == "seen" and event["ref"] == "with bytes")
        await one.kill()
        await other.until_ended(refs)
        assert states(other) == dict.fromkeys(refs, S.READY)
        assert set(emulator.charges) == set(refs)
        seen = [event["state"] for event in other.of("seen") if event["ref"] == "waiting"]
        assert list(dict.fromkeys(seen)) == [S.WAITING, S.SUBMITTING, S.PROCESSING, S.READY]


async def test_a_follower_sees_the_events_and_the_end(postgres: Server) -> None:
    """All states of a job that lives in another process reach its follower, and the job stays with its owner."""
    async with on_one_account(postgres, slots=1) as (emulator, (one, other)):
        await one.do("submit", refs=["first", "mine"])
        await accepted(one, "first")
        await other.do("follow", refs=["mine"])
        await other.until_ended(["mine"])
        seen = [event["state"] for event in other.of("seen")]
        assert list(dict.fromkeys(seen)) == [S.WAITING, S.SUBMITTING, S.PROCESSING, S.READY]
        assert not other.of("accepted")
        assert emulator.charges.total() == 2


async def test_two_hosts_that_ensure_the_same_jobs_pay_once(postgres: Server) -> None:
    """Both get the video of each of twenty jobs, which are paid twenty times in all."""
    refs = [f"r{number}" for number in range(20)]
    async with on_one_account(postgres) as (emulator, hosts):
        await asyncio.gather(*(host.do("ensure", refs=refs) for host in hosts))
        for host in hosts:
            await host.until_ended(refs)
            assert states(host) == dict.fromkeys(refs, S.READY)
        assert emulator.charges == Counter(refs)


async def test_a_host_that_is_stopped_for_longer_than_its_lease_pays_nothing_twice(postgres: Server) -> None:
    """Another host collects its jobs and sends those that wait. When the first one wakes up, it follows them."""
    refs = [f"r{number}" for number in range(6)]
    async with on_one_account(postgres, slots=2) as (emulator, (one, other)):
        await one.do("ensure", refs=refs)
        await accepted(one, "r0", "r1")
        one.signal(signal.SIGSTOP)
        await other.do("ensure", refs=refs)
        await other.until_ended(refs)
        assert states(other) == dict.fromkeys(refs, S.READY)
        one.signal(signal.SIGCONT)
        await one.until_ended(refs)
        assert states(one) == dict.fromkeys(refs, S.READY)
        assert emulator.charges == Counter(refs)


@pytest.mark.parametrize("instant", ["claimed", "before the POST", "before the acceptance"])
async def test_a_host_that_is_stopped_during_a_submit_keeps_its_job(postgres: Server, instant: str) -> None:
    """For the other hosts the job is uncertain, and they do not send it. When its host wakes up, its outcome counts."""
    async with on_one_account(postgres) as (emulator, (one, other)):
        await one.do("signal", number=signal.SIGSTOP, at=instant)
        await one.do("submit", refs=["mine"])
        await one.until(lambda event: event["event"] == "signalled")
        await other.do("ensure", refs=["mine"])
        await other.until_ended(["mine"])
        assert states(other) == {"mine": "SubmitUncertainError"} or states(other) == {"mine": S.UNCERTAIN}
        one.signal(signal.SIGCONT)
        await one.until_ended(["mine"])
        assert states(one) == {"mine": S.READY}
        await other.do("ensure", refs=["mine"])
        await other.until(lambda event: (event["event"], event.get("state")) == ("ended", S.READY))
        assert emulator.charges == Counter(["mine"])
