"""Commands with a journal in PostgreSQL: one after the other, and a batch on two hosts at once."""

from __future__ import annotations

import asyncio
import platform
import sys
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest
from helpers.command import SLOW, charges, emulated, emulated_aside, made, manifest, until_charged
from helpers.databases import Server

from modelslab_async.batch import read_results

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
PASSWORD = "a-password-that-nobody-may-see"


@pytest.fixture
def dsn(postgres: Server) -> str:
    """Return the URL of an empty database, with a password, which the server does not ask for."""
    parts = urlsplit(postgres.url_of(asyncio.run(postgres.make_database())))
    user = parts.netloc.partition("@")[0].partition(":")[0]
    host = parts.netloc.partition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{PASSWORD}@{host}"))


@pytest.mark.parametrize("by_flag", [True, False])
def test_all_commands_read_a_database(tmp_path: Path, dsn: str, by_flag: bool) -> None:
    """`generate`, `jobs`, `show`, `collect`, `recover` and `resolve` work with it, and none shows its password."""
    flag = ["--journal", dsn] if by_flag else []
    changes = {} if by_flag else {"MODELSLAB_JOURNAL": dsn}
    outputs = list[str]()
    with emulated_aside(tmp_path) as (shell, emulator):

        def run(*words: str) -> object:
            done = shell.run(*words, *flag, "--json", changes=changes)
            outputs.extend([done.out, done.err])
            assert done.code == 0, done.err
            return done.json

        started = run("generate", "a.png", "-p", "zoom", "--no-wait")
        assert isinstance(started, dict)
        ref = started["ref"]
        listed = run("jobs")
        assert isinstance(listed, dict)
        assert [row["ref"] for row in listed["jobs"]] == [ref]
        shown = run("show", ref)
        assert isinstance(shown, dict)
        assert shown["ref"] == ref
        run("recover")
        run("collect", ref, "-o", "out")
        lost = shell.run("resolve", ref, "--lost", *flag, changes=changes)
        text = shell.run("generate", "a.png", "-p", "zoom out", "--no-wait", *flag, changes=changes)
        outputs += [lost.out, lost.err, text.out, text.err]
        assert "ready, not uncertain" in lost.err
        assert charges(emulator) == 2
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1
    assert PASSWORD not in "".join(outputs)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert files == []


@pytest.mark.parametrize(
    "words",
    [
        ("jobs", "--journal", "{bad}"),
        ("jobs", "--journal", "{away}"),
        ("jobs", "--journal", "{away}", "--json"),
        ("jobs", "--help"),
        ("jobs", "--journal", "{away}", "--unknown"),
        ("batch", "shots.jsonl", "-o", "out", "--yes", "--journal={away}"),
    ],
)
def test_errors_do_not_show_the_password(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Neither a URL that cannot be read nor a database that cannot be reached shows it; nor does the help."""
    urls = {
        "bad": f"postgresql://user:{PASSWORD}@[/db",
        "away": f"postgresql://user:{PASSWORD}@/db?host={tmp_path}/nowhere&port=1",
    }
    manifest(tmp_path, 1)
    with emulated_aside(tmp_path) as (shell, _):
        done = shell.run(*(word.format(**urls) for word in words), changes={"MODELSLAB_JOURNAL": urls["away"]})
    assert PASSWORD not in done.out + done.err
    assert ("--help" in words) == (done.code == 0), done.err


async def test_two_hosts_share_a_batch(tmp_path: Path, postgres: Server) -> None:
    """The same command on two hosts, with one database and one folder: each item is paid once, by one of them.

    Both end with all results. The command that is run again keeps everything.
    """
    dsn = postgres.url_of(await postgres.make_database())
    async with emulated(tmp_path, speed=SLOW, queue_limit=4) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 24).name, "-o", "out", "--yes", "--json", "--journal", dsn]
        words += ["--max-in-flight", "4"]
        first, second = await shell.start(*words), await shell.start(*words)
        one, two = await asyncio.gather(first.done(), second.done())
        third = await shell.run(*words)
    assert (one.code, two.code, third.code) == (0, 0, 0), one.err + two.err
    for done in (one, two):
        assert len({event["item"] for event in done.json if event.get("result")}) == 24
    assert Counter(event["event"] for event in third.json)["kept"] == 24
    assert Counter(emulator.ledger.track_ids()).most_common(1)[0][1] == 1
    assert charges(emulator) == len(made(tmp_path / "out")) == len(list((tmp_path / "out").glob("*.mp4"))) == 24
    assert {result.host for result in made(tmp_path / "out").values()} == {platform.node()}
    owners = await postgres.fetch("SELECT DISTINCT owner FROM modelslab_async.jobs", database=urlsplit(dsn).path[1:])
    assert len(owners) == 2


async def test_a_host_that_dies_costs_nothing_twice(tmp_path: Path, postgres: Server) -> None:
    """One of two hosts is killed. The other one collects what it paid for, once its lease ended, and makes the rest."""
    dsn = postgres.url_of(await postgres.make_database())
    async with emulated(tmp_path, speed=SLOW, queue_limit=4) as (shell, emulator):
        words = ["batch", manifest(tmp_path, 12).name, "-o", "out", "--yes", "--json", "--journal", dsn]
        words += ["--max-in-flight", "4"]
        doomed = await shell.start(*words)
        await until_charged(emulator, 2)
        doomed.process.kill()
        await doomed.done()
        await postgres.run(
            "UPDATE modelslab_async.owners SET seen_at = seen_at - interval '1 hour'", database=urlsplit(dsn).path[1:]
        )
        done = await shell.run(*words)
    twice = [ref for ref, count in Counter(emulator.ledger.track_ids()).items() if count > 1]
    uncertain = [result for result in read_results(tmp_path / "out") if result.charged is None]
    assert twice == []
    assert len(made(tmp_path / "out")) + len({result.item for result in uncertain}) == 12, done.err
