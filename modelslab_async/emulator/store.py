"""Where the emulator keeps pictures and videos: in memory, or in a temporary folder. Equal content is kept once."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from pathlib import Path
from typing import Protocol


class Store(Protocol):
    """Keeps content under a name for as long as it is in use."""

    def put(self, content: bytes, name: str | None = None) -> str:
        """Keep *content* for one more user. Return its name: the given one, or its digest."""
        ...

    def get(self, name: str) -> bytes:
        """Return the content of this name. Raise LookupError if there is none."""
        ...

    def drop(self, name: str) -> None:
        """Count one user less. Content without users is removed. An unknown name is ignored."""
        ...


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of *content* in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class _Counted:
    """Count the users of each name."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._users)

    def put(self, content: bytes, name: str | None = None) -> str:
        name = name or digest_of(content)
        if name not in self._users:
            self._write(name, content)
        self._users[name] += 1
        return name

    def share(self, name: str) -> bool:
        """Count one more user of content that is kept already. Return False if it is not."""
        if name in self._users:
            self._users[name] += 1
            return True
        return False

    def drop(self, name: str) -> None:
        if self._users[name] > 1:
            self._users[name] -= 1
        elif self._users.pop(name, None):
            self._remove(name)

    def _write(self, name: str, content: bytes) -> None:
        raise NotImplementedError

    def _remove(self, name: str) -> None:
        raise NotImplementedError


class MemoryStore(_Counted):
    """Keeps content in memory, for a service without a server."""

    def __init__(self) -> None:
        super().__init__()
        self._contents: dict[str, bytes] = {}

    def get(self, name: str) -> bytes:
        """Return the content of this name."""
        return self._contents[name]

    def _write(self, name: str, content: bytes) -> None:
        self._contents[name] = content

    def _remove(self, name: str) -> None:
        del self._contents[name]


class FolderStore(_Counted):
    """Keeps content in files of a temporary folder, which is made when it is first needed."""

    def __init__(self) -> None:
        super().__init__()
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def get(self, name: str) -> bytes:
        """Return the content of this name."""
        if name not in self._users:
            raise LookupError(name)
        return self.path(name).read_bytes()

    def path(self, name: str) -> Path:
        """Return where the content of this name is, or would be."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="modelslab_async-emulator-", ignore_cleanup_errors=True)
        return Path(self._folder.name) / name

    def close(self) -> None:
        """Remove the folder and all content."""
        self._users.clear()
        if self._folder:
            self._folder.cleanup()
            self._folder = None

    def _write(self, name: str, content: bytes) -> None:
        self.path(name).write_bytes(content)

    def _remove(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)
