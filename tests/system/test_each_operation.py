"""Each operation from its request to its file: submit, polls, webhook, journal, recovery, batch, price."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from helpers.batches import run
from helpers.emulated_service import a_work
from helpers.left_behind import row_of
from helpers.operations import NAMES, a_request_for
from helpers.webhooks import client_with_webhook
from helpers.world import MakeWorld

from modelslab_async import (
    OPERATIONS,
    Budget,
    InvalidRequestError,
    InvalidVideoError,
    JobState,
    NotFoundError,
    Operation,
    PriceList,
    Request,
    TextToVideoUltra,
)
from modelslab_async.batch import read_results
from modelslab_async.emulator import skeleton
from modelslab_async.protocol.operations import Endpoint
from modelslab_async.protocol.request import Deployment

pytestmark = pytest.mark.looptime
PRICES = PriceList(of=dict.fromkeys(OPERATIONS, "0.3"))
EACH = pytest.mark.parametrize("name", NAMES)


@EACH
async def test_a_job_is_submitted_and_polled_where_its_operation_is_served(
    make_world: MakeWorld, tmp_path: Path, name: str
) -> None:
    """One paid request goes to the operation's path, the polls to its fetch path, and the file is saved whole."""
    world, endpoint = make_world(), OPERATIONS[name].endpoints[Deployment.V6]
    async with world.client() as client:
        job = client.submit(a_request_for(name))
        saved = await job.save(tmp_path / "a")
    assert (job.operation, job.result().operation) == (name, name)
    assert world.count(endpoint.submit) == world.transport.requests.count(endpoint.submit) == 1
    assert world.count("/fetch/") == world.count(f"{endpoint.fetch}{job.id}") > 0
    assert saved.path.read_bytes()
    assert len(world.service.ledger.charges) == 1


@EACH
async def test_a_webhook_reports_the_end(make_world: MakeWorld, name: str) -> None:
    """A delivery ends the wait of a job of any operation."""
    world = make_world()
    async with client_with_webhook(world) as (client, webhook):
        job = client.submit(a_request_for(name))
        await job
        assert webhook.url(job.ref, client.account_id) == (job.request and job.request.webhook)
    assert job.state is JobState.READY


@EACH
async def test_another_client_collects_what_one_left(make_world: MakeWorld, tmp_path: Path, name: str) -> None:
    """The row names the operation, so that the job is polled where it was submitted, by whichever client."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path) as client:
        left = client.submit(a_request_for(name))
        await left.submitted()
        assert (await row_of(client, left.ref)).operation == name
        await client.aclose(drain=False)
    async with world.client(journal=path) as client:
        (job,) = (await client.recover()).jobs
        video = await job
        assert (job.operation, video.operation, video.ref) == (name, name, left.ref)
        wanted = attrs.evolve(a_request_for(name), track_id=left.ref)
        assert job.request is not None
        assert attrs.evolve(job.request, webhook=None) == wanted
    async with world.client(journal=path) as client:
        assert (await client.attach(left.ref)).result() == video
    assert len(world.service.ledger.charges) == 1


@EACH
async def test_a_job_that_was_never_sent_is_sent_by_the_next_client(
    make_world: MakeWorld, tmp_path: Path, name: str
) -> None:
    """The row has the whole request: the next client submits the same."""
    world, path = make_world(), tmp_path / "jobs.db"
    async with world.client(journal=path, max_in_flight=1) as client:
        first, second = (client.submit(a_request_for(name, seed=seed)) for seed in (1, 2))
        await first.submitted()
        await client.aclose(drain=False)
    async with world.client(journal=path) as client:
        (row,) = (await client.recover()).unsent
        assert row.request is not None
        client.check(row.request, track_id="another")
        (resent,) = await client.resubmit([row])
        assert resent.ref == second.ref
        await resent
    assert [job.params["seed"] for job in world.service.jobs.values()] == [1, 2]
    assert {job.operation.name for job in world.service.jobs.values()} == {name}


@EACH
async def test_ensure_compares_the_operation_too(make_world: MakeWorld, tmp_path: Path, name: str) -> None:
    """The same request gives the same job. A request for another operation under its ref is refused."""
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = await client.ensure(a_request_for(name), ref="a")
        await job
        assert await client.ensure(a_request_for(name), ref="a") is not None
        other = next(each for each in NAMES if each != name)
        with pytest.raises(InvalidRequestError) as caught:
            await client.ensure(a_request_for(other), ref="a")
    assert [problem.field for problem in caught.value.problems] == ["operation"]
    assert len(world.service.ledger.charges) == 1


@EACH
async def test_an_id_is_attached_to_by_its_operation(make_world: MakeWorld, name: str) -> None:
    """The service answers where the job was submitted. An unknown operation is one clear error."""
    world = make_world()
    async with world.client() as client:
        await client.generate(a_request_for(name))
    async with world.client() as client:
        job = await client.attach(world.charged_id(), operation=name)
        assert (await job).operation == name
        with pytest.raises(InvalidRequestError, match="unknown operation"):
            await client.attach("77", operation="img2vid")
        with pytest.raises(NotFoundError):
            await (await client.attach("77", operation=name))


@EACH
async def test_a_price_goes_with_the_job(make_world: MakeWorld, tmp_path: Path, name: str) -> None:
    """The row, the job and the budget have the operation's price."""
    world, budget = make_world(), Budget(usd=1)
    async with world.client(journal=tmp_path / "jobs.db", prices=PRICES, budget=budget) as client:
        expected = PRICES.price_of(name).usd
        job = client.submit(a_request_for(name))
        assert budget.reserved == expected
        await job
        row = await row_of(client, job.ref)
        assert (job.price, row.usd, row.price) == (expected, expected, expected)


@EACH
async def test_an_unknown_price_is_not_nothing(make_world: MakeWorld, tmp_path: Path, name: str) -> None:
    """Without a price, a budget in USD refuses the job with the way out; without a budget it is made, at None."""
    world, is_known = make_world(), OPERATIONS[name].price is not None
    async with world.client(journal=tmp_path / "jobs.db", budget=Budget(usd=1)) as client:
        if is_known:
            client.check(a_request_for(name))
        else:
            with pytest.raises(InvalidRequestError, match="PriceList"):
                client.submit(a_request_for(name))
    async with world.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request_for(name))
        await job
        row = await row_of(client, job.ref)
        assert (row.usd is not None, job.price is not None) == (is_known, is_known)


async def test_a_batch_mixes_operations(make_world: MakeWorld, tmp_path: Path) -> None:
    """Each item is made by its own operation, within the account's slots, and its result names it."""
    world = make_world(queue_limit=3)
    wanted = [a_request_for(name, seed=seed) for seed in (1, 2) for name in NAMES]
    await run(world, tmp_path / "videos", wanted, client={"prices": PRICES})
    results = list(read_results(tmp_path / "videos"))
    assert sorted(result.operation for result in results) == sorted(2 * NAMES)
    assert all(result.file and (tmp_path / "videos" / result.file).exists() for result in results)
    assert {result.price for result in results} == {Decimal("0.3")}
    assert world.service.queue.peak_slots_used <= 3


@attrs.frozen(kw_only=True)
class Slideshow(Request):
    """A made-up request."""

    operation: str = attrs.field(default="slideshow", init=False)
    pace: int


async def test_a_new_row_is_an_operation_like_the_others(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row and a request class are all that an operation needs, from its request to its file."""
    row = Operation(
        name="slideshow",
        request_type=Slideshow,
        endpoints={Deployment.V6: Endpoint("/api/v9/slides", "/api/v9/slides/fetch/")},
        summary="slides",
        confidence="made up",
        price=Decimal(3),
    )
    monkeypatch.setitem(OPERATIONS, "slideshow", row)
    world = make_world()
    async with world.client(journal=tmp_path / "jobs.db", budget=Budget(usd=5)) as client:
        job = client.submit(Slideshow(prompt="p", pace=4))
        saved = await job.save(tmp_path / "a.mp4")
        assert saved.path.exists()
        assert [job.price, client.estimate([Slideshow(pace=1)]).usd] == [Decimal(3), Decimal(3)]
        with pytest.raises(InvalidRequestError, match="pace: is required"):
            client.submit({"operation": "slideshow"})
    assert world.count("/api/v9/slides/fetch/") > 0
    await run(world, tmp_path / "videos", [{"operation": "slideshow", "prompt": "q", "pace": 2}])
    assert [result.operation for result in read_results(tmp_path / "videos")] == ["slideshow"]


async def test_the_slots_are_shared_over_operations(make_world: MakeWorld) -> None:
    """The account's limit holds for all operations together."""
    world = make_world(queue_limit=2)
    async with world.client(max_in_flight=2) as client:
        jobs = [client.submit(a_request_for(name, seed=seed)) for seed in (1, 2) for name in NAMES]
        await asyncio.sleep(5.0)
        assert len(world.service.ledger.charges) == 2
        await asyncio.gather(*jobs)
    assert world.service.queue.peak_slots_used == 2


async def test_a_wrong_type_is_one_clear_error(make_world: MakeWorld) -> None:
    """A request that is none, and one whose class belongs to another operation, are refused as a whole."""
    request = TextToVideoUltra(prompt="p")
    object.__setattr__(request, "operation", "img2video_ultra")  # as a caller who ignores the type checker
    async with make_world().client() as client:
        cases: list[tuple[Any, str]] = [(42, "request"), (request, "operation"), ({"operation": 7}, "operation")]
        for wrong, field in cases:
            with pytest.raises(InvalidRequestError) as caught:
                client.submit(wrong)
            assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize("name", [row.name for row in OPERATIONS.values() if "gif" in row.containers])
async def test_a_gif_is_recognised_and_named_as_one(make_world: MakeWorld, tmp_path: Path, name: str) -> None:
    """The client asks for an mp4 unless the caller wants a gif; a batch names each file after what it is."""
    world = make_world()
    wanted = [a_request_for(name, output_type=kind, seed=seed) for seed, kind in enumerate((None, "mp4", "gif"))]
    await run(world, tmp_path / "videos", wanted)
    files = [str(result.file) for result in sorted(read_results(tmp_path / "videos"), key=lambda each: each.line)]
    assert [Path(file).suffix for file in files] == [".mp4", ".mp4", ".gif"]
    assert (tmp_path / "videos" / files[2]).read_bytes().startswith(b"GIF89a")
    async with world.client(journal=tmp_path / "other.db") as client:
        video = await client.generate(wanted[2], track_id="mine")
        assert video.container == "gif"
    async with world.client(journal=tmp_path / "other.db", wait="poll") as client:
        assert (await client.attach("mine")).result() == video
        assert (await client.generate(wanted[2])).container == "gif"


async def test_a_gif_is_no_result_of_an_operation_that_gives_none(make_world: MakeWorld, tmp_path: Path) -> None:
    """A link that gives a gif in place of an mp4 is not the video."""
    world = make_world()
    gif = attrs.evolve(a_work(), container="gif")
    async with world.client() as client:
        job = client.submit(a_request_for("text2video_ultra"))
        await job.submitted()
        world.transport.render = lambda _: skeleton(gif)
        with pytest.raises(InvalidVideoError, match="not an mp4"):
            await job
