"""Keep in the journal how long jobs took, so that the next process need not learn it again."""

import json
import logging
import math
from collections.abc import Sequence

from modelslab_async.errors import JournalError
from modelslab_async.journal.base import Duration, Journal
from modelslab_async.polling.estimator import DurationEstimator
from modelslab_async.polling.history import Observation
from modelslab_async.polling.workload import Kind
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS
from modelslab_async.protocol.secret import ApiKey

_MAX = 1e9
"""No time in seconds, and no work, is more."""
_log = logging.getLogger("modelslab_async")


async def remember(estimator: DurationEstimator, journal: Journal, service: str, key: ApiKey) -> None:
    """Let *estimator* know what earlier processes observed, and keep what it observes from now on.

    service: names the service that runs the jobs. key: is never written. An error of the journal is logged.
    """
    found = list[Duration]()
    try:
        for operation in OPERATIONS:
            found += await journal.durations(service, operation)
    except JournalError as error:
        _log.warning("how long earlier jobs took could not be read: %s", error)
    for kind, observation in _readable(found):
        estimator.remember(kind, observation)

    def keep(kind: Kind, observation: Observation) -> None:
        text = _encoded(kind)
        if text is not None and not key.is_in(text):
            operation = str(kind[0]) if kind else DEFAULT_OPERATION
            journal.note_duration(Duration(service, operation, text, *observation))

    estimator.on_observed = keep


def _readable(durations: Sequence[Duration]) -> list[tuple[Kind, Observation]]:
    """Return what can be used of a table, whatever is in it."""
    readable = list[tuple[Kind, Observation]]()
    for each in durations:
        observation = Observation(each.after, each.by, each.work, each.eta)
        kind = _decoded(each.kind)
        if kind is not None and _is_possible(observation):
            readable.append((kind, observation))
    return readable


def _is_possible(observation: Observation) -> bool:
    after, by, work, eta = observation
    if not all(isinstance(value, float | int) for value in (after, by, work, 1.0 if eta is None else eta)):
        return False
    has_end = after <= by and (by < _MAX or (math.isinf(by) and after > 0))
    return 0 <= after < _MAX and has_end and 0 < work < _MAX and (eta is None or 0 < eta <= _MAX)


def _encoded(kind: Kind) -> str | None:
    """Return a kind as JSON, or None if JSON would give another kind."""
    try:
        text = json.dumps(kind)
    except (TypeError, ValueError, RecursionError):
        return None
    return text if _decoded(text) == kind else None


def _decoded(text: object) -> Kind | None:
    try:
        values = json.loads(text) if isinstance(text, str) else None
        kind = tuple(values) if isinstance(values, list) else None
        hash(kind)
    except (TypeError, ValueError, RecursionError):
        return None
    return kind
