"""Later runs of a batch: uncertain, failed and timed-out items, and their second attempts."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from helpers.batches import MakeWorld, S, charges, ends, leave, plan, requests, results, run
from helpers.world import a_request
from rich.console import Console

from modelslab_async import JobState, Timeouts
from modelslab_async.batch import Result, Step
from modelslab_async.batch.steps import Action, decide
from modelslab_async.cli.display import BatchDisplay
from modelslab_async.cli.output import Output
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol.record import JobRecord

pytestmark = pytest.mark.looptime


async def test_an_uncertain_item_is_left(world: MakeWorld, tmp_path: Path) -> None:
    """It is submitted again only with resubmit_uncertain, under another ref; it may be paid twice then."""
    here, folder = world(faults=[Rule(Fault.RESET_AFTER, times=1)]), tmp_path / "out"
    assert ends(await run(here, folder, requests(3))) == {(Step.ENDED, S.UNCERTAIN): 1, (Step.ENDED, S.READY): 2}
    for _ in range(2):
        assert ends(await run(here, folder, requests(3))) == {(Step.LEFT, S.UNCERTAIN): 1, (Step.KEPT, S.READY): 2}
    assert (charges(here), len(results(folder))) == (3, 3)
    await run(here, folder, requests(3), resubmit_uncertain=True)
    assert charges(here) == 4
    assert ends(await run(here, folder, requests(3))) == {(Step.KEPT, S.READY): 3}
    refs = [result.ref for result in results(folder) if result.item == results(folder)[0].item]
    assert len(set(refs)) == len(refs)


async def test_a_resolved_item_is_collected_or_made(world: MakeWorld, tmp_path: Path) -> None:
    """An uncertain item that was accepted under an id is collected; a lost item is submitted."""
    here, folder = world(faults=[Rule(Fault.RESET_AFTER, times=1), Rule(Fault.RESET_BEFORE, times=1)]), tmp_path / "out"
    await run(here, folder, requests(2))
    refs = [result.ref for result in results(folder) if result.state is S.UNCERTAIN]
    known = {charge.track_id: charge.job_id for charge in here.service.ledger.charges}
    async with here.client(journal=tmp_path / "jobs.db") as client:
        for ref in refs:
            await client.resolve(ref, id=known.get(ref), lost=ref not in known)
        await client.aclose(drain=False)
    assert len(refs) == 2
    assert ends(await run(here, folder, requests(2))) == {(Step.ENDED, S.READY): 2}
    assert charges(here) == 2


async def test_a_failed_item_never_stops_the_others(world: MakeWorld, tmp_path: Path) -> None:
    """Its result has an error, later runs leave it, and only retry_failed pays for it again."""
    here, folder = world(faults=[Rule(Fault.JOB_FAILS, times=2)]), tmp_path / "out"
    assert ends(await run(here, folder, requests(5))) == {(Step.ENDED, S.FAILED): 2, (Step.ENDED, S.READY): 3}
    assert all(result.error for result in results(folder) if result.state is S.FAILED)
    assert ends(await run(here, folder, requests(5))) == {(Step.LEFT, S.FAILED): 2, (Step.KEPT, S.READY): 3}
    assert charges(here) == 5
    await run(here, folder, requests(5), retry_failed=True)
    assert ends(await run(here, folder, requests(5))) == {(Step.KEPT, S.READY): 5}
    assert charges(here) == 7


async def test_a_job_that_takes_too_long_stops_no_other(world: MakeWorld, tmp_path: Path) -> None:
    """It counts as paid for, and the next run collects it, with retry_failed too."""
    here, folder = world(), tmp_path / "out"
    wanted = [
        a_request(seed=1, num_frames=240, num_inference_steps=25),
        *[a_request(seed=seed) for seed in range(2, 9)],
    ]
    patience = {"timeouts": Timeouts(job=80), "limits": None}
    events = await run(here, folder, wanted, client=patience)
    assert ends(events) == {(Step.ENDED, S.READY): 7, (Step.ENDED, S.TIMED_OUT): 1}
    events = await run(here, folder, wanted, retry_failed=True)
    assert ends(events) == {(Step.KEPT, S.READY): 7, (Step.ENDED, S.READY): 1}
    assert charges(here) == 8


async def test_a_second_attempt_that_takes_too_long_is_collected(world: MakeWorld, tmp_path: Path) -> None:
    """A failed first attempt is no reason to pay for a third."""
    here, folder = world(faults=[Rule(Fault.JOB_FAILS, times=1)]), tmp_path / "out"
    await run(here, folder, requests(1))
    await run(here, folder, requests(1), retry_failed=True, client={"timeouts": Timeouts(job=20)})
    assert ends(await run(here, folder, requests(1), retry_failed=True)) == {(Step.ENDED, S.READY): 1}
    assert charges(here) == 2


async def test_without_its_journal_a_folder_still_knows_what_was_paid(world: MakeWorld, tmp_path: Path) -> None:
    """Items that the folder knows and the journal does not are paid for again only with the two flags."""
    faults = [Rule(Fault.JOB_FAILS, times=1), Rule(Fault.RESET_AFTER, times=1)]
    here, folder = world(faults=faults), tmp_path / "out"
    await run(here, folder, requests(4))
    for path in (*tmp_path.glob("jobs.db*"), next(folder.glob("*.mp4"))):
        path.unlink()
    left = {(Step.KEPT, S.READY): 1, (Step.LEFT, S.READY): 1, (Step.LEFT, S.FAILED): 1, (Step.LEFT, S.UNCERTAIN): 1}
    for _ in range(2):
        assert ends(await run(here, folder, requests(4))) == left
    planned = await plan(here, folder, requests(4))
    assert (planned.kept, planned.failed, planned.uncertain, planned.submit, charges(here)) == (1, 1, 2, 0, 4)
    await run(here, folder, requests(4), retry_failed=True)
    assert charges(here) == 5
    await run(here, folder, requests(4), resubmit_uncertain=True)
    assert charges(here) == 7
    assert ends(await run(here, folder, requests(4))) == {(Step.KEPT, S.READY): 4}


async def test_a_second_attempt_is_found_though_the_first_has_no_row(world: MakeWorld, tmp_path: Path) -> None:
    """If the journal is newer than the first attempt, the second one is still collected."""
    here, folder = world(faults=[Rule(Fault.JOB_FAILS, times=1)]), tmp_path / "out"
    await run(here, folder, requests(1))
    for path in tmp_path.glob("jobs.db*"):
        path.unlink()
    await leave(here, folder, requests(1), 5, retry_failed=True)
    assert charges(here) == 2
    assert ends(await run(here, folder, requests(1))) == {(Step.ENDED, S.READY): 1}
    assert charges(here) == 2


async def test_a_retry_that_was_not_sent_needs_the_flag_again(world: MakeWorld, tmp_path: Path) -> None:
    """If the run stops while a second attempt waits for a slot, later runs without the flag leave the item."""
    here, folder, stop = world(faults=[Rule(Fault.JOB_FAILS, times=1)]), tmp_path / "out", asyncio.Event()
    first, new = requests(2)
    await run(here, folder, [first])
    asyncio.get_running_loop().call_later(5, stop.set)
    await run(here, folder, [new, first], client={"max_in_flight": 1}, stop=stop, retry_failed=True)
    for _ in range(3):
        assert ends(await run(here, folder, [new, first])) == {(Step.KEPT, S.READY): 1, (Step.LEFT, S.FAILED): 1}
    assert charges(here) == 2
    assert ends(await run(here, folder, [first], retry_failed=True)) == {(Step.ENDED, S.READY): 1}


@pytest.mark.parametrize("state", [S.WAITING, S.CANCELLED, S.REFUSED])
@pytest.mark.parametrize(("before", "flag"), [(S.FAILED, "retry_failed"), (S.UNCERTAIN, "resubmit_uncertain")])
def test_the_decision_about_a_retry_that_was_not_sent(state: JobState, before: JobState, flag: str) -> None:
    """The item is left without the flag, and submitted with it."""
    known = Result(item="a", ref="a", line=1, state=before, request={}, service="", charged=None)
    record = JobRecord(account="", ref="a-2", owner="", created_at=1.0, state=state)
    flags = {"retry_failed": False, "resubmit_uncertain": False}
    assert decide(known, record, **flags) is Action.LEAVE
    assert decide(known, record, **{**flags, flag: True}) is Action.SUBMIT


async def test_a_job_that_the_service_does_not_know_counts_as_failed(world: MakeWorld, tmp_path: Path) -> None:
    """It cannot be collected, and retry_failed pays for it again."""
    here, folder = world(), tmp_path / "out"
    await leave(here, folder, requests(1), 5)
    here = world(first_id=200_000)  # a service that never accepted the job, and repeats no id
    display = BatchDisplay(Output(as_json=False, err=Console(file=io.StringIO())), 1, "spent")
    for event in await run(here, folder, requests(1)):
        display.handle(event)
    assert "1 failed" in display.status()
    assert ends(await run(here, folder, requests(1), retry_failed=True)) == {(Step.ENDED, S.READY): 1}
