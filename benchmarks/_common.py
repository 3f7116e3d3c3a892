"""Share between benchmarks: command-line options, tables, targets, and an emulator in another process.

`python -m benchmarks._common SPEED ETAS FAULTS LIMIT SEED` is that process. It prints its URL. For every line on its
stdin it then prints one JSON object: the number of requests so far, the charges, and when each job ended. It exits
when its stdin is closed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any, Protocol, Self

import attrs
from aiohttp import web

from modelslab_async import Job
from modelslab_async.emulator import Emulator, Fault, Rule, Service, skeleton
from modelslab_async.emulator.job import EtaKind
from modelslab_async.emulator.replies import Delivery
from modelslab_async.telemetry import Telemetry

LINKS_AT_ONCE = Rule(Fault.EARLY_LINK, seconds=0)
GOOD_ETAS: Mapping[EtaKind, float] = {"good": 1}
EMULATOR, LEAN = "benchmarks._common", "benchmarks._lean"
"""Modules that `Server` can run."""
PEER_NOT_INSTALLED = "modelslab-py is not installed, so it is left out (hint: python -m pip install -e '.[bench]')"
_ROOT = Path(__file__).resolve().parents[1]
_QUEUE_LIMIT = 10_000
_BUSY_WAIT_SECONDS = 0.002
"""Seconds before a delivery in which the emulator polls the clock: a timer of the event loop is up to 1 ms late."""
_VERSIONED = ("aiohttp", "attrs", "cattrs", "backoff", "httpx", "modelslab-py")
PICTURE = b"\x89PNG\r\n\x1a\n"
"""The bytes of a picture that the emulator checks if it renders nothing."""


@attrs.frozen
class Options:
    """Options of every benchmark.

    as_json: print one JSON object on stdout, and all else on stderr.
    check: exit with 1 if a target is missed.
    """

    as_json: bool
    check: bool


def parse_options(description: str | None, *parents: argparse.ArgumentParser) -> tuple[Options, argparse.Namespace]:
    """Parse the command line. *parents* are parsers of a benchmark's own options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=parents
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout, all else on stderr")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    args = parser.parse_args()
    return Options(as_json=args.json, check=args.check), args


def describe_machine() -> str:
    """Return the processor, Python, the versions of the measured packages, the commit and the time."""
    versions = (f"{name} {metadata.version(name)}" for name in _VERSIONED if find_spec(name.replace("-", "_")))
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} x {_processor()}, {system}; {', '.join(versions)}; {_revision()}"


def _processor() -> str:
    """Return the processor's name, or "CPU" if the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def _revision() -> str:
    """Return the commit, whether files were changed since, and the time."""
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return f"{commit}{' and changes' if changed else ''}, {now}" if commit else now


def _git(*words: str) -> str:
    """Return the output of a git command. Empty without git or without a repository."""
    if not (git := which("git")):
        return ""
    return subprocess.run([git, *words], cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()


@attrs.frozen
class Samples:
    """The measured values of one contender: one value for each round."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    def text(self, digits: int = 1) -> str:
        """Return the median and the range of the rounds."""
        return f"{self.median:,.{digits}f} ({min(self.values):,.{digits}f} to {max(self.values):,.{digits}f})"

    def ratio_to(self, other: Samples) -> Samples:
        """Return the ratio to *other*, round by round: a disturbance of a round then affects both sides."""
        return Samples([mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)])

    def minus(self, other: Samples) -> Samples:
        """Return the difference to *other*, round by round."""
        return Samples([mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)])


@attrs.frozen
class Figure:
    """One measured quantity of several contenders. `target` is the target in the same unit, or None."""

    title: str
    unit: str
    measured: Mapping[str, Samples]
    target: float | None = None
    digits: int = 1

    def text(self) -> str:
        """Return the figure as a table."""
        rows = [(name, samples.text(self.digits)) for name, samples in self.measured.items()]
        return table((self.title, f"{self.unit}: median (lowest to highest)"), rows)


@attrs.frozen
class Target:
    """A measured value and the highest value that meets the target."""

    name: str
    measured: float
    at_most: float

    @property
    def missed(self) -> bool:
        """Whether the measured value is above the target."""
        return self.measured > self.at_most

    def __str__(self) -> str:
        verdict = "MISSED" if self.missed else "met"
        return f"{verdict}: {self.name}: measured {self.measured:.3f}, target at most {self.at_most:.3f}"


def log(text: str) -> None:
    """Print progress to stderr. Stdout is for the results."""
    print(text, file=sys.stderr, flush=True)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with the first column aligned left and all others aligned right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join((row[0].ljust(widths[0]), *cells)))
    return "\n".join(lines)


def print_figures(
    options: Options, name: str, conditions: str, figures: Sequence[Figure], targets: Sequence[Target]
) -> int:
    """Print the figures of a benchmark. Return the exit code."""
    text = "\n\n".join((conditions, *(figure.text() for figure in figures), ""))
    data = [attrs.asdict(figure) for figure in figures]
    return print_results(options, text, {"benchmark": name, "conditions": conditions, "figures": data}, targets)


def print_results(options: Options, text: str, results: Mapping[str, Any], targets: Sequence[Target]) -> int:
    """Print *text*, the targets and the machine; with --json, the results as JSON. Return the exit code."""
    text = "\n".join((text, *map(str, targets), describe_machine()))
    if options.as_json:
        log(text)
        data = [{**attrs.asdict(target), "missed": target.missed} for target in targets]
        print(json.dumps({**results, "targets": data, "machine": describe_machine()}))
    else:
        print(text)
    return int(options.check and any(target.missed for target in targets))


class OpenJobs(Telemetry):
    """Keep the open jobs of a client, so that its webhook can wake them: `Client(telemetry=OpenJobs())`."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def submitted(self, job: Job) -> None:
        """Add the job."""
        self._jobs[job.ref] = job

    def ended(self, job: Job) -> None:
        """Remove the job."""
        self._jobs.pop(job.ref, None)

    @asynccontextmanager
    async def webhook(self) -> AsyncIterator[str]:
        """Serve a webhook on loopback that wakes the job of each delivery. Yield its URL."""
        app = web.Application()
        app.router.add_post("/", self._receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()

    async def _receive(self, request: web.Request) -> web.Response:
        if job := self._jobs.get((await request.json()).get("track_id")):
            job.wake()
        return web.Response()


class Server:
    """Run an emulator in another process, on loopback. It ends with the `with` block or with this process."""

    def __init__(
        self,
        speed: float,
        eta: Mapping[EtaKind, float] = GOOD_ETAS,
        faults: Sequence[Rule] = (LINKS_AT_ONCE,),
        queue_limit: int = _QUEUE_LIMIT,
        seed: int = 0,
        module: str = EMULATOR,
    ) -> None:
        self._module = module
        rules = [{**attrs.asdict(rule), "fault": rule.fault.name} for rule in faults]
        self._arguments = [str(speed), json.dumps(eta), json.dumps(rules), str(queue_limit), str(seed)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            start_new_session=True,  # keeps Ctrl-C from it; it ends when its stdin is closed
        )
        try:
            self.url = self._read_line()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=5)  # closes its stdin
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def requests(self) -> int:
        """Return the number of HTTP requests that it received so far."""
        return int(self._query()["requests"])

    def charges(self) -> dict[str, int]:
        """Return how often each track_id was charged."""
        charges: dict[str, int] = self._query()["charges"]
        return charges

    def ends(self) -> dict[str, float]:
        """Return when each job ended or will end, by its id, in seconds of this machine's monotonic clock."""
        return {job_id: end for job_id, (_, end) in self.spans().items()}

    def spans(self) -> dict[str, tuple[float, float]]:
        """Return when each job was accepted and when it ends, by its id, in order of acceptance; on the same clock."""
        spans: dict[str, tuple[float, float]] = self._query()["spans"]
        return spans

    def _query(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        state: dict[str, Any] = json.loads(self._read_line())
        return state

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("the emulator's process ended; its error is above")
        return line


_KEEP = 10_000_000
"""How many jobs and charges the emulator keeps: all of a benchmark."""


class CountingEmulator(Emulator):
    """An emulator that counts its requests. It fetches no picture: every URL stands for the same tiny picture."""

    requests = 0

    @property
    def started(self) -> float:
        return self._started

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        return await super()._post(request)

    async def _file(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        return await super()._file(request)

    async def fetch_picture(self, url: str) -> bytes:  # noqa: ARG002 - the signature of Emulator
        return PICTURE

    async def _deliver(self, delivery: Delivery, rendering: asyncio.Future[Any] | None) -> None:
        """Deliver on time: a timer of the event loop is up to 1 ms late."""
        await asyncio.sleep(delivery.at - self.now() - _BUSY_WAIT_SECONDS)
        while self.now() < delivery.at:  # noqa: ASYNC110 - no event marks a moment
            await asyncio.sleep(0)
        await super()._deliver(delivery, rendering)


class CountingServer(Protocol):
    """A server whose state `answer_queries` reports. `started` is in seconds of the machine's monotonic clock."""

    service: Service
    requests: int

    @property
    def started(self) -> float: ...


def service_options(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the options of a `Service` from the command line that `Server` makes."""
    _, speed, eta, rules, queue_limit, seed = arguments
    faults = [Rule(**{**rule, "fault": Fault[rule["fault"]]}) for rule in json.loads(rules)]
    numbers = {"speed": float(speed), "queue_limit": int(queue_limit), "seed": int(seed)}
    return {**numbers, "keep": _KEEP, "eta": json.loads(eta), "faults": faults}


async def answer_queries(server: CountingServer) -> None:
    """Print the server's URL, then its state after each line of stdin, until stdin is closed."""
    print(server.service.origin, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        jobs, begun = server.service.jobs.values(), server.started
        spans = {job.id: (begun + job.accepted_at, begun + job.done_at) for job in jobs}
        charges = Counter(server.service.ledger.track_ids())
        print(json.dumps({"requests": server.requests, "spans": spans, "charges": charges}), flush=True)


async def _serve(options: Mapping[str, Any]) -> None:
    async with CountingEmulator(render=skeleton, port=0, **options) as server:
        await answer_queries(server)


if __name__ == "__main__":
    asyncio.run(_serve(service_options(sys.argv)))
