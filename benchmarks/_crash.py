"""Kill a program at random moments until all its jobs are done, and count the charges."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs

from modelslab_async import JobState
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton
from modelslab_async.engine.recorder import account_fingerprint
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.secret import ApiKey

JOBS = 40
SPEED = 200.0
"""A job of 40 s then takes 0.2 s."""
_ROOT = Path(__file__).resolve().parents[1]
_TINY_PICTURE = b"\x89PNG\r\n\x1a\n"
_REPLY_SECONDS = 10.0
"""Seconds of the service that half of the replies to a submit take, so that kills hit this moment too."""
_MAX_SECONDS = 60.0
"""Seconds in which a child that is not killed must end."""


class _Emulator(Emulator):
    async def fetch_picture(self, url: str) -> bytes:  # noqa: ARG002 - the signature of Emulator
        return _TINY_PICTURE


@attrs.frozen(kw_only=True)
class Outcome:
    """The outcome of one set of jobs. Each job counts as collected, uncertain, failed or forgotten."""

    kills: int
    charges: int
    charged_twice: int
    collected: int
    uncertain: int
    failed: int
    forgotten: int

    @property
    def is_right(self) -> bool:
        """Whether no job was charged twice and none was forgotten."""
        return not (self.charged_twice or self.forgotten)


@attrs.define
class Killer:
    """Run `children` copies of the program at once and kill them, until all end by themselves."""

    rng: random.Random
    children: int = 1
    restarts: bool = False
    """Whether the emulator stops listening for a moment after some of the kills."""
    duration: float = 1.0
    """Estimated seconds of a run. The kills are spread over it."""

    async def run(self, kills: int) -> Outcome:
        """Run the program until it ends by itself, with at most *kills* kills."""
        faults = [Rule(Fault.SLOW, rate=0.5, seconds=_REPLY_SECONDS), Rule(Fault.EARLY_LINK, seconds=0)]
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            async with _Emulator(
                speed=SPEED, queue_limit=15, render=skeleton, eta={"good": 1}, faults=faults
            ) as emulator:
                killed, ended = 0, False
                while not ended:
                    dead = await self._generation(emulator, folder, killed < kills)
                    killed += dead
                    ended = dead == 0
                    if dead and self.restarts and self.rng.random() < 0.5:
                        await emulator.stop_listening(self.rng.uniform(0, 0.3))
                return await _outcome(emulator, folder, killed)

    async def _generation(self, emulator: Emulator, folder: Path, may_kill: bool) -> int:
        """Run all children once. Return how many were killed."""
        arguments = ["-m", "benchmarks._crash_child", emulator.url, str(folder / "jobs.db"), str(folder), str(JOBS)]
        begun = time.monotonic()
        running = [
            await asyncio.create_subprocess_exec(sys.executable, *arguments, str(self.rng.randrange(1000)), cwd=_ROOT)
            for _ in range(self.children)
        ]
        killed = await asyncio.gather(*(self._ended(child, may_kill) for child in running))
        if not any(killed):
            self.duration = (self.duration + time.monotonic() - begun) / 2
        return sum(killed)

    async def _ended(self, child: asyncio.subprocess.Process, may_kill: bool) -> bool:
        """Wait for a child, or kill it. Return whether it was killed."""
        patience = self.rng.uniform(0.2, self.duration) if may_kill else _MAX_SECONDS
        try:
            async with asyncio.timeout(patience):
                await child.wait()
        except TimeoutError:
            child.send_signal(signal.SIGKILL)
            await child.wait()
            assert may_kill, "a child did not end by itself"
        assert child.returncode in (0, -signal.SIGKILL), "a child failed; its error is above"
        return child.returncode != 0


async def _outcome(emulator: Emulator, folder: Path, kills: int) -> Outcome:
    records = await _records(emulator, folder / "jobs.db")
    charges = Counter(map(str, emulator.ledger.track_ids()))
    counts: Counter[str] = Counter(_classify(f"job-{number}", folder, records) for number in range(JOBS))
    return Outcome(
        kills=kills,
        charges=charges.total(),
        charged_twice=sum(count > 1 for count in charges.values()),
        collected=counts["collected"],
        uncertain=counts["uncertain"],
        failed=counts["failed"],
        forgotten=counts["forgotten"],
    )


def _classify(ref: str, folder: Path, records: dict[str, JobRecord]) -> str:
    record = records.get(ref)
    if (folder / f"{ref}.mp4").exists():
        return "collected"
    match record.state if record else None:
        case JobState.UNCERTAIN:
            return "uncertain"
        case JobState.FAILED | JobState.REFUSED:
            return "failed"
        case _:
            return "forgotten"


async def _records(emulator: Emulator, path: Path) -> dict[str, JobRecord]:
    journal = SqliteJournal(path)
    await journal.open()
    account = account_fingerprint(ApiKey("any"), emulator.url)
    rows = [await journal.find(account, ref=f"job-{number}") for number in range(JOBS)]
    found = [row and row.record for row in rows]
    await journal.close()
    return {record.ref: record for record in found if record}


def summed(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the sum of all outcomes."""
    return Outcome(
        **{field.name: sum(getattr(outcome, field.name) for outcome in outcomes) for field in attrs.fields(Outcome)}
    )
