"""Processes that fork while a client is open, or before it is opened. Each test runs real processes."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from modelslab_async.batch.folder import Owner, opened
from modelslab_async.journal.liveness import LivenessLock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
ROOT = Path(__file__).resolve().parents[2]
PRELUDE = """
import asyncio, multiprocessing, os, selectors, sys, time
from pathlib import Path
from modelslab_async import Client, JobRecord, JobState
from modelslab_async.batch.folder import Owner, opened
from modelslab_async.errors import JournalError
from modelslab_async.journal.liveness import LivenessLock
from modelslab_async.journal.sqlite import SqliteJournal

path = Path(sys.argv[1])

def say(*words):
    print(*words, flush=True)

def row(journal, ref, state=JobState.SUBMITTING, **changes):
    return JobRecord(account="a", ref=ref, owner=journal.owner, created_at=1.0, state=state, **changes)

def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            say("a child failed:", repr(error))
        os._exit(0)
    return child

def live():
    say("forked")
    time.sleep(60)
"""


@contextmanager
def running(script: str, path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script in a process, which is killed at the end together with its children."""
    # -W ignore: since Python 3.12, forking a process that has threads warns
    command = [sys.executable, "-W", "ignore", "-c", PRELUDE + script, str(path), *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def output(script: str, path: Path, *arguments: str) -> list[str]:
    """Run a script to its end, and return the lines that it prints."""
    with running(script, path, *arguments) as process:
        assert process.stdout is not None
        return process.stdout.read().splitlines()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


FORKS = {
    "os.fork": "forked(live)",
    "multiprocessing": "multiprocessing.get_context('fork').Process(target=live).start()",
}


@pytest.mark.parametrize("fork", FORKS)
def test_a_dead_client_is_dead_while_its_child_lives(tmp_path: Path, fork: str) -> None:
    """The lock ends with the process that took it, because a child keeps no copy of it."""
    script = f"""
async def main():
    journal = SqliteJournal(path)
    await journal.open()
    say(journal.owner)
    {FORKS[fork]}
    time.sleep(60)
asyncio.run(main())
"""
    with running(script, tmp_path / "jobs.db") as process:
        owner, other = line(process), LivenessLock(tmp_path / "jobs.db")
        assert other.is_alive(owner)
        assert line(process) == "forked"
        process.kill()
        process.wait()
        assert not other.is_alive(owner)
        os.killpg(process.pid, 0)  # its child lives


def test_a_batch_can_be_resumed_while_a_child_of_its_dead_process_lives(tmp_path: Path) -> None:
    """The folder's lock ends with its process too. While the process lives, no other run can open the folder."""
    script = """
with opened(path, Owner(account="a", journal="j")):
    forked(live)
    time.sleep(60)
"""
    owner = Owner(account="a", journal="j")
    with running(script, tmp_path / "out") as process:
        assert line(process) == "forked"
        with pytest.raises(ValueError, match="another run"), opened(tmp_path / "out", owner):
            pytest.fail("it must not get here")
        process.kill()
        process.wait()
        with opened(tmp_path / "out", owner) as folder:
            assert len(folder.batch) == 8
        os.killpg(process.pid, 0)  # its child lives


ENDS = {
    "sys.exit": "sys.exit(0)",
    "an error": "raise KeyError",
    "leaves the block": "return",
    "closes the journal": "await journal.close(); sys.exit(0)",
    "os._exit": "os._exit(0)",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_child_that_ends_leaves_its_parents_client_alone(tmp_path: Path, end: str) -> None:
    """However the child ends, the parent keeps its lock, and its journal still takes rows."""
    script = f"""
async def main():
    journal = SqliteJournal(path)
    async with Client("key-of-a-test", journal=journal):
        journal.note(row(journal, "noted"))
        child = os.fork()
        if child == 0:
            {ENDS[end]}
        os.waitpid(child, 0)
        say(journal.owner)
        sys.stdin.readline()
        await journal.append(row(journal, "after"))

def loop():  # an epoll loop is shared: a child that closed its copy would harm the parent's
    return asyncio.SelectorEventLoop(selectors.PollSelector())

with asyncio.Runner(loop_factory=loop) as runner:
    runner.run(main())
"""
    with running(script, tmp_path / "jobs.db") as process:
        owner, other = line(process), LivenessLock(tmp_path / "jobs.db")
        assert other.is_alive(owner)
        assert len(list(tmp_path.glob("*.alive"))) == 1
        process.communicate("\n", timeout=30)
        assert not list(tmp_path.glob("*.alive"))
    assert rows(tmp_path / "jobs.db") == ["after", "noted"]


def rows(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return sorted(ref for (ref,) in file.execute("SELECT ref FROM jobs"))


def test_a_client_made_before_the_fork_works_in_each_child(tmp_path: Path) -> None:
    """Servers load an application, then fork: each child's client has an owner of its own, and all are alive."""
    script = """
journal = SqliteJournal(path)
client = Client("key-of-a-test", journal=journal)

async def serve():
    async with client:
        await journal.append(row(journal, journal.owner))
        say(journal.owner)
        time.sleep(60)

for _ in range(4):
    forked(lambda: asyncio.run(serve()))
time.sleep(60)
"""
    with running(script, tmp_path / "jobs.db") as process:
        owners = [line(process) for _ in range(4)]
        other = LivenessLock(tmp_path / "jobs.db")
        assert all(other.is_alive(owner) for owner in owners)
        assert rows(tmp_path / "jobs.db") == sorted(set(owners))
        assert len(set(owners)) == 4


def test_a_child_may_open_the_file_of_its_parent(tmp_path: Path) -> None:
    """The child's rows are kept even if its parent closes the file meanwhile, or dies: SQLite's locks hold."""
    script = """
first, second = os.pipe(), os.pipe()

async def child():
    os.close(second[1])  # so that it ends with the parent
    journal = SqliteJournal(path)
    await journal.open()
    await journal.append(row(journal, "child 1"))
    os.write(first[1], b"x")
    os.read(second[0], 1)
    await journal.append(row(journal, "child 2"))
    await journal.close()

async def parent():
    journal = SqliteJournal(path)
    await journal.open()
    await journal.append(row(journal, "parent 1"))
    forked(lambda: asyncio.run(child()))
    os.read(first[0], 1)
    await journal.append(row(journal, "parent 2"))
    if sys.argv[2] == "dies":
        os.kill(os.getpid(), 9)
    await journal.close()
    os.close(second[1])
    os.wait()

asyncio.run(parent())
"""
    for end in ("closes", "dies"):
        path = tmp_path / f"{end}.db"
        output(script, path, end)
        assert rows(path) == ["child 1", "child 2", "parent 1", "parent 2"]


def test_a_child_that_opens_the_file_late_finds_it_intact(tmp_path: Path) -> None:
    """Meanwhile its parent died, and another process wrote to the file and was the last to close it."""
    script = """
parent_lives = os.pipe()

async def child():
    os.close(parent_lives[1])
    os.read(parent_lives[0], 1)
    journal = SqliteJournal(path)
    await journal.open()
    await journal.append(row(journal, "child"))
    await journal.close()

async def parent():
    journal = SqliteJournal(path)
    await journal.open()
    await journal.append(row(journal, "before"))
    forked(lambda: asyncio.run(child()))
    await journal.append(row(journal, "after"))
    say(journal.owner)
    sys.stdin.readline()
    os.kill(os.getpid(), 9)

asyncio.run(parent())
"""
    path = tmp_path / "jobs.db"
    with running(script, path) as process:
        line(process)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("UPDATE jobs SET job_id = '77' WHERE ref = 'before'")
        process.communicate("\n", timeout=30)
    assert rows(path) == ["after", "before", "child"]
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT job_id FROM jobs WHERE ref = 'before'").fetchall() == [("77",)]


def test_a_journal_that_was_open_in_the_parent_is_closed_in_the_child(tmp_path: Path) -> None:
    """Using it in the child raises JournalError, and the child does not write what the parent has queued.

    The child may open it again, under another owner.
    """
    script = """
async def use(journal):
    owner = journal.owner
    try:
        async with asyncio.timeout(10):
            await journal.append(row(journal, "closed"))
    except JournalError as error:
        say("not open" in str(error))
    await journal.open()
    await journal.append(row(journal, "child"))
    say(journal.owner != owner, LivenessLock(path).is_alive(owner))
    await journal.close()

async def parent():
    journal = SqliteJournal(path)
    await journal.open()
    journal.note(row(journal, "paid"))
    accepted = asyncio.create_task(journal.append(row(journal, "paid", JobState.PROCESSING, job_id="77")))
    for _ in range(2):
        await asyncio.sleep(0)  # until the journal is about to write
    child = forked(lambda: asyncio.run(use(journal)))
    await accepted
    await asyncio.get_running_loop().run_in_executor(None, os.waitpid, child, 0)
    say((await journal.find("a", ref="paid")).record.job_id)
    await journal.close()

asyncio.run(parent())
"""
    assert output(script, tmp_path / "jobs.db") == ["True", "True True", "77"]
    assert rows(tmp_path / "jobs.db") == ["child", "paid"]


def test_a_fork_waits_for_the_transaction_that_is_under_way(tmp_path: Path) -> None:
    """A process forks again and again while it writes: every row is kept, and the file is intact."""
    script = """
async def child():
    journal = SqliteJournal(path)
    await journal.open()
    await journal.append(row(journal, f"child {os.getpid()}"))
    await journal.close()

async def parent():
    journal = SqliteJournal(path)
    await journal.open()
    for number in range(30):
        written = [asyncio.create_task(journal.append(row(journal, f"parent {number} {each}"))) for each in range(20)]
        await asyncio.sleep(number % 10 * 0.001)
        forked(lambda: asyncio.run(child()))
        assert all(await asyncio.gather(*written))
    for _ in range(30):
        os.wait()
    await journal.close()

asyncio.run(parent())
"""
    assert output(script, tmp_path / "jobs.db") == []
    assert len(rows(tmp_path / "jobs.db")) == 30 * 21
