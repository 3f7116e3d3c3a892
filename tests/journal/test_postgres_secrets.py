"""The database's password is in no error, log or repr, whatever fails. The connections use it with SCRAM."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from helpers.databases import Proxy, Server, proxied, until
from helpers.journals import S, a_record, opened
from helpers.reporters import chain, shown
from helpers.secret import can_be_read, secret

from modelslab_async import InvalidRequestError, JournalError, ModelsLabError
from modelslab_async.journal.choose import journal_of
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.protocol.claims import Ask, Claimed

ODD = "@:/?#[]%& 'é"
"""Characters that a URL must encode."""


@pytest.fixture
async def proxy(postgres: Server) -> AsyncIterator[Proxy]:
    """A database whose owner needs a password: the key of the tests, with odd characters."""
    database = await postgres.make_database()
    rules = postgres.folder / "pg_hba.conf"
    rules.write_text(f"local {database} {database} scram-sha-256\n{rules.read_text()}")
    await postgres.run(
        f"CREATE ROLE {database} LOGIN",
        f"DO $do$ BEGIN EXECUTE format('ALTER ROLE {database} PASSWORD %L', $pw${secret() + ODD}$pw$); END $do$",
        f"ALTER DATABASE {database} OWNER TO {database}",
        "SELECT pg_reload_conf()",
    )
    async with proxied(postgres, database) as proxy:
        yield proxy


def url_of(proxy: Proxy, password: str, *, in_options: bool = False) -> str:
    """Return the URL of the database for the role that needs a password."""
    database = proxy.url.partition("?")[0].rpartition("/")[2]
    if in_options:
        return f"{proxy.url.replace('postgres@', f'{database}@')}&password={quote(password, safe='')}"
    return proxy.url.replace("postgres@", f"{database}:{quote(password, safe='')}@")


def a_journal(proxy: Proxy, *, in_options: bool = False) -> PostgresJournal:
    return PostgresJournal(url_of(proxy, secret() + ODD, in_options=in_options), lease=3.0, beat=0.5)


async def test_the_password_is_used(proxy: Proxy) -> None:
    """In the usual place and among the options. Another password does not open the database."""
    for in_options in (False, True):
        async with opened(a_journal(proxy, in_options=in_options)) as journal:
            assert await journal.append(a_record(journal, journal.owner))
    with pytest.raises(JournalError, match="hint: check the user and the password"):
        await PostgresJournal(url_of(proxy, "wrong")).open()


async def wrong_password(proxy: Proxy) -> None:
    await PostgresJournal(url_of(proxy, f"{secret()}!")).open()


async def no_such_database(proxy: Proxy) -> None:
    await PostgresJournal(url_of(proxy, secret() + ODD).replace("/test_", "/no_", 1)).open()


async def refused(proxy: Proxy) -> None:
    await proxy.stop()
    await a_journal(proxy).open()


async def cut(proxy: Proxy) -> None:
    async with opened(a_journal(proxy)) as journal:
        await proxy.stop()
        await journal.find("a", ref="r")


async def unwritable(proxy: Proxy) -> None:
    async with opened(a_journal(proxy)) as journal:
        await journal.append(a_record(journal, "a null \0", error=secret()[:0]))


async def closed(proxy: Proxy) -> None:
    await a_journal(proxy).append(a_record(a_journal(proxy)))


async def wrong_scheme(proxy: Proxy) -> None:
    PostgresJournal(url_of(proxy, secret() + ODD).replace("postgresql", "mysql", 1))


async def not_a_url(proxy: Proxy) -> None:
    PostgresJournal(f"postgresql://u:{secret()}@[host/db")


async def wrong_option(proxy: Proxy) -> None:
    await PostgresJournal(f"{url_of(proxy, secret())}&sslnegotiation={secret()[:0]}nonsense").open()


async def wrong_lease(proxy: Proxy) -> None:
    PostgresJournal(url_of(proxy, secret() + ODD), lease=-1)


FAILURES: list[Callable[[Proxy], Awaitable[None]]] = [
    wrong_password, no_such_database, refused, cut, unwritable, closed, wrong_scheme, not_a_url, wrong_option,
    wrong_lease,
]  # fmt: skip


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
async def test_no_error_shows_the_password(
    fail: Callable[[Proxy], Awaitable[None]], proxy: Proxy, everything_logged: io.StringIO
) -> None:
    """Not in its text, its causes or the local variables of its traceback, and not in the log."""
    with pytest.raises(ModelsLabError) as caught:
        await fail(proxy)
    assert "(hint: " in str(caught.value)
    reports = await shown(caught.value)
    reports["the log"] = everything_logged.getvalue()
    reports["the chain"] = "\n".join(map(repr, chain(caught.value)))
    assert [name for name, text in reports.items() if can_be_read(secret()[:12], text)] == []


async def test_an_outage_logs_no_password(proxy: Proxy, everything_logged: io.StringIO) -> None:
    """While the journal reconnects, everything that is logged at any level names the database without it."""
    async with opened(a_journal(proxy)) as journal:
        await proxy.stop()
        journal.note(a_record(journal))

        async def is_noticed() -> bool:
            return "is tried again" in everything_logged.getvalue()

        await until(is_noticed)
        await proxy.start()
        intent = a_record(journal, "r", S.SUBMITTING, submitted_at=time.time(), charged=None)
        assert isinstance(await journal.claim(intent, Ask(slots=1)), Claimed)
    assert "the database is back" in everything_logged.getvalue()
    assert not can_be_read(secret()[:12], everything_logged.getvalue())


def test_a_journal_shows_its_database_without_the_password() -> None:
    """Its repr names the user, the host and the database. It cannot be pickled."""
    journal = journal_of(f"postgresql://me:{secret()}@db.invalid:5432/jobs?sslmode=require&password={secret()}")
    assert repr(journal) == "<PostgresJournal postgresql://me@db.invalid:5432/jobs>"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(journal)
    with pytest.raises(InvalidRequestError) as caught:
        PostgresJournal(f"postgresql://me:{secret()}@db.invalid/jobs", beat=60)
    assert not can_be_read(secret()[:12], str(caught.value))


async def test_the_database_does_not_hold_the_password(proxy: Proxy, postgres: Server) -> None:
    """No row has it."""
    async with opened(a_journal(proxy)) as journal:
        await journal.append(a_record(journal))
        database = Path(proxy.url.partition("?")[0]).name
        rows = await postgres.fetch("SELECT jobs::text FROM modelslab_async.jobs AS jobs", database=database)
    assert len(rows) == 1
    assert not can_be_read(secret()[:12], str(rows))
