"""Every error of this package. Each says whether money may have been spent.

ModelsLabError                         .charged .price .ref .job_id
├─ InvalidRequestError (ValueError)    .problems
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
   ├─ SubmitUncertainError             it may be charged
   ├─ JobFailedError
   ├─ JobTimeoutError (TimeoutError)
   ├─ JobDetachedError
   └─ InvalidVideoError
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple, Self

_MONEY = {False: "not charged", True: "charged", None: "may have been charged"}


class ModelsLabError(Exception):
    """The base of every error here.

    `charged` is False, True, or None where nobody on this side can know; `price` is what it then costs, USD, or None
    where that is not known.
    `ref` is the job's reference chosen by us (sent as track_id), `job_id` the service's id; None where there is none.
    """

    charged: bool | None = False
    price: Decimal | None = None
    ref: str | None = None
    job_id: str | None = None

    def about(self, *, ref: str | None, job_id: str | None, charged: bool | None, price: Decimal | None = None) -> Self:
        """Say which job this error is about and what is known of its charge; returns the error itself."""
        self.ref, self.job_id, self.charged, self.price = ref, job_id, charged, price
        return self

    def __str__(self) -> str:
        names = [f"{name}={value}" for name, value in (("ref", self.ref), ("id", self.job_id)) if value]
        price = f" ${self.price}" if self.price is not None and self.charged is not False else ""
        return f"{super().__str__()} [{', '.join([_MONEY[self.charged] + price, *names])}]"


class Problem(NamedTuple):
    """One thing that is wrong with what was asked.

    `value` is shown as text, shortened. `overridable` is True for a value that the service may accept
    although its documentation says otherwise; `Client(limits=...)` decides about those. All others are always refused.
    """

    field: str
    value: str
    requirement: str
    hint: str
    overridable: bool = False

    def __str__(self) -> str:
        return f"{self.field}={self.value}: {self.requirement}; {self.hint}"


class InvalidRequestError(ModelsLabError, ValueError):
    """Refused before any network: `problems` names every field, its value, the rule and the way out."""

    def __init__(self, problems: Sequence[Problem] = ()) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...], dict[str, object]]:
        return type(self), (self.problems,), self.__dict__


class ClientStateError(ModelsLabError, RuntimeError):
    """The client is closed, or is used from another event loop than the one it works in."""


class BudgetExceededError(ModelsLabError):
    """A submit would cost more than its `Budget` allows. `needed` and `remaining` are in the unit the message names."""

    def __init__(self, message: str = "", *, needed: Decimal = Decimal(0), remaining: Decimal = Decimal(0)) -> None:
        super().__init__(message)
        self.needed, self.remaining = needed, remaining


class JournalError(ModelsLabError):
    """The journal cannot be opened, read or written. A job that it could not record is not sent."""


class TransportError(ModelsLabError):
    """The network failed."""


class ConnectError(TransportError):
    """The connection was never made (refused, DNS, TLS, connect timeout): nothing was sent."""


class ReplyLostError(TransportError):
    """The request was sent, wholly or in part, and no whole reply came back."""

    charged = None


class APIError(ModelsLabError):
    """The service answered, and its answer is not what was asked for.

    `http_status` is the HTTP code (often 200: the service tells errors in the body) or None where no request was made,
    `message` the service's own words, `retry_after` the seconds after which it wants to be asked again, or None.
    """

    def __init__(self, message: str = "", *, http_status: int | None = None, retry_after: float | None = None) -> None:
        code = "" if http_status is None else f" (HTTP {http_status})"
        super().__init__(f"{message}{code}")
        self.message, self.http_status, self.retry_after = message, http_status, retry_after


class BadRequestError(APIError):
    """The service refused the request as it stands."""


class AuthenticationError(APIError):
    """The key is missing (then nothing was sent) or the service refused it."""


class InsufficientCreditsError(APIError):
    """The account cannot pay for the call."""


class NotFoundError(APIError):
    """The service knows no such job for this key."""


class RateLimitError(APIError):
    """The account's places are taken, or calls come too fast."""


class ServerError(APIError):
    """The service says that it is broken (500) or down (503)."""


class MalformedReplyError(APIError):
    """Something answered that does not speak the service's protocol: a gateway's page, cut or foreign JSON."""

    charged = None


class JobError(ModelsLabError):
    """A job ended without a video."""


class SubmitUncertainError(JobError):
    """The reply to the paid submit was lost or unreadable. It is not sent again: that could pay twice."""

    charged = None


class JobFailedError(JobError):
    """The service accepted the job and then failed it. Whether it charges for that is not documented."""

    charged = None


class JobTimeoutError(JobError, TimeoutError):
    """The job outlived `Timeouts.job` and is no longer watched. `Client.attach(job_id)` watches it on."""

    charged = True


class JobDetachedError(JobError):
    """The client was closed while the job ran at the service. `Client.attach(job_id)` watches it on."""

    charged = True


class InvalidVideoError(JobError):
    """The service reports success, but none of the links gives a whole mp4."""

    charged = True
