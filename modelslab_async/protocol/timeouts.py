"""How long a client waits, in seconds."""

import math

import attrs

from modelslab_async.protocol.problems import is_positive, require

READY_GRACE = 60.0
"""Seconds for which a link may still answer 403, 404 or 429 after success. Users saw about 40 s."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """How long a client waits, in seconds. None sets no limit.

    connect: until a connection is made, including the wait for a free connection, DNS and TLS. After this time nothing
        was sent.
    submit: for the reply to a submit, and for all uploads before it. If no reply comes, the job is UNCERTAIN, so the
        default is longer than gateways wait (about 100 s). The service may also render the video before it answers.
    fetch: for the reply to any other call.
    read: between two chunks of a file.
    link: from the service's report of success until one of the job's links can be read. Users saw about 40 s.
    job: from the acceptance of a job to its end. After this time the job is no longer polled. A job that is resumed
        gets the whole time again. Users wait 5 to 15 minutes.

    Raises InvalidRequestError for a duration that is not above 0.
    """

    connect: float | None = 10.0
    submit: float | None = 150.0
    fetch: float | None = 30.0
    read: float | None = 30.0
    link: float | None = READY_GRACE
    job: float | None = 1800.0

    @property
    def whole_job(self) -> float:
        """Return the seconds from a submit until the end of the job; infinite without a limit."""
        return sum(math.inf if each is None else each for each in (self.submit, self.job, self.link))

    def __attrs_post_init__(self) -> None:
        requirement, hint = "must be seconds above 0, or None", "pass a number of seconds, or None for no limit"
        given = attrs.asdict(self).items()
        require(*((v is None or is_positive(v), f"timeouts.{name}", v, requirement, hint) for name, v in given))
