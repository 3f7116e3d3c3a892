"""What a client learned about durations serves the next client on its journal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from helpers.inside import engine_of
from helpers.world import KEY, MakeWorld, a_request

from modelslab_async.engine import durations
from modelslab_async.journal.base import Duration
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.polling.estimator import DurationEstimator
from modelslab_async.polling.history import Observation
from modelslab_async.polling.workload import Workload
from modelslab_async.protocol.secret import ApiKey

SERVICE = "https://service.invalid V6"
KIND = ("text2video_ultra", "a-model", None)
JOB = Workload(KIND)


def observation(number: int) -> Observation:
    return Observation(40.0 + number % 7, 42.0 + number % 7, 1.0, None)


async def remembered(journal: MemoryJournal) -> DurationEstimator:
    estimator = DurationEstimator()
    await durations.remember(estimator, journal, SERVICE, ApiKey(KEY))
    return estimator


@pytest.mark.looptime
async def test_a_new_client_is_not_cold(make_world: MakeWorld, tmp_path: Path) -> None:
    """A client on the same journal expects what the first one learned; a client of another service does not."""
    world, path = make_world(eta={"absent": 1}), tmp_path / "jobs.db"
    async with world.client(journal=path) as client:
        for _ in range(12):
            await client.generate(a_request())
        job = client.submit(a_request())
        await job
        learned = engine_of(client).shared.estimator
        [(kind, _)] = learned.histories
        expected = learned.expected_duration(Workload(kind), None)
    async with world.client(journal=path) as again:
        estimator = engine_of(again).shared.estimator
        assert estimator.expected_duration(Workload(kind), None) == pytest.approx(expected, rel=0.05)
    async with world.client(journal=path, enterprise=True) as elsewhere:
        cold = engine_of(elsewhere).shared.estimator.expected_duration(Workload(kind), None)
    assert cold == DurationEstimator().expected_duration(Workload(kind), None) != pytest.approx(expected, rel=0.05)


async def test_a_forecast_is_the_same_after_a_restart() -> None:
    """An estimator that remembers 128 jobs expects what the one that saw them expects, also after a change."""
    storage, seen = MemoryStorage(), DurationEstimator()
    journal = MemoryJournal(storage)
    await journal.open()
    await durations.remember(seen, journal, SERVICE, ApiKey(KEY))
    assert seen.on_observed is not None
    for number in range(100):
        factor = 4 if number > 80 else 1
        each = observation(number)._replace(
            after=factor * observation(number).after, by=factor * observation(number).by
        )
        seen.learn(KIND, each)
        seen.expected_duration(JOB, None)
        seen.on_observed(KIND, each)
    again = await remembered(journal)
    assert again.expected_duration(JOB, None) == pytest.approx(seen.expected_duration(JOB, None), rel=0.1)
    assert again.on_observed is not None
    assert len(storage.durations) == 100  # what is remembered is not written again


async def test_an_odd_table_harms_nothing() -> None:
    """Whatever the table holds, only possible durations are used."""
    journal = MemoryJournal()
    await journal.open()
    good = Duration(SERVICE, "text2video_ultra", '["text2video_ultra", "a-model", null]', 40.0, math.inf, 1.0, 40.0)
    nothing = good._replace(after=0.0)
    kinds: tuple[Any, ...] = ("", "{}", "[[1]]", "null", '"a"', "[" * 5000, 5, None)
    numbers: tuple[Any, ...] = (math.nan, -1.0, "x", b"", 1e300)
    odd = [good._replace(kind=kind) for kind in kinds]
    odd += [good._replace(**{name: value}) for name in ("after", "by", "work", "eta") for value in numbers]
    for each in (*odd, good, good._replace(by=1.0), good._replace(work=0.0), good._replace(after=math.inf), nothing):
        journal.note_duration(each)
    estimator = await remembered(journal)
    assert estimator.expected_duration(JOB, 40.0) > 0
    history = estimator.histories[KIND, True]
    assert list(history.observations) == [Observation(40.0, math.inf, 1.0, 40.0)]


async def test_a_damaged_table_harms_no_job(make_world: MakeWorld, tmp_path: Path) -> None:
    """Without the table, durations are neither read nor written, and the jobs are recorded."""
    world = make_world()
    journal = SqliteJournal(tmp_path / "jobs.db")
    await journal.open()
    journal.store.connection.execute("DROP TABLE durations")
    await journal.close()
    async with world.client(journal=tmp_path / "jobs.db", poll_cost=0.01) as client:
        job = client.submit(a_request())
        journal_of_client = client.journal
        assert journal_of_client is not None
        journal_of_client.note_duration(Duration(SERVICE, "video", "[]", 1.0, 2.0, 1.0, None))
        await job.submitted()
        await client.aclose(drain=False)
    async with world.client(journal=tmp_path / "jobs.db") as client:
        assert (await client.history(1))[0].ref == job.ref
        await client.aclose(drain=False)


async def test_a_kind_that_holds_the_key_is_not_written() -> None:
    """Neither is a kind that JSON cannot hold."""
    storage = MemoryStorage()
    journal = MemoryJournal(storage)
    await journal.open()
    estimator = await remembered(journal)
    assert estimator.on_observed is not None
    for kind in ((f"model {KEY}",), (object(),), ((1, 2),), ("good",)):
        estimator.on_observed(kind, observation(0))
    assert [each.kind for each in storage.durations] == ['["good"]']
