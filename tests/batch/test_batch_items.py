"""The items of a batch: their videos, results and names, and what a later run keeps."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers.batches import MakeWorld, S, charges, ends, leave, plan, requests, results, run
from helpers.world import PNG, a_request

from modelslab_async import ImageToVideoUltra
from modelslab_async.batch import Step, run_batch

pytestmark = pytest.mark.looptime


async def test_a_batch_makes_its_videos(world: MakeWorld, tmp_path: Path) -> None:
    """Each item has a file, and a line with the facts of the file, the times and the cost."""
    here, folder = world(), tmp_path / "out"
    events = await run(here, folder, requests(7))
    assert ends(events) == {(Step.ENDED, S.READY): 7}
    assert charges(here) == 7
    for result in results(folder):
        assert result.file == f"a-{result.seed}.mp4"
        assert result.sha256 == hashlib.sha256((folder / str(result.file)).read_bytes()).hexdigest()
        assert result.request["prompt"] == "moving character"
        assert (result.cost, result.charged, result.error) == (Decimal("0.2"), True, None)
        times = (result.created_at, result.submitted_at, result.accepted_at, result.ended_at)
        assert list(times) == sorted(at for at in times if at)
        assert result.saved_at is not None
    assert sorted(result.line for result in results(folder)) == [1, 2, 3, 4, 5, 6, 7]


async def test_a_second_run_keeps_what_is_there(world: MakeWorld, tmp_path: Path) -> None:
    """Finished items cost no request and no line; new lines of the manifest are made."""
    here, folder = world(), tmp_path / "out"
    await run(here, folder, requests(3))
    before, sent = (folder / "results.jsonl").read_bytes(), len(here.transport.requests)
    assert ends(await run(here, folder, requests(3))) == {(Step.KEPT, S.READY): 3}
    assert ((folder / "results.jsonl").read_bytes(), len(here.transport.requests)) == (before, sent)
    events = await run(here, folder, requests(4))
    assert ends(events) == {(Step.KEPT, S.READY): 3, (Step.ENDED, S.READY): 1}
    assert charges(here) == 4


@pytest.mark.parametrize("damage", ["gone", "changed", "cut", "another"])
async def test_a_damaged_file_is_fetched_again(world: MakeWorld, tmp_path: Path, damage: str) -> None:
    """Fetching it again costs nothing, and the file under its name is not overwritten."""
    here, folder = world(), tmp_path / "out"
    [whole] = [event.result for event in await run(here, folder, requests(1)) if event.result]
    assert whole.file is not None
    path = folder / whole.file
    content = path.read_bytes()
    free = (8).to_bytes(4) + b"free"  # with this box it is another whole mp4
    path.write_bytes({"cut": content[:-1], "another": content + free}.get(damage, content + content[:8]))
    if damage == "gone":
        path.unlink()
    events = await run(here, folder, requests(1))
    assert charges(here) == 1
    [again] = [event.result for event in events if event.result]
    assert again.file == ("a-0.mp4" if damage == "gone" else "a-0-2.mp4")
    assert again.sha256 == whole.sha256
    assert len(list(folder.glob("*.mp4"))) == (1 if damage == "gone" else 2)


async def test_names_of_items_are_no_attempts_of_each_other(world: MakeWorld, tmp_path: Path) -> None:
    """The item "scene-2" is not the second attempt of "scene", nor is "100000" the job with that id."""
    here, folder = world(), tmp_path / "out"
    wanted = [a_request(track_id=name, seed=seed) for seed, name in enumerate(("scene", "scene-2", "scene-3"))]
    await leave(here, folder, wanted, 5)
    wanted.append(a_request(track_id=str(here.service.ledger.charges[0].job_id), seed=3))
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 4}
    named = {(result.item, result.ref, result.seed) for result in results(folder)}
    assert named == {(request.track_id, request.track_id, request.seed) for request in wanted}
    assert charges(here) == 4


async def test_an_item_that_cannot_be_sent_is_refused(world: MakeWorld, tmp_path: Path) -> None:
    """It costs nothing and stops no other item; a later run makes it once it was corrected."""
    here, folder = world(), tmp_path / "out"
    wanted = [*requests(2), a_request(init_image=tmp_path / "later.png"), {"prompt": "no picture"}]
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 2, (Step.ENDED, S.REFUSED): 2}
    (tmp_path / "later.png").write_bytes(PNG)
    assert ends(await run(here, folder, wanted))[Step.LEFT, S.REFUSED] == 2
    events = await run(here, folder, wanted, retry_failed=True)
    assert ends(events) == {(Step.KEPT, S.READY): 2, (Step.ENDED, S.READY): 1, (Step.ENDED, S.REFUSED): 1}
    assert charges(here) == 3


async def test_paid_work_is_collected_though_its_picture_is_gone(world: MakeWorld, tmp_path: Path) -> None:
    """A run that continues does not read the pictures of paid jobs again."""
    here, folder, picture = world(), tmp_path / "out", tmp_path / "a.png"
    picture.write_bytes(PNG)
    wanted = requests(3, init_image=picture)
    await leave(here, folder, wanted, 5)
    picture.unlink()
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 3}
    assert charges(here) == 3


async def test_a_name_that_is_taken_gets_a_number(world: MakeWorld, tmp_path: Path) -> None:
    """No user's file and no other item's video is overwritten."""
    here, folder = world(), tmp_path / "out"
    folder.mkdir()
    (folder / "a-1.mp4").write_bytes(b"the user's own")
    await run(here, folder, [a_request(seed=1, prompt=prompt) for prompt in ("one", "two")])
    assert (folder / "a-1.mp4").read_bytes() == b"the user's own"
    assert sorted(result.file or "" for result in results(folder)) == ["a-1-2.mp4", "a-1-3.mp4"]


async def test_items_are_read_only_as_needed(world: MakeWorld, tmp_path: Path) -> None:
    """At most `lookahead` items are read and not ended, so a million items take no memory."""
    here, read = world(queue_limit=50), 0
    ended = 0

    async def source() -> AsyncIterator[ImageToVideoUltra]:
        nonlocal read
        for request in requests(100):
            read += 1
            assert read - ended <= 20 + 1
            yield request

    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=50) as client:
        async for event in run_batch(client, source(), tmp_path / "out", lookahead=20):
            ended += event.step is not Step.BEGUN
    assert (read, ended) == (100, 100)


async def test_an_extra_that_contains_itself_stops_no_other_item(world: MakeWorld, tmp_path: Path) -> None:
    """A value that contains itself has no digest, and its item is refused."""
    circle: dict[str, Any] = {}
    circle["itself"] = circle
    here, wanted = world(), [*requests(2), a_request(extra={"new": circle})]
    events = await run(here, tmp_path / "out", wanted)
    assert Counter(event.result.state for event in events if event.result) == {S.READY: 2, S.REFUSED: 1}
    assert len(here.service.ledger.charges) == 2


async def test_text_that_utf8_cannot_write_is_refused(world: MakeWorld, tmp_path: Path) -> None:
    """JSON can hold half of a surrogate pair: such an item is refused before it is paid for."""
    here, folder = world(), tmp_path / "out"
    wanted = [a_request(prompt="half \ud800"), a_request(track_id="half \ud800"), *requests(2)]
    assert ends(await run(here, folder, wanted)) == {(Step.ENDED, S.READY): 2, (Step.ENDED, S.REFUSED): 2}
    assert ends(await run(here, folder, wanted))[Step.KEPT, S.READY] == 2
    problems = (await plan(here, tmp_path / "new", wanted)).problems
    assert [problem.field for problem in problems] == ["line 1: prompt", "line 2: track_id"]
    assert len(here.service.ledger.charges) == 2


async def test_the_track_id_of_another_request_gives_no_other_video(world: MakeWorld, tmp_path: Path) -> None:
    """A job of the journal has the item's track_id and another prompt: the item is refused, and nothing is paid."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        await client.generate(a_request(track_id="mine", prompt="a cat"))
    wanted = [a_request(track_id="mine", prompt="a dog"), *requests(1)]
    for ready in (Step.ENDED, Step.KEPT):  # a later run does not give it either
        events = await run(here, tmp_path / "out", wanted)
        assert ends(events) == {(Step.ENDED, S.REFUSED): 1, (ready, S.READY): 1}
    refused = next(result for result in results(tmp_path / "out") if result.ref == "mine")
    assert refused.error is not None
    assert "prompt='a dog': must be 'a cat', as in the earlier request" in refused.error
    assert charges(here) == 2
    async with here.client(journal=tmp_path / "jobs.db") as client:
        assert (await (await client.ensure(a_request(prompt="a cat"), ref="mine"))).ref == "mine"
