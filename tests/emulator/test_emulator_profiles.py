"""How faithful the emulated service is: its profiles, its JSON, and the paths of other clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.emulated_service import (
    COUNT,
    ENTERPRISE,
    FETCH,
    KEY,
    NOT_FOUND,
    PICTURE_URL,
    PNG,
    PNG_URI,
    SUBMIT,
    UPLOAD,
    emulated_service,
    json_of,
)

LIMITS: list[tuple[str, Any, Any]] = [
    ("resolution", 480, 481),
    ("num_inference_steps", 25, 26),
    ("guidance_scale", 8.0, 8.5),
    ("guidance_scale", 0, -1),
    ("guidance_scale", "7.5", "high"),
    ("fps", 16, 17),
    ("sample_shift", 10, 11),
]


@pytest.mark.parametrize(("name", "allowed", "excessive"), LIMITS)
def test_the_strict_profile_enforces_the_documented_limits(name: str, allowed: Any, excessive: Any) -> None:
    """A value beyond the documented limit is refused by the strict profile only, with the field in the sentence."""
    assert emulated_service(profile="strict").submit(**{name: allowed}).status == 200
    answer = emulated_service(profile="strict").submit(**{name: excessive})
    assert (answer.status, name.replace("_", " ") in json_of(answer)["message"]) == (400, True)
    assert emulated_service().submit(**{name: excessive}).status == 200


@pytest.mark.parametrize(("fps", "frames", "status"), [(8, 9, 200), (8, 8, 400)])
def test_in_the_strict_profile_fps_is_less_than_num_frames(fps: int, frames: int, status: int) -> None:
    """The page says that fps should be less than num_frames."""
    assert emulated_service(profile="strict").submit(fps=fps, num_frames=frames).status == status


@pytest.mark.parametrize(("name", "allowed", "excessive"), [("num_inference_steps", 8, 9), ("fps", 18, 19)])
def test_a_dedicated_server_has_limits_of_its_own(name: str, allowed: Any, excessive: Any) -> None:
    """The strict profile enforces the limits of the enterprise page on a dedicated server."""
    path = ENTERPRISE + "img2video"
    assert emulated_service(profile="strict").submit(path=path, **{name: allowed}).status == 200
    assert emulated_service(profile="strict").submit(path=path, **{name: excessive}).status == 400


def test_the_strict_profile_answers_404() -> None:
    """An unknown id and an unknown route are answered with 404; the other profiles answer 200 for an id."""
    emulated = emulated_service(profile="strict")
    answer = emulated.post(f"{FETCH}1")
    assert (answer.status, json_of(answer)) == (404, NOT_FOUND)
    assert emulated.post("/api/v6/no/such").status == 404
    assert {emulated_service(profile=name).post(f"{FETCH}1").status for name in ("legacy", "documented")} == {200}


def test_messages_of_the_strict_profile_are_texts() -> None:
    """Several problems are one text; the other profiles answer with an object of lists."""
    message = json_of(emulated_service(profile="strict").submit(prompt="", init_image=""))["message"]
    assert message == "The prompt field is required. The init image field is required."


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b'"x"', b"key=any&prompt=x", b'{"key": "any"', b"\xff"])
def test_a_body_that_is_no_json_is_reported_as_such(body: bytes) -> None:
    """A body that is no JSON object is no matter of the key."""
    for path in (SUBMIT, f"{FETCH}1", COUNT):
        answer = emulated_service().service.handle(0.0, path, body, PNG)
        assert (answer.status, json_of(answer)["message"]) == (400, "Invalid API Request")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_json_with_nan_is_no_json(number: str) -> None:
    """NaN and Infinity, which Python's json module writes, are not JSON."""
    body = f'{{"key": "any", "prompt": "p", "init_image": "{PICTURE_URL}", "guidance_scale": {number}}}'
    answer = emulated_service().service.handle(0.0, SUBMIT, body.encode(), PNG)
    assert json_of(answer)["message"] == "Invalid API Request"


def test_no_answer_contains_nan() -> None:
    """A number that is too large for a float is echoed as null, not as Infinity, which is not JSON."""
    huge = '"guidance_scale": 1e999, "x": [{"y": 1e999}]'
    body = f'{{"key": "any", "prompt": "p", "init_image": "{PICTURE_URL}", {huge}}}'
    answer = emulated_service().service.handle(0.0, SUBMIT, body.encode(), PNG)
    meta = json.loads(answer.body, parse_constant=pytest.fail)["meta"]
    assert (meta["guidance_scale"], meta["x"]) == (None, [{"y": None}])


def test_all_booleans_of_meta_are_yes_or_no() -> None:
    """Also a boolean that the page does not document is echoed as "yes" or "no"."""
    meta = json_of(emulated_service().submit(watermark=False, upscale=True, portrait=False))["meta"]
    assert (meta["watermark"], meta["upscale"], meta["portrait"]) == ("no", "yes", "no")
    assert not [name for name, value in meta.items() if isinstance(value, bool)]


def test_a_temporary_job_has_a_link_under_temp() -> None:
    """A file that is deleted within a day lies under /temp/."""
    emulated = emulated_service(queue_limit=10)
    links = [json_of(emulated.submit(temp=temp))["future_links"][0] for temp in (True, "yes", False, None)]
    assert ["/temp/" in link for link in links] == [True, True, False, False]


def test_a_job_is_fetched_by_request_id() -> None:
    """`/video/fetch` takes the id as `request_id`, a number or a text."""
    emulated = emulated_service()
    job_id = json_of(emulated.submit())["id"]
    for sent in (job_id, str(job_id)):
        assert json_of(emulated.post(FETCH.rstrip("/"), request_id=sent))["status"] == "processing"
    assert json_of(emulated.post(FETCH.rstrip("/"))) == NOT_FOUND


def test_the_other_path_of_uploads() -> None:
    """`image_editing/base64_to_url` is another path of the same call."""
    reply = json_of(emulated_service().post("/api/v6/image_editing/base64_to_url", base64_string=PNG_URI))
    assert reply["status"] == json_of(emulated_service().post(UPLOAD, base64_string=PNG_URI))["status"] == "success"


def test_the_enterprise_paths_of_the_official_client() -> None:
    """modelslab-py 0.2.3 submits where the page says, but fetches and commands under v1/enterprise/video."""
    emulated = emulated_service()
    job_id = json_of(emulated.submit(path=ENTERPRISE + "img2video"))["id"]
    assert json_of(emulated.post(f"/api/v1/enterprise/video/fetch/{job_id}"))["status"] == "processing"
    assert json_of(emulated.post("/api/v1/enterprise/video/clear_queue"))["status"] == "success"
    assert json_of(emulated.post(f"/api/v1/enterprise/video/fetch/{job_id}"))["status"] == "failed"


def test_an_eta_is_an_integer_by_default() -> None:
    """The schema of later pages says that an eta is an integer. An eta with decimals must be asked for."""
    emulated = emulated_service(eta=None, queue_limit=300)
    etas = [json_of(emulated.submit()).get("eta") for _ in range(200)]
    assert {type(eta) for eta in etas} == {int, type(None)}
    assert 0 in etas
    decimal = emulated_service(eta={"float": 1})
    assert isinstance(json_of(decimal.submit())["eta"], float)


def test_try_again_in_minutes() -> None:
    """TRY_LATER names the minutes in the message only."""
    from modelslab_async.emulator import Fault, Rule  # noqa: PLC0415

    reply = json_of(emulated_service(faults=[Rule(Fault.TRY_LATER, seconds=1800)]).submit())
    assert reply == {"status": "error", "message": "Rate limit exceeded. Please try again in 30 minutes."}


def test_a_wrong_key_is_no_matter_of_the_body() -> None:
    """A JSON object without a valid key is reported as that."""
    answer = emulated_service(keys={KEY}).service.handle(0.0, SUBMIT, b'{"key": "other"}', PNG)
    assert (answer.status, json_of(answer)["message"]) == (401, "Invalid API Key")
