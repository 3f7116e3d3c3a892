"""Decide which failed call may be repeated, and after how long.

The paid POST is repeated only if the service certainly did not accept it. The service has no idempotency key, so a
repeated submit whose first reply was lost could pay twice.
"""

import random
from collections.abc import Callable, Iterator
from enum import Enum

from modelslab_async.errors import (
    APIError,
    ConnectError,
    MalformedReplyError,
    ModelsLabError,
    RateLimitError,
    ServerError,
    TransportError,
)

SUBMIT_ATTEMPTS = 6
"""Attempts of a submit that the service certainly did not accept, over about 15 seconds."""
CALL_ATTEMPTS = 4
"""Attempts of a call that costs nothing."""
MAX_RETRY_AFTER = 60.0
"""Seconds. If the service asks for a longer wait, it is down, and neither a slot nor a caller should wait so long."""
_FIRST_DELAY = 0.5
_MAX_DELAY = 30.0


class Verdict(Enum):
    """What to do with a submit that failed."""

    REPEAT = "not accepted, and may be accepted later: send it again"
    PUT_BACK = "not accepted, because no slot is free: return it to the head of the queue"
    REFUSED = "not accepted, and will not be: end the job"
    UNCERTAIN = "may have been accepted: never send it again"


def after_submit(error: ModelsLabError) -> Verdict:
    """Return what to do with a submit that failed with *error*.

    A 503 is a ServerError, and so a refusal, only if it has the service's own JSON. Otherwise it is a
    MalformedReplyError.
    """
    match error:
        case ServerError(http_status=503, retry_after=seconds) if (seconds or 0.0) > MAX_RETRY_AFTER:
            return Verdict.REFUSED
        case ConnectError() | ServerError(http_status=503):
            return Verdict.REPEAT
        case RateLimitError():
            return Verdict.PUT_BACK
        case ServerError() | MalformedReplyError() | APIError(http_status=408):
            return Verdict.UNCERTAIN
        case APIError():
            return Verdict.REFUSED
        case _:
            return Verdict.UNCERTAIN


def may_pass(error: ModelsLabError) -> bool:
    """Return whether a call that costs nothing may succeed if it is repeated.

    It may after an error of the network, a gateway's page, 5xx or 429.
    """
    return isinstance(error, TransportError | RateLimitError | ServerError | MalformedReplyError)


Delays = Callable[[], Iterator[float]]
"""Returns the waits of one series of failures, in seconds."""


def delays(rng: random.Random, longest: float = _MAX_DELAY) -> Iterator[float]:
    """Yield the seconds to wait after each failure in turn.

    Each wait is a random part, from half to all, of a time that doubles from half a second to *longest* seconds. Only
    the wait generator of `backoff` is used, because its decorators read the wall clock and sleep.
    """
    import backoff  # noqa: PLC0415 - needed only after a failure

    generator = backoff.expo(base=2, factor=_FIRST_DELAY, max_value=longest)
    generator.send(None)
    while True:
        yield generator.send(None) * rng.uniform(0.5, 1.0)
