"""Let three hosts share one account while hosts are killed and stopped and their database fails; count what is paid.

    python -m benchmarks.hosts [--jobs N] [--kills N] [--seed N] [--json] [--check]       takes about 12 minutes

Each host is a process with a client and a folder of its own. All of them ensure the same jobs, on one PostgreSQL
database, which they reach through a proxy. A trial is right if nothing was paid twice, the service refused no POST for
want of a slot, and each job was collected or is listed as uncertain.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from benchmarks._common import Target, log, parse_options, print_results, table
from benchmarks._database import Database, database_server
from benchmarks._hosts import AccountEmulator, Host
from benchmarks._hosts_child import INSTANTS, KEY
from benchmarks._network import Network, Proxy, network_of, proxy_to
from modelslab_async import JobState, Journal
from modelslab_async.engine.recorder import account_fingerprint
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.protocol.claims import Ask, Claimed
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.secret import ApiKey

HOSTS = 3
LEASE, BEAT = 3.0, 0.5
CAPS = (5, 15)
_MAX_SECONDS = 600.0
"""Seconds after which a trial is given up. Jobs that have not ended then count as forgotten."""
_MAKESPAN_SPEED, _MAKESPAN_JOBS = 8.0, 60
_CLAIMS = 200


@attrs.frozen(kw_only=True)
class Outcome:
    """The outcome of a trial.

    faults: kills, stops, restarts or cuts. refused: replies with 429. idle: the longest time, in seconds, for which a
    slot was free while jobs waited and the database could be reached. away: seconds for which it could not be reached.
    """

    jobs: int
    faults: int
    charges: int
    charged_twice: int
    refused: int
    collected: int
    uncertain: int
    failed: int
    forgotten: int
    idle: float
    away: float
    seconds: float


class Trial:
    """Three hosts, one account and one database, from the first job to the last."""

    def __init__(
        self, database: Database, network: Network, emulator: AccountEmulator, proxy: Proxy, dsn: str, folder: Path
    ) -> None:
        self.database, self.network, self.emulator, self.proxy = database, network, emulator, proxy
        self.faults = 0
        self._dsn, self._folder = dsn, folder
        self.hosts: list[Host] = []
        self.away: list[tuple[float, float]] = []
        """From when to when the database could not be reached, seconds of the machine's monotonic clock."""
        self.refs: list[str] = []

    async def start(self, refs: Sequence[str], *, count: int = HOSTS) -> None:
        """Start hosts, and let each of them ensure all jobs."""
        self.refs = list(refs)
        self.hosts = list(await asyncio.gather(*(self._host(number) for number in range(count))))
        for host in self.hosts:
            await host.do("ensure", refs=self.refs, is_saved=True)

    async def _host(self, number: int) -> Host:
        folder = self._folder / str(number)
        folder.mkdir(exist_ok=True)
        host = await Host.start(self.network.prefixes[number])
        options = {"slots": self.emulator.service.queue.limit, "speed": self.emulator.service.speed}
        await host.open(self.emulator.url, self._dsn, folder=str(folder), lease=LEASE, beat=BEAT, **options)
        return host

    async def restart(self, number: int) -> None:
        """Start a host that was killed again. It ensures all jobs anew."""
        self.hosts[number] = await self._host(number)
        await self.hosts[number].do("ensure", refs=self.refs, is_saved=True)

    async def without_database(self, outage: Awaitable[None]) -> None:
        """Wait for the end of an outage of the database, and note when it was."""
        begun = time.monotonic()
        await outage
        self.away.append((begun, time.monotonic()))
        self.faults += 1

    @property
    def is_over(self) -> bool:
        """Whether one host knows the end of each job."""
        return any(host.ends().keys() >= set(self.refs) for host in self.hosts)

    async def until_over(self) -> None:
        """Wait until each living host knows the end of each job."""
        for host in self.hosts:
            if host.process.returncode is None:
                await host.until_ended(self.refs)

    async def outcome(self, seconds: float) -> Outcome:
        """Count what was paid, and what became of each job."""
        journal = PostgresJournal(self._dsn, lease=LEASE, beat=BEAT)
        await journal.open()
        account = account_fingerprint(ApiKey(KEY), self.emulator.url)
        try:
            rows = [await journal.find(account, ref=ref) for ref in self.refs]
        finally:
            await journal.close()
        kinds = Counter(self._kind(ref, row.record if row else None) for ref, row in zip(self.refs, rows, strict=True))
        charges = self.emulator.charges
        return Outcome(
            jobs=len(self.refs),
            faults=self.faults,
            charges=charges.total(),
            charged_twice=sum(count > 1 for count in charges.values()),
            refused=self.emulator.refusals,
            collected=kinds["collected"],
            uncertain=kinds["uncertain"],
            failed=kinds["failed"],
            forgotten=kinds["forgotten"],
            idle=longest_idle(
                [(job.accepted_at, job.done_at) for job in self.emulator.jobs],
                self.emulator.service.queue.limit,
                [(begin - self.emulator.started, end - self.emulator.started) for begin, end in self.away],
            ),
            away=sum(end - begin for begin, end in self.away),
            seconds=seconds,
        )

    def _kind(self, ref: str, record: JobRecord | None) -> str:
        if any((self._folder / str(number) / f"{ref}.mp4").exists() for number in range(HOSTS)):
            return "collected"
        match record.state if record else None:
            case JobState.UNCERTAIN:
                return "uncertain"
            case JobState.FAILED | JobState.REFUSED:
                return "failed"
            case _:
                return "forgotten"


def longest_idle(spans: Sequence[tuple[float, float]], slots: int, away: Sequence[tuple[float, float]] = ()) -> float:
    """Return the longest time from the end of a job to the next begin in its slot. *spans* are begins and ends.

    The slot that was free first is taken first, so that the time is not too short. Times during which the database was
    *away* are not counted, because no job may be sent then.
    """
    free_since: list[float] = []
    longest = 0.0
    for begin, end in sorted(spans):
        if len(free_since) == slots:
            since = heapq.heappop(free_since)
            lost = sum(max(min(end_of, begin) - max(begin_of, since), 0.0) for begin_of, end_of in away)
            longest = max(longest, begin - since - lost)
        heapq.heappush(free_since, end)
    return longest


# --- faults ---

Fault = Callable[[Trial, random.Random, int], Awaitable[None]]


async def kills(trial: Trial, rng: random.Random, count: int) -> None:
    """Kill hosts at random instants, and start them again. Every second kill is at an instant of a submit."""
    for number in range(count):
        if trial.is_over:
            return
        victim = rng.randrange(HOSTS)
        host = trial.hosts[victim]
        if number % 2:
            at, after = INSTANTS[number // 2 % len(INSTANTS)], rng.randint(1, 3)
            await host.do("signal", number=signal.SIGKILL.value, at=at, after=after)
            with suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await host.dead()
        else:
            await asyncio.sleep(rng.uniform(0.0, 1.0))
        await host.kill()
        trial.faults += 1
        await trial.restart(victim)


async def stops(trial: Trial, rng: random.Random, count: int) -> None:
    """Stop hosts for longer than a lease, one after the other."""
    for _ in range(count):
        if trial.is_over:
            return
        host = rng.choice(trial.hosts)
        host.signal(signal.SIGSTOP)
        trial.faults += 1
        await asyncio.sleep(1.5 * LEASE)
        host.signal(signal.SIGCONT)
        await asyncio.sleep(rng.uniform(0.0, 2.0))


async def restarts(trial: Trial, rng: random.Random, count: int) -> None:
    """Restart the database, as after a loss of power."""
    for _ in range(count):
        await asyncio.sleep(rng.uniform(1.0, 3.0))
        if trial.is_over:
            return
        await trial.without_database(trial.database.restart(rng.uniform(0.0, 1.5 * LEASE)))


async def cuts(trial: Trial, rng: random.Random, count: int) -> None:
    """Cut all connections to the database. Every fifth time the proxy then refuses new ones for a while."""
    for number in range(count):
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        if trial.is_over:
            return
        seconds = rng.uniform(0.5, 1.5 * LEASE) if number % 5 == 4 else 0.0
        await trial.without_database(trial.proxy.cut(seconds))


FAULTS: Mapping[str, tuple[Fault, int]] = {
    "hosts killed": (kills, 30),
    "hosts stopped for 1.5 leases": (stops, 6),
    "database restarted": (restarts, 4),
    "connections cut": (cuts, 20),
}
"""Each kind of trial, with its number of faults. Trials of a batch's driver and its scheduler belong here too."""


# --- trials ---


@asynccontextmanager
async def trial_on(
    database: Database, network: Network, *, slots: int, speed: float, seed: int
) -> AsyncIterator[Trial]:
    """Yield a trial on a new database and a new emulator. Its hosts end after the block."""
    options: dict[str, Any] = {"speed": speed, "queue_limit": slots, "seed": seed, "host": network.address}
    with tempfile.TemporaryDirectory() as folder:
        async with AccountEmulator(**options) as emulator, proxy_to(network.address, database.socket) as proxy:
            dsn = await database.make(f"{network.address}:{proxy.port}")
            trial = Trial(database, network, emulator, proxy, dsn, Path(folder))
            try:
                yield trial
            finally:
                await asyncio.gather(*(host.end() for host in trial.hosts))


async def measure_faults(
    database: Database, network: Network, jobs: int, kill_count: int, seed: int
) -> dict[str, Outcome]:
    """Run each kind of trial with each cap. A job takes as long as its cap demands for a bound of 0.2 s a job."""
    outcomes: dict[str, Outcome] = {}
    for slots in CAPS:
        for name, (fault, count) in FAULTS.items():
            rng = random.Random(f"{seed} {slots} {name}")
            async with trial_on(database, network, slots=slots, speed=200.0 / slots, seed=seed) as trial:
                begun = time.monotonic()
                await trial.start([f"job-{number}" for number in range(jobs)])
                with suppress(TimeoutError):
                    async with asyncio.timeout(_MAX_SECONDS):
                        await fault(trial, rng, kill_count if fault is kills else count)
                        await trial.until_over()
                outcome = await trial.outcome(time.monotonic() - begun)
            outcomes[f"cap {slots}, {name}"] = outcome
            log(f"cap {slots}, {name}: {outcome}")
    return outcomes


async def measure_makespan(database: Database, network: Network, seed: int) -> dict[str, float]:
    """Return the seconds that the same jobs take on one host, on three, and on three of which one is killed."""
    seconds: dict[str, float] = {}
    refs = [f"job-{number}" for number in range(_MAKESPAN_JOBS)]
    for name, count in (("one host", 1), ("three hosts", HOSTS), ("three hosts, one killed at half time", HOSTS)):
        async with trial_on(database, network, slots=CAPS[0], speed=_MAKESPAN_SPEED, seed=seed) as trial:
            await trial.start(refs, count=count)
            if "killed" in name:
                await asyncio.sleep(seconds["one host"] / 2)
                await trial.hosts[0].kill()
            await trial.until_over()
            spans = [(job.accepted_at, job.done_at) for job in trial.emulator.jobs]
            assert len(spans) == len(refs), "a job was not paid exactly once"
            seconds[name] = max(end for _, end in spans) - min(begin for begin, _ in spans)
            log(f"{name}: {seconds[name]:.1f} s; 429: {trial.emulator.refusals}")
    return seconds


@attrs.frozen
class ClaimTimes:
    """Milliseconds for which a job waits for its journal, and claims a second of one client."""

    claim: float
    acceptance: float

    @property
    def per_second(self) -> float:
        """Claims a second."""
        return 1000.0 / self.claim


async def measure_claims(database: Database) -> dict[str, ClaimTimes]:
    """Measure the claims and the acceptances of one client, one job after the other."""
    with tempfile.TemporaryDirectory() as folder:
        journals: dict[str, Journal] = {
            "PostgreSQL": PostgresJournal(await database.make()),
            "SQLite": SqliteJournal(Path(folder) / "jobs.db"),
        }
        return {name: await _claim_times(journal) for name, journal in journals.items()}


async def _claim_times(journal: Journal) -> ClaimTimes:
    await journal.open()
    claims, acceptances = list[float](), list[float]()
    try:
        for number in range(_CLAIMS):
            now = time.time()
            intent = JobRecord("a", f"r{number}", journal.owner, now, JobState.SUBMITTING, charged=None)
            begun = time.perf_counter()
            answer = await journal.claim(intent._replace(submitted_at=now), Ask(slots=5))
            claims.append(time.perf_counter() - begun)
            assert isinstance(answer, Claimed)
            begun = time.perf_counter()
            accepted = intent._replace(state=JobState.PROCESSING, job_id=str(number), accepted_at=now, charged=True)
            assert await journal.append(accepted)
            acceptances.append(time.perf_counter() - begun)
            journal.note(accepted._replace(state=JobState.READY, ended_at=now))
    finally:
        await journal.close()
    return ClaimTimes(median(claims) * 1000, median(acceptances) * 1000)


# --- report ---


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--jobs", type=int, default=300, metavar="N", help="jobs of each trial (default: 300)")
    more.add_argument("--kills", type=int, default=30, metavar="N", help="kills of a trial (default: 30)")
    more.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the faults and the jobs (default: 1)")
    options, args = parse_options(__doc__, more)
    begun = time.monotonic()

    async def measure() -> tuple[dict[str, ClaimTimes], dict[str, float], dict[str, Outcome]]:
        claims = await measure_claims(database)
        log(str(claims))
        makespans = await measure_makespan(database, network, args.seed)
        return claims, makespans, await measure_faults(database, network, args.jobs, args.kills, args.seed)

    with database_server() as database, network_of(HOSTS) as network:
        log(network.note)
        claims, makespans, outcomes = asyncio.run(measure())
    names = [field.name for field in attrs.fields(Outcome)]
    trials = table(
        ("three hosts, one account", *(name.replace("_", " ") for name in names)),
        [(name, *(_shown(getattr(outcome, each)) for each in names)) for name, outcome in outcomes.items()],
    )
    times = table(("batch", "seconds"), [(name, f"{seconds:.1f}") for name, seconds in makespans.items()])
    rates = table(
        ("journal", "claims/s", "claim ms", "acceptance ms"),
        [
            (name, f"{each.per_second:.0f}", f"{each.claim:.1f}", f"{each.acceptance:.1f}")
            for name, each in claims.items()
        ],
    )
    text = f"{trials}\n\n{times}\n\n{rates}\n{network.note}; seed {args.seed}, {time.monotonic() - begun:.0f} s"
    data = {
        "benchmark": "hosts",
        "conditions": network.note,
        "trials": {name: attrs.asdict(outcome) for name, outcome in outcomes.items()},
        "makespans": makespans,
        "claims": {name: attrs.asdict(each) for name, each in claims.items()},
    }
    return print_results(options, text, data, _targets(makespans, outcomes.values()))


def _targets(makespans: Mapping[str, float], outcomes: Sequence[Outcome] | Any) -> list[Target]:
    one, three, killed = makespans.values()
    return [
        Target("jobs charged twice", sum(each.charged_twice for each in outcomes), 0.0),
        Target("jobs forgotten", sum(each.forgotten for each in outcomes), 0.0),
        Target("replies with 429", sum(each.refused for each in outcomes), 0.0),
        Target("longest time of a free slot ÷ lease", max(each.idle for each in outcomes) / LEASE, 1.0),
        Target("makespan of three hosts ÷ one", three / one, 1.05),
        Target("makespan with a host killed ÷ one, without a lease", (killed - LEASE) / one, 1.15),
    ]


def _shown(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
