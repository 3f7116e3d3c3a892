"""Run hosts, each a process with a client of its own, and an emulator that counts what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from benchmarks._common import LINKS_AT_ONCE, PICTURE
from modelslab_async.emulator import Emulator, skeleton
from modelslab_async.emulator.job import EmulatedJob
from modelslab_async.protocol.operations import operation_at

_ROOT = Path(__file__).resolve().parents[1]
_NO_SLOT = 429
Event = dict[str, Any]


class AccountEmulator(Emulator):
    """An emulator of one account's service. Every URL stands for the same tiny picture."""

    refusals = 0
    """The number of submits that were answered with 429."""

    def __init__(self, **options: Any) -> None:
        defaults: dict[str, Any] = {"render": skeleton, "eta": {"good": 1}, "faults": [LINKS_AT_ONCE]}
        super().__init__(**{**defaults, **options})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        response = await super()._post(request)
        self.refusals += response.status == _NO_SLOT and operation_at(request.path) is not None
        return response

    async def fetch_picture(self, url: str) -> bytes:  # noqa: ARG002 - the signature of Emulator
        return PICTURE

    @property
    def charges(self) -> Counter[str]:
        """How often each track_id was charged."""
        return Counter(map(str, self.ledger.track_ids()))

    @property
    def jobs(self) -> Sequence[EmulatedJob]:
        """The accepted jobs, in order. Their times are seconds of the machine's monotonic clock minus `started`."""
        return list(self.service.jobs.values())

    @property
    def started(self) -> float:
        """When the emulator started, seconds of the machine's monotonic clock."""
        return self._started


class Host:
    """A process with a client, and what it reported so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[Event] = []
        self._changed = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(cls, prefix: Sequence[str] = ()) -> Self:
        """Start a process. *prefix* is a command that runs it, such as `ip netns exec NAME`."""
        command = [*prefix, sys.executable, "-m", "benchmarks._hosts_child"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=_ROOT, limit=2**20)
        return cls(process)

    async def do(self, command: str, **arguments: Any) -> None:
        """Send a command, see `_hosts_child.COMMANDS`. A dead process gets none."""
        assert self.process.stdin
        with suppress(ConnectionError):
            self.process.stdin.write(json.dumps({"do": command, **arguments}).encode() + b"\n")
            await self.process.stdin.drain()

    async def open(self, url: str, journal: str, **options: Any) -> str:
        """Open a client. Return the name under which it writes its rows."""
        before = len(self.events)
        await self.do("open", url=url, journal=journal, **options)
        opened = await self.until(lambda event: event["event"] in ("opened", "raised"), since=before)
        assert opened["event"] == "opened", opened
        return str(opened["owner"])

    async def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Close the client, and wait until it is closed."""
        before = len(self.events)
        await self.do("close", drain=drain, timeout=timeout)
        await self.until(lambda event: event["event"] == "closed", since=before)

    def of(self, event: str) -> list[Event]:
        """Return the events of a kind so far."""
        return [each for each in self.events if each["event"] == event]

    def ends(self) -> dict[str, Event]:
        """Return how each job ended here so far, by ref. An error that `ensure` raised is an end too."""
        return {each["ref"]: each for each in self.events if each["event"] in ("ended", "raised")}

    async def until(self, matches: Callable[[Event], bool], *, since: int = 0) -> Event:
        """Wait for an event. Raise AssertionError if the process ends before it."""
        async with self._changed:
            while True:
                for event in self.events[since:]:
                    if matches(event):
                        return event
                assert not self._reading.done(), "the host's process ended; its error is above"
                await self._changed.wait()

    async def until_ended(self, refs: Sequence[str]) -> None:
        """Wait until these jobs ended here."""
        await self.until(lambda _: self.ends().keys() >= set(refs))

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    async def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end."""
        self.signal(signal.SIGKILL)
        await self.dead()

    async def dead(self) -> None:
        """Wait until the process ended, and everything that it reported was read."""
        await self.process.wait()
        await self._reading

    async def end(self) -> None:
        """End the process: close its stdin, or kill it if that does not help."""
        self.signal(signal.SIGCONT)
        assert self.process.stdin
        self.process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await self.dead()
        except TimeoutError:
            await self.kill()

    async def _read(self) -> None:
        assert self.process.stdout
        while line := await self.process.stdout.readline():
            async with self._changed:
                self.events.append(json.loads(line))
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def hosts_running(count: int) -> AsyncIterator[list[Host]]:
    """Start processes, and end them after the block."""
    async with AsyncExitStack() as stack:
        hosts = [await Host.start() for _ in range(count)]
        for host in hosts:
            stack.push_async_callback(host.end)
        for host in hosts:
            await host.until(lambda event: event["event"] == "started")
        yield hosts
