"""The waiting flow, driven by hand: no loop, no clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import errors
from modelslab_async.protocol import retry, watch, wire
from modelslab_async.protocol.body import Malformed, Refused
from modelslab_async.protocol.schedule import EtaSchedule
from modelslab_async.protocol.watch import Fetch, GaveUp, Probe, Readable, Seen, Unreadable, Wait, WatchPolicy

READY = wire.Ready(id="1", links=("https://files.invalid/a.mp4",))
LINKS = ("https://files.invalid/a.mp4", "https://files.invalid/b.mp4")
DELAYS = partial(retry.delays, random.Random(1))
PASSING = [
    errors.ReplyLostError("reset"),
    errors.ConnectError("refused"),
    Malformed(reason="a page", http_status=502),
    Refused(kind=errors.ServerError, message="down", http_status=503),
    Refused(kind=errors.RateLimitError, message="slowly", http_status=429),
    wire.NotReady(under_failed=True),
    wire.UnknownId(message="Request not found"),
    Refused(kind=errors.BadRequestError, message="hm", http_status=400),
]


@attrs.define
class Driven:
    """Drives a flow on a clock of its own; `look(action, now)` says what is seen."""

    look: Callable[[Any, float], Any]
    now: float = 1000.0
    actions: list[tuple[float, Any]] = attrs.field(factory=list[tuple[float, Any]])

    def run(self, flow: Generator[watch.Action, Seen, Any]) -> Any:
        try:
            action = next(flow)
            while True:
                self.actions.append((self.now, action))
                what = None
                if isinstance(action, Wait):
                    assert action.seconds >= 0
                    self.now += action.seconds
                else:
                    what = self.look(action, self.now)
                action = flow.send(Seen(self.now, what))
        except StopIteration as end:
            return end.value

    def times(self, kind: type) -> list[float]:
        return [at for at, action in self.actions if isinstance(action, kind)]


def a_watch(eta: float | None = 40.0, links: tuple[str, ...] = (), **policy: Any) -> Generator[watch.Action, Seen, Any]:
    schedule = EtaSchedule(eta, random.Random(1))
    return watch.watch(WatchPolicy(**policy), schedule, DELAYS, now=1000.0, links=links)


@pytest.mark.parametrize("eta", [None, 0.0, 4.0, 40.0, 400.0])
def test_success_is_seen_soon(eta: float | None) -> None:
    """Whatever the eta said, a job of 40 s is seen within the ceiling of a gap, in a few looks."""
    driven = Driven(lambda _, now: READY if now >= 1040 else wire.NotReady())
    assert driven.run(a_watch(eta)) == READY
    assert 1040 <= driven.now <= 1051
    assert len(driven.times(Fetch)) <= 25


@pytest.mark.parametrize("trouble", PASSING, ids=repr)
def test_what_may_pass_is_tolerated(trouble: Any) -> None:
    """Failed looks do not end the watch while they may pass, and do not come faster than good ones."""
    driven = Driven(lambda _, now: READY if now >= 1050 else trouble)
    assert driven.run(a_watch()) == READY
    assert len(driven.times(Fetch)) <= 25


def test_troubles_back_off() -> None:
    """Looks that fail grow apart, up to half a minute."""
    driven = Driven(lambda _, now: READY if now >= 1600 else errors.ReplyLostError("reset"))
    driven.run(a_watch())
    times = driven.times(Fetch)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps[:3]) < 12
    assert all(10 <= gap <= 30 for gap in gaps[8:])


def test_the_services_wish_is_kept() -> None:
    """After a 429 with retry_after the next look comes no sooner."""
    refusal = Refused(kind=errors.RateLimitError, message="slowly", http_status=429, retry_after=55.0)
    driven = Driven(lambda _, now: READY if now >= 1050 else refusal)
    driven.run(a_watch())
    first, second = driven.times(Fetch)[:2]
    assert second - first >= 55


@pytest.mark.parametrize("kind", [errors.AuthenticationError, errors.InsufficientCreditsError])
def test_a_refused_key_ends_the_watch_at_once(kind: type[errors.APIError]) -> None:
    """401 and 402 will not pass by waiting."""
    driven = Driven(lambda *_: Refused(kind=kind, message="no", http_status=200))
    outcome = driven.run(a_watch())
    assert isinstance(outcome, GaveUp)
    assert isinstance(outcome.error, kind)
    assert len(driven.times(Fetch)) == 1


def test_a_failure_ends_it() -> None:
    """The service's word is passed on."""
    outcome = Driven(lambda *_: wire.Failed(message="no faces")).run(a_watch())
    assert isinstance(outcome, watch.Failed)
    assert "no faces" in str(outcome.error)


BOUNDED: list[tuple[Any, float, type[Exception]]] = [
    (wire.UnknownId(message="Request not found"), watch.UNKNOWN_ID_GRACE, errors.NotFoundError),
    (wire.NotReady(under_failed=True), watch.DOUBT_GRACE, errors.JobFailedError),
    (Refused(kind=errors.BadRequestError, message="hm", http_status=400), watch.DOUBT_GRACE, errors.BadRequestError),
]


@pytest.mark.parametrize(("reply", "grace", "error"), BOUNDED, ids=lambda value: repr(value)[:20])
def test_doubts_are_bounded(reply: Any, grace: float, error: type[Exception]) -> None:
    """What is not believed at once is believed after its grace."""
    driven = Driven(lambda *_: reply)
    outcome = driven.run(a_watch())
    assert isinstance(outcome.error, error)
    assert grace <= driven.now - 1000 <= grace + 31


@given(timeout=st.floats(0.5, 5000), fetch_timeout=st.none() | st.floats(0.1, 60), slow=st.floats(0, 40))
def test_the_deadline_bounds_waits_and_requests(timeout: float, fetch_timeout: float | None, slow: float) -> None:
    """No wait and no request reaches beyond the deadline, and the watch ends there as a timeout."""
    driven = Driven(lambda *_: wire.NotReady())

    def look(action: Fetch, now: float) -> Any:
        assert now + action.timeout <= 1000 + timeout + 1e-6
        assert fetch_timeout is None or action.timeout <= fetch_timeout
        driven.now += min(slow, action.timeout)
        return errors.ReplyLostError("slow") if slow > action.timeout else wire.NotReady()

    driven.look = look
    outcome = driven.run(a_watch(timeout=timeout, fetch_timeout=fetch_timeout))
    assert isinstance(outcome.error, errors.JobTimeoutError)
    assert driven.now == pytest.approx(1000 + timeout)


def test_waiting_on_links() -> None:
    """The announced links are probed in turn, with a fetch once in four looks; a readable one is the end."""
    driven = Driven(lambda action, now: _link(action, now, 1060))
    outcome = driven.run(a_watch(links=LINKS, strategy="links"))
    looks = [action for _, action in driven.actions if not isinstance(action, Wait)]
    assert outcome == wire.Ready(links=(looks[-1].url,))
    assert [isinstance(action, Fetch) for action in looks] == [number % 4 == 0 for number in range(1, len(looks) + 1)]
    assert {action.url for action in looks if isinstance(action, Probe)} == set(LINKS)


def _link(action: Any, now: float, ready_at: float) -> Any:
    if isinstance(action, Fetch):
        return wire.NotReady()
    return Readable(action.url) if now >= ready_at else Unreadable("HTTP 404")


def test_a_failure_is_seen_while_waiting_on_links() -> None:
    """The fetch between the probes tells it."""
    fail = wire.Failed(message="no")
    driven = Driven(lambda action, _: fail if isinstance(action, Fetch) else Unreadable("HTTP 404"))
    assert isinstance(driven.run(a_watch(links=LINKS, strategy="links")), watch.Failed)


def a_settling(grace: float | None = 60.0) -> Generator[watch.Action, Seen, Any]:
    return watch.settle(LINKS, partial(DELAYS, 8.0), now=1000.0, probe_timeout=10.0, grace=grace)


def test_each_link_is_tried_in_turn() -> None:
    """The first that reads is taken, at once."""
    driven = Driven(lambda action, _: Readable(action.url) if action.url == LINKS[1] else Unreadable("HTTP 404"))
    assert driven.run(a_settling()) == Readable(LINKS[1])
    assert driven.now == 1000.0


@given(late=st.floats(0, 59))
def test_a_late_link_is_found(late: float) -> None:
    """A file that appears within the grace is found, at most one round later."""
    driven = Driven(lambda action, now: Readable(action.url) if now >= 1000 + late else Unreadable("HTTP 404"))
    assert driven.run(a_settling()) == Readable(LINKS[0])
    assert driven.now <= 1000 + late + 8
    assert len(driven.times(Probe)) <= 40


def test_links_that_never_read() -> None:
    """After the grace, with a last look at its very end: unreadable, with a reason for each link."""
    driven = Driven(lambda *_: Unreadable("HTTP 403"))
    outcome = driven.run(a_settling())
    assert isinstance(outcome, Unreadable)
    assert all(f"{link}: HTTP 403" in outcome.reason for link in LINKS)
    assert driven.times(Probe)[-1] == pytest.approx(1060.0)


@given(eta=st.none() | st.floats(0, 1e9), elapsed=st.floats(0, 1e9), seed=st.integers())
def test_no_gap_leaves_its_bounds(eta: float | None, elapsed: float, seed: int) -> None:
    """Whatever the numbers say, a gap is from the floor to the ceiling."""
    schedule = EtaSchedule(eta, random.Random(seed))
    assert schedule.floor <= schedule.gap(elapsed) <= schedule.ceiling
