"""Build a journal with very many jobs that have ended, and measure what a client does beside them."""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._common import Target, log
from modelslab_async import Budget, Client, JobState, RequestParams
from modelslab_async.batch import open_batch
from modelslab_async.emulator import InProcess, Service
from modelslab_async.engine.recorder import account_fingerprint
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteStore
from modelslab_async.journal.store import Write
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import DEFAULT_BASE_URL

KEY = "a key of a benchmark"
ACCOUNT = account_fingerprint(ApiKey(KEY), DEFAULT_BASE_URL)
OPEN_JOBS, NEW_LINES, SUBMITS = 20, 1000, 300
ROUNDS = 7
_DAYS = 365
_FAILED, _REFUSED = 0.02, 0.01
"""Shares of the jobs."""
_PICTURE = "https://picture.invalid/rocket.png"
_REQUEST: RequestParams = {
    "prompt": "the rocket in the evening light, zoom in slowly while clouds pass behind it and the smoke clears, 35 mm",
    "negative_prompt": "blurry, distorted, low quality, watermark, text",
    "num_frames": 81,
    "resolution": 480,
    "num_inference_steps": 20,
    "init_image": _PICTURE,
}
_COLUMNS = (
    "account", "ref", "owner", "created_at", "job_id", "charged", "submitted_at", "accepted_at", "ended_at",
    "saved_path",
)  # fmt: skip
_DETAILS = ("request", "picture", "eta", "links", "video")
_ROOT = Path(__file__).resolve().parents[1]
_MEMORY = """
import asyncio, os, sys
from pathlib import Path
from benchmarks._history import open_with_budget
print(asyncio.run(open_with_budget(Path(sys.argv[1]))))
"""


def build(path: Path, rows: int) -> None:
    """Write a journal in which *rows* jobs of one account ended during the last year."""
    store = SqliteStore(path, LivenessLock(path))
    store.open()
    for pragma in ("cache_size = -500000", "synchronous = OFF"):
        store.connection.execute(f"PRAGMA {pragma}")
    begun = time.time()
    fields = [*_COLUMNS, "state", "price", "details"]
    sql = f"INSERT INTO jobs ({', '.join(fields)}) VALUES ({', '.join('?' * len(fields))})"  # noqa: S608
    records = _ended(rows)
    while batch := list(islice(records, 50_000)):
        with store.transaction() as connection:
            connection.executemany(sql, map(_row, batch))
    store.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    log(f"{rows:,} rows, {path.stat().st_size / 2**20:,.0f} MiB, written in {time.time() - begun:.0f} s")


def _row(record: JobRecord) -> Sequence[object]:
    details = {name: value for name in _DETAILS if (value := getattr(record, name))}
    columns = [getattr(record, name) for name in _COLUMNS]
    return [*columns, record.state.value, str(record.price), json.dumps(details)]


def _ended(rows: int) -> Iterator[JobRecord]:
    rng, now = random.Random(0), time.time()
    links = "https://pub-3626123a908346a7a8be8d9295f44e26.r2.dev/video_generations/"
    for number in range(rows):
        at = now - _DAYS * 86_400 * (1 - number / rows)
        ref, drawn = _ref(number), rng.random()
        state = JobState.FAILED if drawn < _FAILED else JobState.READY
        state = JobState.REFUSED if drawn > 1 - _REFUSED else state
        record = JobRecord(
            account=ACCOUNT,
            ref=ref,
            owner=f"{number // 1000:016x}",
            created_at=at,
            state=state,
            request=_REQUEST,
            picture={"source": "url", "where": _PICTURE},
            price=Decimal("0.2"),
            charged={JobState.READY: True, JobState.FAILED: None}.get(state, False),
            submitted_at=at + 1,
            ended_at=at + 40,
        )
        if state is not JobState.REFUSED:
            record = record._replace(job_id=str(90_000_000 + number), accepted_at=at + 2, eta=40.0)
        if state is JobState.READY:
            url = f"{links}{ref}.mp4"
            video = {"url": url, "seed": number, "generation_time": 38.2, "is_temporary": False, "meta": {}}
            record = record._replace(links=(url,), video=video, saved_path=f"/videos/{ref}.mp4")
        yield record


def _ref(number: int) -> str:
    return f"batch-{number:010}"


def targets(path: Path, empty: Path) -> tuple[list[tuple[str, str]], list[Target]]:
    """Return the figures of a full journal, and what they must be. *empty* is the folder of an empty journal."""
    figures = asyncio.run(_measure(path))
    full_submit, empty_submit = _submits(path, empty)
    extra = _memory(path) - _memory(empty / "memory.db")
    rows = [(name, f"{value:,.3f} ms") for name, value in figures.items()]
    rows.append(("submit and end of a job, beside empty", f"{full_submit:,.2f} beside {empty_submit:,.2f} ms"))
    rows.append(("memory of open with a daily budget, beside empty", f"{extra:,.1f} MB more"))
    bounds = {"open": 50.0, "find a ref": 1.0, "find an id": 1.0, "the latest 50": 1.0, "recover 20 jobs": 50.0}
    bounds["plan of a new line"] = 0.2
    return rows, [
        *(Target(f"{name}, ms", figures[name], bound) for name, bound in bounds.items()),
        Target("open with a daily budget, ms", figures["open with a daily budget"], 50.0),
        Target("submits: time ÷ time in an empty file", full_submit / empty_submit, 1.1),
        Target("memory of open with a daily budget, MB more than with an empty file", extra, 20.0),
    ]


async def _measure(path: Path) -> Mapping[str, float]:
    """Return the median milliseconds of each action."""
    refs, ids = map(_ref, range(0, 1000, 13)), iter(range(90_000_000, 90_001_000))
    figures = dict[str, float]()
    for name, budget in {"open": None, "open with a daily budget": Budget(usd=10**9, per="day")}.items():
        figures[name] = await _median(lambda budget=budget: _open(path, budget))  # type: ignore[misc]
    async with _client(path) as client:
        figures["find a ref"] = await _median(lambda: client.find(next(refs)))
        figures["find an id"] = await _median(lambda: client.find(str(next(ids))))
        figures["find nothing"] = await _median(lambda: client.find(os.urandom(8).hex()))
        figures["the latest 50"] = await _median(lambda: client.history(50))
    figures["recover 20 jobs"] = median([await _recover(path) for _ in range(ROUNDS)])
    figures["plan of a new line"] = median([await _plan(path, turn) for turn in range(3)])
    return figures


async def _median(action: Callable[[], Awaitable[object]]) -> float:
    times = list[float]()
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        await action()
        times.append(time.perf_counter() - begun)
    return 1000 * median(times)


def _service() -> Service:
    return Service(speed=1000.0, queue_limit=1000, eta={"good": 1}, keys=[KEY])


def _client(path: Path, service: Service | None = None, **options: Any) -> Client:
    service = service or _service()
    return Client(KEY, transport=InProcess(service), journal=path, max_in_flight=100, poll_cost=0.001, **options)


async def _open(path: Path, budget: Budget | None) -> None:
    client = _client(path, budget=budget)
    try:
        await client.__aenter__()
    finally:
        asyncio.get_running_loop().create_task(client.aclose(drain=False))


async def open_with_budget(path: Path) -> float:
    """Return the highest memory of a process that opens a journal with a daily budget, in MB. Linux only."""
    async with _client(path, budget=Budget(usd=10**9, per="day")):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _memory(path: Path) -> float:
    return median(
        float(
            subprocess.run(
                [sys.executable, "-c", _MEMORY, str(path)], cwd=_ROOT, check=True, capture_output=True
            ).stdout
        )
        for _ in range(3)
    )


async def _recover(path: Path) -> float:
    """Return the milliseconds in which a client takes up the jobs that a dead one left."""
    store = SqliteStore(path, LivenessLock(path))
    store.open()
    refs = [os.urandom(8).hex() for _ in range(OPEN_JOBS)]
    known = {"state": JobState.PROCESSING, "request": _REQUEST, "accepted_at": time.time(), "charged": True}
    store.write(
        [
            Write(JobRecord(ACCOUNT, ref, "dead", time.time() + number, job_id=ref, **known))  # type: ignore[arg-type]
            for number, ref in enumerate(refs)
        ]
    )
    store.close()
    async with _client(path) as client:
        begun = time.perf_counter()
        found = await client.recover()
        took = time.perf_counter() - begun
        assert len(found.jobs) == OPEN_JOBS
        await client.aclose(drain=False)
    store.open()
    with store.transaction() as connection:
        connection.executemany(
            "UPDATE jobs SET state = 'cancelled', checksum = NULL WHERE ref = ?", [(ref,) for ref in refs]
        )
    store.close()
    return 1000 * took


async def _plan(path: Path, turn: int) -> float:
    """Return the milliseconds for each new line of a batch."""
    folder = path.parent / f"batch {turn}"
    lines = [{**_REQUEST, "seed": turn * NEW_LINES + number} for number in range(NEW_LINES)]
    async with _client(path) as client, open_batch(client, folder) as batch:
        begun = time.perf_counter()
        plan = await batch.plan(lines)
        took = time.perf_counter() - begun
    assert plan.submit == NEW_LINES, json.dumps([str(problem) for problem in plan.problems])
    return 1000 * took / NEW_LINES


def _submits(path: Path, empty: Path) -> tuple[float, float]:
    """Return the milliseconds for each job from submit to end: beside many jobs, and in a new file. They take turns."""
    full, fresh, service = list[float](), list[float](), _service()  # one that names no id twice
    for turn in range(ROUNDS):
        full.append(asyncio.run(_run_jobs(path, service)))
        fresh.append(asyncio.run(_run_jobs(empty / f"{turn}.db", _service())))
    return median(full), median(fresh)


async def _run_jobs(path: Path, service: Service) -> float:
    async with _client(path, service) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(client.submit(_REQUEST) for _ in range(SUBMITS)))
        took = time.perf_counter() - begun
    return 1000 * took / SUBMITS
