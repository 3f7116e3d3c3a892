"""Build problems, and the errors that carry them.

Each problem names a field, its value, the requirement and a hint. A requirement reads after the colon of
`FIELD=VALUE: REQUIREMENT (hint: HINT)`, as in "must be at least 1". A hint is an imperative, as in "pass 1 or more".
"""

import math

from modelslab_async.errors import InvalidRequestError, Problem

_SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """Return *value* as an error shows it: shortened, and without the bytes of a picture."""
    if isinstance(value, bytes):
        return f"<{plural(len(value), 'byte')}>"
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python refuses to write out thousands of digits or of nested lists
        return "a huge value"
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def shown_name(name: object) -> str:
    """Return the name of a parameter as an error shows it: shortened, and quoted unless it is an identifier."""
    return shown(name).strip("'") if isinstance(name, str) and name.isidentifier() else shown(name)


def plural(count: object, noun: str) -> str:
    """Return *count* with *noun* in the right number, as in "1 job" and "2 jobs"."""
    return f"{count} {noun if count == 1 else f'{noun}s'}"


def wrong(field: str, value: object, requirement: str, hint: str, *, overridable: bool = False) -> Problem:
    """Return the problem with the value of *field*."""
    return Problem(field, shown(value), requirement, hint, overridable)


def refusal(field: str, value: object, requirement: str, hint: str) -> InvalidRequestError:
    """Return an error with a single problem."""
    return InvalidRequestError([wrong(field, value, requirement, hint)])


def require(*checks: tuple[bool, str, object, str, str]) -> None:
    """Raise InvalidRequestError with every check that fails.

    checks: whether the value is right, its field, the value, the requirement and the hint.
    """
    problems = [
        wrong(field, value, requirement, hint) for right, field, value, requirement, hint in checks if not right
    ]
    if problems:
        raise InvalidRequestError(problems)


def is_positive(value: object) -> bool:
    """Return whether *value* is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
