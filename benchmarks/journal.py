"""Measure the journal: transitions per second with and without group commit, and the CPU time that it adds to a job.

    python -m benchmarks.journal [--rows N] [--json] [--check]

100 jobs at once pass through the transitions of a job that succeeds, and wait for each to be on disk. The baseline uses
one transaction for each transition. Then the jobs of a client at an emulator in this process run with and without a
journal; measured is the CPU time of the event loop's thread per job.

With --rows, other figures are measured instead: what a client does beside N jobs that ended and were saved. A million
rows take 1.5 GB in the folder of temporary files, and some minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from statistics import median
from typing import Any

import attrs

from benchmarks import _history
from benchmarks._common import Options, Target, log, parse_options, print_results, table
from modelslab_async import Client, JobState, RequestParams
from modelslab_async.emulator import InProcess, Service
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal, SqliteStore
from modelslab_async.journal.store import Write
from modelslab_async.protocol.record import JobRecord

WRITERS = 100
JOBS_EACH = 40
SINGLE = 400
"""Transitions without group commit: each waits for the disk."""
CLIENT_JOBS = 300
ROUNDS = 5
STATES = (JobState.WAITING, JobState.SUBMITTING, JobState.PROCESSING, JobState.READY, JobState.READY)
REQUEST: RequestParams = {"prompt": "the rocket in the evening light, zoom in", "num_frames": 81, "resolution": 480}
PICTURE = {"source": "path", "where": "/pictures/rocket.jpg", "length_bytes": 112_000, "sha256": "0" * 64}
KEY = "a key of a benchmark"
PARAMS: RequestParams = {"prompt": "zoom in", "init_image": "https://picture.invalid/rocket.png"}


def _record(owner: str, ref: str, state: JobState) -> JobRecord:
    return JobRecord(
        account="a",
        ref=ref,
        owner=owner,
        created_at=1.0,
        state=state,
        request=REQUEST,
        picture=PICTURE,
        links=("https://files.invalid/a.mp4",),
    )


async def grouped(path: Path) -> float:
    """Return the transitions per second of many jobs at once."""
    journal = SqliteJournal(path)
    await journal.open()

    async def writer(number: int) -> None:
        for job in range(JOBS_EACH):
            for state in STATES:
                await journal.append(_record(journal.owner, f"{number}-{job}", state))

    begun = time.perf_counter()
    await asyncio.gather(*map(writer, range(WRITERS)))
    took = time.perf_counter() - begun
    assert len(await journal.unfinished("a")) == WRITERS * JOBS_EACH
    await journal.close()
    return WRITERS * JOBS_EACH * len(STATES) / took


async def single(path: Path) -> float:
    """Return the transitions per second with one transaction for each."""
    store = SqliteStore(path, LivenessLock(path))
    store.open()
    begun = time.perf_counter()
    for number in range(SINGLE):
        state = STATES[number % len(STATES)]
        store.write([Write(_record("me", str(number // len(STATES)), state), None)])
    took = time.perf_counter() - begun
    store.close()
    return SINGLE / took


async def client_cpu(journal: Path | None) -> float:
    """Return the CPU seconds of the event loop's thread per job, at an emulator that is 1,000 times as fast."""
    service = Service(speed=1000.0, queue_limit=CLIENT_JOBS, eta={"good": 1})
    options: dict[str, Any] = {"max_in_flight": CLIENT_JOBS, "max_polls_per_second": None, "poll_cost": 0.001}
    async with Client(KEY, transport=InProcess(service), journal=journal, **options) as client:
        begun = time.thread_time()
        jobs = [client.submit(PARAMS) for _ in range(CLIENT_JOBS)]
        await asyncio.gather(*jobs)
        took = time.thread_time() - begun
    assert all(job.state is JobState.READY for job in jobs)
    return took / CLIENT_JOBS


@attrs.frozen
class Figures:
    """Medians of the rounds."""

    grouped: float
    single: float
    with_journal: float
    without_journal: float

    @property
    def added(self) -> float:
        """CPU seconds of the event loop's thread that the journal adds to a job."""
        return self.with_journal - self.without_journal


def measure(folder: Path) -> Figures:
    """Run all rounds. The contenders take turns."""
    contenders: dict[str, Callable[[int], Coroutine[Any, Any, float]]] = {
        "grouped": lambda turn: grouped(folder / f"grouped-{turn}.db"),
        "single": lambda turn: single(folder / f"single-{turn}.db"),
        "with_journal": lambda turn: client_cpu(folder / f"client-{turn}.db"),
        "without_journal": lambda _: client_cpu(None),
    }
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS):
        log(f"round {turn + 1} of {ROUNDS}")
        for name, contender in contenders.items():
            values[name].append(asyncio.run(contender(turn)))
    return Figures(**{name: median(each) for name, each in values.items()})


def main() -> int:
    """Measure and print the figures. Return the exit code."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument("--rows", type=int, default=0, metavar="N", help="measure beside N jobs that ended")
    options, args = parse_options(__doc__, more)
    if args.rows:
        return _measure_history(options, args.rows)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder))
    rows = [
        (f"{WRITERS} jobs at once, group commit", f"{figures.grouped:,.0f} transitions per second"),
        ("one transaction for each transition", f"{figures.single:,.0f} transitions per second"),
        ("CPU of the event loop per job, with a journal", f"{figures.with_journal * 1e6:.0f} µs"),
        ("CPU of the event loop per job, without", f"{figures.without_journal * 1e6:.0f} µs"),
        ("added by the journal", f"{figures.added * 1e6:.0f} µs"),
    ]
    targets = [
        Target("15,000 transitions per second ÷ measured ones", 15_000 / figures.grouped, 1.0),
        Target("CPU of the event loop that a journal adds to a job, ms", figures.added * 1e3, 0.3),
    ]
    text = f"median of {ROUNDS} rounds; files in {tempfile.gettempdir()}\n{table(('journal', 'measured'), rows)}"
    data = {"benchmark": "journal", "figures": attrs.asdict(figures)}
    return print_results(options, text, data, targets)


def _measure_history(options: Options, rows: int) -> int:
    with tempfile.TemporaryDirectory() as name:
        path, empty = Path(name) / "full.db", Path(name) / "empty"
        empty.mkdir()
        _history.build(path, rows)
        figures, targets = _history.targets(path, empty)
    text = f"{rows:,} jobs have ended; files in {tempfile.gettempdir()}\n{table(('beside them', 'median'), figures)}"
    return print_results(options, text, {"benchmark": "journal", "rows": rows, "figures": dict(figures)}, targets)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
