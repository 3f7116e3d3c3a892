"""Tests of the errors: what their text says, and that they can be pickled."""

from __future__ import annotations

import pickle
import re
from decimal import Decimal

import pytest

from modelslab_async import errors
from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem

CLASSES = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ModelsLabError)),
    key=lambda kind: kind.__name__,
)
PROBLEM = Problem("fps", "0", "must be at least 1", "pass 1 or more")


def an_error(kind: type[ModelsLabError]) -> ModelsLabError:
    """Return an error of *kind*; an APIError is one with which the service answered."""
    if kind is InvalidRequestError:
        return InvalidRequestError([PROBLEM])
    return kind("why", http_status=400) if issubclass(kind, errors.APIError) else kind("why")


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_about_no_job_shows_no_charge(kind: type[ModelsLabError]) -> None:
    """The text of an error that concerns no job ends with the message."""
    error = an_error(kind)
    assert str(error) == str(error.args[0])


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(("charged", "words"), [(True, "charged $0.20"), (None, "may have been charged $0.20")])
def test_an_error_about_a_job_that_may_be_charged_shows_charge_and_price(
    kind: type[ModelsLabError], charged: bool | None, words: str
) -> None:
    """If a job may be charged, the error shows charge, price, ref and id."""
    error = an_error(kind).about(ref="my-ref", job_id="4711", charged=charged, price=Decimal("0.2"))
    assert str(error).endswith(f" [{words}, ref=my-ref, id=4711]")


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_about_a_job_that_is_not_charged(kind: type[ModelsLabError]) -> None:
    """The text says so if a request was made or tried, and else shows just the ref."""
    error = an_error(kind).about(ref="my-ref", job_id=None, charged=False, price=Decimal("0.2"))
    assert str(error).endswith(
        " [not charged, ref=my-ref]" if issubclass(kind, errors.APIError | errors.TransportError) else " [ref=my-ref]"
    )
    assert "$" not in str(error)


def test_the_text_of_a_problem() -> None:
    """A problem reads FIELD=VALUE: REQUIREMENT (hint: HINT); an empty value is left out."""
    assert str(PROBLEM) == "fps=0: must be at least 1 (hint: pass 1 or more)"
    unknown = Problem("lora", "", "unknown parameter", 'pass it in extra={"lora": ...}')
    assert str(unknown) == 'lora: unknown parameter (hint: pass it in extra={"lora": ...})'


def test_an_invalid_request_has_one_line_for_each_problem() -> None:
    """The text lists every problem, and nothing else."""
    error = InvalidRequestError([PROBLEM, PROBLEM._replace(field="seed")])
    assert str(error).splitlines() == [str(problem) for problem in error.problems]


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_can_be_pickled(kind: type[ModelsLabError]) -> None:
    """An error that was pickled and unpickled has the same text and attributes."""
    error = an_error(kind).about(ref="my-ref", job_id="4711", charged=None)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made by this test
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_the_docstring_draws_the_class_tree() -> None:
    """The tree in the module's docstring names every class below its base, and no other class."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.search(r"\b[A-Z]\w+Error\b", line):
            depth, name = found.start(), found[0]
            above = [(indent, parent) for indent, parent in above if indent < depth]
            drawn[name] = above[-1][1] if above else "Exception"
            above.append((depth, name))
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}
