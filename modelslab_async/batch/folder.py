"""Where a batch keeps what it made: `results.jsonl`, the videos, and `batch.json`, which says whose they are."""

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
from modelslab_async.journal import liveness as presence
from modelslab_async.media.disk import flush_folder

BATCH_FILE = "batch.json"


@attrs.frozen(kw_only=True)
class Owner:
    """Whose jobs the folder holds: the account's fingerprint, and where the journal is that knows them."""

    account: str
    journal: str
    emulator: bool = False


@attrs.define
class Folder:
    """A batch's folder while it is open: nobody else writes to it. An index of a million results stays on disk."""

    path: Path
    batch: str
    _lock: IO[bytes]
    _results: IO[bytes]
    _index: sqlite3.Connection

    def last(self, item: str) -> Result | None:
        """What became of an item so far."""
        row = self._index.execute("SELECT line FROM items WHERE item = ?", [item]).fetchone()
        return None if row is None else from_json(row[0])

    def write(self, result: Result) -> None:
        """Write a line; it is on disk then: call it in a thread. Raises OSError."""
        self._results.write(to_json(result) + b"\n")
        self._results.flush()
        os.fsync(self._results.fileno())

    def know(self, result: Result) -> None:
        """Keep in mind what a line says. The index takes one thread at a time, the event loop's."""
        self._index.execute("INSERT OR REPLACE INTO items VALUES (?, ?)", [result.item, to_json(result)])
        if result.file:
            self.claims(result.item, result.file)

    def claims(self, item: str, name: str) -> bool:
        """Whether no other item has the name; from now on this one does."""
        self._index.execute("INSERT OR IGNORE INTO files VALUES (?, ?)", [name, item])
        [owner] = self._index.execute("SELECT item FROM files WHERE name = ?", [name]).fetchone()
        return bool(owner == item)

    def holds(self, result: Result) -> bool:
        """Whether the result's file is there as it was written. Reads it: call it in a thread."""
        if result.file is None:
            return False
        found = examine(self.path / result.file)
        return found is not None and found.sha256 == result.sha256


@contextmanager
def opened(path: Path, owner: Owner) -> Iterator[Folder]:
    """The folder, made where there is none.

    Raises InvalidRequestError for one in which another run is at work, or which holds another account's batch, and
    OSError where the disk does not play along.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _problem(path, "a file is in its way", "choose another folder") from None
    with (path / BATCH_FILE).open("a+b") as lock:
        if not presence.try_lock(lock):
            raise _problem(path, "another run is at work in it", "wait for its end, or choose another folder")
        batch = _identified(path, lock, owner)
        with (path / RESULTS_FILE).open("ab+") as results, _index() as index:
            _end_line(results)
            folder = Folder(path, batch, lock, results, index)
            for result in read_results(path):
                folder.know(result)
            yield folder


def _identified(path: Path, file: IO[bytes], owner: Owner) -> str:
    """The batch's name, which begins its refs."""
    file.seek(0)
    told = file.read()
    if not told:
        batch = secrets.token_hex(4)
        file.write(json.dumps({"batch": batch, **attrs.asdict(owner)}).encode())
        file.flush()
        os.fsync(file.fileno())
        flush_folder(path)  # without this file a later run would not know what was paid for
        return batch
    try:
        known = json.loads(told)
        batch, emulator = str(known["batch"]), bool(known["emulator"])
        before = Owner(account=known["account"], journal=known["journal"], emulator=emulator)
    except (ValueError, LookupError, TypeError) as error:
        raise _problem(path, f"its {BATCH_FILE} cannot be read", "choose another folder") from error
    if before != owner and not (before.emulator and owner.emulator):
        raise _problem(path, _difference(before, owner), "choose another folder, so that nothing is paid twice")
    return batch


def _difference(before: Owner, owner: Owner) -> str:
    if before.emulator:
        return "it holds videos of an emulator"
    if owner.emulator:
        return "it holds videos that are not the emulator's"
    if before.account != owner.account:
        return "its jobs were paid with another key, or at another base URL"
    return f"its jobs are kept in the journal {before.journal}"


def _problem(path: Path, requirement: str, hint: str) -> InvalidRequestError:
    return InvalidRequestError([Problem("folder", repr(str(path)), requirement, hint)])


@contextmanager
def _index() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect("", isolation_level=None, check_same_thread=False)  # "": a file that nobody else sees
    try:
        connection.executescript(
            "PRAGMA synchronous=OFF; CREATE TABLE items (item TEXT PRIMARY KEY, line TEXT) WITHOUT ROWID;"
            "CREATE TABLE files (name TEXT PRIMARY KEY, item TEXT) WITHOUT ROWID;"
        )
        yield connection
    finally:
        connection.close()


def _end_line(results: IO[bytes]) -> None:
    """A process that was killed while it wrote left half a line."""
    if results.seek(0, os.SEEK_END):
        results.seek(-1, os.SEEK_END)
        if results.read(1) != b"\n":
            results.write(b"\n")
