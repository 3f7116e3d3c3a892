"""The exit codes of the command. Their numbers are those of the service's own command."""

from __future__ import annotations

from enum import IntEnum

from modelslab_async import errors


class Exit(IntEnum):
    """The reasons for which the command ends."""

    DONE = 0
    FAILED = 1
    """Some jobs failed, or the disk did, or the user answered no."""
    USAGE = 2
    """The command line, the manifest or a setting is wrong. Nothing was sent."""
    KEY = 3
    """The API key is missing, or the service refused it."""
    RATE = 4
    """The service refused a call because of its rate limit."""
    NOT_FOUND = 5
    """The journal or the service knows no such job."""
    PAYMENT = 6
    """The wallet or the budget does not cover the job."""
    TIMEOUT = 7
    """The job did not end in time. It is paid for."""
    NETWORK = 10
    """The network failed, or the service is down."""
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
    """Return the exit code of an error; FAILED for all errors without a specific code."""
    return next((code for kind, code in _CODES.items() if isinstance(error, kind)), Exit.FAILED)
