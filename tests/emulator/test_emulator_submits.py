"""What a submit to the emulated service asks for, and how its reply echoes it."""

from __future__ import annotations

import base64
import json
import random
import re
from typing import Any

import pytest
from helpers.emulated_service import (
    BALANCE,
    ENTERPRISE,
    FETCH,
    KEY,
    PICTURE_URL,
    PNG,
    SUBMIT,
    emulated_service,
    json_of,
)

from modelslab_async.emulator.job import processing_seconds


@pytest.mark.parametrize(
    ("path", "fetch"),
    [(SUBMIT, FETCH), (ENTERPRISE + "img2video", ENTERPRISE + "fetch/")],
)
def test_a_long_job_is_answered_with_processing(path: str, fetch: str) -> None:
    """A job that takes its time is answered with an integer id, an eta, the fetch URL and the announced link."""
    emulated = emulated_service(origin="http://here.invalid")
    answer = emulated.submit(path=path, num_inference_steps=25)
    reply = json_of(answer)
    documented = {"status", "tip", "eta", "message", "fetch_result", "id", "output", "future_links", "meta"}
    assert (answer.status, reply["status"], set(reply)) == (200, "processing", documented)
    assert isinstance(reply["id"], int)
    assert reply["output"] == []
    assert reply["fetch_result"] == f"http://here.invalid{fetch}{reply['id']}"
    assert [link.startswith("http://here.invalid/") for link in reply["future_links"]] == [True]


def test_slashes_are_escaped() -> None:
    """The slashes of the service's JSON are escaped, and decode to the original text."""
    emulated = emulated_service()
    raw = emulated.submit(prompt='a/b \\/ "quoted"').body
    assert b"/" in raw
    assert not re.search(rb"(?<!\\)/", raw)
    assert json.loads(raw)["meta"]["prompt"] == 'a/b \\/ "quoted"'


@pytest.mark.parametrize("name", ["base64", "portrait", "temp"])
@pytest.mark.parametrize(
    ("sent", "echoed"), [(True, "yes"), (False, "no"), ("true", "yes"), ("false", "no"), (None, "no"), (..., "no")]
)
def test_meta_echoes_booleans_as_yes_and_no(name: str, sent: Any, echoed: str) -> None:
    """Meta echoes booleans as "yes" and "no"."""
    picture = base64.b64encode(PNG).decode() if (name, echoed) == ("base64", "yes") else PICTURE_URL
    assert json_of(emulated_service().submit(init_image=picture, **{name: sent}))["meta"][name] == echoed


def test_meta_fills_the_seed_in() -> None:
    """Meta echoes the requested seed. Without a seed the service draws one of 32 bits."""
    emulated = emulated_service(queue_limit=200)
    assert json_of(emulated.submit(seed=7))["meta"]["seed"] == 7
    assert json_of(emulated.submit(seed=0))["meta"]["seed"] == 0
    drawn = [json_of(emulated.submit(seed=seed))["meta"]["seed"] for seed in [None, ...] * 30]
    assert drawn == [job.work.seed for job in list(emulated.service.jobs.values())[2:]]
    assert all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in drawn)
    assert len(set(drawn)) == len(drawn)
    assert max(drawn) > 2**31


@pytest.mark.parametrize("sent", [..., None, 100_000, "100000"])
def test_meta_id_is_never_the_id_of_the_job(sent: object) -> None:
    """meta.id differs from the job's id, even if the request has a parameter `id`."""
    reply = json_of(emulated_service().submit(id=sent))
    assert str(reply["meta"]["id"]) != str(reply["id"])


def test_meta_has_the_fields_of_the_documentation_page() -> None:
    """For the documentation page's sample request, meta has the fields of its sample reply, and model_id."""
    params: dict[str, Any] = {"negative_prompt": "low quality", "resolution": 480, "num_frames": 81, "fps": 16}
    params |= {"num_inference_steps": 30, "guidance_scale": 5.0, "shift_sample": 3, "webhook": None, "track_id": None}
    meta = json_of(emulated_service().submit(**params))["meta"]
    names = """base64 file_prefix fps guidance_scale id instant_response negative_prompt num_frames num_inference_steps
    opacity output_type padding_down padding_right portrait prompt rescale resolution sample_shift scale_down seed temp
    track_id watermark webhook model_id"""
    assert set(meta) == set(names.split())


def test_meta_echoes_the_request() -> None:
    """Meta echoes the parameters, `shift_sample` as `sample_shift`, without the key and the picture."""
    long = "low quality, " * 2000
    meta = json_of(emulated_service().submit(negative_prompt=long, guidance_scale=7.5, shift_sample=3))["meta"]
    wanted = {"negative_prompt": long, "guidance_scale": 7.5, "sample_shift": 3, "prompt": "moving character"}
    assert {name: meta.get(name) for name in wanted} == wanted
    assert not {"key", "init_image", "shift_sample"} & set(meta)


@pytest.mark.parametrize(
    ("sent", "used"),
    [
        (..., "wan2.2"),
        (None, "wan2.2"),
        ("wan2.2", "wan2.2"),
        ("ltx-2.3", "ltx-2.3"),
        ("wan2.1", "wan2.1"),
        ("no such model", "wan2.2"),
        (["wan2.1"], "wan2.2"),
    ],
)
def test_an_unknown_model_becomes_wan2_2(sent: object, used: str) -> None:
    """An unknown model is no error: the service uses wan2.2 instead."""
    assert json_of(emulated_service().submit(model_id=sent))["meta"]["model_id"] == used


def test_numbers_may_be_strings() -> None:
    """Numbers that are sent as strings give the same job as numbers."""
    numbers: dict[str, Any] = {"num_frames": 60, "num_inference_steps": 25, "fps": 12, "seed": 5, "resolution": 480}
    services = emulated_service(), emulated_service()
    services[0].submit(**numbers)
    texts: dict[str, Any] = {name: str(value) for name, value in numbers.items()}
    services[1].submit(**texts)
    first, second = (emulated.first_job for emulated in services)
    assert (first.work, first.done_at) == (second.work, second.done_at)
    assert (first.work.frames, first.work.fps, first.work.seed) == (60, 12, 5)


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ({}, (832, 480)),
        ({"resolution": 480}, (832, 480)),
        ({"resolution": 480, "portrait": True}, (480, 832)),
        ({"resolution": "1:1"}, (480, 480)),
        ({"resolution": "2:1", "portrait": True}, (480, 960)),
        ({"resolution": 481}, (832, 480)),
        ({"resolution": 1}, (16, 16)),
    ],
)
def test_video_size(params: dict[str, Any], size: tuple[int, int]) -> None:
    """480 gives 832×480, portrait swaps the sides, a ratio has 480 lines. Sides are even and at least 16."""
    emulated = emulated_service()
    emulated.submit(**params)
    work = emulated.first_job.work
    assert (work.width, work.height) == size


@pytest.mark.parametrize(
    ("enterprise", "frames", "duration"),
    [(False, 81, 81 * 20), (True, 92, 92 * 8)],
)
def test_defaults(enterprise: bool, frames: int, duration: int) -> None:
    """The default is 81 frames in 20 steps, and 92 frames in 8 steps on a dedicated server."""
    emulated = emulated_service()
    emulated.submit(path=ENTERPRISE + "img2video" if enterprise else SUBMIT)
    job = emulated.first_job
    rng = random.Random("job 0 0")
    rng.getrandbits(32)
    steps = duration // frames
    assert job.work.frames == frames
    assert job.done_at == pytest.approx(processing_seconds(job.work, steps, rng))


@pytest.mark.parametrize(
    "params", [{"num_inference_steps": 31}, {"fps": 18}, {"sample_shift": 11}, {"resolution": 720}]
)
def test_maxima_of_the_documentation_page_are_not_enforced(params: dict[str, Any]) -> None:
    """Values above the page's maxima are accepted and echoed: the page's own examples exceed them."""
    meta = json_of(emulated_service().submit(**params))["meta"]
    assert {name: meta[name] for name in params} == params


@pytest.mark.parametrize(
    ("path", "params", "url"),
    [
        (SUBMIT, {"init_image": "https://a.invalid/b"}, "https://a.invalid/b"),
        (ENTERPRISE + "img2video", {"init_image": "http://a.invalid/b"}, "http://a.invalid/b"),
        (SUBMIT, {"init_image": "https://a.invalid/b", "base64": True}, b""),
        (SUBMIT, {"init_image": "aGk=", "base64": True}, b"hi"),
        (SUBMIT, {"init_image": "https://a.invalid/b", "key": ""}, None),
        (SUBMIT, {"init_image": "file:///etc/passwd"}, None),
        (SUBMIT, {"init_image": 5}, None),
        (SUBMIT, {}, None),
        (BALANCE, {"init_image": "https://a.invalid/b"}, None),
    ],
)
def test_only_a_submit_has_a_picture_to_fetch(path: str, params: dict[str, Any], url: str | None) -> None:
    """Only a submit with a valid key has a picture to fetch, and only over http and https."""
    assert emulated_service().service.read(path, json.dumps({"key": KEY, **params}).encode()).picture == url


def test_a_dedicated_server_ignores_base64() -> None:
    """A dedicated server reads init_image as a URL, whatever `base64` says."""
    picture = base64.b64encode(PNG).decode()
    path = ENTERPRISE + "img2video"
    emulated = emulated_service()
    body = json.dumps({"key": KEY, "prompt": "p", "init_image": picture, "base64": True}).encode()
    assert emulated.service.read(path, body).picture is None
    assert emulated.service.handle(0.0, path, body, None).status == 400
    assert emulated.submit(path=path, init_image=PICTURE_URL, base64=True).status == 200
