"""The folder of a batch: its videos, `results.jsonl`, and `batch.json`, which names the account and the journal."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import attrs

from modelslab_async.batch.files import examine
from modelslab_async.batch.results import RESULTS_FILE, Result, from_json, read_results, to_json
from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.journal import liveness
from modelslab_async.media.disk import flush_folder

BATCH_FILE = "batch.json"


@attrs.frozen(kw_only=True)
class Owner:
    """The owner of a folder's jobs: the account's fingerprint, the journal's path, and whether it is an emulator's."""

    account: str
    journal: str
    emulator: bool = False


@attrs.define
class Folder:
    """A batch's folder while it is open. No other process writes to it.

    batch: the batch's name, with which its refs begin.
    """

    path: Path
    batch: str
    _lock: IO[bytes]
    _results: IO[bytes]
    _index: sqlite3.Connection
    """The last result of each item, and the item of each file. It is on disk: memory does not grow with the batch."""

    def last(self, item: str) -> Result | None:
        """Return the item's last result, or None."""
        row = self._index.execute("SELECT line FROM items WHERE item = ?", [item]).fetchone()
        return None if row is None else from_json(row[0])

    def write(self, result: Result) -> None:
        """Append a line to `results.jsonl` and flush it to the disk: call it in a thread. Raises OSError."""
        self._results.write(to_json(result) + b"\n")
        self._results.flush()
        os.fsync(self._results.fileno())

    def remember(self, result: Result) -> None:
        """Put a result into the index. Call it in the event loop's thread: SQLite allows one thread at a time."""
        self._index.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", [result.item, to_json(result)])
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


@contextmanager
def opened(path: Path, owner: Owner) -> Iterator[Folder]:
    """Open and lock the folder. It is made if it does not exist.

    Raises InvalidRequestError if another run uses the folder or if it belongs to another owner; OSError of the disk.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _refusal(path, "cannot be made: a file is in its way", "choose another folder") from None
    with (path / BATCH_FILE).open("a+b") as lock:
        if not liveness.try_lock(lock):
            hint = "wait for its end, or choose another folder"
            raise _refusal(path, "cannot be used: another run is at work in it", hint)
        batch = _identify(path, lock, owner)
        with (path / RESULTS_FILE).open("ab+") as results, _open_index() as index:
            _end_last_line(results)
            folder = Folder(path, batch, lock, results, index)
            for result in read_results(path):
                folder.remember(result)
            yield folder


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
            "PRAGMA synchronous=OFF; CREATE TABLE items (item TEXT PRIMARY KEY, line TEXT) WITHOUT ROWID;"
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
