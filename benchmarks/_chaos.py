"""Jobs at an emulator where everything goes wrong, and the account of what became of them."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
from aiohttp import web

from benchmarks._chaos_server import ChaosServer, video
from benchmarks._damage import CHANGES, Damages
from benchmarks._open_jobs import OpenJobs
from modelslab_async import Client, ImageToVideoUltra, Job, JobError, JobState, ModelsLabError, Timeouts, Video
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol import record
from modelslab_async.protocol.record import SENT, JobRecord

SPEED = 400.0
"""A job of 40 s takes a tenth of a second."""
IN_FLIGHT = 150
IN_FLIGHT_BEHIND_PROXY = 50
"""Emulator and proxy share a process: with more, a busy machine answers so late that hardly a job gets through."""
RATE = 0.3
"""The share of occasions on which the emulator makes a mistake."""
RATE_BEHIND_PROXY = 0.05
_LIMITS = Timeouts(connect=2.0, submit=0.5, fetch=0.5, read=1.0, link=5.0, job=60.0)
_SLACK = 5.0
"""Seconds that a busy machine may add to any bound."""
_LONGEST_STAY = {
    JobState.SUBMITTING: 6 * 0.5
    + (0.5 + 1 + 2 + 4 + 8)
    + _SLACK,  # six tries of `submit` seconds and the waits between
    JobState.PROCESSING: 60.0 + 0.5 + _SLACK,  # `job`, and the poll under way then
    JobState.READY: 5.0 + 3 * 0.5 + _SLACK,  # `link`, and a last probe of each link
}
"""Seconds that a job may spend in a state, as `_LIMITS` bounds it."""
_LONGEST_SAVE = 240.0
"""Three rounds over two links, each dead after six breaks of at most 3 s and the waits between."""
_LONGEST_CLOSE = 10.0
_ON_SUBMIT = [
    Fault.REFUSED, Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.SLOW, Fault.STALL, Fault.HTML_502, Fault.HTML_520,
    Fault.HTML_524, Fault.TRUNCATED_JSON, Fault.RATE_LIMIT, Fault.ERROR_500, Fault.UNAVAILABLE_503,
]  # fmt: skip
_ON_JOB = [Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK]
_ON_FETCH = [*_ON_SUBMIT, Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN]
_ON_FILE = [Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD, Fault.WRONG_TYPE, Fault.HTML_AS_MP4]
_ON_WEBHOOK = [fault for fault in Fault if fault.name.startswith("WEBHOOK")]
TAKEN = (JobState.READY, JobState.FAILED, JobState.TIMED_OUT)
"""States that only an accepted job reaches."""


def fault_plan(rate: float = RATE, *, is_behind_proxy: bool = False) -> list[Rule]:
    """Return every fault there is; on each occasion something goes wrong at `rate`.

    Behind a proxy, which listens on, a server that refuses connections looks like one that resets them all. Hardly a
    job would get through, so that fault is left out.
    """
    assert {*_ON_SUBMIT, *_ON_JOB, *_ON_FETCH, *_ON_FILE, *_ON_WEBHOOK} == set(Fault)
    rules = []
    for on, faults in (
        ("submit", [*_ON_SUBMIT, *_ON_JOB]),
        ("fetch", _ON_FETCH),
        ("file", _ON_FILE),
        ("webhook", _ON_WEBHOOK),
    ):
        each = 1 - (1 - rate) ** (1 / len(faults))
        rules += [Rule(fault, on=on, rate=each, seconds=_seconds(fault)) for fault in faults]  # type: ignore[arg-type]
    return [rule for rule in rules if not (is_behind_proxy and rule.fault is Fault.REFUSED)]


def _seconds(fault: Fault) -> float:
    return 4.0 if fault is Fault.REFUSED else 30.0


@attrs.frozen(kw_only=True)
class Account:
    """What became of the jobs.

    accepted: jobs that the client counts as accepted, and uncertain ones that were charged.
    lost: refs that were charged, and are neither among the jobs that were accepted or are uncertain nor in the journal.
    disagreements: jobs of which the journal says something else than the program.
    late: jobs and downloads that outstayed a bound.
    foreign: exceptions that are neither the library's nor OSError, errors that report a mistake in the library, and
        complaints of the event loop.
    wrong_files: saved files with another content than the job's. changed_files: those of which the proxy is the cause.
    early_bytes, late_bytes: memory of the process after a fifth of the jobs, and at the end.
    damage: how often the proxy did what. log: a JSON object for each. notes: what went wrong, in words.
    """

    ends: dict[str, int]
    saved: int
    charges: int
    accepted: int
    charged_twice: int
    lost: int
    disagreements: int
    late: int
    foreign: int
    wrong_files: int
    changed_files: int
    leaked_tasks: int
    leaked_files: int
    early_bytes: int
    late_bytes: int
    damage: dict[str, int]
    log: Sequence[dict[str, Any]] = attrs.field(repr=False)
    notes: Sequence[str]


@contextmanager
def _hasty_places() -> Iterator[None]:
    """Hold the slots of uncertain jobs for a time of the service, which runs SPEED times as fast."""
    held, record.SLOT_HOLD = record.SLOT_HOLD, record.SLOT_HOLD / SPEED
    try:
        yield
    finally:
        record.SLOT_HOLD = held


async def run(
    jobs: int,
    tell: Callable[[str], None],
    *,
    rate: float = RATE,
    damages: Damages | None = None,
    limit: float | None = None,
) -> Account:
    """Run jobs from the first submit to the closed client; with `damages`, through a proxy that damages bytes.

    rate: the share of occasions on which the emulator makes a mistake.
    limit: seconds after which the run is broken off, so that a hang is part of the account; None for never.
    """
    with _hasty_places():
        return await _run(jobs, tell, rate, damages, limit)


async def _run(
    jobs: int, tell: Callable[[str], None], rate: float, damages: Damages | None, limit: float | None
) -> Account:
    tasks, files = len(asyncio.all_tasks()), _open_files()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seen = _Seen(jobs, folder, tell, IN_FLIGHT_BEHIND_PROXY if damages else IN_FLIGHT)
        log, faults = folder / "damage.jsonl", fault_plan(rate, is_behind_proxy=damages is not None)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.note_foreign("the event loop", context))
        try:
            async with _receiver(seen):  # closes last: asyncio leaks a connection that comes while a server closes
                with ChaosServer(SPEED, faults, damages, log) as server:
                    await seen.bounded(server.url, limit)
                    charges = server.charges()
                    rows = await seen.rows(server.url)
            await asyncio.sleep(0.2)
        finally:
            loop.set_exception_handler(None)
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        damage = [json.loads(line) for line in lines]
    return seen.account(charges, rows, damage, len(asyncio.all_tasks()) - tasks, _open_files() - files)


@attrs.define
class _Seen:
    jobs: int
    folder: Path
    tell: Callable[[str], None]
    in_flight: int
    webhook: str = ""
    open_jobs: OpenJobs = attrs.field(factory=OpenJobs)
    states: dict[str, JobState] = attrs.field(factory=dict[str, JobState])
    saved: set[str] = attrs.field(factory=set[str])
    wrong: dict[str, Video] = attrs.field(factory=dict[str, Video])
    """Videos whose file has another content."""
    open: dict[str, str] = attrs.field(factory=dict[str, str])
    """What has no end yet, by ref."""
    late: list[tuple[str, str]] = attrs.field(factory=list[tuple[str, str]])
    """Bounds that were outstayed: the ref, and what took too long."""
    foreign: list[str] = attrs.field(factory=list[str])
    early_bytes: int = 0
    late_bytes: int = 0

    async def bounded(self, url: str, limit: float | None) -> None:
        """Run all jobs, and break the run off at the limit."""
        work = asyncio.create_task(self._all(url))
        await asyncio.wait([work], timeout=limit)
        self.late += [(ref, f"no end of {what}") for ref, what in self.open.items()]
        if not work.done():
            self.late.append(("", f"the run has no end within {limit} s"))
            work.cancel()
            await asyncio.wait([work], timeout=_LONGEST_CLOSE)
        if not work.done():
            self.late.append(("", f"aclose(drain=False) has no end within {_LONGEST_CLOSE} s"))
        elif not work.cancelled() and (error := work.exception()):
            self.note_foreign("the run or the close", error)
        self.late_bytes = _resident_bytes()

    async def _all(self, url: str) -> None:
        client = Client(
            "any",
            base_url=url,
            max_in_flight=self.in_flight,
            poll_cost=0.005,
            max_polls_per_second=None,
            timeouts=_LIMITS,
            journal=self.folder / "jobs.db",
            telemetry=self.open_jobs,
        )
        async with client, asyncio.TaskGroup() as saves:
            async for job in client.map(self._requests(), lookahead=2 * self.in_flight):
                await self._note(job)
                saves.create_task(self._save(job))

    async def _requests(self) -> AsyncIterator[ImageToVideoUltra]:
        for number in range(self.jobs):
            hook = self.webhook if number % 5 == 0 else None
            url, ref = "https://picture.invalid/a.png", f"job-{number}"
            self.open[ref] = "the job"
            yield ImageToVideoUltra(prompt=ref, seed=number, init_image=url, track_id=ref, webhook=hook)

    async def _note(self, job: Job) -> None:
        self.states[job.ref], self.open[job.ref] = job.state, "the download"
        await self._check_stays(job)
        try:
            await job
        except Exception as error:  # noqa: BLE001 - what may come out is what is tested
            self._check_error(f"await {job.ref}", error)
        if len(self.states) == self.jobs // 5:
            self.early_bytes = _resident_bytes()
        if len(self.states) % 500 == 0:
            self.tell(f"{len(self.states)} of {self.jobs} jobs ended")

    async def _check_stays(self, job: Job) -> None:
        events = [event async for event in job.events()]
        since = events[0].elapsed
        for before, after in pairwise([*events, None]):
            assert before is not None
            if after is None or after.state is not before.state:
                until = (after or before).elapsed
                if until - since > _LONGEST_STAY.get(before.state, float("inf")):
                    self.late.append((job.ref, f"was {before.state.value} for {until - since:.1f} s"))
                since = until

    async def _save(self, job: Job) -> None:
        path = self.folder / f"{job.ref}.mp4"
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_LONGEST_SAVE):
                await job.save(path)
        except Exception as error:  # noqa: BLE001 - what may come out is what is tested
            self._check_error(f"{job.ref}.save", error)
        else:
            self.saved.add(job.ref)
            if path.read_bytes() != video(job.ref, int(job.ref.removeprefix("job-"))):
                self.wrong[job.ref] = job.result()
            path.unlink()
        del self.open[job.ref]
        if (took := time.monotonic() - begun) >= _LONGEST_SAVE:
            self.late.append((job.ref, f"no end of the download for {took:.1f} s"))

    def _check_error(self, where: str, error: Exception) -> None:
        """Note an error that users must not get: a bare JobError reports a mistake in the library."""
        if not isinstance(error, ModelsLabError | OSError) or type(error) is JobError:
            self.note_foreign(where, error)

    def note_foreign(self, where: str, what: object) -> None:
        """Note an exception that nobody promised."""
        self.foreign.append(f"{where}: {what!r}")

    async def rows(self, url: str) -> dict[str, JobRecord]:
        """Return what the journal says of each job, by ref."""
        async with Client("any", base_url=url, journal=self.folder / "jobs.db") as client:
            return {row.ref: row for row in await client.history(self.jobs)}

    def account(
        self,
        charges: dict[str, int],
        rows: dict[str, JobRecord],
        log: list[dict[str, Any]],
        leaked_tasks: int,
        leaked_files: int,
    ) -> Account:
        """Count."""
        taken = {ref for ref, state in self.states.items() if state in TAKEN}
        uncertain = {ref for ref, state in self.states.items() if state is JobState.UNCERTAIN}
        listed = {ref for ref, row in rows.items() if row.state in SENT}
        twice = [ref for ref, times in charges.items() if times > 1]
        lost = charges.keys() - taken - uncertain - listed
        said = {ref: f"{row.state.value}{' and saved' if row.saved_path else ''}" for ref, row in rows.items()}
        done = {ref: f"{state.value}{' and saved' if ref in self.saved else ''}" for ref, state in self.states.items()}
        differ = [
            f"{ref} is {now}, and {said.get(ref)} in the journal" for ref, now in done.items() if said.get(ref) != now
        ]
        hit = {_name(entry["request"]) for entry in log if entry["kind"] in {kind.name for kind in CHANGES}}
        changed = {ref for ref, each in self.wrong.items() if hit & {_name(link) for link in each.links}}
        wrong = self.wrong.keys() - changed
        notes = [f"charged twice: {ref}" for ref in twice]
        notes += [f"charged and lost: {ref} is {self.states.get(ref)}" for ref in lost]
        notes += [*differ, *self.foreign, *(f"{ref} has a wrong file" for ref in wrong)]
        notes += [f"{ref}: {words}".removeprefix(": ") for ref, words in self.late]
        for ref in dict.fromkeys((*twice, *lost, *wrong, *(ref for ref, _ in self.late if ref))):
            notes += [f"{ref}: {entry['text']}" for entry in log if _is_about(entry, ref, rows.get(ref))]
        return Account(
            ends=dict(Counter(state.value for state in self.states.values())),
            saved=len(self.saved),
            charges=sum(charges.values()),
            accepted=len(taken) + len(uncertain & charges.keys()),
            charged_twice=len(twice),
            lost=len(lost),
            disagreements=len(differ),
            late=len(self.late),
            foreign=len(self.foreign),
            wrong_files=len(wrong),
            changed_files=len(changed),
            leaked_tasks=leaked_tasks,
            leaked_files=leaked_files,
            early_bytes=self.early_bytes,
            late_bytes=self.late_bytes,
            damage=dict(Counter(f"{entry['direction']} {entry['kind']}".lower() for entry in log)),
            log=log,
            notes=notes,
        )


@asynccontextmanager
async def _receiver(seen: _Seen) -> AsyncIterator[None]:
    """Receive webhooks, and wake their jobs."""

    async def wake(request: web.Request) -> web.Response:
        seen.open_jobs.wake((await request.json()).get("track_id"))
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


def _is_about(entry: dict[str, Any], ref: str, row: JobRecord | None) -> bool:
    """Whether a damage hit a job's submit, poll or file."""
    last = _name(entry["request"])
    return entry["ref"] == ref or (row is not None and last in (row.job_id, *(_name(link) for link in row.links)))


def _name(link: str) -> str:
    return link.rpartition("/")[2]


def _open_files() -> int:
    """Count the sockets and files of this process."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
