"""Decide how to wait for a job, in generators without I/O.

`poll_until_done` waits until the service reports the end of the job. `poll_until_readable` then waits until the file
can be read. Each yields `Wait`, `Fetch` or `Probe`, and is sent an `ActionResult`. The engine drives them on asyncio,
the simulator in `benchmarks/` on its own clock, and tests by hand.
"""

import math
from collections import deque
from collections.abc import Generator, Iterator
from typing import Literal, NamedTuple

from modelslab_async.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    InvalidVideoError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    TransportError,
)
from modelslab_async.polling.schedule import RateLimiter, Schedule
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.decoding import brief
from modelslab_async.protocol.operations import Container
from modelslab_async.protocol.reply import Malformed, Refused
from modelslab_async.protocol.timeouts import READY_GRACE

WaitStrategy = Literal["auto", "poll", "links"]
UNKNOWN_ID_GRACE = 60.0
"""Seconds after the job's acceptance in which "Request not found" is ignored."""
FAILURE_GRACE = 120.0
"""Seconds after the job's acceptance in which "Try Again" under status failed, and a refusal without a status, are
ignored.
"""
ERRORS_IN_A_ROW = 2
"""Polls with status error that end the job, if the error cannot pass. Failed polls between them do not count."""
LAST_POLL = 5.0
"""Seconds before the deadline at which a last poll is sent, so that there is time for its reply."""
_MIN_GAP_TO_LAST_POLL = 1.0
"""Seconds that must be left before the last poll. If fewer are left, there is no poll before the deadline."""
_POLLS_PER_FETCH = 4
"""While links are probed, every fourth poll is a fetch, which would show a failure."""
_FIRST_PROBE_GAP = 4.0
_MAX_DOUBLINGS = 4
_MAX_LINK_CHARACTERS = 200
"""Characters of a link in an error. A signed link may have thousands."""
DELAYS_AFTER_WAKE = (0.5, 1.0, 2.0, 4.0)
"""Seconds between the polls after a webhook woke the job, while the service still reports it as running. A delivery may
come before the service answers a fetch with success.
"""
TICK = 0.05
"""Seconds. Polls are aligned to multiples of this time, so that the process wakes once for many polls."""
_MIN_ALIGNED_WAIT = 1.0
"""Seconds. A shorter wait is not aligned to a tick."""


class Wait(NamedTuple):
    """Wait for `seconds`. If `wakeable`, a webhook may end the wait early."""

    seconds: float
    wakeable: bool = True


class Fetch(NamedTuple):
    """Fetch the job's state from the service, within `timeout` seconds."""

    timeout: float


class Probe(NamedTuple):
    """Read the first bytes of a link, within `timeout` seconds."""

    url: str
    timeout: float


class Readable(NamedTuple):
    """The link returns the video, which is a file of this kind."""

    url: str
    container: Container = "mp4"


class Unreadable(NamedTuple):
    """The link cannot be read yet."""

    reason: str


class ActionResult(NamedTuple):
    """The result of an action.

    at: when the action ended, on the driver's clock, seconds.
    value: the reply to a fetch or the result of a probe; None after a wait.
    woken: whether a webhook ended the wait early.
    """

    at: float
    value: wire.FetchReply | TransportError | Readable | Unreadable | None = None
    woken: bool = False


Action = Wait | Fetch | Probe
PollOutcome = wire.Ready | lifecycle.Failed | lifecycle.Abandoned


class PollPolicy(NamedTuple):
    """How to wait for a job. All times are in seconds.

    strategy: "links" probes the announced links near the expected end, and fetches now and then. "poll" and "auto" only
        fetch; they differ after success, when "auto" probes until the file can be read.
    timeout: the time after which polling ends; None for no limit.
    fetch_timeout: the limit of each fetch and probe; None for no limit.
    link_grace: the time for which a success without a link counts as not ready; None for no limit.
    at_once: whether the first poll is sent without a wait, because the job may have ended long ago.
    unknown_id_grace: the age up to which an id that the service does not know counts as not ready.
    """

    strategy: WaitStrategy = "auto"
    timeout: float | None = None
    fetch_timeout: float | None = None
    link_grace: float | None = READY_GRACE
    at_once: bool = False
    unknown_id_grace: float = UNKNOWN_ID_GRACE


def poll_until_done(
    policy: PollPolicy,
    schedule: Schedule,
    rate_limiter: RateLimiter,
    backoff: retry.Delays,
    *,
    now: float,
    age: float = 0.0,
    links: tuple[str, ...] = (),
) -> Generator[Action, ActionResult, PollOutcome]:
    """Poll until the service says that the job ended. Return how it ended.

    now: the time on the driver's clock, seconds. age: the seconds since the service accepted the job.
    links: the URLs at which the service announced the file.

    A poll that is due waits until the rate limiter allows it. A poll after a webhook is sent at once. If it finds the
    job still running, up to four more follow soon, see `DELAYS_AFTER_WAKE`. Failed polls are tolerated while the
    failure may pass, and each waits longer than the one before.
    """
    started, deadline = now - age, math.inf if policy.timeout is None else now + policy.timeout
    polls = _Polls(policy, schedule, links if policy.strategy == "links" else ())
    replies = _Replies(math.inf if policy.link_grace is None else policy.link_grace, policy.unknown_id_grace)
    failure_delays: Iterator[float] | None = None
    failure_delay = 0.0
    delays_after_wake = deque[float]()
    while True:
        gap = 0.0 if policy.at_once and not polls.count else schedule.gap(now - started)
        delay_after_wake = delays_after_wake.popleft() if delays_after_wake else math.inf
        gap = max(min(gap, replies.grace_left(now), delay_after_wake), failure_delay)
        result = yield Wait(_until_poll(gap, deadline - now, now, is_first=not polls.count))
        allowed_at = rate_limiter.reserve(result.at)
        if allowed_at > result.at and not result.woken:
            result = yield Wait(min(allowed_at, deadline) - result.at)
        now = result.at
        if now >= deadline:
            words = f"not ready after {now - started:.0f} s; the service may still finish the job{replies.failure}"
            return replies.without_link or lifecycle.Abandoned(JobTimeoutError(words))
        if result.woken and not delays_after_wake:  # so repeated deliveries cost hardly more than one poll each
            delays_after_wake.extend(DELAYS_AFTER_WAKE)
        may_probe = not result.woken and math.isinf(delay_after_wake)
        result = yield polls.next(now, now - started, deadline - now, may_probe=may_probe)
        now = result.at
        if isinstance(result.value, Readable):
            return wire.Ready(links=(result.value.url,))
        if isinstance(result.value, Unreadable):
            polls.missed(now)
            continue
        assert result.value is not None  # noqa: S101 - only a wait has no value
        outcome = replies.judge(result.value, now, now - started)
        if isinstance(outcome, PollOutcome):
            return outcome
        if replies.without_link and not replies.grace_left(now):
            return (yield from _probe_each_once(links, replies.without_link, now, deadline, policy.fetch_timeout))
        if outcome is None:
            failure_delays, failure_delay = None, 0.0
        else:
            failure_delays = failure_delays or backoff()
            failure_delay = max(next(failure_delays), outcome)


def _until_poll(gap: float, left: float, now: float, *, is_first: bool) -> float:
    """Return the seconds to wait before the next poll: *gap*, rounded up to a tick, and at most *left*.

    A last poll is sent before the deadline, which is in *left* seconds, so that there is time for its reply. However
    short the time is, there is one poll.
    """
    until_last = left - LAST_POLL
    if until_last < _MIN_GAP_TO_LAST_POLL:
        until_last = left / 2 if is_first else left
    wait = min(gap, until_last)
    if wait >= _MIN_ALIGNED_WAIT:
        wait = math.ceil((now + wait) / TICK) * TICK - now
    return min(wait, left)


class _Polls:
    """Choose between a fetch and a probe for each poll.

    If there are links, they are probed near the expected end of the job. After a probe that finds no file, only fetches
    follow for a time that doubles with each miss, because a CDN may cache a 404.
    """

    def __init__(self, policy: PollPolicy, schedule: Schedule, links: tuple[str, ...]) -> None:
        self.policy, self.schedule, self.links = policy, schedule, links
        self.count = self._misses = 0
        self._probe_at = -math.inf

    def next(self, now: float, elapsed: float, left: float, *, may_probe: bool) -> Action:
        """Return the next poll, of a job that was accepted *elapsed* seconds ago, within *left* seconds."""
        self.count += 1
        timeout = min(left, math.inf if self.policy.fetch_timeout is None else self.policy.fetch_timeout)
        may_probe = may_probe and bool(self.count % _POLLS_PER_FETCH) and now >= self._probe_at
        if self.links and may_probe and self.schedule.is_near_end(elapsed):
            return Probe(self.links[self._misses % len(self.links)], timeout)
        return Fetch(timeout)

    def missed(self, now: float) -> None:
        """Note that a probe found no file."""
        self._probe_at = now + _FIRST_PROBE_GAP * 2 ** min(self._misses, _MAX_DOUBLINGS)
        self._misses += 1


class _Replies:
    """Judge each reply of the service, together with the replies before it."""

    def __init__(self, link_grace: float, unknown_id_grace: float) -> None:
        self.failure = ""
        """Why the latest poll failed, for an error; empty if it did not fail."""
        self.without_link: lifecycle.Abandoned | None = None
        """How the job ends if the service keeps reporting success without a link; None if it does not report that."""
        self._link_grace, self._unknown_id_grace = link_grace, unknown_id_grace
        self._success_at = math.inf
        self._errors = 0

    def grace_left(self, now: float) -> float:
        """Return the seconds until a success without a link ends the job; infinite if the service reports none."""
        return max(self._success_at + self._link_grace - now, 0.0)

    def judge(self, reply: wire.FetchReply | TransportError, now: float, elapsed: float) -> PollOutcome | float | None:
        """Return how the job ended; None if it has not ended; or the least seconds to wait, if the poll failed."""
        self.failure = f". The last poll failed: {_words(reply)}"
        match reply:
            case wire.Ready():
                return reply
            case wire.NotReady(under_failed=True) if elapsed > FAILURE_GRACE:
                return lifecycle.Failed(JobFailedError('the service keeps saying "failed" and "Try Again"'))
            case wire.NotReady(success_without_link=output):
                self._not_ready(output, now)
                return None
            case wire.Failed(message=message):
                return lifecycle.Failed(JobFailedError(f"the service failed the job: {message}"))
            case wire.UnknownId(message=message):
                return lifecycle.Abandoned(NotFoundError(message)) if elapsed >= self._unknown_id_grace else 0.0
            case Refused():
                return self._refused(reply, elapsed)
            case Malformed() | TransportError():
                return 0.0

    def _not_ready(self, output: str | None, now: float) -> None:
        self.failure, self._errors = "", 0
        if output is None:
            self.without_link, self._success_at = None, math.inf
            return
        words = f"the service reports success, but its output holds no link: output={output}"
        hint = "(hint: use Client.attach to poll the job again)"
        self.without_link = lifecycle.Abandoned(InvalidVideoError(f"{words} {hint}"))
        self._success_at = min(self._success_at, now)

    def _refused(self, refusal: Refused, elapsed: float) -> lifecycle.Failed | lifecycle.Abandoned | float:
        match error := wire.error_of(refusal):
            case AuthenticationError() | InsufficientCreditsError():
                return lifecycle.Abandoned(error)
            case NotFoundError() if elapsed >= self._unknown_id_grace:
                return lifecycle.Abandoned(error)
            case NotFoundError():
                pass
            case _ if retry.may_pass(error):
                pass
            case _ if refusal.is_reported:
                self._errors += 1
                if self._errors == ERRORS_IN_A_ROW:
                    words = f"the service keeps reporting an error: {refusal.message}"
                    return lifecycle.Failed(JobFailedError(words))
            case _ if elapsed > FAILURE_GRACE:
                return lifecycle.Abandoned(error)
            case _:
                pass
        return refusal.retry_after or 0.0


def _words(reply: wire.FetchReply | TransportError) -> str:
    match reply:
        case wire.UnknownId(message=words) | Refused(message=words) | Malformed(reason=words):
            return words
        case TransportError():
            return str(reply.args[0])
        case _:
            return type(reply).__name__


def _probe_each_once(
    links: tuple[str, ...], end: lifecycle.Abandoned, now: float, deadline: float, timeout: float | None
) -> Generator[Action, ActionResult, PollOutcome]:
    """Probe each announced link once, because the video is paid for. Return *end* if none of them can be read."""
    for link in links:
        if now >= deadline:
            break
        result = yield Probe(link, min(deadline - now, math.inf if timeout is None else timeout))
        now = result.at
        if isinstance(result.value, Readable):
            return wire.Ready(links=(link,))
    return end


def poll_until_readable(
    links: tuple[str, ...],
    backoff: retry.Delays,
    *,
    now: float,
    probe_timeout: float | None,
    grace: float | None = READY_GRACE,
) -> Generator[Action, ActionResult, Readable | Unreadable]:
    """Probe the links in turn until one can be read. Return it, or why none can be read. Without links, end at once.

    now: the time on the driver's clock, seconds. probe_timeout: the limit of each probe, seconds; None for no limit.
    grace: the seconds after which to give up; None for no limit.

    A link may answer 403, 404 or 429 for a while after success. The gaps between rounds grow, because a CDN may cache a
    404.
    """
    if not links:
        return Unreadable("the service named no link")
    deadline = math.inf if grace is None else now + grace
    timeout = math.inf if probe_timeout is None else probe_timeout
    delays = backoff()
    while True:
        reasons = []
        for link in links:
            result = yield Probe(link, min(timeout, max(deadline - now, 1.0)))
            now = result.at
            if isinstance(result.value, Readable):
                return result.value
            assert isinstance(result.value, Unreadable)  # noqa: S101 - a probe has no other result
            reasons.append(f"{brief(link, _MAX_LINK_CHARACTERS)}: {result.value.reason}")
        if now >= deadline:
            return Unreadable(brief("; ".join(reasons)))
        now = (yield Wait(min(next(delays), deadline - now), wakeable=False)).at
