"""Choose the journal for a value of `Client(journal=...)`."""

import os
from pathlib import Path

from modelslab_async.journal.base import Journal


def is_database(value: str | os.PathLike[str]) -> bool:
    """Return whether a value of `Client(journal=...)` is the URL of a PostgreSQL database."""
    return isinstance(value, str) and value.startswith(("postgresql://", "postgres://"))


def journal_of(value: str | os.PathLike[str]) -> Journal:
    """Return the journal at a path, or in the PostgreSQL database of a URL such as postgresql://USER@HOST/DATABASE.

    Raise InvalidRequestError if the URL is invalid.
    """
    if isinstance(value, str) and is_database(value):
        from modelslab_async.journal.postgres import PostgresJournal  # noqa: PLC0415 - most clients use a file

        return PostgresJournal(value)
    from modelslab_async.journal.sqlite import SqliteJournal  # noqa: PLC0415

    return SqliteJournal(Path(value))
