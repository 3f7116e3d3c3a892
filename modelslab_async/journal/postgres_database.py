"""Connections and transactions of the PostgreSQL journal, and the errors of the database."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from modelslab_async.errors import JournalError, ModelsLabError
from modelslab_async.journal import postgres_rows as rows
from modelslab_async.journal.postgres_address import Address
from modelslab_async.journal.store import UnwritableError

if TYPE_CHECKING:
    from modelslab_async.journal.postgres_rows import AnyConnection

MAX_CONNECTIONS = 3
"""Of the pool. One more connection renews the lease and listens."""
_IDLE_MILLISECONDS = 5000
"""How long a client that hangs may keep an account's row locked, before the server ends its transaction."""
_BEGIN = f"""
    BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;
    SET LOCAL idle_in_transaction_session_timeout = {_IDLE_MILLISECONDS};
    SET LOCAL synchronous_commit = on
"""
_MIGRATION_LOCK = 0x4D4C6A31
"""The key of the advisory lock under which the schema is created and migrated: "MLj1"."""
_AWAY = (
    OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError, asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError, asyncpg.TooManyConnectionsError, asyncpg.TransactionRollbackError,
    asyncpg.IdleInTransactionSessionTimeoutError, asyncpg.LockNotAvailableError, asyncpg.ReadOnlySQLTransactionError,
)  # fmt: skip
"""Errors that pass: the database is away, starts, is overloaded, or has failed over. The work is tried again."""
_UNWRITABLE = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
"""The server's errors for values that no row can hold."""
_HINTS: Sequence[tuple[tuple[type[BaseException], ...], str]] = (
    ((asyncpg.InvalidAuthorizationSpecificationError,), "check the user and the password"),
    ((asyncpg.InvalidCatalogNameError,), "create the database first, or correct its name"),
    (
        (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError, asyncpg.UndefinedTableError),
        f"GRANT this role CREATE on the database, or all rights on the schema {rows.SCHEMA} and its tables",
    ),
    ((asyncpg.DiskFullError,), "make room on the database's disk"),
    ((asyncpg.TooManyConnectionsError,), "raise max_connections, or use a pooler"),
    ((asyncpg.ReadOnlySQLTransactionError,), "use the primary server: add target_session_attrs=primary to the URL"),
    ((asyncpg.ClientConfigurationError,), "correct the URL"),
    ((OSError, TimeoutError, *_AWAY), "check that the server runs, and that this host reaches it"),
)
"""What to do, by the class of the cause."""
_SHOWN_CHARACTERS = 300
_SILENT: Mapping[type[BaseException], str] = {TimeoutError: "it does not answer"}
"""What happened, by the class of an error without a text."""
_log = logging.getLogger("modelslab_async")

_T = TypeVar("_T")
Work = Callable[["AnyConnection"], Awaitable[_T]]


class AwayError(JournalError):
    """The database cannot be reached now. The same work may succeed later."""


class Database:
    """A database with the journal's schema.

    timeout: seconds for connecting, and for each statement.
    """

    def __init__(self, address: Address, timeout: float) -> None:
        self.address, self.timeout = address, timeout
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._is_away = False

    @property
    def _connect_arguments(self) -> dict[str, Any]:
        return {
            "dsn": self.address.dsn,
            # a function, so that no variable of asyncpg holds the password for longer than it takes to connect
            "password": self.address.password if self.address.has_password else None,
            "timeout": self.timeout,
            "command_timeout": self.timeout,
            "statement_cache_size": 0,  # a pooler may give each transaction another server process
        }

    async def open(self) -> None:
        """Connect, and create or migrate the schema. Raise JournalError."""
        self._pool = await self._explained(
            asyncpg.create_pool(**self._connect_arguments, min_size=1, max_size=MAX_CONNECTIONS, reset=_end_transaction)
        )
        await self.run(self._migrate)

    async def connect(self) -> "asyncpg.Connection[asyncpg.Record]":
        """Return a connection outside the pool. Raise JournalError."""
        return await self._explained(asyncpg.connect(**self._connect_arguments))

    async def close(self) -> None:
        """Close the connections of the pool."""
        pool, self._pool = self._pool, None
        if pool:
            try:
                async with asyncio.timeout(self.timeout):
                    await pool.close()
            except Exception:  # noqa: BLE001 - the connections are gone in any case
                pool.terminate()

    async def run(self, work: Work[_T], *, tries: int = 2) -> _T:
        """Do *work* in a transaction. If its connection breaks, do it again with another one, *tries* times in all.

        Raise UniqueViolationError as it is, and any other error as JournalError: AwayError if the work may succeed
        later, UnwritableError if it never can. After AwayError the work may be done nonetheless.
        """
        failure: Exception
        while True:
            tries -= 1
            try:
                async with self._acquired() as connection, transaction(connection):
                    result = await work(connection)
            except (ModelsLabError, asyncpg.UniqueViolationError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever asyncpg, the server or the network raises
                failure = self.explain(error)
                is_silent = isinstance(error, TimeoutError)
            else:
                self._set_away(None)
                return result
            if not isinstance(failure, AwayError):
                break
            if is_silent or tries <= 0:
                self._set_away(failure)
                break
        raise failure

    def explain(self, error: BaseException) -> JournalError:
        """Return a JournalError that says what happened and what to do about it."""
        words = str(error)[:_SHOWN_CHARACTERS] or _SILENT.get(type(error), type(error).__name__)
        if _is_unwritable(error):
            return self.unwritable(words, error)
        hint = next((hint for classes, hint in _HINTS if isinstance(error, classes)), "see the cause")
        is_away = isinstance(error, _AWAY) and not isinstance(error, asyncpg.ClientConfigurationError)
        return self.address.error(AwayError if is_away else JournalError, words, hint, error)

    def unwritable(self, words: str, error: BaseException) -> UnwritableError:
        """Return the error of a job whose values no row can hold."""
        hint = "remove from the request the values that a database cannot store"
        return self.address.error(UnwritableError, f"this job cannot be written: {words}", hint, error)

    def _set_away(self, failure: Exception | None) -> None:
        """Log when the database goes away, and when it is back."""
        if failure and not self._is_away:
            _log.warning("%s. Work that fails now is tried again", failure)
        elif self._is_away and not failure:
            _log.warning("%s: the database is back", self.address.name)
        self._is_away = failure is not None

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator["AnyConnection"]:
        if self._pool is None:
            raise self.address.error(JournalError, "it is not open", "open it first")
        async with self._pool.acquire(timeout=self.timeout) as connection:
            yield connection

    async def _explained(self, connecting: Awaitable[_T]) -> _T:
        try:
            return await connecting
        except Exception as error:  # noqa: BLE001 - whatever asyncpg raises, also for a URL that it cannot read
            failure = self.explain(error)
        raise failure

    async def _migrate(self, connection: "AnyConnection") -> None:
        """Create the schema, or bring it up to date. One client at a time does so."""
        latest = len(rows.MIGRATIONS)
        if await _version(connection) == latest:
            return
        await connection.fetchval("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
        version = await _version(connection)
        if version > latest:
            words = f"a newer modelslab_async wrote it: its schema is {version}, this one knows {latest}"
            raise self.address.error(JournalError, words, "update modelslab_async")
        if not await connection.fetchval("SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = $1", rows.SCHEMA):
            await connection.execute(f"CREATE SCHEMA {rows.SCHEMA}")
        if not version:
            await connection.execute(f"CREATE TABLE {rows.SCHEMA}.version (version integer NOT NULL)")
            await connection.execute(f"INSERT INTO {rows.SCHEMA}.version VALUES (0)")
        for script in rows.MIGRATIONS[version:]:
            await connection.execute(script)
        await connection.execute(f"UPDATE {rows.SCHEMA}.version SET version = {latest}")


@asynccontextmanager
async def transaction(connection: "AnyConnection") -> AsyncIterator[None]:
    """Commit at the end of the block, or roll back if it raises. A connection that does not answer is closed."""
    try:
        await connection.execute(_BEGIN)
        yield
        await connection.execute("COMMIT")
    except TimeoutError:
        connection.terminate()
        raise
    except BaseException:
        with suppress(Exception):
            await connection.execute("ROLLBACK")
        raise


async def _end_transaction(connection: "AnyConnection") -> None:
    """Roll back what a cancelled task left undone on a connection. Nothing else has to be reset."""
    if connection.is_in_transaction():
        await connection.execute("ROLLBACK")


async def _version(connection: "AnyConnection") -> int:
    """Return the schema's version, 0 if there is no schema.

    The catalogue is queried, because the server caches what `to_regclass` returns for the length of a transaction.
    """
    exists = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = $1 AND tablename = 'version'"
    if not await connection.fetchval(exists, rows.SCHEMA):
        return 0
    return int(await connection.fetchval(f"SELECT version FROM {rows.SCHEMA}.version"))


def _is_unwritable(error: BaseException) -> bool:
    """Return whether a statement's values are the cause. asyncpg reports them as an InterfaceError and ValueError."""
    is_of_client = isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError)
    return isinstance(error, _UNWRITABLE) or (is_of_client and not isinstance(error, asyncpg.ClientConfigurationError))
