"""How long a client waits for anything, in seconds."""

import attrs

from modelslab_async.protocol.problems import is_positive, require

READY_GRACE = 60.0
"""How long a link may still answer 403, 404 or 429 after success: about 40 s were seen."""


@attrs.frozen(kw_only=True)
class Timeouts:
    """Durations in seconds; None = never.

    connect: until there is a connection, with the wait for a free one, DNS and TLS. Past it nothing was sent.
    submit: for the reply to a submit. Past it the job is UNCERTAIN, so it is longer than gateways wait (about 100 s),
        and the service may render the video before it answers.
    fetch: for the reply to any other call.
    read: between two chunks of a file.
    link: after the service reported success, until one of its links reads; about 40 s were seen.
    job: from the acceptance of a job to its end. Past it the job is no longer watched; users wait 5 to 15 minutes.
    """

    connect: float | None = 10.0
    submit: float | None = 150.0
    fetch: float | None = 30.0
    read: float | None = 30.0
    link: float | None = READY_GRACE
    job: float | None = 1800.0

    def __attrs_post_init__(self) -> None:
        requirement, given = "seconds above 0, or None for never", attrs.asdict(self).items()
        require(*((v is None or is_positive(v), f"timeouts.{name}", v, requirement, "pass one") for name, v in given))
