"""Tests of the grammar that all messages about requests, arguments and budgets share."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers.messages import Message, messages_in
from helpers.world import a_request

import modelslab_async
from modelslab_async import Budget, BudgetExceededError, InvalidRequestError, Plan, PriceList, Timeouts
from modelslab_async.errors import Problem
from modelslab_async.protocol import wire
from modelslab_async.protocol.limits import check
from modelslab_async.protocol.problems import plural, shown, shown_name
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.secret import ApiKey

REQUIREMENTS = ("must ", "cannot ", "is ", "are ", "has ", "was ", "unknown ")
"""How a requirement begins: with what the field must be, or with what is wrong with it."""
IMPERATIVES = {
    "add", "allow", "attach", "check", "choose", "collect", "configure", "describe", "fill", "give", "install", "leave",
    "make", "mount", "name", "omit", "pass", "put", "raise", "run", "save", "see", "start", "stay", "submit",
    "use", "wait", "write",
}  # fmt: skip
"""The verbs with which a hint begins."""
PACKAGE = Path(modelslab_async.__file__).parent


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    """All messages in the package's source."""
    return messages_in(PACKAGE)


def offence(kind: str, text: str) -> str | None:
    """Return how a requirement or a hint breaks the grammar, or None."""
    if not text.strip():
        return "is empty"
    if text.endswith((".", "?", "!")) and not text.endswith("..."):
        return "ends a sentence"
    if kind == "requirement" and not text.startswith(REQUIREMENTS):
        return f"does not begin with one of {REQUIREMENTS}"
    if kind == "hint" and text.split(maxsplit=1)[0] not in IMPERATIVES:
        return "does not begin with an imperative"
    return None


def test_every_literal_message_follows_the_grammar(messages: list[Message]) -> None:
    """Each requirement and hint in the source reads after `FIELD=VALUE: ` and after `hint: `."""
    offences = {str(message): offence(message.kind, message.text) for message in messages}
    assert {message: problem for message, problem in offences.items() if problem} == {}


def test_the_source_is_searched(messages: list[Message]) -> None:
    """The search finds the messages of each way to build a problem."""
    texts = {message.text for message in messages}
    assert {
        "must be an integer",  # wrong(...)
        "unknown parameter",  # Problem(...)
        'must be "day", "ever" or None',  # a check of require(...)
        "must be seconds above 0, or None",  # a loop of checks
        "must be non-empty text",  # partial(...)
        "pass it as …=",  # an f-string
    } <= texts


def problems_of(refused: Callable[[], object]) -> tuple[Problem, ...]:
    """Return the problems of the InvalidRequestError that a call raises."""
    with pytest.raises(InvalidRequestError) as caught:
        refused()
    return caught.value.problems


def formatted() -> list[Problem]:
    """Return at least one problem for each message that depends on values."""
    wrong: dict[str, Any] = {
        "prompt": "", "negative_prompt": "\ud800", "seed": 2**70, "resolution": "high", "num_frames": 0, "temp": 1,
        "num_inference_steps": 2.5, "guidance_scale": "5", "sample_shift": -1, "webhook": "x", "track_id": "",
    }  # fmt: skip
    extras: list[Any] = [[1], {"key": "k"}, {"fps": 3}, {1: 2}, {"new": {1}}]
    requests = [
        (a_request(**wrong), Deployment.V6),
        (a_request(base64=True), Deployment.ENTERPRISE),
        (a_request(num_frames=10, fps=16), Deployment.V6),
        (a_request(guidance_scale=9.0, model_id="wan9", resolution="16:9"), Deployment.V6),
        (a_request(guidance_scale=-1.0), Deployment.V6),
        *((a_request(extra=extra), Deployment.V6) for extra in extras),
    ]
    names = {"promt": "a", "lora": 1, "a b": 1, "key": "k", "sample_shift": 3, "shift_sample": 4}
    amounts: dict[str, Any] = {"usd": -1, "jobs": 1.5, "credits": "x", "plan": "basic", "per": "week"}
    durations: dict[str, Any] = {"connect": 0, "job": "long"}
    return [
        *(problem for request, deployment in requests for problem in check(request, deployment)),
        *problems_of(lambda: wire.request_from(names)),
        *problems_of(lambda: Budget(**amounts)),
        *problems_of(Budget),
        *problems_of(lambda: Budget(credits=1, plan=Plan.BASIC).reserve("a", PriceList(credits={Plan.STANDARD: 1}), 0)),
        *problems_of(lambda: PriceList(usd=Decimal(-1), credits={})),
        *problems_of(lambda: PriceList().estimate(-1)),
        *problems_of(lambda: Timeouts(**durations)),
        *ApiKey("a-secret-key").problems_in(path="a-secret-key.mp4"),
    ]


@pytest.mark.parametrize("problem", formatted(), ids=str)
def test_every_problem_follows_the_grammar(problem: Problem) -> None:
    """A problem that was built from values has a field, a requirement and a hint, and its text joins them."""
    assert problem.field
    assert offence("requirement", problem.requirement) is None
    assert offence("hint", problem.hint) is None
    value = f"={problem.value}" if problem.value else ""
    assert str(problem) == f"{problem.field}{value}: {problem.requirement} (hint: {problem.hint})"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lora", 'lora: unknown parameter (hint: pass it in extra={"lora": ...})'),
        ("promt", 'promt: unknown parameter (hint: pass prompt instead, or pass it in extra={"promt": ...})'),
        ("a b", "'a b': unknown parameter (hint: pass it in extra={\"a b\": ...})"),
        ("key", "key: cannot be a parameter (hint: pass it as Client(api_key=...))"),
    ],
)
def test_an_unknown_parameter(name: str, text: str) -> None:
    """The message names the parameter without its value, and how to send it anyway."""
    problems = problems_of(lambda: wire.request_from({"prompt": "a", "init_image": "b", name: 1}))
    assert [str(problem) for problem in problems] == [text]


def test_a_wrong_value() -> None:
    """The message names the field, the value, the requirement and the hint."""
    (problem,) = check(a_request(webhook="x"))
    assert str(problem) == "webhook='x': must be an http(s) URL (hint: pass the whole URL, or omit it)"


@pytest.mark.parametrize(("count", "text"), [(0, "0 jobs"), (1, "1 job"), (2, "2 jobs"), (Decimal(1), "1 job")])
def test_plurals(count: object, text: str) -> None:
    """A noun is plural unless its count is 1."""
    assert plural(count, "job") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"", "<0 bytes>"),
        (b"a", "<1 byte>"),
        (b"ab", "<2 bytes>"),
        ("a" * 99, f"'{'a' * 59}..."),
        (10**5000, "a huge value"),
        (0, "0"),
    ],
    ids=["no bytes", "a byte", "bytes", "long", "huge", "short"],
)
def test_how_a_value_is_shown(value: object, text: str) -> None:
    """A value is shown by its repr, shortened; bytes by their number."""
    assert shown(value) == text


def test_how_a_name_is_shown() -> None:
    """A name is shown bare if it is an identifier, else by its repr."""
    assert [shown_name(name) for name in ("lora", "a b", "", 7)] == ["lora", "'a b'", "''", "7"]


REFUSALS: list[tuple[dict[str, Any], int, str]] = [
    ({"jobs": 0}, 0, "this job needs 1 of the budget's 0 jobs; 0 remain"),
    ({"jobs": 1}, 1, "this job needs 1 of the budget's 1 job; 0 remain"),
    ({"jobs": 2}, 2, "this job needs 1 of the budget's 2 jobs; 0 remain"),
    ({"usd": 0}, 0, "this job needs $0.20 of the budget's $0.00; $0.00 remains"),
    ({"usd": 1}, 5, "this job needs $0.20 of the budget's $1.00; $0.00 remains"),
    ({"usd": "0.5"}, 2, "this job needs $0.20 of the budget's $0.50; $0.10 remains"),
    ({"credits": 0, "plan": Plan.BASIC}, 0, "this job needs 31 of the budget's 0 credits; 0 remain"),
    ({"credits": 1, "plan": Plan.BASIC}, 0, "this job needs 31 of the budget's 1 credit; 1 remains"),
    ({"credits": 32, "plan": Plan.BASIC}, 1, "this job needs 31 of the budget's 32 credits; 1 remains"),
    ({"credits": 64, "plan": Plan.BASIC}, 2, "this job needs 31 of the budget's 64 credits; 2 remain"),
]


@pytest.mark.parametrize(("limits", "before", "text"), REFUSALS, ids=lambda value: str(value)[:40])
def test_a_budget_that_does_not_allow_a_job(limits: dict[str, Any], before: int, text: str) -> None:
    """The error names what the job needs, the limit and what remains, in the limit's unit and in the right number."""
    budget = Budget(**limits)
    for number in range(before):
        budget.reserve(str(number), PriceList(), 0.0)
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve("one too many", PriceList(), 0.0)
    assert str(caught.value) == text


def test_a_wallet_that_holds_less_than_the_budget() -> None:
    """The error names both amounts."""
    with pytest.raises(BudgetExceededError) as caught:
        Budget(usd=5).compare(Decimal("1.5"), 0.0)
    assert str(caught.value) == "the account's wallet holds $1.50; the budget still allows $5.00"
