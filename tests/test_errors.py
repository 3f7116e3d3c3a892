"""Every error says whether money may have been spent."""

from __future__ import annotations

import pickle
import re

import pytest

from modelslab_async import errors
from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem

CLASSES = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ModelsLabError)),
    key=lambda kind: kind.__name__,
)


def an(kind: type[ModelsLabError]) -> ModelsLabError:
    return kind([Problem("fps", "0", "at least 1", "pass more")]) if kind is InvalidRequestError else kind("why")


@pytest.mark.parametrize("kind", CLASSES)
def test_what_an_error_says(kind: type[ModelsLabError]) -> None:
    """Its text tells what is known of the charge, the ref and the id."""
    words = {False: "[not charged", True: "[charged", None: "[may have been charged"}
    for charged, expected in words.items():
        error = an(kind).about(ref="my-ref", job_id="4711", charged=charged)
        assert f"{expected}, ref=my-ref, id=4711]" in str(error)
    assert words[an(kind).charged] in str(an(kind))


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_go_to_other_processes(kind: type[ModelsLabError]) -> None:
    """Pickled and back, an error is the same error."""
    error = an(kind).about(ref="my-ref", job_id="4711", charged=None)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert type(again) is kind
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_the_tree_is_the_one_that_is_drawn() -> None:
    """The docstring's tree names every class below its base, and no other."""
    drawn: dict[str, str] = {}
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.search(r"\b[A-Z]\w+Error\b", line):
            depth, name = found.start(), found[0]
            above = [(indent, parent) for indent, parent in above if indent < depth]
            drawn[name] = above[-1][1] if above else "Exception"
            above.append((depth, name))
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in CLASSES}
