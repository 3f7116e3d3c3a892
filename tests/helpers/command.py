"""Run the command in tests: in this process, as a process with pipes, or as a process behind a pseudo-terminal."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
from click.testing import CliRunner

import modelslab_async
from helpers.world import KEY, PNG
from modelslab_async.batch import Result, read_results
from modelslab_async.cli.app import app
from modelslab_async.emulator import Emulator, Work, skeleton

COMMAND = [sys.executable, "-m", "modelslab_async"]
PATIENCE = 40.0
SLOW = 60.0
"""At this speed of the emulator, a job takes two thirds of a second."""


@attrs.frozen
class Done:
    """The end of a command: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The JSON objects of stdout: a single object, or a list."""
        objects = [json.loads(line) for line in self.out.splitlines()]
        return objects[0] if len(objects) == 1 else objects


@attrs.frozen
class Surroundings:
    """A folder to run commands in, and the URL of an emulator. The environment names no emulator if it is None."""

    folder: Path
    url: str | None = None

    def environment(self, changes: Mapping[str, str] | None = None) -> dict[str, str]:
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("MODELSLAB", "NO_COLOR"))}
        own = {
            "HOME": str(self.folder),
            "MODELSLAB_API_KEY": KEY,
            "MODELSLAB_JOURNAL": str(self.folder / "jobs.db"),
            "MODELSLAB_POLL_COST": "0.01",
            "COLUMNS": "100",
            "TERM": "xterm-256color",
            "PYTHONWARNINGS": "error",
            "PYTHONPATH": str(Path(modelslab_async.__file__).parents[1]),  # the package that the tests import
        }
        service = {"MODELSLAB_BASE_URL": self.url} if self.url else {}
        return {**inherited, **own, **service, **(changes or {})}


class Shell(Surroundings):
    """Runs commands one after the other, in this process unless a test is about the process."""

    def run(self, *words: str, changes: Mapping[str, str] | None = None, typed: str | None = None) -> Done:
        """Run a command in this process: its code, its event loop and its HTTP, without a new interpreter.

        typed: what the user types, on stdin.
        """
        environment: dict[str, str | None] = dict.fromkeys(os.environ)
        with chdir(self.folder):
            result = CliRunner().invoke(
                app,
                words,
                prog_name="modelslab-async",
                env={**environment, **self.environment(changes)},
                input=typed,
            )
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert KEY not in result.stdout + result.stderr
        return Done(result.exit_code, result.stdout, result.stderr)

    def run_process(self, *words: str, changes: Mapping[str, str] | None = None, **options: Any) -> Done:
        """Run a command in a process of its own."""
        result = subprocess.run(
            [*COMMAND, *words], cwd=self.folder, env=self.environment(changes), stdin=subprocess.DEVNULL,
            capture_output=True, timeout=PATIENCE, check=False, **options,
        )  # fmt: skip
        assert KEY.encode() not in result.stdout + result.stderr
        return Done(result.returncode, result.stdout.decode(), result.stderr.decode())


class AsyncShell(Surroundings):
    """Runs commands as processes, several at a time."""

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
    """Make the pseudo-terminal the process's own, so that a typed Ctrl-C becomes a signal."""
    import fcntl  # noqa: PLC0415 - not on Windows
    import termios  # noqa: PLC0415

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@attrs.frozen
class Running:
    """A process that runs a command."""

    process: asyncio.subprocess.Process

    async def done(self) -> Done:
        out, err = await asyncio.wait_for(self.process.communicate(), PATIENCE)
        assert KEY.encode() not in out + err
        assert self.process.returncode is not None
        return Done(self.process.returncode, out.decode(), err.decode())


@attrs.define
class Terminal:
    """A process behind a pseudo-terminal: what a user sees and types."""

    process: asyncio.subprocess.Process
    _ours: int
    raw: bytes = b""
    _changed: asyncio.Event = attrs.field(factory=asyncio.Event)

    def read(self) -> None:
        try:
            data = os.read(self._ours, 65536)
        except OSError:
            data = b""
        self.raw += data
        if not data:
            asyncio.get_running_loop().remove_reader(self._ours)
        self._changed.set()

    @property
    def text(self) -> str:
        """What was printed, without colours and cursor movements."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw.decode(errors="replace"))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    async def type_until_it_ends(self, text: str) -> None:
        """Type the text again every 5 s, as users press Ctrl-C: a read that begins just after a signal misses it."""
        while self.process.returncode is None:
            self.type(text)
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.process.wait()), 5)

    async def until(self, text: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while text not in self.text:
                assert self.process.returncode is None, self.text
                self._changed.clear()
                await self._changed.wait()

    async def done(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), PATIENCE)
        with suppress(TimeoutError):  # on some systems, reading a terminal never ends
            async with asyncio.timeout(1):
                while asyncio.get_running_loop().remove_reader(self._ours):
                    asyncio.get_running_loop().add_reader(self._ours, self.read)
                    self._changed.clear()
                    await self._changed.wait()
        asyncio.get_running_loop().remove_reader(self._ours)
        os.close(self._ours)
        assert KEY.encode() not in self.raw
        return code


@attrs.frozen
class Held:
    """Render videos only once it is opened, so that no running job ends too early."""

    opened: threading.Event = attrs.field(factory=threading.Event)

    def __call__(self, work: Work) -> bytes:
        self.opened.wait(PATIENCE)
        return skeleton(work)

    def open(self) -> None:
        self.opened.set()


# --- emulators ---


def _emulator(folder: Path, options: Mapping[str, Any]) -> Emulator:
    """Return an emulator that renders no real videos, and put a picture into the folder."""
    (folder / "a.png").write_bytes(PNG)
    usual: dict[str, Any] = {"speed": 400, "render": skeleton, "eta": {"good": 1}}
    return Emulator(**{**usual, **options})


@asynccontextmanager
async def emulated(folder: Path, **options: Any) -> AsyncIterator[tuple[AsyncShell, Emulator]]:
    """Run an emulator in this event loop, and give a shell for processes."""
    async with _emulator(folder, options) as emulator:
        yield AsyncShell(folder, emulator.url), emulator


@contextmanager
def emulated_aside(folder: Path, **options: Any) -> Iterator[tuple[Shell, Emulator]]:
    """Run an emulator in a thread, and give a shell whose commands run in this process."""
    emulator = _emulator(folder, options)
    is_running, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with emulator:
            is_running.set()
            await stop.wait()

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert is_running.wait(PATIENCE)
        yield Shell(folder, emulator.url), emulator
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)


def charges(emulator: Emulator) -> int:
    """Return how many jobs were paid for."""
    return len(emulator.ledger.charges)


async def until_charged(emulator: Emulator, count: int) -> None:
    """Wait until *count* jobs are paid for."""
    async with asyncio.timeout(PATIENCE):
        while charges(emulator) < count:  # noqa: ASYNC110 - a ledger has no event
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait in real time until the condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- files ---


async def until_known(folder: Path, count: int) -> None:
    """Wait until the journal has the service's ids of *count* jobs."""
    async with asyncio.timeout(PATIENCE):
        while _id_count(folder / "jobs.db") < count:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)


def _id_count(path: Path) -> int:
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return int(database.execute("SELECT count(job_id) FROM jobs").fetchone()[0])
    finally:
        database.close()


def manifest(folder: Path, count: int) -> Path:
    """Write a manifest of *count* lines."""
    path = folder / "shots.jsonl"
    shots = [{"prompt": "zoom", "init_image": "a.png", "seed": seed} for seed in range(count)]
    path.write_text("".join(json.dumps(shot) + "\n" for shot in shots))
    return path


def made(folder: Path) -> dict[str, Result]:
    """Return the results that have a video, by item."""
    return {result.item: result for result in read_results(folder) if result.file}
