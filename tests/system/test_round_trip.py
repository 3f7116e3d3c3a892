"""From a request to its video's link: the client and the emulated service read what the other writes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelslab_async import ImageToVideoUltra
from modelslab_async.emulator import Service
from modelslab_async.protocol.limits import check
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import (
    Accepted,
    NotReady,
    Ready,
    decode_fetch,
    decode_submit,
    encode_body,
    encode_request,
    fetch_path,
    submit_path,
)

KEY = ApiKey("a-key-that-no-answer-may-show")
PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
URL = "https://pictures.invalid/a.png?size=1&b=2"

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30).filter(str.strip)
_EXTRA = st.dictionaries(
    st.sampled_from(["enhance", "opacity", "strength"]), st.integers(0, 9) | st.none() | _TEXTS, max_size=2
)


def _requests(deployment: Deployment) -> st.SearchStrategy[ImageToVideoUltra]:
    """Return a strategy of requests within the documented limits. Each optional parameter is present or absent."""
    dedicated = deployment is Deployment.ENTERPRISE
    optional: dict[str, Any] = {
        "negative_prompt": st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        "seed": st.integers(-(2**63) + 1, 2**63 - 1),
        "resolution": st.integers(1, 480),
        "num_frames": st.integers(20, 400),
        "num_inference_steps": st.integers(1, 8 if dedicated else 25),
        "guidance_scale": st.floats(1, 2) if dedicated else st.floats(0, 8),
        "fps": st.integers(1, 16),
        "portrait": st.booleans(),
        "sample_shift": st.integers(0, 10),
        "temp": st.booleans(),
        "webhook": st.just("https://hooks.invalid/done"),
        "model_id": st.sampled_from(["wan2.2", "wan2.1", "ltx-2.3"]),
        "extra": _EXTRA,
    }
    required: dict[str, Any] = {"prompt": _TEXTS, "init_image": st.just(URL)}
    return st.fixed_dictionaries(required, optional=optional).map(lambda fields: ImageToVideoUltra(**fields))


def expected(request: ImageToVideoUltra, sent: dict[str, Any]) -> dict[str, Any]:
    """Return what meta must say about a request: each parameter as it was sent, flags as "yes" and "no"."""
    flags = {name: "yes" if getattr(request, name) else "no" for name in ("portrait", "temp")}
    return {**sent, **flags}


def charged_refs(
    deployment: Deployment, request: ImageToVideoUltra, ref: str, picture: str | bytes
) -> list[str | None]:
    """Submit a request, check its meta and that its video is where it was announced, and return the charged refs."""
    assert check(request, deployment) == []
    service = Service(eta={"good": 1}, origin="http://emulator.invalid")
    params = encode_request(request, ref=ref)
    body = encode_body(params, KEY, picture=picture)
    path = submit_path("img2video_ultra", deployment)
    assert service.read(path, body).picture == (picture if isinstance(picture, str) else PNG)

    answer = service.handle(100.0, path, body, PNG if isinstance(picture, str) else None)
    reply = decode_submit(HttpReply(answer.status, answer.body), KEY)
    job = answer.job
    assert job is not None
    assert isinstance(reply, Accepted | Ready)
    assert reply.id == str(job.id)
    wanted = expected(request, params)
    assert {name: reply.meta[name] for name in wanted} == wanted
    assert reply.meta["base64"] == ("no" if isinstance(picture, str) else "yes")
    assert (service.work_of(job).picture, job.work.prompt) == (PNG, request.prompt)

    def fetched(now: float) -> object:
        answer = service.handle(now, fetch_path(deployment, str(job.id)), encode_body({}, KEY))
        return decode_fetch(HttpReply(answer.status, answer.body), KEY)

    announced = reply.future_links if isinstance(reply, Accepted) else reply.links
    assert isinstance(fetched(job.done_at - job.done_at / 1e6), NotReady)
    assert fetched(job.done_at) == Ready(id=reply.id, links=announced)
    assert service.file(job.file_at, announced[0].rpartition("/")[2]).job is job
    return service.ledger.track_ids()


@pytest.mark.parametrize("deployment", Deployment)
@given(data=st.data(), ref=_TEXTS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_request_by_url(deployment: Deployment, data: st.DataObject, ref: str) -> None:
    """Any valid request is accepted unchanged, under its own ref, and its video is where it was announced."""
    assert charged_refs(deployment, data.draw(_requests(deployment)), ref, URL) == [ref]


@given(request=_requests(Deployment.V6), ref=_TEXTS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_request_with_its_picture_inside(request: ImageToVideoUltra, ref: str) -> None:
    """A request with its picture's bytes is accepted unchanged, and the service gets exactly those bytes."""
    assert charged_refs(Deployment.V6, request, ref, PNG) == [ref]
