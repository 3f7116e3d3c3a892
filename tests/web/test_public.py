"""`modelslab_async.web.public`: what visitors may read of an error."""

from __future__ import annotations

import inspect
from asyncio import CancelledError
from typing import get_args

import pytest

from modelslab_async import errors
from modelslab_async.errors import APIError, BudgetExceededError, JobError, ModelsLabError, Problem
from modelslab_async.web import PublicCode, public_error
from modelslab_async.web.public import CODES

TREE = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, ModelsLabError)]
OPERATORS = (
    "secret-key-that-nobody-may-see",
    "insufficient credits in your wallet",
    "https://database.internal/jobs",
    "order-1001",
    "/srv/pictures/a.png",
)
"""What the operator's side may put in an error."""


def made(kind: type[BaseException]) -> BaseException:
    """Return an error of this class that has all of the operator's texts."""
    text = " ".join(OPERATORS)
    if issubclass(kind, errors.InvalidRequestError):
        error: BaseException = kind([Problem("init_image", OPERATORS[4], text, text)])
    else:
        error = kind(text)
    if isinstance(error, ModelsLabError):
        error.about(ref=OPERATORS[3], job_id="77001", charged=None)
    return error


def test_every_error_has_a_code_of_its_own() -> None:
    """The table has each error of the package, and each code is the code of an error."""
    assert {*TREE, CancelledError} == {*CODES}
    assert {*CODES.values()} == {*get_args(PublicCode)}


@pytest.mark.parametrize("kind", [*TREE, CancelledError, OSError, RuntimeError])
def test_the_public_reads_nothing_of_the_operators_side(kind: type[BaseException]) -> None:
    """An error's text, ref and id appear nowhere in what visitors read, which depends on the class only."""
    error = made(kind)
    assert all(text in str(error) for text in OPERATORS[:3])
    shown = public_error(error)
    assert shown == public_error(kind.__new__(kind))
    assert not any(text in f"{shown.code} {shown.message}" for text in (*OPERATORS, "77001", "http", "$", "credit"))
    assert shown.message.endswith(".")
    assert 400 <= shown.status < 600


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [
        (errors.AuthenticationError, "unavailable", 503),
        (errors.InsufficientCreditsError, "unavailable", 503),
        (BudgetExceededError, "unavailable", 503),
        (errors.ConnectError, "unavailable", 503),
        (errors.JournalError, "unavailable", 503),
        (errors.InvalidRequestError, "refused", 422),
        (errors.BadRequestError, "refused", 422),
        (errors.JobFailedError, "failed", 502),
        (errors.JobTimeoutError, "timed_out", 504),
        (errors.SubmitUncertainError, "uncertain", 409),
        (errors.InvalidVideoError, "unreadable", 502),
        (errors.NotFoundError, "not_found", 404),
        (CancelledError, "cancelled", 410),
    ],
)
def test_codes_say_what_a_visitor_can_do(kind: type[BaseException], code: str, status: int) -> None:
    """Only what a visitor can change, or must know, has a code of its own. All else is "unavailable"."""
    shown = public_error(made(kind))
    assert (shown.code, shown.status) == (code, status)


def test_an_error_of_the_application_has_the_code_of_its_base_class() -> None:
    """An unknown error is "unavailable"."""

    class MyError(JobError):
        pass

    class GatewayError(APIError):
        pass

    codes = [public_error(error).code for error in (MyError(), GatewayError(), OSError("no space"), ValueError())]
    assert codes == ["failed", "unavailable", "unavailable", "unavailable"]
