"""Which failure may be repeated, and after how long.

The paid POST is repeated only where it surely was not taken. There is no idempotency key: repeating a submit whose
reply was lost pays twice.
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
"""Tries of a submit that surely was not taken, over about 15 seconds."""
CALL_ATTEMPTS = 4
"""Tries of a call that costs nothing."""
_PATIENCE = 60.0
"""Seconds: a service that asks for more is down, and no job holds a place until it is up."""
_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0


class Verdict(Enum):
    """What becomes of a submit that failed."""

    REPEAT = "surely not taken, and may pass: send it again"
    PUT_BACK = "surely not taken, for want of a place: back to the head of the queue"
    REFUSED = "surely not taken, and will not be"
    UNCERTAIN = "may have been taken: never send it again"


def after_submit(error: ModelsLabError) -> Verdict:
    """The table. A 503 counts as a refusal only in the service's own JSON: without it, it is a MalformedReplyError."""
    match error:
        case ServerError(http_status=503, retry_after=wish) if (wish or 0.0) > _PATIENCE:
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
    """Whether a call that costs nothing is worth repeating: the network, a gateway's page, 5xx, 429."""
    return isinstance(error, TransportError | RateLimitError | ServerError | MalformedReplyError)


Delays = Callable[[], Iterator[float]]
"""Makes the waits of one series of failures, in seconds."""


def delays(rng: random.Random, longest: float = _LONGEST_DELAY) -> Iterator[float]:
    """Seconds to wait after each failure in turn: doubling from half a second to half a minute, the upper half random.

    Only the wait generator of `backoff` is used: its decorators read the wall clock and sleep by themselves.
    """
    import backoff  # noqa: PLC0415 - where nothing fails, it is not needed

    generator = backoff.expo(base=2, factor=_FIRST_DELAY, max_value=longest)
    generator.send(None)
    while True:
        yield generator.send(None) * rng.uniform(0.5, 1.0)
