"""Jobs at an emulator where everything goes wrong, and the account of what became of them."""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import attrs
from aiohttp import web

from benchmarks._common import Server
from modelslab_async import Client, ImageToVideoUltra, Job, JobState, ModelsLabError, Timeouts
from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.order import DEFAULT_ETA
from modelslab_async.protocol import record

SPEED = 400.0
"""A job of 40 s takes a tenth of a second."""
IN_FLIGHT = 150
RATE = 0.3
_ON_SUBMIT = [
    Fault.REFUSED, Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.SLOW, Fault.STALL, Fault.HTML_502, Fault.HTML_520,
    Fault.HTML_524, Fault.TRUNCATED_JSON, Fault.RATE_LIMIT, Fault.ERROR_500, Fault.UNAVAILABLE_503,
]  # fmt: skip
_ON_JOB = [Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK]
_ON_FETCH = [*_ON_SUBMIT, Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN]
_ON_FILE = [Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD, Fault.WRONG_TYPE, Fault.HTML_AS_MP4]
_ON_WEBHOOK = [fault for fault in Fault if fault.name.startswith("WEBHOOK")]
TAKEN = (JobState.READY, JobState.FAILED, JobState.TIMED_OUT)
"""States that only a job comes to which the service took."""


def fault_plan() -> list[Rule]:
    """Every fault there is; on each occasion something goes wrong at RATE."""
    assert {*_ON_SUBMIT, *_ON_JOB, *_ON_FETCH, *_ON_FILE, *_ON_WEBHOOK} == set(Fault)
    rules = []
    for on, faults in (
        ("submit", [*_ON_SUBMIT, *_ON_JOB]),
        ("fetch", _ON_FETCH),
        ("file", _ON_FILE),
        ("webhook", _ON_WEBHOOK),
    ):
        each = 1 - (1 - RATE) ** (1 / len(faults))
        rules += [Rule(fault, on=on, rate=each, seconds=_seconds(fault)) for fault in faults]  # type: ignore[arg-type]
    return rules


def _seconds(fault: Fault) -> float:
    return 4.0 if fault is Fault.REFUSED else 30.0


@attrs.frozen(kw_only=True)
class Account:
    """What became of the jobs. Memory is the process's, of a fifth of the way and of the end, bytes."""

    ends: dict[str, int]
    saved: int
    charges: int
    accepted: int
    charged_twice: int
    lost: int
    leaked_tasks: int
    leaked_files: int
    early_bytes: int
    late_bytes: int


@contextmanager
def _hasty_places() -> Iterator[None]:
    """Places of uncertain jobs are held for a time of the service, which runs SPEED times as fast."""
    held, record.PLACE_HOLD = record.PLACE_HOLD, record.PLACE_HOLD / SPEED
    try:
        yield
    finally:
        record.PLACE_HOLD = held


async def run(jobs: int, tell: Callable[[str], None]) -> Account:
    """So many jobs, from the first submit to the closed client."""
    with _hasty_places():
        return await _run(jobs, tell)


async def _run(jobs: int, tell: Callable[[str], None]) -> Account:
    tasks, files = len(asyncio.all_tasks()), _open_files()
    with tempfile.TemporaryDirectory() as folder:
        seen = _Seen(jobs, Path(folder), tell)
        async with _receiver(seen):  # closes last: asyncio leaks a connection that comes while a server closes
            with Server(SPEED, DEFAULT_ETA, fault_plan()) as server:
                await seen.all(server.url)
                charges = server.charges()
    await asyncio.sleep(0.2)
    return seen.account(charges, len(asyncio.all_tasks()) - tasks, _open_files() - files)


@attrs.define
class _Seen:
    jobs: int
    folder: Path
    tell: Callable[[str], None]
    webhook: str = ""
    client: Client | None = None
    states: dict[str, JobState] = attrs.field(factory=dict[str, JobState])
    saved: int = 0
    early_bytes: int = 0
    late_bytes: int = 0

    async def all(self, url: str) -> None:
        limits = Timeouts(submit=0.5, fetch=0.5, read=1.0, link=5.0, job=60.0)
        self.client = Client(
            "any", base_url=url, max_in_flight=IN_FLIGHT, poll_cost=0.005, max_polls_per_second=None, timeouts=limits,
            journal=self.folder / "jobs.db",
        )  # fmt: skip
        async with self.client as client:
            saves = set[asyncio.Task[None]]()
            async for job in client.map(self._requests(), lookahead=2 * IN_FLIGHT):
                self._note(job)
                save = asyncio.create_task(self._save(job))
                saves.add(save)
                save.add_done_callback(saves.discard)
            await asyncio.gather(*saves)
        self.late_bytes = _resident_bytes()

    async def _requests(self) -> AsyncIterator[ImageToVideoUltra]:
        for number in range(self.jobs):
            hook = self.webhook if number % 5 == 0 else None
            url = "https://picture.invalid/a.png"
            yield ImageToVideoUltra(prompt="zoom in", init_image=url, track_id=f"job-{number}", webhook=hook)

    def _note(self, job: Job) -> None:
        self.states[job.ref] = job.state
        if len(self.states) == self.jobs // 5:
            self.early_bytes = _resident_bytes()
        if len(self.states) % 500 == 0:
            self.tell(f"{len(self.states)} of {self.jobs} jobs ended")

    async def _save(self, job: Job) -> None:
        path = self.folder / f"{job.ref}.mp4"
        with suppress(ModelsLabError):
            await job.save(path)
            self.saved += 1
            path.unlink()

    def account(self, charges: dict[str, int], leaked_tasks: int, leaked_files: int) -> Account:
        taken = {ref for ref, state in self.states.items() if state in TAKEN}
        uncertain = {ref for ref, state in self.states.items() if state is JobState.UNCERTAIN}
        return Account(
            ends=dict(Counter(state.value for state in self.states.values())),
            saved=self.saved,
            charges=sum(charges.values()),
            accepted=len(taken) + len(uncertain & charges.keys()),
            charged_twice=sum(times > 1 for times in charges.values()),
            lost=len(charges.keys() - taken - uncertain),
            leaked_tasks=leaked_tasks,
            leaked_files=leaked_files,
            early_bytes=self.early_bytes,
            late_bytes=self.late_bytes,
        )


@asynccontextmanager
async def _receiver(seen: _Seen) -> AsyncIterator[None]:
    """Somebody who takes webhooks, and wakes the jobs."""

    async def wake(request: web.Request) -> web.Response:
        told = await request.json()
        if seen.client and (job := seen.client._dispatcher.jobs.get(told.get("track_id"))):
            job.wake()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", wake)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        seen.webhook = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield
    finally:
        await runner.cleanup()


def _open_files() -> int:
    """Sockets and files of this process."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
