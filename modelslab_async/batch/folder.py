"""The folder of a batch: its videos, `results.jsonl`, and `batch.json`, which names the account and the journal."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from modelslab_async.batch.files import examine
from modelslab_async.batch.results import RESULTS_FILE, Line, Result, from_json, line_at, to_json
from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.journal import liveness
from modelslab_async.media.disk import flush_folder

BATCH_FILE = "batch.json"
_LOCK_PATIENCE = 30.0
"""Seconds for which a run waits while another run writes a line."""
_LOCK_PAUSE = 0.02


@attrs.frozen(kw_only=True)
class Owner:
    """The owner of a folder's jobs.

    account: the account's fingerprint. journal: the journal's path or database. emulator: whether the service is one.
    """

    account: str
    journal: str
    emulator: bool = False


@attrs.define
class Folder:
    """A batch's folder while it is open. Unless it is shared, no other process writes to it.

    batch: the batch's name, with which its refs begin.
    is_shared: whether runs of other processes and hosts use the folder at the same time.
    """

    path: Path
    batch: str
    is_shared: bool
    _lock: IO[bytes]
    _results: IO[bytes]
    _reader: IO[bytes]
    """`results.jsonl`, to read single lines."""
    _index: sqlite3.Connection
    """Where the results of each item are, and the item of each file. It is on disk: memory does not grow with the
    batch."""
    _position: int
    """How much of `results.jsonl` was read, in bytes."""
    _has_files: bool = False
    """Whether the index has the item of each file. Only a run that saves a file needs that."""
    changing: asyncio.Lock = attrs.field(factory=asyncio.Lock)
    """Held from the read of lines until they are remembered, so that no line is known to the file but not to `last`."""
    _one_thread: threading.Lock = attrs.field(factory=threading.Lock)

    def last(self, item: str) -> Result | None:
        """Return the item's last result that can be read, or None."""
        sql = "SELECT offset, length FROM items WHERE item = ? ORDER BY offset DESC"
        for offset, length in self._index.execute(sql, [item]):
            self._reader.seek(offset)
            if result := from_json(self._reader.read(length)):
                return result
        return None

    def write(self, result: Result, known: Result | None) -> Sequence[Line]:
        """Append a line to `results.jsonl` and flush it to the disk: call it in a thread. Raises OSError.

        known: the item's last result, or None. Return the lines to remember. In a shared folder, those of other runs
        are among them, and nothing is written if another run wrote the same result.
        """
        if not self.is_shared:
            return [self._append(result)]
        with self._one_thread, _locked(self._results):
            found = self._read_new()
            for line, data in found:
                known = (from_json(data) or known) if line.item == result.item else known
            lines = [line for line, _ in found]
            if known and _is_same(known, result):
                return lines
            mine = self._append(result)
            self._position += mine.length
            return [*lines, mine]

    def _append(self, result: Result) -> Line:
        data, offset = to_json(result) + b"\n", self._results.seek(0, os.SEEK_END)
        self._results.write(data)
        self._results.flush()
        os.fsync(self._results.fileno())
        return Line(result.item, result.file, offset, len(data))

    def remember_stored(self) -> None:
        """Put the results that the file has now into the index."""
        self._index.execute("BEGIN")
        self._index.executemany("INSERT INTO items VALUES (?, ?, ?, ?, FALSE)", self._stored())
        self._index.execute("CREATE INDEX items_by_name ON items (item, offset)")
        self._index.execute("COMMIT")

    def _stored(self) -> Iterator[Line]:
        with (self.path / RESULTS_FILE).open("rb") as file:
            for data in file:
                if data.endswith(b"\n"):
                    if line := line_at(self._position, data):
                        yield line
                    self._position += len(data)

    def read_new(self) -> Sequence[Line]:
        """Return the results that other runs wrote since the last call: call it in a thread. Raises OSError."""
        with self._one_thread:
            return [line for line, _ in self._read_new()]

    def _read_new(self) -> list[tuple[Line, bytes]]:
        with (self.path / RESULTS_FILE).open("rb") as file:
            file.seek(self._position)
            new = file.read()
        found = list[tuple[Line, bytes]]()
        for data in new[: new.rfind(b"\n") + 1].splitlines(keepends=True):
            if line := line_at(self._position, data):
                found.append((line, data))
            self._position += len(data)
        return found

    def was_written_meanwhile(self, item: str) -> bool:
        """Return whether the item's last result was written since the folder was opened, by this run or another one."""
        sql = "SELECT is_new FROM items WHERE item = ? ORDER BY offset DESC LIMIT 1"
        row = self._index.execute(sql, [item]).fetchone()
        return row is not None and bool(row[0])

    def remember(self, line: Line) -> None:
        """Put a new result into the index. Call it in the event loop's thread: SQLite allows one thread at a time."""
        self._index.execute("INSERT INTO items VALUES (?, ?, ?, ?, TRUE)", line)
        if line.file is not None and self._has_files:
            self.claim(line.item, line.file)

    def claim(self, item: str, name: str) -> bool:
        """Reserve a file name for an item. Return False if another item has the name."""
        if not self._has_files:
            self._has_files = True
            sql = "INSERT OR IGNORE INTO files SELECT file, item FROM items WHERE file IS NOT NULL ORDER BY offset"
            self._index.execute(sql)
        self._index.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", [name, item])
        [owner] = self._index.execute("SELECT item FROM files WHERE name = ?", [name]).fetchone()
        return bool(owner == item)

    def holds(self, result: Result, *, verify: bool = False) -> bool:
        """Return whether the result's file is unchanged. It may read the file: call it in a thread.

        A file with the size and the time that the result names is unchanged. Otherwise, or with *verify*, its digest
        is compared.
        """
        if result.file is None:
            return False
        if not verify and _facts_of(f"{self.path}/{result.file}") == (result.size_bytes, result.mtime_ns):
            return True
        found = examine(self.path / result.file)
        return found is not None and found.sha256 == result.sha256


def _facts_of(path: str) -> tuple[int, int] | None:
    """Return a file's size and the time when it was modified; None if it cannot be read."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - pathlib takes longer than the call itself, for each finished item
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def _is_same(known: Result, result: Result) -> bool:
    """Return whether a result that another run wrote says as much as this one."""
    is_of_same_job = (known.ref, known.state, known.file) == (result.ref, result.state, result.file)
    return is_of_same_job and (known.host is not None or result.host is None)


@contextmanager
def opened(path: Path, owner: Owner, *, shared: bool = False) -> Iterator[Folder]:
    """Open and lock a batch's folder, which is created if it does not exist. A *shared* folder may have several runs.

    Raises InvalidRequestError if another run uses the folder or if it belongs to another owner; OSError of the disk.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _refusal(path, "cannot be made: a file is in the way", "choose another folder") from None
    with (path / BATCH_FILE).open("a+b") as lock:
        if not liveness.try_lock(lock, shared=shared):
            hint = "wait for its end, or choose another folder"
            raise _refusal(path, "cannot be used: another run is using it", hint)
        with (
            (path / RESULTS_FILE).open("ab+") as results,
            (path / RESULTS_FILE).open("rb") as reader,
            _open_index() as index,
        ):
            with _locked(results):
                batch = _identify(path, lock, owner)
                _end_last_line(results)
            folder = Folder(path, batch, shared, lock, results, reader, index, 0)
            folder.remember_stored()
            yield folder


@contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    """Lock a file for a moment, during which it is read or written. Raises TimeoutError."""
    give_up_at = time.monotonic() + _LOCK_PATIENCE
    while not liveness.try_lock(file):
        if time.monotonic() > give_up_at:
            raise TimeoutError(errno.ETIMEDOUT, "another process keeps the file locked", file.name)
        time.sleep(_LOCK_PAUSE)
    try:
        yield
    finally:
        liveness.unlock(file)


def _identify(path: Path, file: IO[bytes], owner: Owner) -> str:
    """Return the batch's name from *file*, which is written if it is empty. Raises InvalidRequestError."""
    file.seek(0)
    content = file.read()
    if not content:
        batch = secrets.token_hex(4)
        file.write(json.dumps({"batch": batch, **attrs.asdict(owner)}).encode())
        file.flush()
        os.fsync(file.fileno())
        flush_folder(path)  # without this file, a later run could not find the jobs that are paid for
        return batch
    try:
        known = json.loads(content)
        batch, emulator = str(known["batch"]), bool(known["emulator"])
        before = Owner(account=known["account"], journal=known["journal"], emulator=emulator)
    except (ValueError, LookupError, TypeError) as error:
        raise _refusal(path, f"cannot be used: {BATCH_FILE} cannot be read", "choose another folder") from error
    if before != owner and not (before.emulator and owner.emulator):
        raise _refusal(path, _difference(before, owner), "choose another folder, so that nothing is paid for twice")
    return batch


def _difference(before: Owner, owner: Owner) -> str:
    if before.emulator:
        return "cannot be used: it holds videos of an emulator"
    if owner.emulator:
        return "cannot be used: its videos are not the emulator's"
    if before.account != owner.account:
        return "cannot be used: its jobs belong to another key, or to another base URL"
    return f"must be used with the journal of its jobs, {before.journal}"


def _refusal(path: Path, requirement: str, hint: str) -> InvalidRequestError:
    return InvalidRequestError([Problem("folder", repr(str(path)), requirement, hint)])


@contextmanager
def _open_index() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "": a new temporary file
    try:
        connection.executescript(
            "PRAGMA synchronous=OFF; PRAGMA journal_mode=OFF; PRAGMA locking_mode=EXCLUSIVE;"
            "CREATE TABLE items (item TEXT, file TEXT, offset INTEGER, length INTEGER, is_new INTEGER);"
            "CREATE TABLE files (name TEXT PRIMARY KEY, item TEXT) WITHOUT ROWID;"
        )
        yield connection
    finally:
        connection.close()


def _end_last_line(results: IO[bytes]) -> None:
    """End the last line, of which a process that was killed may have written only a part."""
    if results.seek(0, os.SEEK_END):
        results.seek(-1, os.SEEK_END)
        if results.read(1) != b"\n":
            results.write(b"\n")
