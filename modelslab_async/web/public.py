"""Turn an error into a code and a sentence for visitors, without details that concern only the operator."""

from asyncio import CancelledError
from collections.abc import Mapping
from typing import Literal, NamedTuple

from modelslab_async import errors

PublicCode = Literal[
    "cancelled", "failed", "not_found", "refused", "taken", "timed_out", "unavailable", "uncertain", "unreadable"
]
"""The codes on which a page can act. An application may show its own sentence for each code."""


class PublicError(NamedTuple):
    """Why there is no video, for the public.

    code: one word for the page's script.
    message: a sentence in English for a visitor.
    """

    code: PublicCode
    message: str

    @property
    def status(self) -> int:
        """The HTTP status for an answer that has this error, such as 404 or 503."""
        return _STATUSES[self.code]


_STATUSES: Mapping[PublicCode, int] = {
    "cancelled": 410,
    "failed": 502,
    "not_found": 404,
    "refused": 422,
    "taken": 409,
    "timed_out": 504,
    "unavailable": 503,
    "uncertain": 409,
    "unreadable": 502,
}
_MESSAGES: Mapping[PublicCode, str] = {
    "cancelled": "This video was cancelled.",
    "failed": "The video could not be made. You can try again.",
    "not_found": "This video does not exist.",
    "refused": "This video cannot be made as requested. Change the picture or the text, and try again.",
    "taken": "Another video was requested under this name. Reload the page, and request yours again.",
    "timed_out": "The video takes too long. It may still be finished; come back later.",
    "unavailable": "No videos can be made right now. Try again later.",
    "uncertain": "It is not clear yet whether this video is being made. Ask us before you request it again.",
    "unreadable": "The video was made, but its file cannot be read. Come back later.",
}
CODES: Mapping[type[BaseException], PublicCode] = {
    CancelledError: "cancelled",
    errors.InvalidRequestError: "refused",
    errors.RefInUseError: "taken",
    errors.BadRequestError: "refused",
    errors.NotFoundError: "not_found",
    errors.JobError: "failed",
    errors.JobFailedError: "failed",
    errors.JobTimeoutError: "timed_out",
    errors.SubmitUncertainError: "uncertain",
    errors.InvalidVideoError: "unreadable",
    # What only the operator can change: the key, the wallet, the budget, the network, the service, the deploy.
    errors.JobDetachedError: "unavailable",
    errors.ModelsLabError: "unavailable",
    errors.ClientStateError: "unavailable",
    errors.BudgetExceededError: "unavailable",
    errors.JournalError: "unavailable",
    errors.TransportError: "unavailable",
    errors.ConnectError: "unavailable",
    errors.ReplyLostError: "unavailable",
    errors.APIError: "unavailable",
    errors.AuthenticationError: "unavailable",
    errors.InsufficientCreditsError: "unavailable",
    errors.RateLimitError: "unavailable",
    errors.ServerError: "unavailable",
    errors.MalformedReplyError: "unavailable",
}
"""The code of each error. A test checks that no error of the package is missing."""


def public_error(error: BaseException) -> PublicError:
    """Return what a visitor may read of an error: a code and a sentence.

    Both depend on the error's class only. So they hold no key, wallet, host, ref or URL, and no text of the service;
    all these belong in the log. The code is "unavailable" for an error from outside this package, such as an OSError.
    """
    codes: list[PublicCode] = [CODES[kind] for kind in type(error).__mro__ if kind in CODES] or ["unavailable"]
    return PublicError(codes[0], _MESSAGES[codes[0]])
