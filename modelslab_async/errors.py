"""Every error of this package. Each error says whether money may have been spent.

ModelsLabError                         .charged .price .ref .job_id
├─ InvalidRequestError (ValueError)    .problems
│  └─ RefInUseError                     the ref belongs to another request
├─ ClientStateError (RuntimeError)
├─ BudgetExceededError                 .needed .remaining
├─ JournalError
├─ TransportError
│  ├─ ConnectError                     nothing was sent
│  └─ ReplyLostError                   sent, outcome unknown
├─ APIError                            .http_status .message .retry_after
│  ├─ BadRequestError
│  ├─ AuthenticationError
│  ├─ InsufficientCreditsError
│  ├─ NotFoundError
│  ├─ RateLimitError
│  ├─ ServerError
│  └─ MalformedReplyError
└─ JobError
   ├─ SubmitUncertainError             the job may be charged
   ├─ JobFailedError
   ├─ JobTimeoutError (TimeoutError)
   ├─ JobDetachedError
   └─ InvalidVideoError
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple, Self

_CHARGE = {False: "not charged", True: "charged", None: "may have been charged"}


def usd(amount: Decimal | None) -> str:
    """Return an amount in USD as text: "$0.20". It has more than two decimals only if the amount has.

    None, for a price that is not known, gives "an unknown price".
    """
    if amount is None:
        return "an unknown price"
    return f"${amount:.2f}" if amount == round(amount, 2) else f"${amount}"


class ModelsLabError(Exception):
    """Base class of all errors of this package.

    charged: whether the job was charged: False, True, or None if the client cannot know.
    price: USD that the job costs if it is charged; None if that is unknown.
    ref: the job's reference, chosen by the client and sent as track_id; None if the error concerns no job.
    job_id: the service's id of the job; None if the service has named none.

    The text ends in the job's ref and id, if the error concerns a job. If a request of that job was made or tried, the
    text also shows the charge.
    """

    charged: bool | None = False
    price: Decimal | None = None
    ref: str | None = None
    job_id: str | None = None

    def about(self, *, ref: str | None, job_id: str | None, charged: bool | None, price: Decimal | None = None) -> Self:
        """Set the job that this error concerns, and what is known of its charge. Return the error itself."""
        self.ref, self.job_id, self.charged, self.price = ref, job_id, charged, price
        return self

    def __str__(self) -> str:
        names = [f"{name}={value}" for name, value in (("ref", self.ref), ("id", self.job_id)) if value]
        if not names:
            return super().__str__()
        is_about_request = self.charged is not False or isinstance(self, TransportError | APIError)
        price = f" {usd(self.price)}" if self.price is not None and self.charged is not False else ""
        charge = [_CHARGE[self.charged] + price] if is_about_request else []
        return f"{super().__str__()} [{', '.join([*charge, *names])}]"


class Problem(NamedTuple):
    """One reason why a request or an argument is refused. Its text is `FIELD=VALUE: REQUIREMENT (hint: HINT)`.

    field: the name of the parameter or argument.
    value: its value as text, shortened; "" if the value would add nothing to the text.
    requirement: what the field must be, or what is wrong with it, such as "must be at least 1".
    hint: how to fix it, as an imperative, such as "pass 1 or more".
    overridable: True if the value only goes beyond the service's documentation, so that the service may accept it.
        `Client(limits=...)` decides about such a problem. All others are always refused.
    """

    field: str
    value: str
    requirement: str
    hint: str
    overridable: bool = False

    def __str__(self) -> str:
        subject = f"{self.field}={self.value}" if self.value else self.field
        return f"{subject}: {self.requirement} (hint: {self.hint})"


class InvalidRequestError(ModelsLabError, ValueError):
    """The client refused a request or an argument before it sent anything.

    problems: every reason, each with its field, value, requirement and hint.
    """

    def __init__(self, problems: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...], dict[str, object]]:
        return type(self), (self.problems,), self.__dict__


class RefInUseError(InvalidRequestError):
    """The ref belongs to a job with another request. The problems name the parameters that differ."""


class ClientStateError(ModelsLabError, RuntimeError):
    """The client is closed, or it is used from another event loop than its own."""


class BudgetExceededError(ModelsLabError):
    """A job would cost more than the `Budget` still allows, or the wallet holds less than the budget allows.

    needed: the amount that was needed. remaining: the amount that was left. Both are in the unit that the text names.
    """

    def __init__(self, message: str = "", *, needed: Decimal = Decimal(0), remaining: Decimal = Decimal(0)) -> None:
        super().__init__(message)
        self.needed, self.remaining = needed, remaining


class JournalError(ModelsLabError):
    """The journal cannot be opened, read or written. A job that the journal could not record is not sent."""


class TransportError(ModelsLabError):
    """The network failed."""


class ConnectError(TransportError):
    """No connection was made (refused, DNS, TLS, connect timeout), so nothing was sent."""


class ReplyLostError(TransportError):
    """The request was sent, wholly or in part, and no complete reply came back."""

    charged = None


class APIError(ModelsLabError):
    """The service answered with an error, or with a reply that cannot be used.

    http_status: the HTTP status, often 200, because the service reports errors in the body; None if no request was
        made.
    message: the service's own words.
    retry_after: the seconds after which the service asks to be called again; None if it names no time.
    """

    def __init__(self, message: str = "", *, http_status: int | None = None, retry_after: float | None = None) -> None:
        code = "" if http_status is None else f" (HTTP {http_status})"
        super().__init__(f"{message}{code}")
        self.message, self.http_status, self.retry_after = message, http_status, retry_after


class BadRequestError(APIError):
    """The service refused the request. The same request would be refused again."""


class AuthenticationError(APIError):
    """The service refused the API key, or no key was given and nothing was sent."""


class InsufficientCreditsError(APIError):
    """The account cannot pay for the call."""


class NotFoundError(APIError):
    """The service knows no such job for this API key."""


class RateLimitError(APIError):
    """All slots of the account are used, or calls are too frequent."""


class ServerError(APIError):
    """The service reports that it is broken (500) or down (503)."""


class MalformedReplyError(APIError):
    """The reply is not in the service's protocol: a gateway's page, JSON that was cut, or foreign JSON."""

    charged = None


class JobError(ModelsLabError):
    """A job ended without a video."""


class SubmitUncertainError(JobError):
    """The reply to the paid submit was lost or unreadable. The job is not sent again, which could pay twice."""

    charged = None


class JobFailedError(JobError):
    """The service accepted the job, and then failed it. Whether a failed job is charged is not documented."""

    charged = None


class JobTimeoutError(JobError, TimeoutError):
    """The job took longer than `Timeouts.job` and is no longer polled. `Client.attach(job_id)` polls it again."""

    charged = True


class JobDetachedError(JobError):
    """The client was closed before the job ended.

    `Client.attach(job_id)` resumes a job that was sent. `Client.resubmit` sends a job that was not sent, if the journal
    has it.
    """

    charged = True


class InvalidVideoError(JobError):
    """The service reports success, but none of the job's links gives a complete video."""

    charged = True
