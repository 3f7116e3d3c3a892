"""How batches end early: stopped, left, without money, in an outage, or by an error of the disk."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import MakeWorld, S, charges, ends, leave, requests, results, run
from helpers.operations import a_request_for
from helpers.world import PNG
from rich.console import Console

from modelslab_async import Budget, BudgetExceededError, ConnectError, ImageToVideoUltra, InsufficientCreditsError
from modelslab_async.batch import Step, open_batch
from modelslab_async.batch import opening as opening_of_batches
from modelslab_async.batch.folder import Folder, Owner, opened
from modelslab_async.cli.display import BatchDisplay
from modelslab_async.cli.output import Output
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime


async def test_a_stop_lets_the_running_jobs_end(world: MakeWorld, tmp_path: Path) -> None:
    """Items that wait for a slot are not sent; the next run makes them; each item is paid for once."""
    here, folder, stop = world(), tmp_path / "out", asyncio.Event()
    asyncio.get_running_loop().call_later(5, stop.set)
    first = await run(here, folder, requests(12), stop=stop)
    assert ends(first) == {(Step.ENDED, S.READY): 5, (Step.LEFT, None): 7}
    second = await run(here, folder, requests(12))
    assert ends(second) == {(Step.KEPT, S.READY): 5, (Step.ENDED, S.READY): 7}
    assert charges(here) == 12


async def test_a_run_that_is_left_loses_nothing(world: MakeWorld, tmp_path: Path) -> None:
    """Whenever a run is left, the next one collects the paid jobs and makes the other items."""
    here, folder = world(), tmp_path / "out"
    for patience in (0.01, 0.3, 7, 33, 41, 47):
        await leave(here, folder, requests(12), patience)
    last_events = await run(here, folder, requests(12))
    assert {result.state for result in results(folder)} == {S.READY}
    assert sum(ends(last_events).values()) == 12
    assert (charges(here), len(list(folder.glob("*.mp4")))) == (12, 12)


async def test_a_run_that_is_left_while_it_opens_its_folder_unlocks_it(
    world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the disk is slow, the folder is free for the next run."""
    here, folder, entered, go = world(), tmp_path / "out", threading.Event(), threading.Event()

    @contextmanager
    def open_slowly(path: Path, owner: Owner, **options: Any) -> Iterator[Folder]:
        entered.set()
        assert go.wait(10)
        with opened(path, owner, **options) as opened_folder:
            yield opened_folder

    monkeypatch.setattr(opening_of_batches, "opened", open_slowly)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        opening = asyncio.create_task(open_batch(client, folder).__aenter__())
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, 10)
        opening.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not opening.done()  # as long as the folder may yet be locked
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        async with open_batch(client, folder):
            pass


async def test_an_account_without_money_stops_the_batch(world: MakeWorld, tmp_path: Path) -> None:
    """The other items are left, and a later run makes them once there is money."""
    here, folder = world(wallet=Decimal("0.5")), tmp_path / "out"
    with pytest.raises(InsufficientCreditsError):
        await run(here, folder, requests(8))
    assert [result.state for result in results(folder)] == [S.READY, S.READY]
    refilled = world(first_id=200_000)
    assert ends(await run(refilled, folder, requests(8))) == {(Step.KEPT, S.READY): 2, (Step.ENDED, S.READY): 6}
    assert (charges(here), charges(refilled)) == (2, 6)


async def test_a_budget_is_used_up_before_the_batch_stops(world: MakeWorld, tmp_path: Path) -> None:
    """The first items, which the budget allows, are made. Then its error is raised. A later run makes the others."""
    here, folder = world(), tmp_path / "out"
    with pytest.raises(BudgetExceededError):
        await run(here, folder, requests(30), client={"budget": Budget(usd=1)})
    assert [result.state for result in results(folder)] == [S.READY] * 5
    assert charges(here) == 5
    assert ends(await run(here, folder, requests(30))) == {(Step.KEPT, S.READY): 5, (Step.ENDED, S.READY): 25}
    assert charges(here) == 30


async def test_a_lost_upload_fails_no_item(world: MakeWorld, tmp_path: Path) -> None:
    """While uploads break off, nothing is charged, and the items are submitted again."""
    here, folder = world(faults=[Rule(Fault.RESET_AFTER, on="call", times=6)]), tmp_path / "out"
    pictured = [a_request_for("image-to-video", init_image=PNG, seed=seed) for seed in range(3)]
    assert ends(await run(here, folder, pictured)) == {(Step.ENDED, S.READY): 3}
    assert charges(here) == 3


async def test_an_outage_is_waited_out(world: MakeWorld, tmp_path: Path) -> None:
    """Some minutes without the service fail no item, and are reported once."""
    here, folder = world(faults=[Rule(Fault.REFUSED, times=1, seconds=300)]), tmp_path / "out"
    events = await run(here, folder, requests(6))
    assert ends(events) == {(Step.ENDED, S.READY): 6}
    assert charges(here) == 6
    [delayed] = [event for event in events if event.step is Step.DELAYED]
    assert delayed.job is not None
    assert isinstance(delayed.job.exception(), ConnectError)
    printed = io.StringIO()
    BatchDisplay(Output(as_json=False, err=Console(file=printed)), 6, "spent").handle(delayed)
    assert printed.getvalue().startswith("submitting again during an outage: ")


async def test_a_video_that_is_not_whole_counts_as_unsaved(world: MakeWorld, tmp_path: Path) -> None:
    """It is paid for, and the next run fetches it at no cost."""
    here, folder = world(faults=[Rule(Fault.CUT_MP4, on="file", times=5)]), tmp_path / "out"
    display = BatchDisplay(Output(as_json=False, err=Console(file=io.StringIO())), 1, "spent")
    for event in await run(here, folder, requests(1)):
        display.handle(event)
    assert display.status() == "0 of 1 done, 0 running, 0 waiting, 1 unsaved, $0.20 spent"
    assert ends(await run(here, folder, requests(1))) == {(Step.ENDED, S.READY): 1}
    assert (len(list(folder.glob("*.mp4"))), charges(here)) == (1, 1)


async def test_an_outage_without_end_stops_the_batch(world: MakeWorld, tmp_path: Path) -> None:
    """Its error is raised after ten minutes; no item has failed, and the next run makes all of them."""
    here, folder = world(faults=[Rule(Fault.REFUSED, times=1, seconds=900)]), tmp_path / "out"
    with pytest.raises(ConnectError):
        await run(here, folder, requests(6))
    assert results(folder) == []
    await asyncio.sleep(900)
    assert ends(await run(here, folder, requests(6))) == {(Step.ENDED, S.READY): 6}


async def test_an_error_of_the_disk_stops_the_batch(world: MakeWorld, tmp_path: Path) -> None:
    """The next run collects the jobs that were paid for until then."""
    here, folder = world(), tmp_path / "out"
    folder.mkdir()
    (folder / "sub").write_bytes(b"a file where a folder should be")
    with pytest.raises(OSError, match="sub"):
        await run(here, folder, requests(9), name="sub/{seed}.mp4")
    paid = charges(here)
    assert 0 < paid < 9
    assert ends(await run(here, folder, requests(9), name="new/{seed}.mp4")) == {(Step.ENDED, S.READY): 9}
    assert charges(here) == 9


async def test_an_error_of_the_source_is_raised_at_the_end(world: MakeWorld, tmp_path: Path) -> None:
    """The jobs that were submitted before it are finished first."""

    def source() -> Iterator[ImageToVideoUltra]:
        yield from requests(3)
        raise LookupError("the database went away")

    here, folder = world(), tmp_path / "out"
    with pytest.raises(LookupError):
        await run(here, folder, source())
    assert [result.state for result in results(folder)] == [S.READY] * 3
