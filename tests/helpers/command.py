"""The command as a process: with pipes, or behind a pseudo-terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from helpers.world import KEY, PNG
from modelslab_async.batch import Result, read_results
from modelslab_async.emulator import Emulator, Work, skeleton

COMMAND = [sys.executable, "-m", "modelslab_async"]
PATIENCE = 20.0


@attrs.frozen
class Shell:
    """A person's surroundings: a folder, and an emulator that stands for the service (None: none is told)."""

    folder: Path
    url: str | None = None

    def environment(self, changes: Mapping[str, str] | None = None) -> dict[str, str]:
        told = {name: value for name, value in os.environ.items() if not name.startswith(("MODELSLAB", "NO_COLOR"))}
        mine = {
            "HOME": str(self.folder),
            "MODELSLAB_API_KEY": KEY,
            "MODELSLAB_JOURNAL": str(self.folder / "jobs.db"),
            "MODELSLAB_POLL_COST": "0.01",
            "COLUMNS": "100",
            "TERM": "xterm-256color",
            "PYTHONWARNINGS": "error",
        }
        service = {"MODELSLAB_BASE_URL": self.url} if self.url else {}
        return {**told, **mine, **service, **(changes or {})}

    async def start(self, *words: str, changes: Mapping[str, str] | None = None, **options: Any) -> Running:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *words, cwd=self.folder, env=self.environment(changes), stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe, stderr=pipe, **options,
        )  # fmt: skip
        return Running(process)

    async def run(self, *words: str, changes: Mapping[str, str] | None = None, **options: Any) -> Done:
        return await (await self.start(*words, changes=changes, **options)).done()

    async def terminal(self, *words: str, changes: Mapping[str, str] | None = None) -> Terminal:
        import pty  # noqa: PLC0415 - not on Windows

        ours, theirs = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *words, cwd=self.folder, env=self.environment(changes),
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)
        terminal = Terminal(process, ours)
        asyncio.get_running_loop().add_reader(ours, terminal.read)
        return terminal


def _take_terminal() -> None:
    """A Ctrl-C that is typed becomes a signal."""
    import fcntl  # noqa: PLC0415 - not on Windows
    import termios  # noqa: PLC0415

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@attrs.frozen
class Done:
    """How it ended."""

    code: int
    out: str
    err: str

    @property
    def told(self) -> Any:
        """The JSON objects of stdout: the one, or a list."""
        objects = [json.loads(line) for line in self.out.splitlines()]
        return objects[0] if len(objects) == 1 else objects


@attrs.frozen
class Running:
    process: asyncio.subprocess.Process

    async def done(self) -> Done:
        out, err = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        assert KEY.encode() not in out + err
        assert self.process.returncode is not None
        return Done(self.process.returncode, out.decode(), err.decode())


@attrs.define
class Terminal:
    """What a person sees and types."""

    process: asyncio.subprocess.Process
    _ours: int
    raw: bytes = b""
    _news: asyncio.Event = attrs.field(factory=asyncio.Event)

    def read(self) -> None:
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            data = b""
        self.raw += data
        if not data:
            asyncio.get_running_loop().remove_reader(self._ours)
        self._news.set()

    @property
    def text(self) -> str:
        """Without colours and movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def type_until_it_ends(self, text: str) -> None:
        """As people press Ctrl-C: again, where nothing came of it. One just before a read is not seen by the read."""
        while self.process.returncode is None:
            self.type(text)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.process.wait()), 5)

    async def until(self, words: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while words not in self.text:
                assert self.process.returncode is None, self.text
                self._news.clear()
                await self._news.wait()

    async def done(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        with suppress(TimeoutError):  # on some systems a terminal has no end
            async with asyncio.timeout(1):
                while asyncio.get_running_loop().remove_reader(self._ours):
                    asyncio.get_running_loop().add_reader(self._ours, self.read)
                    self._news.clear()
                    await self._news.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        assert KEY.encode() not in self.raw
        return code


SLOW = 60.0
"""At this speed a job takes two thirds of a second."""


@attrs.frozen
class Held:
    """Renders, but nobody has a video before it is opened: what is running cannot be done too early."""

    opened: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, work: Work) -> bytes:
        self.opened.wait(PATIENCE)
        return skeleton(work)

    def open(self) -> None:
        self.opened.set()


async def until_known(folder: Path, count: int) -> None:
    """Until the journal has the service's ids of so many jobs."""
    async with asyncio.timeout(PATIENCE):
        while _ids(folder / "jobs.db") < count:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)


async def until_charged(emulator: Emulator, count: int) -> None:
    """Until so many jobs are paid for."""
    async with asyncio.timeout(PATIENCE):
        while charges(emulator) < count:  # noqa: ASYNC110 - a ledger has no event
            await asyncio.sleep(0.01)


async def until_done(emulator: Emulator) -> None:
    """Until all that was taken is finished."""
    async with asyncio.timeout(PATIENCE):
        while not all(job.state(emulator.now()) == "success" for job in emulator.service.jobs.values()):  # noqa: ASYNC110 - a job of the emulator's has no event
            await asyncio.sleep(0.01)


def _ids(path: Path) -> int:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT count(job_id) FROM jobs").fetchone()[0])
    finally:
        database.close()


@asynccontextmanager
async def emulated(folder: Path, **options: Any) -> AsyncIterator[tuple[Shell, Emulator]]:
    """A shell in a folder with a picture, and an emulator in this process."""
    (folder / "a.png").write_bytes(PNG)
    async with Emulator(**{"speed": 400, "render": skeleton, "eta": {"good": 1}, **options}) as emulator:
        yield Shell(folder, emulator.url), emulator


def manifest(folder: Path, count: int) -> Path:
    path = folder / "shots.jsonl"
    shots = [{"prompt": "zoom", "init_image": "a.png", "seed": seed} for seed in range(count)]
    path.write_text("".join(json.dumps(shot) + "\n" for shot in shots))
    return path


def charges(emulator: Emulator) -> int:
    return len(emulator.ledger.charges)


def made(folder: Path) -> dict[str, Result]:
    """The items that have a video."""
    return {result.item: result for result in read_results(folder) if result.file}
