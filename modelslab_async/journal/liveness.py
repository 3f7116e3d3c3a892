"""Which clients are alive, across processes: each holds a lock on a file of its own, which ends with its process."""

import os
import sys
import uuid
import weakref
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

_locked = weakref.WeakSet[IO[bytes]]()


def locks(file: IO[bytes]) -> bool:
    """Take the lock, and return whether it was free. It ends with this process: a forked child closes its copy.

    On Windows an open file cannot be deleted, which is lock enough.
    """
    _locked.add(file)
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _close_inherited() -> None:
    """Close a forked child's copies. LOCK_UN would take the lock from the parent too, as flock(2) says.

    A buffer is not flushed, because the parent flushes the same bytes.
    """
    for file in list(_locked):
        getattr(file, "raw", file).close()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_inherited)


class LivenessLock:
    """A client's own lock, beside the file that clients share; and a look at the others'."""

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        self._file: IO[bytes] | None = None
        self.owner = ""
        """Drawn by `enter`, so that processes that were forked before have names of their own."""

    def enter(self) -> None:
        """Be alive under a new name, until `leave` or the end of the process, however it ends. Raises OSError."""
        self._beside = Path(os.path.realpath(self._beside))
        self.owner = uuid.uuid4().hex[:16]
        self._file = self._path(self.owner).open("xb")
        locks(self._file)

    def leave(self) -> None:
        """Be gone. A forked child, whose copy of the file is closed, leaves the parent's file where it is."""
        if self._file and not self._file.closed:
            self._file.close()
            self._path(self.owner).unlink(missing_ok=True)
        self._file = None

    def is_alive(self, owner: str) -> bool:
        """Return whether an owner drives its jobs; True if that is unknown. A dead owner's file is removed."""
        if owner == self.owner:
            return True
        path = self._path(owner)
        try:
            with path.open("rb") as file:
                if not locks(file):
                    return True
            path.unlink()
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False

    def _path(self, owner: str) -> Path:
        return self._beside.with_name(f"{self._beside.name}-{owner}.alive")
