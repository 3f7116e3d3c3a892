"""Ids and file names of the emulator: new in each run, or the same in each run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.emulator_server import running_emulator

from modelslab_async.emulator import ids
from modelslab_async.emulator.ids import LIMIT, fresh_ids


def take(source: Iterator[int], count: int) -> list[int]:
    """Return the next ids."""
    return [*itertools.islice(source, count)]


def test_ids_are_new_and_below_2_31(tmp_path: Path) -> None:
    """Emulators one after the other and side by side give out different ids, all positive and below 2^31."""
    one, other = fresh_ids(tmp_path), fresh_ids(tmp_path)
    taken = take(one, 250) + take(other, 250) + take(one, 1000) + take(fresh_ids(tmp_path), 10)
    assert len(set(taken)) == len(taken)
    assert all(0 < each < LIMIT for each in taken)


def test_processes_that_start_at_once_get_different_ids(tmp_path: Path) -> None:
    """Reservations at the same time do not overlap."""
    with ThreadPoolExecutor(8) as threads:
        blocks = [*threads.map(lambda _: take(fresh_ids(tmp_path), 100), range(20))]
    assert len({each for block in blocks for each in block}) == 2000


def test_without_a_file_ids_follow_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file cannot be written, an emulator that starts later gives out later ids."""
    folder = tmp_path / "file"
    folder.write_bytes(b"in the way")
    seen = []
    for now in (1_800_000_000.0, 1_800_000_060.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        seen.append(take(fresh_ids(folder), 100))
    assert max(seen[0]) < min(seen[1])


def test_a_new_machine_begins_where_the_time_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without the file of earlier runs does not begin at the same id again."""
    firsts = []
    for number, now in enumerate((1_800_000_000.0, 1_800_000_060.0)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        firsts.append(take(fresh_ids(tmp_path / str(number)), 1)[0])
    assert firsts[1] > firsts[0]


def test_ids_begin_again_after_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 2^31 the ids begin again at 1, and none is 0 or negative."""
    monkeypatch.setattr("time.time", lambda: ids._EPOCH + (LIMIT - 50) / ids._IDS_PER_SECOND)  # noqa: SLF001
    taken = take(fresh_ids(tmp_path), 100)
    assert len(set(taken)) == 100
    assert (min(taken), max(taken)) == (1, LIMIT - 1)


async def run(**options: Any) -> list[Any]:
    """Run an emulator with three jobs; return their replies, without the port of its links."""
    async with running_emulator(**options) as running:
        replies = [(await running.submit(num_inference_steps=100))[1] for _ in range(3)]
        return [(reply["id"], reply["future_links"][0].rpartition("/")[2], reply["meta"]["seed"]) for reply in replies]


async def test_deterministic_runs_are_equal(caplog: pytest.LogCaptureFixture) -> None:
    """With `deterministic`, ids, names and seeds are the same in each run, and the log warns of kept journals."""
    first, second = [await run(deterministic=True, seed=5) for _ in range(2)]
    assert first == second
    assert any("journal" in record.getMessage() for record in caplog.records if record.levelname == "WARNING")


async def test_other_runs_share_no_id_and_no_name() -> None:
    """Without it, also with the same seed, no id and no file name comes twice; the videos' seeds are the same."""
    first, second = [await run(seed=5) for _ in range(2)]
    for position in (0, 1):
        assert not {each[position] for each in first} & {each[position] for each in second}
    assert [each[2] for each in first] == [each[2] for each in second]
    assert all(0 < each[0] < LIMIT for each in first + second)
