"""Decide how to wait for a job, in generators that perform nothing.

`poll_until_done` waits until the service reports the end, `poll_until_readable` until the file can be read after it.
Each yields `Wait`, `Fetch` or `Probe`, and is sent a `Seen` with the time and the result. The engine drives them on
asyncio, the simulator in `benchmarks/` on a clock of its own, and tests by hand.
"""

import math
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
from modelslab_async.protocol.reply import Malformed, Refused
from modelslab_async.protocol.timeouts import READY_GRACE

WaitStrategy = Literal["auto", "poll", "links"]
UNKNOWN_ID_GRACE = 60.0
"""Seconds after the start in which "Request not found" is not believed."""
DOUBT_GRACE = 120.0
"""Seconds after the start in which "Try Again" under status failed is not believed, nor a refusal without a status."""
ERRORS_IN_A_ROW = 2
"""Polls with status error that end the job, unless the error may pass. Failed polls between them do not count."""
LAST_POLL = 5.0
"""Seconds before the deadline: a last look, with time for its answer."""
_LEAST_BEFORE_LAST = 1.0
"""Seconds between it and the look before, or it is left out."""
_PROBES_PER_FETCH = 4
"""A wait for links still looks for a failure once in so many looks."""
_FIRST_PROBE_GAP = 4.0
_MOST_DOUBLINGS = 4
_MAX_LINK_CHARACTERS = 200
"""Of a link in an error. A signed one may have thousands."""
TICK = 0.05
"""Seconds. Jobs are looked at when the clock ticks, so that one waking of the process is enough for many looks."""
_LEAST_TICKED = 1.0
"""Seconds: a shorter wait is as long as it is meant to be."""


class Wait(NamedTuple):
    """Let so many seconds pass; a wake-up may end it early, unless it would tell no news."""

    seconds: float
    wakeable: bool = True


class Fetch(NamedTuple):
    """Ask the service, for at most so many seconds."""

    timeout: float


class Probe(NamedTuple):
    """Read the first bytes of a link, for at most so many seconds."""

    url: str
    timeout: float


class Readable(NamedTuple):
    """The link reads as an mp4."""

    url: str


class Unreadable(NamedTuple):
    """The link does not, yet."""

    reason: str


class Seen(NamedTuple):
    """What was seen, at which time of the driver's clock. None after a wait, which a wake-up may have ended."""

    at: float
    what: wire.FetchReply | TransportError | Readable | Unreadable | None = None
    woken: bool = False


Action = Wait | Fetch | Probe
PollOutcome = wire.Ready | lifecycle.Failed | lifecycle.Abandoned


class PollPolicy(NamedTuple):
    """How to wait. `timeout` for the whole watch, or None for never; all times in seconds.

    `link_grace` is how long a success without a link is taken as "not yet", or None for ever.
    `at_once` for a job that may have ended long ago: its first look waits for nothing.
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
) -> Generator[Action, Seen, PollOutcome]:
    """Look until the service says that the job ended. `links` are where it announced the file; the job was accepted
    `age` seconds ago.

    A look that is due waits for its turn in the client's pace; a wake-up's goes at once. Looks that fail are tolerated
    while they may pass: each waits longer than the one before.
    """
    started, deadline = now - age, math.inf if policy.timeout is None else now + policy.timeout
    looks = _Looks(policy, schedule, links if policy.strategy == "links" else ())
    answers = _Answers(math.inf if policy.link_grace is None else policy.link_grace, policy.unknown_id_grace)
    troubles: Iterator[float] | None = None
    pause = 0.0
    while True:
        gap = 0.0 if policy.at_once and not looks.count else schedule.gap(now - started)
        gap = max(min(gap, answers.grace_left(now)), pause)
        seen = yield Wait(_until_look(gap, deadline - now, now))
        turn = rate_limiter.reserve(seen.at)
        if turn > seen.at and not seen.woken:
            seen = yield Wait(min(turn, deadline) - seen.at)
        now = seen.at
        if now >= deadline:
            words = f"not ready after {now - started:.0f} s; the service may still finish it{answers.trouble}"
            return answers.without_link or lifecycle.Abandoned(JobTimeoutError(words))
        seen = yield looks.next(now, now - started, deadline - now, woken=seen.woken)
        now = seen.at
        if isinstance(seen.what, Readable):
            return wire.Ready(links=(seen.what.url,))
        if seen.what is None or isinstance(seen.what, Unreadable):
            looks.missed(now)
            continue
        outcome = answers.judge(seen.what, now, now - started)
        if isinstance(outcome, PollOutcome):
            return outcome
        if answers.without_link and not answers.grace_left(now):
            return (yield from _last_resort(links, answers.without_link, now, deadline, policy.fetch_timeout))
        if outcome is None:
            troubles, pause = None, 0.0
        else:
            troubles = troubles or backoff()
            pause = max(next(troubles), outcome)


def _until_look(gap: float, left: float, now: float) -> float:
    """Seconds to wait: the gap, and on to a tick; a last look comes in time for its answer, none after the deadline."""
    last = left - LAST_POLL
    wait = min(gap, last if last >= _LEAST_BEFORE_LAST else left)
    if wait >= _LEAST_TICKED:
        wait = math.ceil((now + wait) / TICK) * TICK - now
    return min(wait, left)


class _Looks:
    """What to look at. A wait for links probes them near the expected end; after a miss it fetches for a while,
    longer each time, because a CDN may cache a 404.
    """

    def __init__(self, policy: PollPolicy, schedule: Schedule, links: tuple[str, ...]) -> None:
        self.policy, self.schedule, self.links = policy, schedule, links
        self.count = self._misses = 0
        self._probe_at = -math.inf

    def next(self, now: float, elapsed: float, left: float, *, woken: bool) -> Action:
        """The next look, for at most so many seconds."""
        self.count += 1
        timeout = min(left, math.inf if self.policy.fetch_timeout is None else self.policy.fetch_timeout)
        may_probe = self.links and not woken and self.count % _PROBES_PER_FETCH and now >= self._probe_at
        if may_probe and self.schedule.is_near_end(elapsed):
            return Probe(self.links[self._misses % len(self.links)], timeout)
        return Fetch(timeout)

    def missed(self, now: float) -> None:
        """A probe found no file."""
        self._probe_at = now + _FIRST_PROBE_GAP * 2 ** min(self._misses, _MOST_DOUBLINGS)
        self._misses += 1


class _Answers:
    """Judge each answer of the service in the light of the answers before it."""

    def __init__(self, link_grace: float, unknown_id_grace: float) -> None:
        self._unknown_id_grace = unknown_id_grace
        self.trouble = ""
        """Why the latest poll failed, for an error; empty if it did not fail."""
        self.without_link: lifecycle.Abandoned | None = None
        """How the job ends if the service goes on to report success without a link."""
        self._link_grace = link_grace
        self._success_at = math.inf
        self._errors = 0

    def grace_left(self, now: float) -> float:
        """Return the seconds until a success without a link ends the job; infinite if the service reports none."""
        return max(self._success_at + self._link_grace - now, 0.0)

    def judge(self, answer: wire.FetchReply | TransportError, now: float, elapsed: float) -> PollOutcome | float | None:
        """Return how the job ends, or None if the answer is "not yet", or the seconds to wait after a bad answer."""
        self.trouble = f". The last poll failed: {_words(answer)}"
        match answer:
            case wire.Ready():
                return answer
            case wire.NotReady(under_failed=True) if elapsed > DOUBT_GRACE:
                return lifecycle.Failed(JobFailedError('the service keeps saying "failed" and "Try Again"'))
            case wire.NotReady(success_without_link=output):
                self._not_ready(output, now)
                return None
            case wire.Failed(message=message):
                return lifecycle.Failed(JobFailedError(f"the service failed the job: {message}"))
            case wire.UnknownId(message=message):
                return lifecycle.Abandoned(NotFoundError(message)) if elapsed >= self._unknown_id_grace else 0.0
            case Refused():
                return self._refused(answer, elapsed)
            case Malformed() | TransportError():
                return 0.0

    def _not_ready(self, output: str | None, now: float) -> None:
        self.trouble, self._errors = "", 0
        if output is None:
            self.without_link, self._success_at = None, math.inf
            return
        words = f"the service reports success, but its output holds no link: output={output}"
        self.without_link = lifecycle.Abandoned(InvalidVideoError(f"{words} (hint: Client.attach polls the job again)"))
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
            case _ if elapsed > DOUBT_GRACE:
                return lifecycle.Abandoned(error)
            case _:
                pass
        return refusal.retry_after or 0.0


def _words(answer: wire.FetchReply | TransportError) -> str:
    match answer:
        case wire.UnknownId(message=words) | Refused(message=words) | Malformed(reason=words):
            return words
        case TransportError():
            return str(answer.args[0])
        case _:
            return type(answer).__name__


def _last_resort(
    links: tuple[str, ...], end: lifecycle.Abandoned, now: float, deadline: float, timeout: float | None
) -> Generator[Action, Seen, PollOutcome]:
    """Probe the announced links once, because the video is paid for. Return the end if none of them reads."""
    for link in links:
        if now >= deadline:
            break
        seen = yield Probe(link, min(deadline - now, math.inf if timeout is None else timeout))
        now = seen.at
        if isinstance(seen.what, Readable):
            return wire.Ready(links=(link,))
    return end


def poll_until_readable(
    links: tuple[str, ...],
    backoff: retry.Delays,
    *,
    now: float,
    probe_timeout: float | None,
    grace: float | None = READY_GRACE,
) -> Generator[Action, Seen, Readable | Unreadable]:
    """Probe each link in turn until one reads, for `grace` seconds or, with None, for ever.

    A link may answer 403, 404 or 429 for a while after success. Rounds grow apart, because a CDN may cache a 404.
    """
    deadline = math.inf if grace is None else now + grace
    timeout = math.inf if probe_timeout is None else probe_timeout
    delays = backoff()
    while True:
        reasons = []
        for link in links:
            seen = yield Probe(link, min(timeout, max(deadline - now, 1.0)))
            now = seen.at
            if isinstance(seen.what, Readable):
                return seen.what
            reason = seen.what.reason if isinstance(seen.what, Unreadable) else "not read"
            reasons.append(f"{brief(link, _MAX_LINK_CHARACTERS)}: {reason}")
        if now >= deadline:
            return Unreadable(brief("; ".join(reasons)))
        now = (yield Wait(min(next(delays), deadline - now), wakeable=False)).at
