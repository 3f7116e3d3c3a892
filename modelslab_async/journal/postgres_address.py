"""The address of a PostgreSQL database, whose password no output shows."""

import json
from contextlib import suppress
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from modelslab_async.errors import InvalidRequestError, JournalError, Problem
from modelslab_async.protocol.secret import ApiKey

_Error = TypeVar("_Error", bound=JournalError)
SCHEMES = ("postgresql", "postgres")


class Address:
    """A `postgresql://` URL (DSN), with the password apart from it.

    The password counts as secret like the API key: it is in no repr, error or traceback. To make an Address raises
    nothing, so that no traceback has the URL among its local variables.
    """

    def __init__(self, dsn: str) -> None:
        self._password: ApiKey | None = None
        self.is_valid = False
        """Whether this is a URL of PostgreSQL at all."""
        self.dsn = ""
        """The URL without the password, as asyncpg takes it."""
        self.name = "journal in PostgreSQL"
        """What error messages call the database."""
        self.place = ""
        """The database without user, password and other options."""
        with suppress(ValueError, AttributeError, TypeError):
            self._split(dsn)

    def _split(self, dsn: str) -> None:
        parts = urlsplit(dsn)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        authority, is_there, hosts = parts.netloc.rpartition("@")
        user, _, password = authority.partition(":")
        for each in [unquote(password), *(value for name, value in options if name == "password")]:
            if each and self._password is None:
                self._password = ApiKey(each)
        others = urlencode([(name, value) for name, value in options if name != "password"])
        self.dsn = urlunsplit(parts._replace(netloc=f"{user}{is_there}{hosts}", query=others))
        self.name = f"journal {parts.scheme}://{user}{is_there}{hosts}{parts.path}"
        where = [(name, value) for name, value in options if name in ("host", "port")]
        self.place = urlunsplit(("postgresql", hosts, parts.path, urlencode(where), ""))
        self.is_valid = parts.scheme in SCHEMES

    def require(self) -> None:
        """Raise InvalidRequestError if the URL is invalid."""
        if not self.is_valid:
            hint = "pass postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters percent-encoded"
            raise InvalidRequestError([Problem("dsn", "", "must be a URL of PostgreSQL", hint)])

    @property
    def has_password(self) -> bool:
        """Whether the URL has a password. If not, asyncpg finds it in the environment or in the password file."""
        return self._password is not None

    @property
    def wrapped_password(self) -> ApiKey:
        """The password, hidden; empty if the URL has none."""
        return self._password or ApiKey("")

    def password(self) -> str:
        """Return the password for the connection."""
        return str(json.loads(self._password.as_json())) if self._password else ""

    def error(self, kind: type[_Error], words: str, hint: str, cause: BaseException | None = None) -> _Error:
        """Return an error about the database. The password is removed from it and from its cause."""
        error = kind(f"{self.name}: {words} (hint: {hint})")
        error.__cause__ = cause
        (self._password or ApiKey("")).hide_in(error)
        return error

    def __repr__(self) -> str:
        return f"<{self.name}>"
