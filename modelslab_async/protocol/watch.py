"""The waiting flow, as generators that decide and never act.

`watch` waits for the service's word, `settle` for the file after it. Each yields `Wait`, `Fetch` or `Probe`, and is
sent a `Seen`: when, and what. asyncio drives them, a simulator may, and tests do by hand.
"""

import math
from collections.abc import Generator, Iterator
from typing import Literal, NamedTuple

from modelslab_async.errors import (
    AuthenticationError,
    InsufficientCreditsError,
    JobFailedError,
    JobTimeoutError,
    NotFoundError,
    TransportError,
)
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.body import Malformed, Refused
from modelslab_async.protocol.pace import Pace
from modelslab_async.protocol.schedule import Schedule

WaitStrategy = Literal["auto", "poll", "links"]
READY_GRACE = 60.0
"""Seconds in which a link may still answer 403, 404 or 429 after success: about 40 s were seen."""
UNKNOWN_ID_GRACE = 60.0
"""Seconds after the start in which "Request not found" is not believed."""
DOUBT_GRACE = 120.0
"""Seconds after the start in which "Try Again" under status failed, or a refusal of the fetch, is not believed."""
LAST_LOOK = 5.0
"""Seconds before the deadline: a last look, with time for its answer."""
_LEAST_BEFORE_LAST = 1.0
"""Seconds between it and the look before, or it is left out."""
_PROBES_PER_FETCH = 4
"""A wait for links still looks for a failure once in so many looks."""
_FIRST_PROBE_GAP = 4.0
_MOST_DOUBLINGS = 4
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
WatchOutcome = wire.Ready | lifecycle.Failed | lifecycle.Abandoned


class WatchPolicy(NamedTuple):
    """How to wait. `timeout` for the whole watch, or None for never; all times in seconds.

    `at_once` for a job that may have ended long ago: its first look waits for nothing.
    """

    strategy: WaitStrategy = "auto"
    timeout: float | None = None
    fetch_timeout: float | None = None
    at_once: bool = False


def watch(
    policy: WatchPolicy,
    schedule: Schedule,
    pace: Pace,
    backoff: retry.Delays,
    *,
    now: float,
    age: float = 0.0,
    links: tuple[str, ...] = (),
) -> Generator[Action, Seen, WatchOutcome]:
    """Look until the service says that the job ended. `links` are where it announced the file; the job was accepted
    `age` seconds ago.

    A look that is due waits for its turn in the client's pace; a wake-up's goes at once. Looks that fail are tolerated
    while they may pass: each waits longer than the one before.
    """
    started, deadline = now - age, math.inf if policy.timeout is None else now + policy.timeout
    looks = _Looks(policy, schedule, links if policy.strategy == "links" else ())
    troubles: Iterator[float] | None = None
    pause, last = 0.0, ""
    while True:
        gap = 0.0 if policy.at_once and not looks.count else max(schedule.gap(now - started), pause)
        seen = yield Wait(_until_look(gap, deadline - now, now))
        turn = pace.turn(seen.at)
        if turn > seen.at and not seen.woken:
            seen = yield Wait(min(turn, deadline) - seen.at)
        now = seen.at
        if now >= deadline:
            words = f"not ready after {now - started:.0f} s; the service may still finish it{last}"
            return lifecycle.Abandoned(JobTimeoutError(words))
        seen = yield looks.next(now, now - started, deadline - now, woken=seen.woken)
        now = seen.at
        if isinstance(seen.what, Readable):
            return wire.Ready(links=(seen.what.url,))
        if seen.what is None or isinstance(seen.what, Unreadable):
            looks.missed(now)
            continue
        outcome = _judge(seen.what, now - started)
        if isinstance(outcome, WatchOutcome):
            return outcome
        if outcome is None:
            troubles, pause, last = None, 0.0, ""
        else:
            troubles = troubles or backoff()
            pause, last = max(next(troubles), outcome), f". The last look failed: {_words(seen.what)}"


def _until_look(gap: float, left: float, now: float) -> float:
    """Seconds to wait: the gap, and on to a tick; a last look comes in time for its answer, none after the deadline."""
    last = left - LAST_LOOK
    wait = min(gap, last if last >= _LEAST_BEFORE_LAST else left)
    if wait >= _LEAST_TICKED:
        wait = math.ceil((now + wait) / TICK) * TICK - now
    return min(wait, left)


class _Looks:
    """What to look at. A wait for links probes them near the expected end; after a miss it fetches for a while,
    longer each time, because a CDN may cache a 404.
    """

    def __init__(self, policy: WatchPolicy, schedule: Schedule, links: tuple[str, ...]) -> None:
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


def _words(reply: wire.FetchReply | TransportError) -> str:
    match reply:
        case wire.UnknownId(message=words) | Refused(message=words) | Malformed(reason=words):
            return words
        case TransportError():
            return str(reply.args[0])
        case _:
            return type(reply).__name__


def _judge(reply: wire.FetchReply | TransportError, elapsed: float) -> WatchOutcome | float | None:
    """The end, or None for a good look that says "not yet", or for a bad one the least seconds to the next."""
    match reply:
        case wire.Ready():
            return reply
        case wire.NotReady(under_failed=True) if elapsed > DOUBT_GRACE:
            return lifecycle.Failed(JobFailedError('the service keeps saying "failed" and "Try Again"'))
        case wire.NotReady():
            return None
        case wire.Failed(message=message):
            return lifecycle.Failed(JobFailedError(f"the service failed the job: {message}"))
        case wire.UnknownId(message=message):
            return lifecycle.Abandoned(NotFoundError(message)) if elapsed > UNKNOWN_ID_GRACE else 0.0
        case Refused():
            return _judge_refusal(reply, elapsed)
        case Malformed() | TransportError():
            return 0.0


def _judge_refusal(reply: Refused, elapsed: float) -> lifecycle.Abandoned | float:
    error = wire.error_of(reply)
    final = isinstance(error, AuthenticationError | InsufficientCreditsError)
    if final or (elapsed > DOUBT_GRACE and not retry.may_pass(error)):
        return lifecycle.Abandoned(error)
    return reply.retry_after or 0.0


def settle(
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
            reasons.append(f"{link}: {seen.what.reason if isinstance(seen.what, Unreadable) else 'not read'}")
        if now >= deadline:
            return Unreadable("; ".join(reasons))
        now = (yield Wait(min(next(delays), deadline - now), wakeable=False)).at
