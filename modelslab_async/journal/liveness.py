"""Track which clients are alive, across processes: each client locks a separate file until its process ends."""

import glob
import os
import sys
import uuid
import weakref
from contextlib import suppress
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_locked = weakref.WeakSet[IO[bytes]]()


def try_lock(file: IO[bytes], *, shared: bool = False) -> bool:
    """Lock *file* if no other process has locked it, and return whether it is locked now.

    A *shared* lock excludes only locks that are not shared.

    The lock ends with this process: a forked child closes its copy of the file. On Windows an open file cannot be
    deleted, which serves as the lock.
    """
    _locked.add(file)
    if sys.platform != "win32":
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def unlock(file: IO[bytes]) -> None:
    """Release the lock of *file*. On Windows it ends when the file is closed."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_UN)


def _close_inherited() -> None:
    """Close a forked child's copies of locked files.

    LOCK_UN would release the parent's lock too, see flock(2). Buffers are not flushed, because the parent flushes the
    same bytes.
    """
    for file in list(_locked):
        getattr(file, "raw", file).close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited)


class LivenessLock:
    """Hold the lock of one client, and test the locks of others. The lock files stand in the folder of *path*."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self.owner = ""
        """The client's name. `acquire` draws it, so that processes that were forked before have different names."""

    def acquire(self) -> None:
        """Be alive under a new name until `release`, or until the process ends in any way. Raise OSError.

        Another client that reads all lock files may hold the new one for a moment. Then another name is used.
        """
        self._path = Path(os.path.realpath(self._path))
        while True:
            self.owner = uuid.uuid4().hex[:16]
            self._file = self.path_of(self.owner).open("xb", buffering=0)
            if try_lock(self._file):
                return
            self.release()

    def release(self) -> None:
        """Release the lock and remove its file. A forked child leaves its parent's file alone: its copy is closed."""
        if self._file and not self._file.closed:
            self._file.close()
            self.path_of(self.owner).unlink(missing_ok=True)
        self._file = None

    def is_alive(self, owner: str) -> bool:
        """Return whether the client of this name is alive; True if that is unknown. Remove the file of a dead one."""
        path = self.path_of(owner)
        if owner == self.owner or _is_locked(path):
            return True
        try:
            path.unlink(missing_ok=True)
        except OSError:  # on Windows, this is how to know
            return True
        return False

    def write_count(self, count: int) -> None:
        """Write a number into the lock's file, where it outlives a process that is killed."""
        if self._file and not self._file.closed:
            with suppress(OSError):  # it serves only to notice damage
                self._file.seek(0)
                self._file.write(b"%020d" % count)

    def counts_of_dead(self) -> list[tuple[str, int]]:
        """Return the dead clients whose files are still there, and the number that each wrote last, or 0."""
        found = list[tuple[str, int]]()
        path = Path(os.path.realpath(self._path))
        for file in path.parent.glob(f"{glob.escape(path.name)}-*.alive"):
            with suppress(OSError), file.open("rb") as opened:
                if try_lock(opened):
                    text = opened.read(20)
                    found.append((_owner_of(path, file), int(text) if text.isdigit() else 0))
        return found

    def others_alive(self) -> bool:
        """Return whether another client is alive. No file is removed: a client that is opening has not locked its file.

        On Windows, each file that exists counts as the file of a client that is alive.
        """
        path = Path(os.path.realpath(self._path))
        files = path.parent.glob(f"{glob.escape(path.name)}-*.alive")
        others = [file for file in files if _owner_of(path, file) != self.owner]
        return any(sys.platform == "win32" or _is_locked(file) for file in others)

    def path_of(self, owner: str) -> Path:
        """Return the path of an owner's lock file."""
        return self._path.with_name(f"{self._path.name}-{owner}.alive")


def _is_locked(path: Path) -> bool:
    """Return whether a process has locked the file; True if that is unknown. A file that is not there is not locked."""
    try:
        with path.open("rb") as file:
            return not try_lock(file)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _owner_of(path: Path, file: Path) -> str:
    return file.name.removeprefix(f"{path.name}-").removesuffix(".alive")
