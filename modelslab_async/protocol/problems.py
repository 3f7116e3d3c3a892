"""Build problems and the errors that carry them: each names a field, its value, the requirement and a hint."""

import math

from modelslab_async.errors import InvalidRequestError, Problem

_SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """A value as an error shows it: short, and never the bytes of a picture."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes out no thousands of digits, or of lists in each other
        return "a huge value"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def wrong(field: str, value: object, requirement: str, hint: str, *, overridable: bool = False) -> Problem:
    """What is wrong with this value."""
    return Problem(field, shown(value), requirement, hint, overridable)


def refusal(field: str, value: object, requirement: str, hint: str) -> InvalidRequestError:
    """Where just one thing is wrong."""
    return InvalidRequestError([wrong(field, value, requirement, hint)])


def require(*checks: tuple[bool, str, object, str, str]) -> None:
    """Whether a thing is right, its field, value, rule and way out: raises InvalidRequestError with all that is not."""
    problems = [
        wrong(field, value, requirement, hint) for right, field, value, requirement, hint in checks if not right
    ]
    if problems:
        raise InvalidRequestError(problems)


def is_positive(value: object) -> bool:
    """Whether this is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
