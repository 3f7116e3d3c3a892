"""Which requests the emulated service refuses, and how its refusals look."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pytest
from helpers.emulated_service import (
    ASSETS,
    BALANCE,
    COUNT,
    ENTERPRISE,
    FETCH,
    KEY,
    OTHER_KEY,
    PICTURE_URL,
    PNG,
    SUBMIT,
    UPLOAD,
    emulated_service,
    json_of,
)

from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.replies import Answer


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"prompt": ...}, {"prompt": ["The prompt field is required."]}),
        ({"prompt": None}, {"prompt": ["The prompt field is required."]}),
        ({"prompt": "  "}, {"prompt": ["The prompt field is required."]}),
        ({"prompt": 5}, {"prompt": ["The prompt field is required."]}),
        ({"init_image": ...}, {"init_image": ["The init image field is required."]}),
    ],
)
def test_a_missing_field_is_named(params: dict[str, Any], message: dict[str, list[str]]) -> None:
    """A missing field is reported as an object that maps the field to its sentences."""
    answer = emulated_service().submit(**params)
    assert (answer.status, json_of(answer)) == (400, {"status": "error", "message": message})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("num_frames", "num_inference_steps", "fps"), (0, -1, "x", 10**9)),
        ("num_frames", []),
        ("num_frames", {}),
        ("seed", "x"),
        ("seed", 2**70),
        ("resolution", 0),
        ("resolution", "16:0"),
        ("resolution", "²:9"),
        ("resolution", "1:2:3"),
        ("resolution", "9" * 5000 + ":9"),
        ("resolution", "9" * 5000),
    ],
    ids=lambda value: str(value)[:12],
)
def test_a_wrong_number_is_named(name: str, value: Any) -> None:
    """An impossible number is refused under its field's name, and nothing is charged."""
    emulated = emulated_service()
    answer = emulated.submit(**{name: value})
    assert answer.status == 400
    assert set(json_of(answer)["message"]) == {name}
    assert not emulated.charged


@pytest.mark.parametrize(("ratio", "status"), [("16:9", 200), ("9:16", 200), ("99:1", 400), ("1:99", 400)])
def test_an_extreme_ratio_is_refused(ratio: str, status: int) -> None:
    """A ratio such as 99:1 is refused, because no renderer could make its video."""
    assert emulated_service().submit(resolution=ratio, model_id="ltx-2.3").status == status


@pytest.mark.parametrize("picture", [None, b"", b"<html>", b"GIF"])
def test_an_invalid_picture_is_refused(picture: bytes | None) -> None:
    """A URL or an inline value that gives no picture is refused, and nothing is charged."""
    emulated = emulated_service()
    body = {"key": KEY, "prompt": "p", "init_image": PICTURE_URL}
    by_url = emulated.service.handle(0.0, SUBMIT, json.dumps(body).encode(), picture)
    by_value = emulated.submit(base64=True, init_image=base64.b64encode(picture or b"no").decode())
    by_url_as_base64 = emulated.submit(base64=True, init_image=PICTURE_URL)
    assert [answer.status for answer in (by_url, by_value, by_url_as_base64)] == [400, 400, 400]
    assert [set(json_of(answer)["message"]) for answer in (by_url, by_value, by_url_as_base64)] == [{"init_image"}] * 3
    assert not emulated.charged


def _refused_without_a_free_slot(profile: str) -> Answer:
    emulated = emulated_service(profile=profile)
    return [emulated.submit() for _ in range(6)][-1]


REFUSALS: Mapping[str, tuple[int, Callable[[str], Answer]]] = {
    "bad request": (400, lambda profile: emulated_service(profile=profile).submit(prompt=...)),
    "key": (401, lambda profile: emulated_service(profile=profile, keys={OTHER_KEY}).submit()),
    "credits": (402, lambda profile: emulated_service(profile=profile, wallet=Decimal(0)).submit()),
    "route": (404, lambda profile: emulated_service(profile=profile).post("/api/v6/no/such/route")),
    "slots": (429, _refused_without_a_free_slot),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_the_legacy_profile_refuses_with_http_200(name: str) -> None:
    """The documented profile refuses with the HTTP code; legacy refuses with HTTP 200 and the status error."""
    status, refuse = REFUSALS[name]
    documented, legacy = refuse("documented"), refuse("legacy")
    assert (documented.status, legacy.status) == (status, 200)
    messages = [json_of(answer).get("message") or json_of(answer).get("messege") for answer in (documented, legacy)]
    assert messages[0] == messages[1]
    assert [json_of(answer)["status"] for answer in (documented, legacy)] == ["error", "error"]


def test_the_legacy_profile_misspells_message_at_times() -> None:
    """Legacy spells message as "messege" at times; documented never does."""
    spellings = {}
    for profile in ("legacy", "documented"):
        emulated = emulated_service(profile=profile)
        spellings[profile] = {
            name for _ in range(40) for name in json_of(emulated.submit(prompt=...)) if name.startswith("mess")
        }
    assert spellings == {"legacy": {"message", "messege"}, "documented": {"message"}}


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.UNAVAILABLE_503])
def test_server_errors_keep_their_codes_in_every_profile(fault: Fault) -> None:
    """500 and 503 are no answers about the request: they keep their HTTP codes in the legacy profile too."""
    answers = [emulated_service(profile=profile, faults=[Rule(fault)]).submit() for profile in ("legacy", "documented")]
    assert {answer.status for answer in answers} == {int(fault.name[-3:])}


@pytest.mark.parametrize("key", [..., None, "", 5, ["k"], {}, True])
@pytest.mark.parametrize("path", [SUBMIT, FETCH + "1", UPLOAD, COUNT, ASSETS, BALANCE, ENTERPRISE + "clear_queue"])
def test_every_call_needs_a_key(path: str, key: Any) -> None:
    """Every call needs a key that is a non-empty string."""
    body = {} if key is ... else {"key": key}
    answer = emulated_service().service.handle(0.0, path, json.dumps(body).encode(), PNG)
    assert (answer.status, json_of(answer)["message"]) == (401, "Invalid API Key")


def test_only_listed_keys_are_accepted() -> None:
    """If the accepted keys are listed, any other key is refused, and nothing is charged to it."""
    emulated = emulated_service(keys={KEY})
    assert [emulated.submit().status, emulated.submit(key=OTHER_KEY).status] == [200, 401]
    assert [emulated.service.ledger.total(key) for key in (KEY, OTHER_KEY)] == [Decimal("0.20"), Decimal(0)]


@pytest.mark.parametrize("path", ["/fetch/100000", "/api/v6/fetch/100000", "/api/v6/video", "/", "", "x"])
def test_an_undocumented_path_is_not_found(path: str) -> None:
    """A path that the service does not have is answered with 404, so that a client's wrong path is noticed."""
    emulated = emulated_service()
    emulated.submit()
    assert emulated.post(path).status == 404
