"""What the duration of a job depends on, as far as its request shows it."""

import math
import re
from typing import NamedTuple

from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS
from modelslab_async.protocol.request import Request

Kind = tuple[object, ...]
"""What two jobs must have in common so that one is forecast from the other."""
_MAX_PARAMETER = 1e6
_DIGITS = re.compile(r"[0-9]{1,6}")


class Workload(NamedTuple):
    """What the duration of a job depends on.

    kind: only jobs of the same kind are compared. work: how much the service has to compute; 1 for a typical request.
    """

    kind: Kind = ()
    work: float = 1.0


def work_of(request: Request) -> float:
    """Return how much the service has to compute, such as the pixels of all frames times the steps.

    It is 1 for a request with the typical values of its operation.
    """
    row = OPERATIONS.get(request.operation)
    typical = row.typical if row else {}
    factors = {name: _relative(getattr(request, name, None), usual) for name, usual in typical.items()}
    return math.prod(factor**2 if name == "resolution" else factor for name, factor in factors.items())


def workload_of(request: Request | None, operation: str = DEFAULT_OPERATION) -> Workload:
    """Return the workload of *request*. If the request is unknown (None), its kind is that of no known request."""
    if request is None:
        return Workload() if operation == DEFAULT_OPERATION else Workload((operation,))
    size: object = getattr(request, "resolution", None)
    kind = (request.operation, request.model_id, size if isinstance(size, str) else None)
    return Workload(kind, work_of(request))


def _relative(value: object, typical: float) -> float:
    """Return *value* as a multiple of the typical value. Return 1 if it is no number of a sensible size."""
    number = float(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else value
    return number / typical if isinstance(number, int | float) and 1 <= number < _MAX_PARAMETER else 1.0
