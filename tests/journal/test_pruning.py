"""Jobs that are over are deleted from a file: it shrinks, and the archive has them."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import signal
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from helpers.command import Shell
from helpers.journals import FULL, S, a_record, opened

from modelslab_async import InvalidRequestError
from modelslab_async.journal import pruning
from modelslab_async.journal.liveness import try_lock
from modelslab_async.journal.pruning import archive_to
from modelslab_async.journal.sqlite import SqliteJournal

if sys.platform != "win32":
    import resource

LONG = "x" * 3000


async def fill(journal: SqliteJournal, count: int) -> None:
    """Write jobs that are over, and one that is not."""
    await asyncio.gather(*(journal.append(a_record(journal, f"r{n}", S.CANCELLED, error=LONG)) for n in range(count)))
    await journal.append(a_record(journal, "open", S.PROCESSING, job_id="77"))


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "beside another client"])
@pytest.mark.parametrize("is_old", [False, True], ids=["a new file", "a file of an earlier version"])
async def test_the_file_shrinks(tmp_path: Path, *, shared: bool, is_old: bool) -> None:
    """Its size falls to a tenth. Only a file of an earlier version that another client uses keeps its size."""
    path = tmp_path / "jobs.db"
    if is_old:
        with closing(sqlite3.connect(path)) as old:
            old.execute("PRAGMA auto_vacuum = NONE")
            old.execute("CREATE TABLE t (x)")
            old.execute("DROP TABLE t")
    async with opened(SqliteJournal(path)) as journal:
        await fill(journal, 1500)
        other = SqliteJournal(path)
        if shared:
            await other.open()
        await journal.prune("a", before=0.5)
        full = path.stat().st_size
        assert await journal.prune("a", before=9.0) == 1500
        assert (path.stat().st_size < full / 10) != (shared and is_old)
        assert [row.record.ref for row in await journal.unfinished("a")] == ["open"]
        assert await journal.append(a_record(journal, "new"))
        await other.close()


async def test_other_clients_write_while_a_journal_is_pruned(tmp_path: Path) -> None:
    """The rows are deleted some at a time, and the journal takes other writes in between."""
    async with opened(SqliteJournal(tmp_path / "jobs.db")) as journal, opened(SqliteJournal(journal.path)) as other:
        await fill(journal, 1600)
        pruning = asyncio.create_task(journal.prune("a", before=9.0, archive=archive_to(tmp_path / "jobs.gz")))
        written = 0
        while not pruning.done():
            assert await other.append(a_record(other, f"new {written}", S.PROCESSING))
            written += 1
        assert await pruning == 1600
        assert len(await journal.unfinished("a")) == written + 1


def test_an_archive_has_every_field(tmp_path: Path) -> None:
    """It is JSON Lines, compressed by gzip. A second call appends."""
    archive = archive_to(tmp_path / "jobs.jsonl.gz")
    for ref in ("r1", "r2"):
        archive([FULL._replace(ref=ref)])
    with gzip.open(tmp_path / "jobs.jsonl.gz", "rt") as file:
        lines = [json.loads(line) for line in file]
    assert [line["ref"] for line in lines] == ["r1", "r2"]
    expected = {name: value for name, value in FULL._asdict().items() if value is not None}
    assert lines[0] == {**expected, "price": "0.20", "links": list(FULL.links)}


def refs_in(path: Path) -> list[str]:
    with gzip.open(path, "rt") as file:
        return [json.loads(line)["ref"] for line in file]


@pytest.mark.parametrize("left", [1, 0.5, 0.01])
def test_an_archive_that_was_cut_off_goes_on(tmp_path: Path, left: float) -> None:
    """A process was killed while it appended: its records are still in the journal, so the torn part is removed."""
    path = tmp_path / "jobs.jsonl.gz"
    archive_to(path)([FULL._replace(ref="r1")])
    whole = path.read_bytes()
    archive_to(path)([FULL._replace(ref="r2")])
    rest = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + rest[: int(len(rest) * left)])
    archive = archive_to(path)
    for ref in ("r3", "r4"):
        archive([FULL._replace(ref=ref)])
    assert refs_in(path) == ["r1", *(["r2"] if left == 1 else []), "r3", "r4"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_full_disk_leaves_the_archive_whole(tmp_path: Path) -> None:
    """What did not fit is removed again, so that the same records can be appended once there is room."""
    path = tmp_path / "jobs.jsonl.gz"
    archive = archive_to(path)
    archive([FULL._replace(ref="r1")])
    many = [FULL._replace(ref=f"r{number}", error=random.Random(number).randbytes(999).hex()) for number in range(9)]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    reaction = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            archive(many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, reaction)
    assert refs_in(path) == ["r1"]
    archive(many)
    assert refs_in(path) == ["r1", *(record.ref for record in many)]


def test_another_file_is_no_archive(tmp_path: Path) -> None:
    """A file that is not a gzip file, not a whole one, or a damaged one, is left as it is."""
    path = tmp_path / "notes.txt"
    members = [gzip.compress(b"%d" % number * 99) for number in range(9)]
    damaged = b"".join([members[0], members[1][:-5], bytes([members[1][-5] ^ 1]), members[1][-4:], *members[2:]])
    for content in (b"mine", members[0][:-1], damaged):
        path.write_bytes(content)
        with pytest.raises(InvalidRequestError, match="gzip"):
            archive_to(path)([FULL])
        assert path.read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_an_archive_that_another_process_has_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait for a process that was stopped has an end."""
    monkeypatch.setattr(pruning, "_LOCKED_SECONDS", 0.1)
    path = tmp_path / "jobs.jsonl.gz"
    with path.open("ab") as file:
        assert try_lock(file)
        with pytest.raises(TimeoutError, match="locked the archive"):
            archive_to(path)([FULL])


def test_the_command_archives_or_deletes(tmp_path: Path) -> None:
    """`jobs prune` needs --archive or --delete, and an age or a date. What ended later stays."""
    shell = Shell(tmp_path)
    shell.run("jobs", "--json")
    for wrong in (
        ["--before", "1d"],
        ["--before", "1d", "--delete", "--archive", "a.gz"],
        ["--before", "x", "--delete"],
    ):
        assert shell.run("jobs", "prune", *wrong).code == 2
    done = shell.run("jobs", "prune", "--before", "2030-01-01", "--archive", "a.gz", "--json")
    assert (done.code, done.json) == (0, {"pruned": 0, "archive": "a.gz"})
    assert "0 jobs" in shell.run("jobs", "prune", "--before", "30d", "--delete").out
