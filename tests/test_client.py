"""`Client.submit` and the calls that cost nothing, as users meet them, on virtual time."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from helpers.inside import run_of
from helpers.transports import PassOn, intercepted
from helpers.world import PNG, MakeWorld, a_request

from modelslab_async import BeyondDocumentationWarning, ImageToVideoUltra, InvalidRequestError, JobState
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol.reply import HttpReply

pytestmark = pytest.mark.looptime
S = JobState


async def test_a_request_becomes_a_video(make_world: MakeWorld) -> None:
    """`submit` returns a job at once, awaiting the job gives the video, and the video is charged once."""
    world = make_world()
    async with world.client() as client:
        job = client.submit(a_request(seed=7))
        assert not job.done()
        video = await job
    assert (video.seed, video.ref, video.id) == (7, job.ref, job.id)
    assert world.service.ledger.track_ids() == [job.ref]


async def test_submit_takes_keywords_mappings_and_changes(make_world: MakeWorld) -> None:
    """Keywords, a mapping with the page's names, and a request with changes make the same request."""
    async with make_world().client() as client:
        named: Any = {"prompt": "a", "init_image": "https://pictures.invalid/a", "shift_sample": 3, "key": ""}
        jobs = [
            client.submit(prompt="a", init_image="https://pictures.invalid/a.png", shift_sample=3),
            client.submit(named),
            client.submit(a_request(prompt="b", sample_shift=7), prompt="a", shift_sample=3),
        ]
    for job in jobs:
        assert isinstance(job.request, ImageToVideoUltra)
        assert (job.request.prompt, job.request.sample_shift) == ("a", 3)


async def test_limits_refuse_warn_or_send(make_world: MakeWorld) -> None:
    """A request beyond the documented limits is refused by default, sent with a warning, or just sent."""
    world = make_world()
    async with world.client() as client, world.client(limits="warn") as warner, world.client(limits=None) as sender:
        with pytest.raises(InvalidRequestError, match="num_inference_steps=31"):
            client.submit(a_request(num_inference_steps=31))
        with pytest.warns(BeyondDocumentationWarning, match="num_inference_steps=31"):
            await warner.submit(a_request(num_inference_steps=31))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await sender.submit(a_request(num_inference_steps=31))
        with pytest.raises(InvalidRequestError, match="prompt"):
            sender.submit(a_request(prompt=""))
    assert len(world.service.ledger.charges) == 2


async def test_a_track_id_cannot_be_used_twice_at_a_time(make_world: MakeWorld) -> None:
    """The track_id is the ref by which a webhook finds its job, so two open jobs cannot share it."""
    async with make_world().client() as client:
        job = client.submit(a_request(track_id="mine"))
        with pytest.raises(InvalidRequestError, match="track_id"):
            client.submit(a_request(track_id="mine"))
        await job
        assert (await client.submit(a_request(track_id="mine"))).ref == "mine"


@pytest.mark.parametrize("content", [None, b"", b"<html>", PNG + bytes(6_000_000)])
async def test_a_picture_that_is_gone_when_its_job_is_sent_is_refused(
    make_world: MakeWorld, tmp_path: Path, content: bytes | None
) -> None:
    """The file is read when the job gets its slot. If it is gone or no picture then, nothing is sent or charged."""
    world = make_world()
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    async with world.client(max_in_flight=1) as client:
        first, second = client.submit(a_request()), client.submit(a_request(init_image=picture))
        if content is None:
            picture.unlink()
        else:
            picture.write_bytes(content)
        with pytest.raises(InvalidRequestError, match="init_image") as caught:
            await second
        await first
    assert (second.state, caught.value.charged, caught.value.ref) == (S.REFUSED, False, second.ref)
    assert world.service.ledger.track_ids() == [first.ref]


async def test_a_picture_is_released_once_it_is_sent(make_world: MakeWorld) -> None:
    """Keeping up to 5 MB for each running job of a batch would be too much."""
    async with make_world().client() as client:
        job = client.submit(a_request(init_image=PNG))
        run = run_of(client, job.ref)
        assert run.media is not None
        await job.submitted()
        assert run.media is None


@pytest.mark.parametrize(("named", "expected"), [(False, 7), (True, 9)])
async def test_the_seed_is_the_services_if_it_names_one(make_world: MakeWorld, named: bool, expected: int) -> None:
    """Otherwise the seed is the request's. The generation time is the service's figure."""
    world = make_world()

    async def success_at_once(_: str, pass_on: PassOn) -> HttpReply:
        await pass_on()
        (job,) = world.service.jobs.values()
        job.file_at = 0.0
        reply = {"status": "success", "id": job.id, "output": [job.link(world.service.origin)]}
        more = {"generationTime": 4.5, "meta": {"seed": 9} if named else {}}
        return HttpReply(200, json.dumps({**reply, **more}).encode())

    async with world.client(transport=intercepted(world, success_at_once)) as client:
        video = await client.generate(a_request(seed=7))
    assert (video.seed, video.generation_time) == (expected, 4.5)


async def test_a_temporary_video_says_so(make_world: MakeWorld) -> None:
    """The service deletes `temp` videos within 24 hours, and `Video.is_temporary` says whether the video is one."""
    async with make_world().client() as client:
        temporary, lasting = await client.generate(a_request(temp=True)), await client.generate(a_request())
    assert (temporary.is_temporary, lasting.is_temporary) == (True, False)


async def test_videos_do_not_share_an_empty_meta(make_world: MakeWorld) -> None:
    """If the service sends no meta, each video has an empty mapping of its own."""
    world = make_world()
    async with world.client() as client:
        job = client.submit(a_request())
        await job
    clients = [world.client() for _ in range(2)]
    videos = [await (await client.attach(str(job.id))) for client in clients]
    for client in clients:
        await client.aclose()
    assert [dict(video.meta) for video in videos] == [{}, {}]
    assert videos[0].meta is not videos[1].meta


async def test_calls_that_cost_nothing(make_world: MakeWorld) -> None:
    """`balance`, `queue_depth` and `upload` are repeated after a failure that may pass."""
    faults = [Rule(Fault.HTML_502, on="call", times=1), Rule(Fault.REFUSED, on="call", times=1, seconds=1.0)]
    world = make_world(faults=faults)
    async with world.client() as client:
        job = client.submit(a_request())
        await job.submitted()
        assert await client.queue_depth() == 1
        balance = await client.balance()
        assert (str(balance.amount), balance.currency) == ("99.8", "USD")
        url = await client.upload(b"\x89PNG\r\n\x1a\n" + bytes(100))
        assert url.startswith(world.service.origin)
        with pytest.raises(InvalidRequestError, match="a URL already"):
            await client.upload(url)


async def test_enterprise_uses_its_paths_and_limits(make_world: MakeWorld) -> None:
    """A dedicated server has its own paths and limits, and accepts no base64."""
    world = make_world()
    async with world.client(enterprise=True) as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.submit(a_request(num_inference_steps=9, init_image=b"\x89PNG\r\n\x1a\n0000"))
        assert {problem.field for problem in caught.value.problems} == {"num_inference_steps", "init_image"}
        await client.submit(a_request(num_inference_steps=8, guidance_scale=1.5, fps=18))
    assert all("/api/v1/enterprise/" in path for path in world.transport.requests if "generations" not in path)


async def test_an_existing_file_is_not_replaced(make_world: MakeWorld, tmp_path: Path) -> None:
    """Without `overwrite`, `download` raises: at once if the file exists, at its end if the file came meanwhile."""
    world, existing, coming = make_world(), tmp_path / "existing.mp4", tmp_path / "coming.mp4"
    existing.write_bytes(b"mine")
    async with world.client() as client:
        video = await client.generate(a_request())
        requests = world.count("generations")
        with pytest.raises(FileExistsError):
            await client.download(video, existing, overwrite=False)
        assert world.count("generations") == requests
        with pytest.raises(FileExistsError):
            await client.download(video, coming, overwrite=False, progress=lambda *_: coming.write_bytes(b"mine"))
    names = ("existing.mp4", "coming.mp4")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(names, b"mine")


async def test_all_problems_come_at_once(make_world: MakeWorld) -> None:
    """Unknown and missing names, wrong values and the picture are reported in one error."""
    async with make_world().client() as client:
        wrong: Any = {"prompt": "", "init_image": "nope.jpg", "num_frames": 0, "fps": 99, "lora": "x"}
        with pytest.raises(InvalidRequestError) as caught:
            client.submit(**wrong)
        fields = [problem.field for problem in caught.value.problems]
        assert sorted(fields) == ["fps", "init_image", "lora", "num_frames", "prompt"]
        nothing: Any = {}
        with pytest.raises(InvalidRequestError) as caught:
            client.submit(**nothing)
        assert [problem.field for problem in caught.value.problems] == ["prompt", "init_image"]


async def test_in_flight_counts_what_is_in_flight(make_world: MakeWorld) -> None:
    """Jobs that wait, and uncertain jobs that ended here, are not among them."""
    world = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with world.client(max_in_flight=3) as client:
        jobs = [client.submit(a_request()) for _ in range(4)]
        await jobs[0].wait()
        await jobs[2].submitted()
        assert jobs[0].state is JobState.UNCERTAIN
        assert client.statistics().in_flight == 2
        await jobs[3]
        await jobs[1]
        await jobs[2]
        assert client.statistics().in_flight == 0
