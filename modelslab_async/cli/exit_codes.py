"""What the command says with its exit code; the numbers are those of the service's own command."""

from __future__ import annotations

from enum import IntEnum

from modelslab_async import errors


class Exit(IntEnum):
    """Why it ended."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    KEY = 3
    RATE = 4
    NOT_FOUND = 5
    PAYMENT = 6
    TIMEOUT = 7
    NETWORK = 10
    INTERRUPTED = 130


_CODES = {
    errors.InvalidRequestError: Exit.USAGE,
    errors.ClientStateError: Exit.USAGE,
    errors.BudgetExceededError: Exit.PAYMENT,
    errors.InsufficientCreditsError: Exit.PAYMENT,
    errors.AuthenticationError: Exit.KEY,
    errors.RateLimitError: Exit.RATE,
    errors.NotFoundError: Exit.NOT_FOUND,
    errors.JobTimeoutError: Exit.TIMEOUT,
    errors.JobDetachedError: Exit.INTERRUPTED,
    errors.TransportError: Exit.NETWORK,
    errors.ServerError: Exit.NETWORK,
    errors.MalformedReplyError: Exit.NETWORK,
}


def code_of(error: BaseException) -> Exit:
    """The exit code of an error; FAILED for those that have none of their own."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), Exit.FAILED)
