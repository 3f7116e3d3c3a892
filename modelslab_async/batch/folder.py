"""The folder of a batch: its videos, `results.jsonl`, and `batch.json`, which names the account and the journal."""

from __future__ import annotations

import errno
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from modelslab_async.batch.files import examine
from modelslab_async.batch.results import RESULTS_FILE, Result, from_json, to_json
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
    _index: sqlite3.Connection
    """The last result of each item, and the item of each file. It is on disk: memory does not grow with the batch."""
    _position: int
    """How much of `results.jsonl` was read, in bytes."""
    _one_thread: threading.Lock = attrs.field(factory=threading.Lock)

    def last(self, item: str) -> Result | None:
        """Return the item's last result, or None."""
        row = self._index.execute("SELECT line FROM items WHERE item = ?", [item]).fetchone()
        return None if row is None else from_json(row[0])

    def write(self, result: Result, known: Result | None) -> list[Result]:
        """Append a line to `results.jsonl` and flush it to the disk: call it in a thread. Raises OSError.

        known: the item's last result, or None. Return the results to remember. In a shared folder, the lines of other
        runs are among them, and nothing is written if another run wrote the same result.
        """
        if not self.is_shared:
            self._append(result)
            return [result]
        with self._one_thread, _locked(self._results):
            found = self._read_new()
            known = next((each for each in reversed(found) if each.item == result.item), known)
            if known and _is_same(known, result):
                return found
            self._position += self._append(result)
            return [*found, result]

    def _append(self, result: Result) -> int:
        size = self._results.write(to_json(result) + b"\n")
        self._results.flush()
        os.fsync(self._results.fileno())
        return size

    def stored(self) -> Iterator[Result]:
        """Yield the results that the file has now."""
        with (self.path / RESULTS_FILE).open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self._position += len(line)
                    if result := from_json(line):
                        yield result

    def read_new(self) -> list[Result]:
        """Return the results that other runs wrote since the last call: call it in a thread. Raises OSError."""
        with self._one_thread:
            return self._read_new()

    def _read_new(self) -> list[Result]:
        with (self.path / RESULTS_FILE).open("rb") as file:
            file.seek(self._position)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._position += len(whole)
        return [result for line in whole.splitlines() if (result := from_json(line))]

    def was_written_meanwhile(self, item: str) -> bool:
        """Return whether the item's last result was written since the folder was opened, by this run or another one."""
        row = self._index.execute("SELECT is_new FROM items WHERE item = ?", [item]).fetchone()
        return row is not None and bool(row[0])

    def remember(self, result: Result, *, is_new: bool = True) -> None:
        """Put a result into the index. Call it in the event loop's thread: SQLite allows one thread at a time.

        is_new: whether it was written since the folder was opened.
        """
        self._index.execute("INSERT OR REPLACE INTO items VALUES (?, ?, ?)", [result.item, to_json(result), is_new])
        if result.file:
            self.claim(result.item, result.file)

    def claim(self, item: str, name: str) -> bool:
        """Reserve a file name for an item. Return False if another item has the name."""
        self._index.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", [name, item])
        [owner] = self._index.execute("SELECT item FROM files WHERE name = ?", [name]).fetchone()
        return bool(owner == item)

    def holds(self, result: Result) -> bool:
        """Return whether the result's file is unchanged. It reads the file: call it in a thread."""
        if result.file is None:
            return False
        found = examine(self.path / result.file)
        return found is not None and found.sha256 == result.sha256


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
        raise _refusal(path, "cannot be made: a file is in its way", "choose another folder") from None
    with (path / BATCH_FILE).open("a+b") as lock:
        if not liveness.try_lock(lock, shared=shared):
            hint = "wait for its end, or choose another folder"
            raise _refusal(path, "cannot be used: another run is at work in it", hint)
        with (path / RESULTS_FILE).open("ab+") as results, _open_index() as index:
            with _locked(results):
                batch = _identify(path, lock, owner)
                _end_last_line(results)
            folder = Folder(path, batch, shared, lock, results, index, 0)
            for result in folder.stored():
                folder.remember(result, is_new=False)
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
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "": a temporary file of its own
    try:
        connection.executescript(
            "PRAGMA synchronous=OFF;"
            "CREATE TABLE items (item TEXT PRIMARY KEY, line TEXT, is_new INTEGER) WITHOUT ROWID;"
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
