"""Batches: on virtual time, with a journal and a folder on disk."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sqlite3
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers.inside import engine_of
from helpers.world import PNG, World, a_request
from rich.console import Console

from modelslab_async import (
    Budget,
    ClientStateError,
    ConnectError,
    ImageToVideoUltra,
    InsufficientCreditsError,
    InvalidRequestError,
    JobState,
    Timeouts,
    batch,
)
from modelslab_async.batch import BatchEvent, BatchPlan, Result, Step, open_batch, read_results, run_batch
from modelslab_async.batch.folder import Folder, Owner, opened
from modelslab_async.batch.steps import Action, decide
from modelslab_async.cli.display import BatchDisplay
from modelslab_async.cli.output import Output
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol.record import JobRecord

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]
S = JobState


def requests(count: int, **changes: Any) -> list[ImageToVideoUltra]:
    return [a_request(seed=seed, **changes) for seed in range(count)]


async def run(here: World, folder: Path, wanted: Any, *, client: Any = None, **options: Any) -> list[BatchEvent]:
    """One process's run: a client of its own, the same journal."""
    journal = folder.parent / "jobs.db"
    async with here.client(journal=journal, **(client or {})) as made:
        return [event async for event in run_batch(made, wanted, folder, **options)]


async def leave(here: World, folder: Path, wanted: Any, after: float, **options: Any) -> None:
    """A run that is left in the middle."""
    async with here.client(journal=folder.parent / "jobs.db") as client:
        events = run_batch(client, wanted, folder, **options)
        try:
            async with asyncio.timeout(after):
                async for _ in events:
                    pass
        except TimeoutError:
            await events.aclose()
            await client.aclose(drain=False)


def ends(events: list[BatchEvent]) -> Counter[tuple[Step, JobState | None]]:
    told = (event for event in events if event.step not in (Step.BEGUN, Step.DELAYED))
    return Counter((event.step, event.result.state if event.result else None) for event in told)


def results(folder: Path) -> list[Result]:
    return list(read_results(folder))


def charges(here: World) -> int:
    return len(here.service.ledger.charges)


async def test_a_batch_makes_its_videos(world: MakeWorld, tmp_path: Path) -> None:
    """A file and a line for each item, which says what the file is, when it was made, and what it cost."""
    here, folder = world(), tmp_path / "out"
    events = await run(here, folder, requests(7))
    assert ends(events) == {(Step.ENDED, S.READY): 7}
    assert charges(here) == 7
    for result in results(folder):
        assert result.file == f"a-{result.seed}.mp4"
        assert result.sha256 == hashlib.sha256((folder / str(result.file)).read_bytes()).hexdigest()
        assert result.request["prompt"] == "moving character"
        assert (result.cost, result.charged, result.error) == (Decimal("0.2"), True, None)
        times = (result.created_at, result.submitted_at, result.accepted_at, result.ended_at, result.saved_at)
        assert list(times) == sorted(at for at in times if at)
    assert sorted(result.line for result in results(folder)) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_second_run_keeps_what_is_there(world: MakeWorld, tmp_path: Path) -> None:
    """Nothing is asked of the service, and nothing is written twice; what is new in the manifest is made."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(3))
    before, asked = (folder / "results.jsonl").read_bytes(), len(here.transport.requests)
    assert ends(await run(here, folder, requests(3))) == {(Step.KEPT, S.READY): 3}
    assert ((folder / "results.jsonl").read_bytes(), len(here.transport.requests)) == (before, asked)
    events = await run(here, folder, requests(4))
    assert ends(events) == {(Step.KEPT, S.READY): 3, (Step.ENDED, S.READY): 1}
    assert charges(here) == 4


@pytest.mark.parametrize("damage", ["gone", "changed", "cut", "another"])
async def test_a_file_that_is_not_what_it_was_is_fetched_again(world: MakeWorld, tmp_path: Path, damage: str) -> None:
    """For nothing; and what lies in its place is not overwritten."""
    here, folder = world(), tmp_path / "out"
    [whole] = [event.result for event in await run(here, folder, requests(1)) if event.result]
    assert whole.file is not None
    path = folder / whole.file
    content = path.read_bytes()
    free = (8).to_bytes(4) + b"free"  # with it, it is a whole mp4 of somebody's
    path.write_bytes({"cut": content[:-1], "another": content + free}.get(damage, content + content[:8]))
    if damage == "gone":
        path.unlink()
    events = await run(here, folder, requests(1))
    assert charges(here) == 1
    [again] = [event.result for event in events if event.result]
    assert again.file == ("a-0.mp4" if damage == "gone" else "a-0-2.mp4")
    assert again.sha256 == whole.sha256
    assert len(list(folder.glob("*.mp4"))) == (1 if damage == "gone" else 2)


async def test_an_uncertain_item_is_left_and_told(world: MakeWorld, tmp_path: Path) -> None:
    """It is never submitted again, unless a person says so: then under another ref, and it may be paid twice."""
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


async def test_what_a_person_resolved_is_collected_or_made(world: MakeWorld, tmp_path: Path) -> None:
    """An uncertain item that the service took under an id is collected; one that it never took is submitted."""
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
    """It is told with its reason, left by later runs, and paid for again only where a person says so."""
    here, folder = world(faults=[Rule(Fault.JOB_FAILS, times=2)]), tmp_path / "out"
    assert ends(await run(here, folder, requests(5))) == {(Step.ENDED, S.FAILED): 2, (Step.ENDED, S.READY): 3}
    assert all(result.error for result in results(folder) if result.state is S.FAILED)
    assert ends(await run(here, folder, requests(5))) == {(Step.LEFT, S.FAILED): 2, (Step.KEPT, S.READY): 3}
    assert charges(here) == 5
    await run(here, folder, requests(5), retry_failed=True)
    assert ends(await run(here, folder, requests(5))) == {(Step.KEPT, S.READY): 5}
    assert charges(here) == 7


async def test_a_job_that_takes_too_long_stops_no_other(world: MakeWorld, tmp_path: Path) -> None:
    """It is told as paid for, and the next run collects it, with --retry-failed too."""
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
    """That the first one failed is no reason to pay for a third."""
    here, folder = world(faults=[Rule(Fault.JOB_FAILS, times=1)]), tmp_path / "out"
    await run(here, folder, requests(1))
    await run(here, folder, requests(1), retry_failed=True, client={"timeouts": Timeouts(job=20)})
    assert ends(await run(here, folder, requests(1), retry_failed=True)) == {(Step.ENDED, S.READY): 1}
    assert charges(here) == 2


async def test_names_of_items_are_no_attempts_of_each_other(world: MakeWorld, tmp_path: Path) -> None:
    """What is called "scene-2" is not the second attempt of "scene", nor "100000" the job with that id."""
    here, folder = world(), tmp_path / "out"
    wanted = [a_request(track_id=name, seed=seed) for seed, name in enumerate(("scene", "scene-2", "scene-3"))]
    await leave(here, folder, wanted, 5)
    wanted.append(a_request(track_id=str(here.service.ledger.charges[0].job_id), seed=3))
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 4}
    told = {(result.item, result.ref, result.seed) for result in results(folder)}
    assert told == {(request.track_id, request.track_id, request.seed) for request in wanted}
    assert charges(here) == 4


async def test_without_its_journal_a_folder_still_knows_what_was_paid(world: MakeWorld, tmp_path: Path) -> None:
    """Only the two flags pay for such a line again."""
    faults = [Rule(Fault.JOB_FAILS, times=1), Rule(Fault.RESET_AFTER, times=1)]
    here, folder = world(faults=faults), tmp_path / "out"
    await run(here, folder, requests(4))
    for path in (*tmp_path.glob("jobs.db*"), next(folder.glob("*.mp4"))):
        path.unlink()
    left = {(Step.KEPT, S.READY): 1, (Step.LEFT, S.READY): 1, (Step.LEFT, S.FAILED): 1, (Step.LEFT, S.UNCERTAIN): 1}
    for _ in range(2):
        assert ends(await run(here, folder, requests(4))) == left
    told = await plan(here, folder, requests(4))
    assert (told.kept, told.failed, told.uncertain, told.submit, charges(here)) == (1, 1, 2, 0, 4)
    await run(here, folder, requests(4), retry_failed=True)
    assert charges(here) == 5
    await run(here, folder, requests(4), resubmit_uncertain=True)
    assert charges(here) == 7
    assert ends(await run(here, folder, requests(4))) == {(Step.KEPT, S.READY): 4}


async def test_a_second_attempt_is_found_though_the_first_has_no_row(world: MakeWorld, tmp_path: Path) -> None:
    """The journal is new since: what it knows is collected, and paid for once."""
    here, folder = world(faults=[Rule(Fault.JOB_FAILS, times=1)]), tmp_path / "out"
    await run(here, folder, requests(1))
    for path in tmp_path.glob("jobs.db*"):
        path.unlink()
    await leave(here, folder, requests(1), 5, retry_failed=True)
    assert charges(here) == 2
    assert ends(await run(here, folder, requests(1))) == {(Step.ENDED, S.READY): 1}
    assert charges(here) == 2


async def test_what_was_agreed_to_in_a_run_that_was_stopped_is_asked_again(world: MakeWorld, tmp_path: Path) -> None:
    """The second attempt waited for a place, and was not sent: later runs without the flag leave it."""
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
def test_a_second_attempt_that_was_not_sent_needs_the_flag_again(state: JobState, before: JobState, flag: str) -> None:
    """A person agreed to it in a run that was stopped before."""
    known = Result(item="a", ref="a", line=1, state=before, request={}, service="", charged=None)
    record = JobRecord(account="", ref="a-2", owner="", created_at=1.0, state=state)
    flags = {"retry_failed": False, "resubmit_uncertain": False}
    assert decide(known, record, **flags) is Action.LEAVE
    assert decide(known, record, **{**flags, flag: True}) is Action.SUBMIT


async def test_a_job_that_the_service_does_not_know_is_told_as_failed(world: MakeWorld, tmp_path: Path) -> None:
    """Nobody promises that it can be fetched: it may be paid again where a person says so."""
    here, folder = world(), tmp_path / "out"
    await leave(here, folder, requests(1), 5)
    here.service.forget_jobs()
    display = BatchDisplay(Output(as_json=False, err=Console(file=io.StringIO())), 1, "spent")
    for event in await run(here, folder, requests(1)):
        display.happened(event)
    assert "1 failed" in display.line()
    assert ends(await run(here, folder, requests(1), retry_failed=True)) == {(Step.ENDED, S.READY): 1}


async def test_an_item_that_cannot_be_sent_is_told(world: MakeWorld, tmp_path: Path) -> None:
    """It costs nothing, stops nothing, and is done once it was mended."""
    here, folder = world(), tmp_path / "out"
    wanted = [*requests(2), a_request(init_image=tmp_path / "later.png"), {"prompt": "no picture"}]
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 2, (Step.ENDED, S.REFUSED): 2}
    (tmp_path / "later.png").write_bytes(PNG)
    assert ends(await run(here, folder, wanted))[Step.LEFT, S.REFUSED] == 2
    events = await run(here, folder, wanted, retry_failed=True)
    assert ends(events) == {(Step.KEPT, S.READY): 2, (Step.ENDED, S.READY): 1, (Step.ENDED, S.REFUSED): 1}
    assert charges(here) == 3


async def test_paid_work_is_collected_though_its_picture_is_gone(world: MakeWorld, tmp_path: Path) -> None:
    """A run that goes on reads no input again."""
    here, folder, picture = world(), tmp_path / "out", tmp_path / "a.png"
    picture.write_bytes(PNG)
    wanted = requests(3, init_image=picture)
    await leave(here, folder, wanted, 5)
    picture.unlink()
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 3}
    assert charges(here) == 3


async def test_a_stop_lets_those_that_run_end(world: MakeWorld, tmp_path: Path) -> None:
    """Those that wait for a place are not sent; the next run does the rest; each is paid for once."""
    here, folder, stop = world(), tmp_path / "out", asyncio.Event()
    asyncio.get_running_loop().call_later(5, stop.set)
    first = await run(here, folder, requests(12), stop=stop)
    assert ends(first) == {(Step.ENDED, S.READY): 5, (Step.LEFT, None): 7}
    second = await run(here, folder, requests(12))
    assert ends(second) == {(Step.KEPT, S.READY): 5, (Step.ENDED, S.READY): 7}
    assert charges(here) == 12


async def test_a_run_that_is_left_loses_nothing(world: MakeWorld, tmp_path: Path) -> None:
    """Left at whatever moment, the next run collects what is paid for and makes the rest."""
    here, folder = world(), tmp_path / "out"
    for patience in (0.01, 0.3, 7, 33, 41, 47):
        await leave(here, folder, requests(12), patience)
    events_of_last = await run(here, folder, requests(12))
    assert {result.state for result in results(folder)} == {S.READY}
    assert sum(ends(events_of_last).values()) == 12
    assert (charges(here), len(list(folder.glob("*.mp4")))) == (12, 12)


async def test_a_run_that_is_left_while_it_opens_its_folder_lets_go_of_it(
    world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is slow, and nobody waits for it: the next run finds the folder free."""
    here, folder, entered, go = world(), tmp_path / "out", threading.Event(), threading.Event()

    @contextmanager
    def slowly(path: Path, owner: Owner) -> Iterator[Folder]:
        entered.set()
        assert go.wait(10)
        with opened(path, owner) as held:
            yield held

    monkeypatch.setattr(batch, "opened", slowly)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        begun = asyncio.create_task(open_batch(client, folder).__aenter__())
        await asyncio.get_running_loop().run_in_executor(None, entered.wait, 10)
        begun.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
        assert not begun.done()  # as long as the folder may yet be taken
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await begun
        async with open_batch(client, folder):
            pass


async def test_an_account_without_money_stops_the_batch(world: MakeWorld, tmp_path: Path) -> None:
    """The others are left as they are, and made once there is money."""
    here, folder = world(wallet=Decimal("0.5")), tmp_path / "out"
    with pytest.raises(InsufficientCreditsError):
        await run(here, folder, requests(8))
    assert [result.state for result in results(folder)] == [S.READY, S.READY]
    here.service.wallet = Decimal(100)
    assert ends(await run(here, folder, requests(8))) == {(Step.KEPT, S.READY): 2, (Step.ENDED, S.READY): 6}
    assert charges(here) == 8


async def test_an_outage_is_waited_out(world: MakeWorld, tmp_path: Path) -> None:
    """A few minutes without the service fail no item, and are told once."""
    here, folder = world(faults=[Rule(Fault.REFUSED, times=1, seconds=300)]), tmp_path / "out"
    events = await run(here, folder, requests(6))
    assert ends(events) == {(Step.ENDED, S.READY): 6}
    assert charges(here) == 6
    [delayed] = [event for event in events if event.step is Step.DELAYED]
    assert delayed.job is not None
    assert isinstance(delayed.job.exception(), ConnectError)
    told = io.StringIO()
    BatchDisplay(Output(as_json=False, err=Console(file=told)), 6, "spent").happened(delayed)
    assert told.getvalue().startswith("trying again for a while: no connection")


async def test_a_video_that_is_not_whole_is_told_as_unsaved(world: MakeWorld, tmp_path: Path) -> None:
    """Not as failed: it is paid for, and the next run fetches it for nothing."""
    here, folder = world(faults=[Rule(Fault.CUT_MP4, on="file", times=5)]), tmp_path / "out"
    display = BatchDisplay(Output(as_json=False, err=Console(file=io.StringIO())), 1, "spent")
    for event in await run(here, folder, requests(1)):
        display.happened(event)
    assert display.line() == "0 of 1 done, 0 running, 0 waiting, 1 unsaved, $0.20 spent"
    assert ends(await run(here, folder, requests(1))) == {(Step.ENDED, S.READY): 1}
    assert (len(list(folder.glob("*.mp4"))), charges(here)) == (1, 1)


async def test_an_outage_without_end_stops_the_batch(world: MakeWorld, tmp_path: Path) -> None:
    """After some minutes it is told; nothing is failed, and the next run makes all."""
    here, folder = world(faults=[Rule(Fault.REFUSED, times=1, seconds=900)]), tmp_path / "out"
    with pytest.raises(ConnectError):
        await run(here, folder, requests(6))
    assert results(folder) == []
    await asyncio.sleep(900)
    assert ends(await run(here, folder, requests(6))) == {(Step.ENDED, S.READY): 6}


async def test_a_disk_that_does_not_play_along_stops_the_batch(world: MakeWorld, tmp_path: Path) -> None:
    """What was paid for until then is collected by the next run."""
    here, folder = world(), tmp_path / "out"
    folder.mkdir()
    (folder / "sub").write_bytes(b"a file where a folder should be")
    with pytest.raises(OSError, match="sub"):
        await run(here, folder, requests(9), name="sub/{seed}.mp4")
    paid = charges(here)
    assert 0 < paid < 9
    assert ends(await run(here, folder, requests(9), name="new/{seed}.mp4")) == {(Step.ENDED, S.READY): 9}
    assert charges(here) == 9


async def test_names_that_are_taken_get_a_number(world: MakeWorld, tmp_path: Path) -> None:
    """Neither a user's file nor another item's video is overwritten."""
    here, folder = world(), tmp_path / "out"
    folder.mkdir()
    (folder / "a-1.mp4").write_bytes(b"the user's own")
    await run(here, folder, [a_request(seed=1, prompt=prompt) for prompt in ("one", "two")])
    assert (folder / "a-1.mp4").read_bytes() == b"the user's own"
    assert sorted(result.file or "" for result in results(folder)) == ["a-1-2.mp4", "a-1-3.mp4"]


async def test_millions_take_no_memory(world: MakeWorld, tmp_path: Path) -> None:
    """No more items are read than are under way, of an async source too."""
    here, read = world(queue_limit=50), 0
    ended = 0

    async def source() -> AsyncIterator[ImageToVideoUltra]:
        nonlocal read
        for request in requests(300):
            read += 1
            assert read - ended <= 20 + 1
            yield request

    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=50) as client:
        async for event in run_batch(client, source(), tmp_path / "out", lookahead=20):
            ended += event.step is not Step.BEGUN
    assert (read, ended) == (300, 300)


async def test_an_extra_that_holds_itself_stops_no_other_item(world: MakeWorld, tmp_path: Path) -> None:
    """It has no digest to be named by, and is refused as any other mistake is."""
    circle: dict[str, Any] = {}
    circle["itself"] = circle
    here, wanted = world(), [*requests(2), a_request(extra={"new": circle})]
    events = await run(here, tmp_path / "out", wanted)
    assert Counter(event.result.state for event in events if event.result) == {S.READY: 2, S.REFUSED: 1}
    assert len(here.service.ledger.charges) == 2


class Watched:
    """A database that writes down which threads use it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection, self.threads = connection, set[int]()

    def execute(self, sql: str, values: list[Any]) -> sqlite3.Cursor:
        self.threads.add(threading.get_ident())
        return self.connection.execute(sql, values)


async def test_the_index_is_used_by_one_thread(world: MakeWorld, tmp_path: Path) -> None:
    """Two at a time would misuse it, which ended a batch once in some hundred runs."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client, open_batch(client, tmp_path / "out") as batch:
        index: Any = Watched(batch._decider.folder._index)
        batch._decider.folder._index = index
        ended = [event.result async for event in batch.run(requests(6)) if event.step is Step.ENDED]
    assert len(ended) == 6
    assert index.threads == {threading.get_ident()}


async def test_a_source_that_breaks_is_told_at_the_end(world: MakeWorld, tmp_path: Path) -> None:
    """What was submitted before is finished first."""

    def source() -> Iterator[ImageToVideoUltra]:
        yield from requests(3)
        raise LookupError("the database went away")

    here, folder = world(), tmp_path / "out"
    with pytest.raises(LookupError):
        await run(here, folder, source())
    assert [result.state for result in results(folder)] == [S.READY] * 3


async def plan(here: World, folder: Path, wanted: Any, *, client: Any = None, **options: Any) -> BatchPlan:
    async with (
        here.client(journal=folder.parent / "jobs.db", **(client or {})) as made,
        open_batch(made, folder) as batch,
    ):
        return await batch.plan(wanted, **options)


async def test_all_is_checked_before_the_first_cent(world: MakeWorld, tmp_path: Path) -> None:
    """Lines, pictures, what is there twice, the budget and the wallet: all problems at once, and nothing is sent."""
    here, folder = world(wallet=Decimal("0.5")), tmp_path / "out"
    (tmp_path / "text.png").write_bytes(b"text")
    wanted = [
        *requests(2),
        a_request(seed=1),
        a_request(init_image=tmp_path / "gone.png", fps=99),
        a_request(init_image=tmp_path / "text.png"),
        a_request(track_id="mine"),
        a_request(track_id="mine", prompt="other"),
    ]
    told = await plan(here, folder, wanted, client={"budget": Budget(usd=1)})
    assert [problem.field for problem in told.problems] == [
        "line 3: line", "line 4: fps", "line 4: init_image", "line 5: init_image", "line 7: track_id",
    ]  # fmt: skip
    assert (told.lines, told.submit, told.usd, told.problem_count) == (7, 5, Decimal("1.0"), 5)
    assert here.transport.requests == []
    told = await plan(here, folder, requests(6), client={"budget": Budget(usd=1)}, check_wallet=True)
    assert [problem.field for problem in told.problems] == ["budget", "wallet"]
    assert charges(here) == 0


async def test_a_plan_tells_what_a_run_would_do(world: MakeWorld, tmp_path: Path) -> None:
    """Kept, collected, uncertain, failed and new items are counted, and only the new ones cost."""
    faults = [Rule(Fault.RESET_AFTER, times=1), Rule(Fault.JOB_FAILS, times=1)]
    here, folder = world(faults=faults, queue_limit=4), tmp_path / "out"
    await run(here, folder, requests(4))
    await leave(here, folder, requests(5), 5)
    told = await plan(here, folder, requests(7))
    assert (told.lines, told.kept, told.uncertain, told.failed, told.collect, told.submit) == (7, 2, 1, 1, 1, 2)
    assert (told.usd, told.problems) == (Decimal("0.4"), [])


async def test_a_folder_is_one_run_s_at_a_time(world: MakeWorld, tmp_path: Path) -> None:
    """Another run in it is refused, before anything is sent."""
    here, folder = world(), tmp_path / "out"
    async with here.client(journal=tmp_path / "jobs.db") as client, open_batch(client, folder):
        with pytest.raises(InvalidRequestError, match="another run"):
            await run(here, folder, requests(1))
    assert charges(here) == 0


@pytest.mark.parametrize("other", [{"api_key": "another-key"}, {"journal": "other.db"}])
async def test_a_folder_is_one_account_s_and_one_journal_s(
    world: MakeWorld, tmp_path: Path, other: dict[str, Any]
) -> None:
    """With another key or journal its jobs would not be known, and be paid for again: refused."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(1))
    journal = {"journal": tmp_path / other["journal"]} if "journal" in other else other
    async with here.client(**{"journal": tmp_path / "jobs.db", **journal}) as client:
        with pytest.raises(InvalidRequestError, match="another folder"):
            await anext(aiter(run_batch(client, requests(1), folder)))
    assert charges(here) == 1


async def test_an_emulator_s_folder_is_no_account_s(world: MakeWorld, tmp_path: Path) -> None:
    """Its videos are never taken for those of the service, nor the other way; another emulator goes on with it."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(2), emulator=True)
    with pytest.raises(InvalidRequestError, match="emulator"):
        await run(here, folder, requests(2))
    events = await run(world(), folder, requests(2), client={"api_key": "another-key"}, emulator=True)
    assert ends(events) == {(Step.KEPT, S.READY): 2}


async def test_a_damaged_batch_file_is_told(world: MakeWorld, tmp_path: Path) -> None:
    """It says whose the jobs are: without it nothing is submitted."""
    here, folder = world(), tmp_path / "out"
    folder.mkdir()
    (folder / "batch.json").write_text("{}")
    with pytest.raises(InvalidRequestError, match="batch"):
        await run(here, folder, requests(1))


async def test_half_a_line_is_passed_over(world: MakeWorld, tmp_path: Path) -> None:
    """A process that was killed while it wrote: the item is looked up, not paid for, and the next line is whole."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(1))
    path = folder / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert ends(await run(here, folder, requests(1))) == {(Step.ENDED, S.READY): 1}
    assert (charges(here), len(results(folder)), len(list(folder.glob("*.mp4")))) == (1, 1, 1)
    assert json.loads(path.read_text().splitlines()[-1])["file"] == "a-0.mp4"


async def test_a_video_without_a_row_is_not_kept_twice(world: MakeWorld, tmp_path: Path) -> None:
    """Killed between the file and the word of it: the same bytes under another name are removed again."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(1))
    (folder / "results.jsonl").unlink()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        [record] = await client.history()
        assert client.journal is not None
        taken = await engine_of(client).recorder.take_over(record, saved_path=None)
        assert taken is not None
    [event] = [event for event in await run(here, folder, requests(1)) if event.step is Step.ENDED]
    assert event.result is not None
    assert (event.result.file, [path.name for path in folder.glob("*.mp4")]) == ("a-0.mp4", ["a-0.mp4"])


async def test_a_batch_needs_a_journal(world: MakeWorld, tmp_path: Path) -> None:
    """It could not keep its word without."""
    async with world().client() as client:
        with pytest.raises(ClientStateError, match="journal"):
            await anext(aiter(run_batch(client, requests(1), tmp_path)))


@pytest.mark.parametrize("options", [{"name": "../{stem}.mp4"}, {"lookahead": 0}])
async def test_options_that_cannot_be_right(world: MakeWorld, tmp_path: Path, options: dict[str, Any]) -> None:
    """Refused before anything is made."""
    with pytest.raises(InvalidRequestError, match=next(iter(options))):
        await run(world(), tmp_path / "out", requests(1), **options)
    assert not (tmp_path / "out").exists()


async def test_texts_that_no_encoding_has(world: MakeWorld, tmp_path: Path) -> None:
    """Half of a surrogate pair, as JSON can say it: refused before it is paid for, and no traceback."""
    here, folder = world(), tmp_path / "out"
    wanted = [a_request(prompt="half \ud800"), a_request(track_id="half \ud800"), *requests(2)]
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 2, (Step.ENDED, S.REFUSED): 2}
    assert ends(await run(here, folder, wanted))[Step.KEPT, S.READY] == 2
    problems = (await plan(here, tmp_path / "new", wanted)).problems
    assert [problem.field for problem in problems] == ["line 1: prompt", "line 2: track_id"]
    assert len(here.service.ledger.charges) == 2
