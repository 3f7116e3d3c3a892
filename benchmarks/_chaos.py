"""Run jobs at an emulator where everything goes wrong, and account for every job and charge."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs

from benchmarks._chaos_server import ChaosServer, video
from benchmarks._common import OpenJobs
from benchmarks._damage import CHANGES, Damages
from modelslab_async import Client, ImageToVideoUltra, Job, JobError, JobState, ModelsLabError, Timeouts, Video
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol import record
from modelslab_async.protocol.record import SENT, JobRecord

SPEED = 400.0
"""A job of 40 s then takes 0.1 s."""
IN_FLIGHT = 150
IN_FLIGHT_BEHIND_PROXY = 50
"""Lower, because emulator and proxy share a process: with more, few jobs get through on a busy machine."""
RATE = 0.3
"""The share of submits, fetches, files and webhooks on which the emulator fails."""
RATE_BEHIND_PROXY = 0.05
_LIMITS = Timeouts(connect=2.0, submit=0.5, fetch=0.5, read=1.0, link=5.0, job=60.0)
_SLACK = 5.0
"""Seconds that a busy machine may add to any bound."""
_MAX_STAY = {
    JobState.SUBMITTING: 6 * 0.5
    + (0.5 + 1 + 2 + 4 + 8)
    + _SLACK,  # six tries of `submit` seconds and the waits between
    JobState.PROCESSING: 60.0 + 0.5 + _SLACK,  # `job`, and the poll that is then running
    JobState.READY: 5.0 + 3 * 0.5 + _SLACK,  # `link`, and a last probe of each link
}
"""Seconds that a job may spend in a state, by `_LIMITS`."""
_MAX_SAVE = 240.0
"""Three rounds over two links, each dead after six breaks of at most 3 s and the waits between."""
_MAX_CLOSE = 10.0
_ON_SUBMIT = [
    Fault.REFUSED, Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.SLOW, Fault.STALL, Fault.HTML_502, Fault.HTML_503,
    Fault.HTML_504, Fault.HTML_520, Fault.HTML_522, Fault.HTML_524, Fault.TRUNCATED_JSON,
    Fault.RATE_LIMIT, Fault.ERROR_500, Fault.UNAVAILABLE_503,
]  # fmt: skip
_ON_JOB = [Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK]
_ON_FETCH = [*_ON_SUBMIT, Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN]
_ON_FILE = [Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD, Fault.WRONG_TYPE, Fault.FILE_429, Fault.HTML_AS_MP4]
_ON_WEBHOOK = [fault for fault in Fault if fault.name.startswith("WEBHOOK")]
_LEFT_OUT = {Fault.TRY_LATER}
"""It names a whole minute, also to a service that is accelerated: every job would wait for it."""
ACCEPTED = (JobState.READY, JobState.FAILED, JobState.TIMED_OUT)
"""States that only an accepted job reaches."""


def fault_plan(rate: float = RATE, *, is_behind_proxy: bool = False) -> list[Rule]:
    """Return rules with every fault but one. Each submit, fetch, file and webhook fails at `rate`.

    Behind a proxy the fault REFUSED is left out. The proxy keeps listening, so every connection would be reset, and few
    jobs would get through.
    """
    assert {*_ON_SUBMIT, *_ON_JOB, *_ON_FETCH, *_ON_FILE, *_ON_WEBHOOK} == set(Fault) - _LEFT_OUT
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
    """The outcome of the jobs.

    accepted: jobs that the client counts as accepted, and uncertain ones that were charged.
    lost: refs that were charged, but are neither accepted nor uncertain, and not in the journal.
    disagreements: jobs whose state in the journal differs from the program's.
    late: jobs and downloads that exceeded a time bound.
    foreign: exceptions that are neither the library's nor OSError, errors that report a bug in the library, and
        errors that the event loop reports.
    wrong_files: saved files with wrong content. changed_files: those that the proxy changed.
    early_bytes, late_bytes: memory of the process after a fifth of the jobs, and at the end.
    damage: the number of damages by direction and kind. log: a JSON object for each. notes: the problems, as text.
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
def _accelerated_slot_holds() -> Iterator[None]:
    """Shorten the time that uncertain jobs hold their slots, because the service runs SPEED times as fast."""
    held, record.SLOT_HOLD = record.SLOT_HOLD, record.SLOT_HOLD / SPEED
    try:
        yield
    finally:
        record.SLOT_HOLD = held


async def run(
    jobs: int,
    log: Callable[[str], None],
    *,
    rate: float = RATE,
    damages: Damages | None = None,
    limit: float | None = None,
) -> Account:
    """Run jobs until the client is closed; with `damages`, through a proxy that damages bytes.

    rate: the share of submits, fetches, files and webhooks on which the emulator fails.
    limit: seconds after which the run is stopped, so that a hang shows in the account; None for no limit.
    """
    with _accelerated_slot_holds():
        return await _run(jobs, log, rate, damages, limit)


async def _run(
    jobs: int, log: Callable[[str], None], rate: float, damages: Damages | None, limit: float | None
) -> Account:
    tasks, files = len(asyncio.all_tasks()), _open_files()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chaos = _Run(jobs, folder, log, IN_FLIGHT_BEHIND_PROXY if damages else IN_FLIGHT)
        damage_log, faults = folder / "damage.jsonl", fault_plan(rate, is_behind_proxy=damages is not None)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: chaos.note_foreign("the event loop", context))
        try:
            # The webhook closes last: asyncio leaks a connection that arrives while a server closes.
            async with chaos.open_jobs.webhook() as chaos.webhook:
                with ChaosServer(SPEED, faults, damages, damage_log) as server:
                    await chaos.bounded(server.url, limit)
                    charges = server.charges()
                    rows = await chaos.rows(server.url)
            await asyncio.sleep(0.2)
        finally:
            loop.set_exception_handler(None)
        lines = damage_log.read_text(encoding="utf-8").splitlines() if damage_log.exists() else []
        damage = [json.loads(line) for line in lines]
    return chaos.account(charges, rows, damage, len(asyncio.all_tasks()) - tasks, _open_files() - files)


@attrs.define
class _Run:
    jobs: int
    folder: Path
    log: Callable[[str], None]
    in_flight: int
    webhook: str = ""
    open_jobs: OpenJobs = attrs.field(factory=OpenJobs)
    states: dict[str, JobState] = attrs.field(factory=dict[str, JobState])
    saved: set[str] = attrs.field(factory=set[str])
    wrong: dict[str, Video] = attrs.field(factory=dict[str, Video])
    """Videos whose saved file has wrong content."""
    open: dict[str, str] = attrs.field(factory=dict[str, str])
    """What has not ended yet, by ref."""
    late: list[tuple[str, str]] = attrs.field(factory=list[tuple[str, str]])
    """Exceeded time bounds: the ref, and what took too long."""
    foreign: list[str] = attrs.field(factory=list[str])
    early_bytes: int = 0
    late_bytes: int = 0

    async def bounded(self, url: str, limit: float | None) -> None:
        """Run all jobs. Stop the run at the limit."""
        work = asyncio.create_task(self._all(url))
        await asyncio.wait([work], timeout=limit)
        self.late += [(ref, f"{what} did not end") for ref, what in self.open.items()]
        if not work.done():
            self.late.append(("", f"the run did not end within {limit} s"))
            work.cancel()
            await asyncio.wait([work], timeout=_MAX_CLOSE)
        if not work.done():
            self.late.append(("", f"aclose(drain=False) did not end within {_MAX_CLOSE} s"))
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
        except Exception as error:  # noqa: BLE001 - the type of the exception is what is tested
            self._check_error(f"await {job.ref}", error)
        if len(self.states) == self.jobs // 5:
            self.early_bytes = _resident_bytes()
        if len(self.states) % 500 == 0:
            self.log(f"{len(self.states)} of {self.jobs} jobs ended")

    async def _check_stays(self, job: Job) -> None:
        events = [event async for event in job.events()]
        since = events[0].elapsed
        for before, after in pairwise([*events, None]):
            assert before is not None
            if after is None or after.state is not before.state:
                until = (after or before).elapsed
                if until - since > _MAX_STAY.get(before.state, float("inf")):
                    self.late.append((job.ref, f"stayed {before.state.value} for {until - since:.1f} s"))
                since = until

    async def _save(self, job: Job) -> None:
        path = self.folder / f"{job.ref}.mp4"
        begun = time.monotonic()
        try:
            async with asyncio.timeout(_MAX_SAVE):
                await job.save(path)
        except Exception as error:  # noqa: BLE001 - the type of the exception is what is tested
            self._check_error(f"{job.ref}.save", error)
        else:
            self.saved.add(job.ref)
            if path.read_bytes() != video(job.ref, int(job.ref.removeprefix("job-"))):
                self.wrong[job.ref] = job.result()
            path.unlink()
        del self.open[job.ref]
        if (took := time.monotonic() - begun) >= _MAX_SAVE:
            self.late.append((job.ref, f"the download did not end within {took:.1f} s"))

    def _check_error(self, where: str, error: Exception) -> None:
        """Note an error that users must not get. A bare JobError reports a bug in the library."""
        if not isinstance(error, ModelsLabError | OSError) or type(error) is JobError:
            self.note_foreign(where, error)

    def note_foreign(self, where: str, what: object) -> None:
        """Note an exception that the library does not document."""
        self.foreign.append(f"{where}: {what!r}")

    async def rows(self, url: str) -> dict[str, JobRecord]:
        """Return the journal's record of each job, by ref."""
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
        """Return the account of the run."""
        accepted = {ref for ref, state in self.states.items() if state in ACCEPTED}
        uncertain = {ref for ref, state in self.states.items() if state is JobState.UNCERTAIN}
        listed = {ref for ref, row in rows.items() if row.state in SENT}
        twice = [ref for ref, times in charges.items() if times > 1]
        lost = charges.keys() - accepted - uncertain - listed
        in_journal = {ref: f"{row.state.value}{' and saved' if row.saved_path else ''}" for ref, row in rows.items()}
        in_program = {
            ref: f"{state.value}{' and saved' if ref in self.saved else ''}" for ref, state in self.states.items()
        }
        differ = [
            f"{ref} is {now} in the program and {in_journal.get(ref)} in the journal"
            for ref, now in in_program.items()
            if in_journal.get(ref) != now
        ]
        hit = {_name(entry["request"]) for entry in log if entry["kind"] in {kind.name for kind in CHANGES}}
        changed = {ref for ref, each in self.wrong.items() if hit & {_name(link) for link in each.links}}
        wrong = self.wrong.keys() - changed
        notes = [f"charged twice: {ref}" for ref in twice]
        notes += [f"charged and lost: {ref} is {self.states.get(ref)}" for ref in lost]
        notes += [*differ, *self.foreign, *(f"{ref} has a wrong file" for ref in wrong)]
        notes += [f"{ref}: {problem}".removeprefix(": ") for ref, problem in self.late]
        for ref in dict.fromkeys((*twice, *lost, *wrong, *(ref for ref, _ in self.late if ref))):
            notes += [f"{ref}: {entry['text']}" for entry in log if _is_about(entry, ref, rows.get(ref))]
        return Account(
            ends=dict(Counter(state.value for state in self.states.values())),
            saved=len(self.saved),
            charges=sum(charges.values()),
            accepted=len(accepted) + len(uncertain & charges.keys()),
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


def _is_about(entry: dict[str, Any], ref: str, row: JobRecord | None) -> bool:
    """Return whether a damage hit a job's submit, poll or file."""
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
