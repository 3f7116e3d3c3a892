"""Several runs of one batch, on one folder and one journal for several hosts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import MakeWorld, S, charges, ends, requests, results
from helpers.inside import engine_of
from helpers.world import World

from modelslab_async import InvalidRequestError
from modelslab_async.batch import BatchEvent, Step, open_batch, run_batch
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.memory import MemoryJournal, MemoryStorage

pytestmark = pytest.mark.looptime


class Hosts:
    """Clients with journals on one storage, as clients of several hosts have one database."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.storage = MemoryStorage()

    async def run(
        self, folder: Path, wanted: Any, *, leave: Callable[[], bool] = lambda: False, **options: Any
    ) -> list[BatchEvent]:
        """Run the batch with a client of its own. Leave it at the first event after *leave* returns True."""
        events = list[BatchEvent]()
        async with self.world.client(journal=MemoryJournal(self.storage)) as client:
            self.storage.clock = engine_of(client).recorder.clock
            running = run_batch(client, wanted, folder, **options)
            async for event in running:
                events.append(event)
                if leave():
                    await running.aclose()
                    await client.aclose(drain=False)
                    break
        return events


async def test_two_runs_share_the_work(make_world: MakeWorld, tmp_path: Path) -> None:
    """Each item is paid for and saved once, by either run, and both runs end with all results."""
    here, folder = make_world(), tmp_path / "out"
    hosts = Hosts(here)
    both = await asyncio.gather(hosts.run(folder, requests(12)), hosts.run(folder, requests(12)))
    for events in both:
        last = {event.entry.item: event for event in events if event.result}
        assert len(last) == 12
        assert {event.result.state for event in last.values() if event.result} == {S.READY}
    assert charges(here) == 12
    assert len(list(folder.glob("*.mp4"))) == 12
    # The run that follows a job may write its line before the run that made it, whose line names the host too.
    lines = results(folder)
    assert len({(result.item, result.host is None) for result in lines}) == len(lines)
    assert len({(result.item, result.file, result.sha256) for result in lines}) == 12
    assert None not in {result.item: result.host for result in lines}.values()  # the last line of each item is whole
    owners = Counter(record.owner for record in hosts.storage.rows.values())
    assert min(owners.values()) > 1
    assert len(owners) == 2


async def test_a_run_takes_over_what_another_run_left(make_world: MakeWorld, tmp_path: Path) -> None:
    """If one of two runs ends early, the other one collects its paid jobs and makes the rest."""
    here, folder = make_world(), tmp_path / "out"
    hosts = Hosts(here)
    begun = asyncio.get_running_loop().time()

    def is_late() -> bool:
        return asyncio.get_running_loop().time() > begun + 60

    _, events = await asyncio.gather(hosts.run(folder, requests(12), leave=is_late), hosts.run(folder, requests(12)))
    assert {event.result.file for event in events if event.result} == {f"a-{seed}.mp4" for seed in range(12)}
    assert charges(here) == 12


async def test_a_failed_item_is_retried_by_one_of_two_runs(make_world: MakeWorld, tmp_path: Path) -> None:
    """With `retry_failed` in both runs, an item that fails again is paid for once more, not twice."""
    here, folder = make_world(faults=[Rule(Fault.JOB_FAILS)]), tmp_path / "out"
    hosts = Hosts(here)
    assert ends(await hosts.run(folder, requests(2))) == {(Step.ENDED, S.FAILED): 2}
    await asyncio.gather(*(hosts.run(folder, requests(2), retry_failed=True, lookahead=each) for each in (1, 2)))
    assert charges(here) == 4


async def test_an_uncertain_item_of_a_live_run_is_left_by_the_other(make_world: MakeWorld, tmp_path: Path) -> None:
    """`resubmit_uncertain` pays again for what earlier runs left, not for what another run has just submitted."""
    here, folder = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), tmp_path / "out"
    hosts = Hosts(here)
    options: dict[str, Any] = {"resubmit_uncertain": True, "lookahead": 1}
    both = await asyncio.gather(*(hosts.run(folder, requests(3), **options) for _ in range(2)))
    assert charges(here) == 3
    for events in both:
        assert Counter(event.result.state for event in events if event.result) == {S.UNCERTAIN: 1, S.READY: 2}


async def test_a_run_for_one_host_is_refused(make_world: MakeWorld, tmp_path: Path) -> None:
    """A folder that several runs share belongs to their journal."""
    here, folder = make_world(), tmp_path / "out"
    hosts = Hosts(here)
    await hosts.run(folder, requests(1))
    async with here.client(journal=tmp_path / "jobs.db") as client:
        with pytest.raises(InvalidRequestError, match="another folder"):
            async with open_batch(client, folder):
                pass
