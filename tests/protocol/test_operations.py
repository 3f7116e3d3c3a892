"""The table of operations: each row's requests, limits and price, and what names no operation."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import attrs
import pytest
from helpers.operations import BEYOND, NAMES, a_request_for, example

from modelslab_async import OPERATIONS, ImageToVideoUltra, InvalidRequestError, Plan, PriceList, TextToVideoUltra
from modelslab_async.polling.workload import workload_of
from modelslab_async.protocol import wire
from modelslab_async.protocol.limits import check
from modelslab_async.protocol.operations import Range
from modelslab_async.protocol.pricing import Budget
from modelslab_async.protocol.request import Deployment, evolved
from modelslab_async.protocol.secret import ApiKey

KEY = ApiKey("k")


def sent(name: str, params: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON that is sent for these parameters, without the files."""
    request = wire.request_from({"operation": name, **params})
    body: dict[str, Any] = json.loads(wire.encode_body(wire.encode_request(request, ref="r"), KEY))
    return body


@pytest.mark.parametrize("name", NAMES)
def test_the_documentations_example_is_sent_unchanged(name: str) -> None:
    """Each value goes out as the page has it. The problems are the page's own contradictions, which can be sent."""
    params = example(name)
    problems = check(wire.request_from({"operation": name, **params}))
    assert {problem.field for problem in problems} == BEYOND.get(name, set())
    assert all(problem.overridable for problem in problems)
    files = {each.name for each in OPERATIONS[name].inputs}
    expected = {field: value for field, value in params.items() if value is not None and field not in files}
    if "shift_sample" in expected:
        expected["sample_shift"] = expected.pop("shift_sample")
    expected |= expected.pop("extra", {})
    assert sent(name, params) == {**OPERATIONS[name].sent, **expected, "key": "k", "track_id": "r"}


LIMITS = [
    (name, deployment, model, field, limit)
    for name, row in OPERATIONS.items()
    for deployment, endpoint in row.endpoints.items()
    for model, limits in endpoint.limits.items()
    for field, limit in limits.items()
]


@pytest.mark.parametrize(("name", "deployment", "model", "field", "limit"), LIMITS)
def test_each_documented_limit(name: str, deployment: Deployment, model: str | None, field: str, limit: Range) -> None:
    """A value at the limit is accepted. A value beyond it is a problem that can be overridden."""
    for edge, step in ((limit.maximum, 1), (limit.minimum, -0.5)):
        if edge is not None:
            changes: dict[str, Any] = {"model_id": model} if model else {}
            if field == "fps":  # which must be less than the frames
                changes["num_frames"] = None
            request = attrs.evolve(a_request_for(name), extra={}, **changes)
            within = [each for each in check(evolved(request, **{field: edge}), deployment) if each.field == field]
            beyond = check(evolved(request, **{field: edge + step}), deployment)
            assert within == []
            assert [problem.overridable for problem in beyond if problem.field == field] == [True]


def test_the_documented_numbers_of_text_to_video_ultra() -> None:
    """It allows 30 steps and not 25, and has no picture. The rest is as for Image to Video Ultra."""
    limits = OPERATIONS["text2video_ultra"].endpoints[Deployment.V6].limits[None]
    maxima = {name: limit.maximum for name, limit in limits.items()}
    assert maxima == {
        "resolution": 480,
        "num_inference_steps": 30,
        "guidance_scale": 8.0,
        "fps": 16,
        "sample_shift": 10,
    }
    mine, other = OPERATIONS["text2video_ultra"].parameters, OPERATIONS["img2video_ultra"].parameters
    assert {*other} - {*mine} == {"init_image", "base64"}


@pytest.mark.parametrize("name", NAMES)
def test_what_an_operation_requires(name: str) -> None:
    """Each required parameter that is missing is a problem of its own."""
    row = OPERATIONS[name]
    _, problems = wire.parse_request({"operation": name})
    assert [problem.field for problem in problems] == [field for field in row.required if field != "operation"]
    _, problems = wire.parse_request({"operation": name, **example(name), "seeds": 1})
    assert [(problem.field, problem.requirement) for problem in problems] == [("seeds", "unknown parameter")]
    for reserved in ("key", "operation", *row.parameters):
        (problem,) = check(a_request_for(name, extra={reserved: 1}))
        assert problem.field == "extra"


@pytest.mark.parametrize("name", NAMES)
def test_a_dedicated_server_serves_what_its_documentation_names(name: str) -> None:
    """A request that a dedicated server does not serve has this as its only problem."""
    problems = check(a_request_for(name), Deployment.ENTERPRISE)
    if Deployment.ENTERPRISE in OPERATIONS[name].endpoints:
        assert "operation" not in {problem.field for problem in problems}
    else:
        assert [problem.field for problem in problems] == ["operation"]


@pytest.mark.parametrize("wrong", ["img2vid", "", None, 3, ["img2video_ultra"]])
def test_an_unknown_operation_is_one_clear_error(wrong: Any) -> None:
    """The error names all operations, and no parameter besides."""
    with pytest.raises(InvalidRequestError) as caught:
        wire.request_from({"operation": wrong, "seeds": 1})
    (problem,) = caught.value.problems
    assert (problem.field, problem.requirement) == ("operation", "is an unknown operation")
    assert all(name in problem.hint for name in OPERATIONS)


@pytest.mark.parametrize("name", NAMES)
def test_two_operations_are_never_forecast_from_each_other(name: str) -> None:
    """A job's kind names its operation and model. A typical request is one unit of work."""
    kinds = {workload_of(a_request_for(other)).kind for other in NAMES}
    assert len(kinds) == len(NAMES)
    assert workload_of(OPERATIONS[name].request(dict.fromkeys(OPERATIONS[name].required))).work == 1


def test_keywords_are_those_of_image_to_video_ultra() -> None:
    """A mapping without an operation is an ImageToVideoUltra; a request's class fixes its operation."""
    assert isinstance(wire.request_from({"prompt": "p", "init_image": "https://a.example/b"}), ImageToVideoUltra)
    assert TextToVideoUltra(prompt="p").operation == "text2video_ultra"


def test_a_price_is_found_by_model_then_by_operation_then_in_the_documentation() -> None:
    """The most special price holds. Without one, the price is unknown, and never 0."""
    prices = PriceList(usd="0.3", of={"text2video_ultra": "0.4", ("text2video_ultra", "ltx-2.3"): "0.5"})
    assert prices.price_of("text2video_ultra", "ltx-2.3").usd == Decimal("0.5")
    assert prices.price_of("text2video_ultra", "wan2.2").usd == Decimal("0.4")
    assert prices.price_of("img2video_ultra").usd == Decimal("0.3")
    assert PriceList().price_of("text2video_ultra").usd == Decimal("0.2")
    assert PriceList().price_of("another").usd is None


@pytest.mark.parametrize("of", [{"img2vid": 1}, {"img2video_ultra": -1}, {("img2video_ultra", 3): 1}, {3: 1}, 4])
def test_prices_of_nothing_are_refused(of: Any) -> None:
    """A price names an operation of the table, or one with a model, and is an amount."""
    with pytest.raises(InvalidRequestError) as caught:
        PriceList(of=of)
    assert [problem.field for problem in caught.value.problems] == ["of"]


def test_an_estimate_says_how_many_prices_are_unknown() -> None:
    """A call without a known price adds nothing to the sum, and is counted apart."""
    calls = [("img2video_ultra", None), ("text2video_ultra", None), ("another", "a model")]
    estimate = PriceList().estimate_calls(calls)
    assert (estimate.jobs, estimate.usd, estimate.unpriced) == (3, Decimal("0.4"), 1)
    assert estimate.credits == {Plan.BASIC: 31, Plan.STANDARD: 43}


@pytest.mark.parametrize(
    ("budget", "field"), [(Budget(usd=5), "prices"), (Budget(credits=99, plan=Plan.BASIC), "prices.credits")]
)
def test_a_budget_refuses_what_it_cannot_count(budget: Budget, field: str) -> None:
    """A budget in USD or credits refuses a call with an unknown price, with the way out. One in jobs counts it."""
    unknown = PriceList().price_of("another", "a model")
    refused: list[Callable[[], None]] = [
        lambda: budget.require_prices(unknown),
        lambda: budget.reserve("a", unknown, 0.0),
    ]
    for refuse in refused:
        with pytest.raises(InvalidRequestError) as caught:
            refuse()
        (problem,) = caught.value.problems
        assert problem.field == field
        assert "jobs=" in problem.hint
    assert budget.reserved == 0
    counted = Budget(jobs=1)
    counted.reserve("a", unknown, 0.0)
    assert counted.jobs_left(PriceList(), 0.0) == 0


def test_a_budget_allows_calls_of_several_prices_in_their_order() -> None:
    """What the first calls use is not there for the next ones."""
    prices = PriceList(of={"text2video_ultra": 1})
    cheap, dear = prices.price_of("img2video_ultra"), prices.price_of("text2video_ultra")
    assert Budget(usd=3).allowed([(dear, 2), (cheap, 9)], 0.0) == 2 + 5
    assert Budget(usd=3, jobs=4).allowed([(cheap, 3), (dear, 3)], 0.0) == 3 + 1
    assert Budget(usd="0.5").allowed([(dear, 1), (cheap, 1)], 0.0) == 1


@pytest.mark.parametrize("duration", [10**5000, -(10**5000), 10**9, True], ids=["long", "negative", "large", "bool"])
def test_a_duration_that_is_no_text_of_seconds_is_refused(duration: Any) -> None:
    """Python writes no numbers of thousands of digits, so such a number stays one, and the check refuses it."""
    request = a_request_for("image-to-video", duration=duration)
    assert [problem.field for problem in check(request)] == ["duration"]
