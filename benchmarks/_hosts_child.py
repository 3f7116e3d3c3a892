"""One host of the benchmark `hosts` and of the tests: `python -m benchmarks._hosts_child`.

It reads one JSON object per line from stdin, see `COMMANDS`, and writes one per line to stdout: what happened, and when
(seconds of the machine's monotonic clock). It ends when stdin is closed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from modelslab_async import Budget, Client, Job, Journal, JournalError, ModelsLabError, Timeouts
from modelslab_async.journal.choose import journal_of
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.protocol import record, wire
from modelslab_async.protocol.claims import Ask, Claim, Claimed
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.telemetry import Telemetry
from modelslab_async.transport.aiohttp import AiohttpTransport

KEY = "any"
PICTURE = "https://picture.invalid/a.png"
PICTURE_BYTES = b"\x89PNG\r\n\x1a\n" + bytes(24)
RETRY_SECONDS = 0.5
"""Seconds after which a job is ensured again, if the database is away."""
INSTANTS = ("claimed", "before the POST", "before the acceptance", "acceptance written", "taken over")
"""Instants at which a host can send itself a signal: between claim and POST, between POST and acceptance, and so on."""


def say(event: str, **values: Any) -> None:
    """Report an event to the parent process."""
    print(json.dumps({"event": event, "at": time.monotonic(), **values}), flush=True)


class Reporter(Telemetry):
    """Report what happens to the jobs that this host sends."""

    def submitted(self, job: Job) -> None:
        """Report that a job waits for its turn."""
        say("submitted", ref=job.ref)

    def accepted(self, job: Job) -> None:
        """Report that the service accepted a job."""
        say("accepted", ref=job.ref)

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        """Report a refusal. Without *error* it was a 429."""
        say("refused", ref=job.ref, error=error and type(error).__name__)


class Host:
    """A client in this process, and the instant at which the process sends itself a signal."""

    def __init__(self) -> None:
        self.client: Client | None = None
        self.folder = Path()
        self._tasks = set[asyncio.Task[None]]()
        self._signal, self._signal_at, self._signal_after = signal.SIGKILL, "", 0

    def reached(self, instant: str) -> None:
        """Send the signal that was asked for at this instant to this process."""
        if instant == self._signal_at:
            self._signal_after -= 1
            if self._signal_after == 0:
                say("signalled", instant=instant)
                os.kill(os.getpid(), self._signal)

    # --- commands ---

    async def open(
        self,
        url: str,
        journal: str,
        *,
        slots: int = 5,
        speed: float = 1.0,
        lease: float = 3.0,
        beat: float = 0.5,
        usd_per_day: str | None = None,
        folder: str = "",
        submit_timeout: float = 20.0,
    ) -> None:
        """Open a client. All times of the service are divided by *speed*, as the emulator's are."""
        record.SLOT_HOLD = 120.0 / speed
        is_server = journal.startswith("postgresql:")
        kept: Journal = PostgresJournal(journal, lease=lease, beat=beat) if is_server else journal_of(journal)
        timeouts = Timeouts(submit=submit_timeout, link=20.0)
        transport = AiohttpTransport(timeouts)
        post, claim, append = transport.post, kept.claim, kept.append

        async def watched_post(
            url: str, body: bytes, *, timeout: float | None, own_connection: bool = False
        ) -> HttpReply:
            if own_connection:
                self.reached("before the POST")
            reply = await post(url, body, timeout=timeout, own_connection=own_connection)
            if own_connection:
                self.reached("before the acceptance")
            return reply

        async def watched_claim(wanted: JobRecord, ask: Ask) -> Claim:
            answer = await claim(wanted, ask)
            if isinstance(answer, Claimed):
                self.reached("claimed")
            return answer

        async def watched_append(written: JobRecord, *, take_over: str | None = None) -> bool:
            is_written = await append(written, take_over=take_over)
            self.reached("taken over" if take_over else "acceptance written")
            return is_written

        for target, name, watched in (
            (transport, "post", watched_post),
            (kept, "claim", watched_claim),
            (kept, "append", watched_append),
        ):
            setattr(target, name, watched)
        self.folder = Path(folder)
        options: dict[str, Any] = {} if wire.is_safe_base_url(url) else {"allow_http": True}
        self.client = Client(
            KEY,
            base_url=url,
            journal=kept,
            max_in_flight=slots,
            budget=Budget(usd=usd_per_day, per="day") if usd_per_day else None,
            poll_cost=0.4 / speed,
            timeouts=timeouts,
            telemetry=Reporter(),
            transport=transport,
            **options,
        )
        await self.client.__aenter__()
        say("opened", owner=kept.owner)

    async def submit(self, refs: Sequence[str]) -> None:
        """Submit a job for each ref."""
        assert self.client
        for ref in refs:
            self._start(self._see(self.client.submit(prompt="zoom in", init_image=PICTURE, track_id=ref)))

    async def ensure(self, refs: Sequence[str], *, is_saved: bool = False, has_bytes: bool = False) -> None:
        """Ensure a job for each ref, all at once. Save the videos if *is_saved*."""
        for ref in refs:
            self._start(self._ensure(ref, is_saved=is_saved, picture=PICTURE_BYTES if has_bytes else PICTURE))

    async def follow(self, refs: Sequence[str]) -> None:
        """Follow the job of each ref, and report its events."""
        assert self.client
        for ref in refs:
            self._start(self._see(await self.client.follow(ref), is_shown=True))

    async def close(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Close the client."""
        assert self.client
        await self.client.aclose(drain=drain, timeout=timeout)
        say("closed")

    async def signal(self, number: int, at: str, after: int = 1) -> None:
        """Send a signal to this process when it reaches an instant the *after*-th time, see `INSTANTS`."""
        self._signal, self._signal_at, self._signal_after = signal.Signals(number), at, after
        say("armed")

    # --- jobs ---

    async def _ensure(self, ref: str, *, is_saved: bool, picture: str | bytes) -> None:
        assert self.client
        while True:
            try:
                job = await self.client.ensure(prompt="zoom in", init_image=picture, ref=ref)
            except JournalError:
                await asyncio.sleep(RETRY_SECONDS)  # as a task queue runs a task again
            except ModelsLabError as error:
                return say("raised", ref=ref, error=type(error).__name__, text=str(error))
            else:
                return await self._see(job, is_saved=is_saved)

    async def _see(self, job: Job, *, is_shown: bool = False, is_saved: bool = False) -> None:
        """Report the end of a job, and with *is_shown* all of its events."""
        if is_shown:
            async for event in job.events():
                say("seen", ref=job.ref, state=event.state.value)
        await job.wait()
        if is_saved and job.error is None:
            with suppress(ModelsLabError):
                await job.save(self.folder / f"{job.ref}.mp4")
        error = job.error
        say(
            "ended",
            ref=job.ref,
            id=job.id,
            state=job.state.value,
            error=error and type(error).__name__,
            text=error and str(error),
        )

    def _start(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


COMMANDS: dict[str, Callable[..., Awaitable[None]]] = {
    "open": Host.open,
    "submit": Host.submit,
    "ensure": Host.ensure,
    "follow": Host.follow,
    "close": Host.close,
    "signal": Host.signal,
}


async def main() -> None:
    """Obey the commands until stdin is closed."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    host = Host()
    say("started")
    running = set[asyncio.Task[None]]()
    while line := await lines.readline():
        command = json.loads(line)

        async def obey(command: dict[str, Any] = command) -> None:
            try:
                await COMMANDS[command.pop("do")](host, **command)
            except ModelsLabError as error:
                say("raised", ref="", error=type(error).__name__, text=str(error))

        task = asyncio.create_task(obey())
        running.add(task)
        task.add_done_callback(running.discard)
    if host.client:
        await host.client.aclose(drain=False)


if __name__ == "__main__":
    logging.basicConfig(level=os.environ.get("HOST_LOG", "CRITICAL"), format=f"{os.getpid()} %(message)s")
    warnings.simplefilter("ignore")  # plain http to the emulator of another host
    asyncio.run(main())
