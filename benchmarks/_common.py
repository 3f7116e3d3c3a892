"""What the benchmarks share: arguments, the table and its reaches, and an emulator in a process of its own.

`python -m benchmarks._common SPEED ETAS FAULTS LIMIT SEED` is that process. It tells its URL, then for every line that
it reads how many requests it was sent so far, what was charged and when each job ended, as JSON, and ends with its
input.
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
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from statistics import median
from typing import Any, Protocol, Self

import attrs
from aiohttp import web

from modelslab_async.emulator import Emulator, Fault, Rule, Service, skeleton
from modelslab_async.emulator.job import EtaKind
from modelslab_async.emulator.replies import Delivery

LINKS_AT_ONCE = Rule(Fault.EARLY_LINK, seconds=0)
GOOD_ETAS: Mapping[EtaKind, float] = {"good": 1}
EMULATOR, LEAN = "benchmarks._common", "benchmarks._lean"
"""Servers, see there."""
NOT_INSTALLED = "modelslab-py is not installed, and left out: python -m pip install -e '.[bench]'"
_ROOT = Path(__file__).resolve().parents[1]
_QUEUE_LIMIT = 10_000
_TIMER = 0.002
"""Seconds before a delivery, in which its instant is waited for without a timer."""
_MEASURED = ("aiohttp", "attrs", "cattrs", "backoff", "httpx", "modelslab-py")
PICTURE = b"\x89PNG\r\n\x1a\n"
"""All that the emulator looks at when nothing is rendered."""


@attrs.frozen
class Options:
    """as_json: one JSON object on stdout, and all else on stderr. check: a reach that is missed fails the run."""

    as_json: bool
    check: bool


def options(description: str | None, *more: argparse.ArgumentParser) -> tuple[Options, argparse.Namespace]:
    """What the command line says; `more` are parsers of a benchmark's own options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, parents=more
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, everything else on stderr")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a reach is missed")
    given = parser.parse_args()
    return Options(as_json=given.json, check=given.check), given


def machine() -> str:
    """What the figures were taken on, and of what."""
    there = (f"{name} {metadata.version(name)}" for name in _MEASURED if find_spec(name.replace("-", "_")))
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return f"{os.cpu_count()} x {_processor()}, {system}; {', '.join(there)}; {_state()}"


def _processor() -> str:
    """Its name, where the system tells it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return "CPU"


def _state() -> str:
    """Of which sources, and when."""
    at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    commit = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return f"{commit}{' and changes' if changed else ''}, {at}" if commit else at


def _git(*words: str) -> str:
    """What it says; nothing where there is none, or no repository."""
    if not (git := which("git")):
        return ""
    return subprocess.run([git, *words], cwd=_ROOT, capture_output=True, text=True, check=False).stdout.strip()


@attrs.frozen
class Seen:
    """What was seen of one contender, a value for each round."""

    values: Sequence[float]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    def told(self, digits: int = 1) -> str:
        """The median, and from where to where all of them were."""
        return f"{self.median:,.{digits}f} ({min(self.values):,.{digits}f} to {max(self.values):,.{digits}f})"

    def over(self, other: Seen) -> Seen:
        """As a multiple of another's, round by round: what disturbs a round disturbs both."""
        return Seen([mine / theirs for mine, theirs in zip(self.values, other.values, strict=True)])

    def beyond(self, other: Seen) -> Seen:
        """More than another's, round by round."""
        return Seen([mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)])


@attrs.frozen
class Figure:
    """One figure of several contenders. `limit` is the reach, in the same unit."""

    title: str
    unit: str
    seen: Mapping[str, Seen]
    limit: float | None = None
    digits: int = 1

    def text(self) -> str:
        """The table."""
        rows = [(name, seen.told(self.digits)) for name, seen in self.seen.items()]
        return table((self.title, f"{self.unit}, median (all)"), rows)


def say(words: str) -> None:
    """Tell how it goes; stdout is for the figures."""
    print(words, file=sys.stderr, flush=True)


@attrs.frozen
class Reach:
    """A figure, and what it may be at most."""

    name: str
    value: float
    at_most: float

    @property
    def missed(self) -> bool:
        """Whether it is above."""
        return self.value > self.at_most

    def __str__(self) -> str:
        verdict = "MISSED" if self.missed else "kept"
        return f"{verdict}: {self.name}: {self.value:.3f}, at most {self.at_most:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns: the first to the left, figures to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append("  ".join((row[0].ljust(widths[0]), *cells)))
    return "\n".join(lines)


def tell(wanted: Options, name: str, conditions: str, figures: Sequence[Figure], reaches: Sequence[Reach]) -> int:
    """Print figures of several rounds, last of all; gives the exit code."""
    text = "\n\n".join((conditions, *(figure.text() for figure in figures), ""))
    told = [attrs.asdict(figure) for figure in figures]
    return conclude(wanted, text, {"benchmark": name, "conditions": conditions, "figures": told}, reaches)


def conclude(wanted: Options, text: str, figures: Mapping[str, Any], reaches: Sequence[Reach]) -> int:
    """Print the figures, last of all; gives the exit code."""
    words = "\n".join((text, *map(str, reaches), machine()))
    if wanted.as_json:
        say(words)
        told = [{**attrs.asdict(reach), "missed": reach.missed} for reach in reaches]
        print(json.dumps({**figures, "reaches": told, "machine": machine()}))
    else:
        print(words)
    return int(wanted.check and any(reach.missed for reach in reaches))


class Server:
    """An emulator in another process, on loopback; it ends with the block, and with this process however that ends."""

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
            start_new_session=True,  # Ctrl-C is for this process; the other one ends with its input
        )
        try:
            self.url = self._line()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=5)  # closes its input
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def requests(self) -> int:
        """How many HTTP requests it was sent so far."""
        return int(self._asked()["requests"])

    def charges(self) -> dict[str, int]:
        """How often each track_id was charged."""
        charges: dict[str, int] = self._asked()["charges"]
        return charges

    def ends(self) -> dict[str, float]:
        """When each job ended or will end, by its id: seconds of this machine's monotonic clock."""
        return {job_id: end for job_id, (_, end) in self.spans().items()}

    def spans(self) -> dict[str, tuple[float, float]]:
        """When each job was taken and when it ended, in the order in which they were taken; on the same clock."""
        spans: dict[str, tuple[float, float]] = self._asked()["spans"]
        return spans

    def _asked(self) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        told: dict[str, Any] = json.loads(self._line())
        return told

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("the emulator's process ended; what it said is above")
        return line


class _Counting(Emulator):
    """Counts its requests, and knows when it began. Nothing is fetched: every URL is the same tiny picture."""

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

    async def fetch_picture(self, url: str) -> bytes:  # noqa: ARG002 - an Emulator's
        return PICTURE

    async def _deliver(self, delivery: Delivery, rendered: asyncio.Task[None]) -> None:
        """To the instant: a timer of the event loop comes up to a millisecond late."""
        await asyncio.sleep(delivery.at - self.now() - _TIMER)
        while self.now() < delivery.at:  # noqa: ASYNC110 - an instant is no event
            await asyncio.sleep(0)
        await super()._deliver(delivery, rendered)


class Told(Protocol):
    """What a server's process tells of: `started` is on the machine's monotonic clock."""

    service: Service
    requests: int

    @property
    def started(self) -> float: ...


def asked(arguments: Sequence[str]) -> dict[str, Any]:
    """Options of a Service, from what `Server` puts on the command line."""
    _, speed, eta, rules, queue_limit, seed = arguments
    faults = [Rule(**{**rule, "fault": Fault[rule["fault"]]}) for rule in json.loads(rules)]
    numbers = {"speed": float(speed), "queue_limit": int(queue_limit), "seed": int(seed)}
    return {**numbers, "eta": json.loads(eta), "faults": faults}


async def tell_whenever_asked(server: Told) -> None:
    """What `Server` reads, until its end."""
    print(server.service.origin, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        jobs, begun = server.service.jobs.values(), server.started
        spans = {job.id: (begun + job.accepted_at, begun + job.done_at) for job in jobs}
        charges = Counter(server.service.ledger.track_ids())
        print(json.dumps({"requests": server.requests, "spans": spans, "charges": charges}), flush=True)


async def _serve(options: Mapping[str, Any]) -> None:
    async with _Counting(render=skeleton, port=0, **options) as server:
        await tell_whenever_asked(server)


if __name__ == "__main__":
    asyncio.run(_serve(asked(sys.argv)))
