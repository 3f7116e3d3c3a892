"""What passes between driver, scheduler and workers. None of it holds the API key or a password."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from modelslab_async.batch.manifest import Entry


@attrs.frozen(kw_only=True)
class Setup:
    """What a worker needs to open its client.

    account: the fingerprint of the account, which the worker's own key must have.
    journal: the journal's path, or the database's URL without its password.
    node: the name of the driver's host, on which a journal in a file must be.
    options: arguments of `Client`.
    folder, name: the folder of the videos, and the pattern of their names.
    batch: the batch's name. A later run of it replaces the clients of a run that died.
    token: the content of the file with which the folder is tested.
    """

    account: str
    batch: str
    journal: str
    node: str
    options: Mapping[str, Any]
    folder: Path
    name: str
    token: str

    @property
    def plugin(self) -> str:
        """The name of the worker plugin, which differs for each account and batch."""
        return f"modelslab_async-{self.account}-{self.batch}"

    @property
    def question(self) -> Path:
        """The file that the driver writes and each worker reads."""
        return self.folder / f".cluster-{self.token}"

    @property
    def copies(self) -> Path:
        """The folder of the pictures that are copied for the workers."""
        return self.folder / ".pictures"

    def answer(self, worker: str) -> Path:
        """Return the file that a worker writes and the driver reads."""
        return self.folder / f".cluster-{self.token}-{worker}"


@attrs.frozen(kw_only=True)
class Task:
    """An item to make.

    is_paid: whether the journal says that its job was sent, so that it is only collected.
    digest: the SHA-256 of a local picture, so that another file at the same path on another host is not sent.
    copy: where the picture is copied to in the batch's folder; None if it was not.
    """

    entry: Entry
    ref: str
    is_paid: bool
    digest: str | None = None
    copy: Path | None = None


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a task.

    result: the item's line of results, as JSON; None if it has none.
    error: an error that would stop the next items too, or None.
    is_detached: whether the worker's client was closed before the job ended.
    is_picture_missing: whether the worker cannot read the picture.
    """

    result: bytes | None = None
    error: Exception | None = None
    is_detached: bool = False
    is_picture_missing: bool = False


@attrs.frozen(kw_only=True)
class Report:
    """What a worker says of itself: how many tasks it runs at once, and the file that it wrote."""

    threads: int
    answer: Path
