"""A batch whose items were finished by an earlier run: what is read, compared and asked."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import MakeWorld, S, ends, plan, requests, results, run

from modelslab_async.batch import Step, open_batch
from modelslab_async.batch import folder as folders
from modelslab_async.batch.files import examine
from modelslab_async.batch.results import from_json, line_at, to_json
from modelslab_async.journal.base import Row
from modelslab_async.journal.sqlite import SqliteJournal

pytestmark = pytest.mark.looptime
KEPT = (Step.KEPT, S.READY)


@pytest.fixture
def examined(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the names of the files whose digests are computed."""
    names = list[str]()

    def examine_noted(path: Path) -> Any:
        names.append(path.name)
        return examine(path)

    monkeypatch.setattr(folders, "examine", examine_noted)
    return names


def damage(path: Path, *, keep_time: bool) -> None:
    """Change a byte of a file, and with *keep_time* set the time of its last change back."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    times = before.st_atime_ns, before.st_mtime_ns + (0 if keep_time else 1)
    os.utime(path, ns=times)


async def test_an_unchanged_file_is_not_read(world: MakeWorld, tmp_path: Path, examined: list[str]) -> None:
    """Its size and time say that it is unchanged. `verify` reads every file."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(5))
    assert ends(await run(here, folder, requests(5))) == {KEPT: 5}
    assert (await plan(here, folder, requests(5))).kept == 5
    assert examined == []
    assert ends(await run(here, folder, requests(5), verify=True)) == {KEPT: 5}
    assert len(examined) == 5


@pytest.mark.parametrize("verify", [False, True])
async def test_a_file_that_changed_is_made_whole_again(world: MakeWorld, tmp_path: Path, *, verify: bool) -> None:
    """A change shows in the time. A change that keeps size and time is found by `verify`."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(2))
    changed = folder / (results(folder)[0].file or "")
    damage(changed, keep_time=verify)
    again = await run(here, folder, requests(2), verify=verify)
    assert (ends(again)[KEPT], ends(again)[Step.ENDED, S.READY]) == (1, 1)
    assert ends(await run(here, folder, requests(2), verify=True)) == {KEPT: 2}


async def test_a_file_with_another_time_is_compared(world: MakeWorld, tmp_path: Path, examined: list[str]) -> None:
    """A copied file has the same digest, and is kept. So is the file of a result that names no time."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(2))
    first, second = results(folder)
    os.utime(folder / (first.file or ""))
    lines = [{**json.loads(line), "mtime_ns": None} for line in (folder / "results.jsonl").read_text().splitlines()]
    (folder / "results.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert ends(await run(here, folder, requests(2))) == {KEPT: 2}
    assert {*examined} == {first.file, second.file}


async def test_a_damaged_last_line_leaves_the_one_before(world: MakeWorld, tmp_path: Path) -> None:
    """A line that only looks whole is passed over, and the earlier result of its item holds."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(1))
    line = (folder / "results.jsonl").read_bytes()
    with (folder / "results.jsonl").open("ab") as file:
        file.write(line.replace(b'"line": 1', b'"line": }') + line[:40] + b"\n")
    assert ends(await run(here, folder, requests(1))) == {KEPT: 1}


async def test_a_plan_asks_the_journal_once_for_many_lines(world: MakeWorld, tmp_path: Path) -> None:
    """New lines, and lines whose results are lost, are searched for together: one query for each attempt."""
    here, folder, queries = world(), tmp_path / "out", list[int]()
    await run(here, folder, requests(3))
    (folder / "results.jsonl").unlink()

    class Counted(SqliteJournal):
        async def find_all(self, account: str, refs: Collection[str]) -> Mapping[str, Row]:
            queries.append(len(refs))
            return await super().find_all(account, refs)

    async with here.client(journal=Counted(tmp_path / "jobs.db")) as client, open_batch(client, folder) as batch:
        found = await batch.plan(requests(200))
    assert (found.submit, found.collect) == (197, 3)
    assert queries == [200, 3]


@pytest.mark.parametrize("line", ["", "null", "[]", '{"item": 1}', "[" * 100_000, "\ud800"], ids=lambda it: it[:9])
def test_a_line_that_cannot_be_read_is_no_result(line: str) -> None:
    """Whatever a file holds, reading it raises nothing."""
    assert from_json(line) is None


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"file": None},
        {"item": 'a "quoted" \\ item', "file": 'a "quoted" \\ file é.mp4'},
        {"request": {"extra": {"file": "x", "item": "y"}, "prompt": '"file": "z.mp4", '}},
        {"error": 'why "file": "z.mp4"}'},
    ],
    ids=str,
)
async def test_a_line_names_its_item_and_file(world: MakeWorld, tmp_path: Path, changes: dict[str, Any]) -> None:
    """What is read quickly from a line equals what its JSON says, also of a line that another program wrote."""
    await run(world(), tmp_path / "out", requests(1))
    [result] = results(tmp_path / "out")
    data = to_json(type(result)(**{**{name: getattr(result, name) for name in result.__annotations__}, **changes}))
    for line in (data, json.dumps(json.loads(data), indent=None, separators=(",", ":"), sort_keys=True).encode()):
        found, parsed = line_at(7, line + b"\n"), from_json(line)
        assert found is not None
        assert parsed is not None
        assert found == (parsed.item, parsed.file, 7, len(line) + 1)
