"""Which clients are alive, across processes: each holds a lock on a file of its own, which ends with its process."""

import sys
import uuid
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


def locks(file: IO[bytes]) -> bool:
    """Take the lock; whether it was free. On Windows an open file cannot be deleted, which is lock enough."""
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class Presence:
    """A client's own lock, beside the file that clients share; and a look at the others'."""

    def __init__(self, beside: Path) -> None:
        self._beside = beside
        self._file: IO[bytes] | None = None
        self.owner = uuid.uuid4().hex[:16]

    def enter(self) -> None:
        """Be alive, until `leave` or the end of the process, however it ends. Raises OSError."""
        self._file = self._path(self.owner).open("xb")
        locks(self._file)

    def leave(self) -> None:
        """Be gone."""
        if self._file:
            self._file.close()
            self._file = None
            self._path(self.owner).unlink(missing_ok=True)

    def is_alive(self, owner: str) -> bool:
        """Whether it still drives its jobs, or nobody can tell. A dead one's lock is removed."""
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
