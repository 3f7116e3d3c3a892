"""Tests of checking requests: each requirement, each documented limit, all problems at once."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.world import a_request
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError
from modelslab_async.protocol import wire
from modelslab_async.protocol.limits import check
from modelslab_async.protocol.operations import OPERATIONS
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.secret import ApiKey

LIMITS = {where: endpoint.limits for where, endpoint in OPERATIONS["img2video_ultra"].endpoints.items()}
PICTURE = "https://pub-3626123a908346a7a8be8d9295f44e26.r2.dev/livewire-tmp/a-metaNTliM2Vm==-.webp"
FIRST_EXAMPLE = (
    '{"key":"","init_image":"' + PICTURE + '","prompt":"moving character","negative_prompt":"low quality",'
    '"resolution":320,"num_frames":16,"num_inference_steps":31,"guidance_scale":7,"webhook": null,"track_id":null}'
)
SECOND_EXAMPLE = (
    '{"key":"","init_image":"' + PICTURE + '","prompt":"moving character","negative_prompt":"low quality",'
    '"resolution":480,"num_frames":81,"num_inference_steps":30,"guidance_scale": 5.0,"shift_sample":3,"fps":16,'
    '"webhook": null,"track_id":null}'
)


@pytest.mark.parametrize(("text", "steps"), [(FIRST_EXAMPLE, 31), (SECOND_EXAMPLE, 30)])
def test_the_examples_of_the_documentation_page(text: str, steps: int) -> None:
    """Both examples are sent unchanged; their only problem is a number of steps above the page's own limit."""
    asked = json.loads(text)
    request = wire.request_from(asked)
    (problem,) = check(request)
    assert (problem.field, problem.value, problem.overridable) == ("num_inference_steps", str(steps), True)
    sent = json.loads(wire.encode_body(wire.encode_request(request, ref="r"), ApiKey("k"), picture=PICTURE))
    expected = {name: value for name, value in asked.items() if value is not None}
    if "shift_sample" in expected:
        expected["sample_shift"] = expected.pop("shift_sample")
    assert sent == {**expected, "key": "k", "track_id": "r"}


def nested(levels: int) -> list[Any]:
    """Return lists within lists, *levels* deep."""
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


CIRCLE: dict[str, Any] = {}
CIRCLE["itself"] = CIRCLE
IMPOSSIBLE: list[tuple[str, Any]] = [
    ("prompt", ""),
    ("prompt", " \n"),
    ("prompt", None),
    ("prompt", "a caf\udce9"),
    ("negative_prompt", 3),
    ("negative_prompt", "\ud83d"),
    ("seed", "7"),
    ("seed", True),
    ("seed", 2**70),
    ("resolution", 0),
    ("resolution", -480),
    ("resolution", "high"),
    ("resolution", True),
    ("num_frames", 0),
    ("num_frames", -1),
    ("num_frames", 81.0),
    ("num_inference_steps", -5),
    ("fps", True),
    ("fps", -1),
    ("sample_shift", -1),
    ("guidance_scale", float("nan")),
    ("guidance_scale", float("inf")),
    ("guidance_scale", 10**400),
    ("guidance_scale", True),
    ("guidance_scale", "5"),
    ("portrait", 1),
    ("temp", "yes"),
    ("webhook", "example.com/hook"),
    ("webhook", "https://exa mple.com"),
    ("track_id", ""),
    ("track_id", "\udfff"),
    ("model_id", 2),
    ("extra", [1]),
    ("extra", {"fps": 3}),
    ("extra", {"shift_sample": 3}),
    ("extra", {"new": float("nan")}),
    ("extra", {"new": object()}),
    ("extra", {"new": [10**5000]}),
    ("extra", {"new": {"deep": ["\ud800"]}}),
    ("extra", {"new": nested(3000)}),
    ("extra", {"new": nested(21)}),
    ("extra", {"new": CIRCLE}),
    ("extra", {"\ud800": 1}),
    ("webhook", "https://example.com/\ud800"),
    ("extra", {1: 2}),
]


@pytest.mark.parametrize(("field", "value"), IMPOSSIBLE)
def test_a_value_that_cannot_be_right_is_always_refused(field: str, value: object) -> None:
    """Such a problem is not overridable, and its text has the field, the value, the requirement and the hint."""
    problems = [problem for problem in check(a_request(**{field: value})) if problem.field == field]
    assert [problem.overridable for problem in problems] == [False]
    assert all(
        part in str(problems[0]) for part in (field, problems[0].value, problems[0].requirement, problems[0].hint)
    )
    assert all((problems[0].value, problems[0].requirement, problems[0].hint))


def test_an_extra_may_be_twenty_deep() -> None:
    """An extra of 20 levels of lists or dicts is accepted, and one more level is refused."""
    dicts: Any = 1
    for _ in range(20):
        dicts = {"deeper": dicts}
    assert check(a_request(extra={"lists": nested(20), "dicts": dicts})) == []
    assert len(check(a_request(extra={"dicts": {"deeper": dicts}}))) == 1


@pytest.mark.parametrize(("frames", "fps"), [(10, 10), (10, 12), (None, 81)])
def test_fps_is_less_than_num_frames(frames: int | None, fps: int) -> None:
    """An fps that is not less than num_frames, or than its default, is refused and cannot be overridden."""
    hard = [problem for problem in check(a_request(num_frames=frames, fps=fps)) if not problem.overridable]
    assert [problem.field for problem in hard] == ["fps"]


def test_the_documented_numbers() -> None:
    """The table of limits holds the numbers of the documentation pages."""
    page, dedicated = LIMITS[Deployment.V6][None], LIMITS[Deployment.ENTERPRISE][None]
    maxima = {name: limit.maximum for name, limit in page.items()}
    assert maxima == {
        "resolution": 480,
        "num_inference_steps": 25,
        "guidance_scale": 8.0,
        "fps": 16,
        "sample_shift": 10,
    }
    assert LIMITS[Deployment.V6]["wan2.2"]["resolution"].maximum == 720
    assert [dedicated[name].maximum for name in ("num_inference_steps", "guidance_scale", "fps")] == [8, 2.0, 18]
    assert (page["guidance_scale"].minimum, dedicated["guidance_scale"].minimum) == (0.0, 1.0)


def test_models() -> None:
    """A ratio is accepted only for ltx-2.3. An unknown model is a problem, because the service would use another."""
    assert check(a_request(model_id="ltx-2.3", resolution="16:9")) == []
    assert [p.field for p in check(a_request(resolution="16:9"))] == ["resolution"]
    assert [p.field for p in check(a_request(model_id="wan9"))] == ["model_id"]


def test_all_problems_are_reported_at_once() -> None:
    """A request with five wrong parameters has five problems."""
    request = a_request(prompt="", seed=True, fps=99, guidance_scale=9.0, temp="no")
    assert {problem.field for problem in check(request)} == {"prompt", "seed", "fps", "guidance_scale", "temp"}


def test_a_key_among_the_parameters_is_refused_and_not_shown() -> None:
    """A key in `extra` or among the parameters is refused, and the error does not show it."""
    (problem,) = check(a_request(extra={"key": "a-real-secret"}))
    assert "a-real-secret" not in str(problem)
    with pytest.raises(InvalidRequestError) as caught:
        wire.request_from({"prompt": "a", "init_image": "b", "key": "a-real-secret"})
    assert "api_key" in str(caught.value)
    assert "a-real-secret" not in str(caught.value)


def test_unknown_names_are_refused_with_a_suggestion() -> None:
    """The error suggests a similar parameter, or `extra`; both names of sample_shift must have the same value."""
    with pytest.raises(InvalidRequestError) as caught:
        wire.request_from({"promt": "a", "strange": 1, "sample_shift": 3, "shift_sample": 4})
    text = str(caught.value)
    assert all(words in text for words in ("pass prompt", 'extra={"strange"', "shift_sample", "init_image"))


@given(
    value=st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.lists(st.text()))
)
def test_the_check_never_raises(value: object) -> None:
    """The check returns problems whatever value a parameter has."""
    for name in ("prompt", "resolution", "fps", "num_frames", "guidance_scale", "extra", "webhook", "model_id", "seed"):
        problems = check(a_request(**{name: value}))
        assert all(problem.field for problem in problems)
