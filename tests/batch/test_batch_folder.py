"""The folder of a batch: its lock, its owner, its index, and files that a killed process left."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import MakeWorld, S, charges, ends, requests, results, run

from modelslab_async import ClientStateError, InvalidRequestError
from modelslab_async.batch import Step, open_batch, run_batch

pytestmark = pytest.mark.looptime


async def test_a_folder_has_one_run_at_a_time(world: MakeWorld, tmp_path: Path) -> None:
    """A second run is refused before anything is sent."""
    here, folder = world(), tmp_path / "out"
    async with here.client(journal=tmp_path / "jobs.db") as client, open_batch(client, folder):
        with pytest.raises(InvalidRequestError, match="another run"):
            await run(here, folder, requests(1))
    assert charges(here) == 0


@pytest.mark.parametrize("other", [{"api_key": "another-key"}, {"journal": "other.db"}])
async def test_a_folder_belongs_to_one_account_and_one_journal(
    world: MakeWorld, tmp_path: Path, other: dict[str, Any]
) -> None:
    """With another key or journal, whose rows do not have its jobs, the run is refused."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(1))
    journal = {"journal": tmp_path / other["journal"]} if "journal" in other else other
    async with here.client(**{"journal": tmp_path / "jobs.db", **journal}) as client:
        with pytest.raises(InvalidRequestError, match="another folder"):
            await anext(aiter(run_batch(client, requests(1), folder)))
    assert charges(here) == 1


async def test_an_emulator_s_folder_belongs_to_no_account(world: MakeWorld, tmp_path: Path) -> None:
    """Its videos never count as the service's; only another emulator may continue the batch."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(2), emulator=True)
    with pytest.raises(InvalidRequestError, match="emulator"):
        await run(here, folder, requests(2))
    events = await run(world(), folder, requests(2), client={"api_key": "another-key"}, emulator=True)
    assert ends(events) == {(Step.KEPT, S.READY): 2}


async def test_a_damaged_batch_file_is_reported(world: MakeWorld, tmp_path: Path) -> None:
    """Without the owner that it names, nothing is submitted."""
    here, folder = world(), tmp_path / "out"
    folder.mkdir()
    (folder / "batch.json").write_text("{}")
    with pytest.raises(InvalidRequestError, match="batch"):
        await run(here, folder, requests(1))


async def test_a_part_of_a_line_is_skipped(world: MakeWorld, tmp_path: Path) -> None:
    """If a killed process wrote only a part of a line, the item is looked up and gets a whole line at no cost."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(1))
    path = folder / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert ends(await run(here, folder, requests(1))) == {(Step.ENDED, S.READY): 1}
    assert (charges(here), len(results(folder)), len(list(folder.glob("*.mp4")))) == (1, 1, 1)
    assert json.loads(path.read_text().splitlines()[-1])["file"] == "a-0.mp4"


async def test_a_video_without_a_result_is_not_kept_twice(world: MakeWorld, tmp_path: Path) -> None:
    """If a process was killed before it wrote the result, the next run keeps one file with the same bytes."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(1))
    (folder / "results.jsonl").unlink()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        [record] = await client.history()
        assert client.journal is not None
        unsaved = record._replace(owner=client.journal.owner, saved_path=None)
        assert await client.journal.append(unsaved, take_over=record.owner)
    [event] = [event for event in await run(here, folder, requests(1)) if event.step is Step.ENDED]
    assert event.result is not None
    assert (event.result.file, [path.name for path in folder.glob("*.mp4")]) == ("a-0.mp4", ["a-0.mp4"])


async def test_the_index_is_used_by_one_thread(
    world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the batch runs, only the event loop's thread uses the SQLite index: two threads would misuse it."""
    threads = set[int]()
    connect: Any = sqlite3.connect

    class Watched(sqlite3.Connection):
        """A connection that notes the threads that use it."""

        def execute(self, *arguments: Any) -> sqlite3.Cursor:
            threads.add(threading.get_ident())
            return super().execute(*arguments)

    def connect_watched(path: str, *arguments: Any, **options: Any) -> Any:
        return connect(path, *arguments, **options, **({} if path else {"factory": Watched}))  # "" is the index

    monkeypatch.setattr(sqlite3, "connect", connect_watched)
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client, open_batch(client, tmp_path / "out") as batch:
        threads.clear()  # the folder was opened in a thread of its own
        ended = [event.result async for event in batch.run(requests(6)) if event.step is Step.ENDED]
        used = {*threads}
    assert len(ended) == 6
    assert used == {threading.get_ident()}


async def test_a_batch_needs_a_journal(world: MakeWorld, tmp_path: Path) -> None:
    """Without one it could not continue after a crash, so it is refused."""
    async with world().client() as client:
        with pytest.raises(ClientStateError, match="journal"):
            await anext(aiter(run_batch(client, requests(1), tmp_path)))


@pytest.mark.parametrize("options", [{"name": "../{stem}.mp4"}, {"lookahead": 0}])
async def test_wrong_options_are_refused(world: MakeWorld, tmp_path: Path, options: dict[str, Any]) -> None:
    """They are refused before the folder is made."""
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        await run(world(), tmp_path / "out", requests(1), **options)
    assert not (tmp_path / "out").exists()
