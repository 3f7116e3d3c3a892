"""The waiting flows, driven by hand: no loop, no clock."""

from __future__ import annotations

import heapq
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
from modelslab_async.polling import flow
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.flow import Fetch, PollPolicy, Probe, Readable, Seen, Unreadable, Wait
from modelslab_async.polling.schedule import Gaps, RateLimiter
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.reply import Malformed, Refused

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
    Refused(kind=errors.NotFoundError, message="hm", http_status=404),
    Refused(kind=errors.BadRequestError, message="a page", http_status=403, is_reported=False),
    wire.NotReady(success_without_link="[]"),
]


def _rising(moments: list[float]) -> list[float]:
    return sorted(moments)


@attrs.define
class Driven:
    """Drives a flow on a clock of its own; `look(action, now)` says what is seen, `wakes` when somebody wakes it."""

    look: Callable[[Any, float], Any]
    now: float = 1000.0
    wakes: list[float] = attrs.field(factory=list[float], converter=_rising)
    actions: list[tuple[float, Any]] = attrs.field(factory=list[tuple[float, Any]])

    def run(self, steps: Generator[flow.Action, Seen, Any]) -> Any:
        try:
            action = next(steps)
            while True:
                self.actions.append((self.now, action))
                if isinstance(action, Wait):
                    action = steps.send(self._waited(action))
                else:
                    what = self.look(action, self.now)
                    action = steps.send(Seen(self.now, what))
        except StopIteration as end:
            return end.value

    def _waited(self, wait: Wait) -> Seen:
        assert wait.seconds >= 0
        due = self.now + wait.seconds
        woken = wait.wakeable and bool(self.wakes) and self.wakes[0] < due
        self.now = max(self.now, self.wakes[0]) if woken else due
        while self.wakes and self.wakes[0] <= self.now:  # as many as came by now are one
            self.wakes.pop(0)
        return Seen(self.now, woken=woken)

    def times(self, kind: type) -> list[float]:
        return [at for at, action in self.actions if isinstance(action, kind)]


@attrs.frozen
class Every:
    """A schedule with one gap."""

    seconds: float

    def gap(self, elapsed: float) -> float:
        return self.seconds

    def is_near_end(self, elapsed: float) -> bool:
        return False


FLOOR, CEILING = Gaps().floor, Gaps().ceiling
ETAS = st.none() | st.floats(0, 1e4)
MOMENTS = st.lists(st.floats(1000, 1500), max_size=8)


def a_watch(
    eta: float | None = 40.0,
    links: tuple[str, ...] = (),
    *,
    per_second: float | None = None,
    seed: int = 1,
    **policy: Any,
) -> Generator[flow.Action, Seen, Any]:
    schedule = JobForecast(DurationEstimator(), (), eta, random.Random(seed))
    return flow.poll_until_done(
        PollPolicy(**policy), schedule, RateLimiter(per_second), DELAYS, now=1000.0, links=links
    )


def ends(seconds: float) -> Callable[[Any, float], Any]:
    """A service that is ready after so long."""
    return lambda _, now: READY if now >= 1000 + seconds else wire.NotReady()


@pytest.mark.parametrize("eta", [None, 0.0, 4.0, 40.0, 400.0])
def test_success_is_seen_soon(eta: float | None) -> None:
    """Whatever the eta said, a job of 40 s is seen within twenty seconds, in a few looks."""
    driven = Driven(ends(40))
    assert driven.run(a_watch(eta)) == READY
    assert 1040 <= driven.now <= 1060
    assert len(driven.times(Fetch)) <= 25


@given(eta=ETAS, seconds=st.floats(0, 3000), rate=st.none() | st.floats(0.05, 50), seed=st.integers())
def test_an_end_is_seen_within_a_ceiling_and_the_pace(
    eta: float | None, seconds: float, rate: float | None, seed: int
) -> None:
    """However long a job takes, and whatever its eta: seen within a ceiling, a tick and a turn of the rate limit."""
    driven = Driven(ends(seconds))
    assert driven.run(a_watch(eta, per_second=rate, seed=seed)) == READY
    assert 0 <= driven.now - 1000 - seconds <= CEILING + flow.TICK + (1 / rate if rate else 0) + 1e-6


@given(eta=ETAS, seconds=st.floats(0, 1000), wakes=MOMENTS, rate=st.none() | st.floats(0.1, 50), seed=st.integers())
def test_no_look_before_the_floor_unless_woken(
    eta: float | None, seconds: float, wakes: list[float], rate: float | None, seed: int
) -> None:
    """Two looks are a floor apart, the first from the acceptance; only a wake-up's may come sooner, and it does at
    once, whatever the pace is.
    """
    driven = Driven(ends(seconds), wakes=wakes)
    driven.run(a_watch(eta, per_second=rate, seed=seed))
    looks = [1000.0, *driven.times(Fetch)]
    early = [look for last, look in itertools.pairwise(looks) if look - last < FLOOR - 1e-6]
    assert set(early) <= set(wakes)
    assert {wake for wake in wakes if wake < driven.now} <= set(looks)


@given(seconds=st.floats(0, 500), gap=st.floats(0.5, 0.9), wakes=MOMENTS)
def test_a_wake_up_costs_at_most_one_request(seconds: float, gap: float, wakes: list[float]) -> None:
    """Wake-ups that come early, twice or late cost a request each at most; one after the end is seen at once."""
    plain, woken = Driven(ends(seconds)), Driven(ends(seconds), wakes=list(wakes))
    for driven in (plain, woken):
        driven.run(flow.poll_until_done(PollPolicy(), Every(gap), RateLimiter(None), DELAYS, now=1000.0))
    assert len(woken.times(Fetch)) <= len(plain.times(Fetch)) + len(wakes)
    assert all(woken.now <= wake for wake in wakes if wake >= 1000 + seconds)


@given(eta=ETAS, timeout=st.floats(0.5, 5000), wakes=MOMENTS, seed=st.integers())
def test_a_deadline_means_an_end(eta: float | None, timeout: float, wakes: list[float], seed: int) -> None:
    """With a deadline there are finitely many looks: one for each floor and each wake-up at most."""
    driven = Driven(lambda *_: wire.NotReady(), wakes=wakes)
    driven.run(a_watch(eta, timeout=timeout, seed=seed))
    assert len(driven.times(Fetch)) <= timeout / FLOOR + len(wakes) + 1


@given(eta=ETAS, seconds=st.floats(0, 2000), wakes=MOMENTS, rate=st.none() | st.floats(0.1, 50), seed=st.integers())
def test_a_replay_gives_the_same_looks(
    eta: float | None, seconds: float, wakes: list[float], rate: float | None, seed: int
) -> None:
    """The same answers, wake-ups and rng: the same looks at the same times."""
    runs = [Driven(ends(seconds), wakes=wakes) for _ in range(2)]
    for driven in runs:
        driven.run(a_watch(eta, per_second=rate, seed=seed))
    assert runs[0].actions == runs[1].actions


@pytest.mark.parametrize("eta", [20.0, 1000.0])
def test_there_is_a_last_look_before_the_deadline(eta: float) -> None:
    """A job that ends shortly before the deadline is found by a look that still has time for its answer."""
    driven = Driven(ends(94))
    assert driven.run(a_watch(eta, timeout=100.0)) == READY
    assert driven.now <= 1100 - flow.LAST_POLL + 1e-6


def test_a_job_of_unknown_age_is_looked_at_at_once() -> None:
    """Attached to: it may have ended long ago."""
    driven = Driven(ends(0))
    assert driven.run(a_watch(at_once=True)) == READY
    assert driven.now == 1000.0


@given(begun=st.floats(0, 1e6), gap=st.floats(0, 100), timeout=st.none() | st.floats(0.5, 200))
def test_looks_go_with_the_ticks(begun: float, gap: float, timeout: float | None) -> None:
    """A look is not sooner than its schedule says, and later by a tick at most. One that is due in a second or more
    comes at a tick, whenever the job began, unless the deadline is before; a sooner one comes when it is due.
    """
    first = next(flow.poll_until_done(PollPolicy(timeout=timeout), Every(gap), RateLimiter(), DELAYS, now=begun))
    assert isinstance(first, Wait)
    last = flow.LAST_POLL if timeout is not None and timeout >= flow.LAST_POLL + 1 else 0.0
    due = gap if timeout is None else min(gap, timeout - last)
    assert due - 1e-6 <= first.seconds <= due + (flow.TICK if due >= 1 else 0.0) + 1e-6
    ticks = (begun + first.seconds) / flow.TICK
    assert due < 1 or first.seconds == pytest.approx(timeout) or abs(ticks - round(ticks)) < 1e-6


def test_ten_thousand_jobs_keep_the_pace() -> None:
    """10,000 jobs that never end, 200 looks a second: never more, and each is looked at in turn, none twice as late."""
    rate_limiter, schedule = RateLimiter(200.0), JobForecast(DurationEstimator(), (), 40.0, random.Random(1))
    looks: dict[int, list[float]] = {job: [] for job in range(10_000)}
    flows = [flow.poll_until_done(PollPolicy(), schedule, rate_limiter, DELAYS, now=0.0) for _ in looks]
    queue = []
    for job, steps in enumerate(flows):
        wait = next(steps)
        assert isinstance(wait, Wait)
        queue.append((wait.seconds, job))
    heapq.heapify(queue)
    while queue[0][0] < 400:
        now, job = heapq.heappop(queue)
        action = flows[job].send(Seen(now))
        while not isinstance(action, Wait):
            looks[job].append(now)
            action = flows[job].send(Seen(now, wire.NotReady()))
        heapq.heappush(queue, (now + action.seconds, job))
    every = sorted(itertools.chain.from_iterable(looks.values()))
    assert all(later - earlier > 1 / 200 - 1e-6 for earlier, later in itertools.pairwise(every))
    assert all(5 <= len(seen) <= 10 for seen in looks.values())
    assert max(later - earlier for seen in looks.values() for earlier, later in itertools.pairwise(seen)) < 2 * 50


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
    assert all(10 <= gap <= 30 + flow.TICK for gap in gaps[8:])


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
    assert isinstance(outcome, lifecycle.Abandoned)
    assert isinstance(outcome.error, kind)
    assert len(driven.times(Fetch)) == 1


def test_a_failure_ends_it() -> None:
    """The service's word is passed on."""
    outcome = Driven(lambda *_: wire.Failed(message="no faces")).run(a_watch())
    assert isinstance(outcome, lifecycle.Failed)
    assert "no faces" in str(outcome.error)


BOUNDED: list[tuple[Any, float, type[Exception]]] = [
    (wire.UnknownId(message="Request not found"), flow.UNKNOWN_ID_GRACE, errors.NotFoundError),
    (wire.NotReady(under_failed=True), flow.DOUBT_GRACE, errors.JobFailedError),
    (Refused(kind=errors.NotFoundError, message="hm", http_status=404), flow.UNKNOWN_ID_GRACE, errors.NotFoundError),
    (
        Refused(kind=errors.BadRequestError, message="a page", http_status=403, is_reported=False),
        flow.DOUBT_GRACE,
        errors.BadRequestError,
    ),
]


@pytest.mark.parametrize(("reply", "grace", "error"), BOUNDED, ids=lambda value: repr(value)[:20])
def test_doubts_are_bounded(reply: Any, grace: float, error: type[Exception]) -> None:
    """What is not believed at once is believed after its grace."""
    driven = Driven(lambda *_: reply)
    outcome = driven.run(a_watch())
    assert isinstance(outcome.error, error)
    assert grace <= driven.now - 1000 <= grace + 31


ERROR = Refused(kind=errors.BadRequestError, message="CUDA out of memory", http_status=200)


def answered(*answers: Any) -> Callable[[Any, float], Any]:
    """These, one a poll, and then the video."""
    left = list(answers)
    return lambda *_: left.pop(0) if left else READY


def test_an_error_at_two_polls_in_a_row_ends_it() -> None:
    """Status error is believed the second time: the job failed, and whether it is charged is not known."""
    driven = Driven(lambda *_: ERROR)
    outcome = driven.run(a_watch())
    assert isinstance(outcome, lifecycle.Failed)
    assert isinstance(outcome.error, errors.JobFailedError)
    assert "CUDA out of memory" in str(outcome.error)
    assert len(driven.times(Fetch)) == 2


def test_one_error_is_tolerated() -> None:
    """Once, or again after a good answer: what the service says next counts."""
    driven = Driven(answered(ERROR, wire.NotReady(), ERROR, wire.NotReady(success_without_link="[]"), ERROR))
    assert driven.run(a_watch()) == READY
    assert len(driven.times(Fetch)) == 6


@pytest.mark.parametrize("trouble", PASSING[:5], ids=repr)
def test_troubles_do_not_hide_an_error(trouble: Any) -> None:
    """A poll without an answer of the service says nothing: two errors around it are two in a row."""
    driven = Driven(answered(ERROR, trouble, ERROR))
    assert isinstance(driven.run(a_watch()), lifecycle.Failed)


WITHOUT_LINK = wire.NotReady(success_without_link='{"frames": 81}')


@given(eta=ETAS, seconds=st.floats(0, 500), grace=st.floats(0.1, 300), seed=st.integers())
def test_success_without_a_link_ends_after_its_grace(
    eta: float | None, seconds: float, grace: float, seed: int
) -> None:
    """The job ends so long after the first poll that saw it, and the error shows the output; not before."""
    driven = Driven(lambda _, now: WITHOUT_LINK if now >= 1000 + seconds else wire.NotReady())
    outcome = driven.run(a_watch(eta, link_grace=grace, seed=seed))
    assert isinstance(outcome, lifecycle.Abandoned)
    assert isinstance(outcome.error, errors.InvalidVideoError)
    assert 'the service reports success, but its output holds no link: output={"frames": 81}' in str(outcome.error)
    first = next(at for at in driven.times(Fetch) if at >= 1000 + seconds)
    assert grace - 1e-6 <= driven.now - first <= grace + 1 + flow.TICK


@given(late=st.floats(0, 59), seed=st.integers())
def test_a_link_within_the_grace_is_the_end(late: float, seed: int) -> None:
    """An output that is empty at first is not ready yet; several users saw it."""
    seen: list[float] = []

    def look(_: Any, now: float) -> Any:
        seen.append(now)
        return READY if now >= seen[0] + late else WITHOUT_LINK

    assert Driven(look).run(a_watch(seed=seed)) == READY


def test_without_a_grace_the_deadline_ends_it() -> None:
    """None waits for ever; where the time of the job is up, the error still tells what is known."""
    driven = Driven(lambda *_: WITHOUT_LINK)
    outcome = driven.run(a_watch(link_grace=None, timeout=900.0))
    assert isinstance(outcome.error, errors.InvalidVideoError)
    assert driven.now == pytest.approx(1900)


def test_a_job_that_runs_again_has_its_grace_again() -> None:
    """Processing after success: the service took it back."""
    driven = Driven(lambda _, now: wire.NotReady() if 1040 <= now < 1200 else WITHOUT_LINK)
    outcome = driven.run(a_watch(link_grace=60.0))
    assert isinstance(outcome.error, errors.InvalidVideoError)
    assert driven.now >= 1260


def test_failed_polls_do_not_prolong_the_grace() -> None:
    """A poll without an answer says nothing against the success."""
    driven = Driven(lambda _, now: WITHOUT_LINK if now < 1040 else errors.ReplyLostError("reset"))
    assert isinstance(driven.run(a_watch(link_grace=60.0)).error, errors.InvalidVideoError)
    assert driven.now <= 1000 + 40 + 60 + 31


@pytest.mark.parametrize("readable", [*LINKS, None])
def test_the_announced_links_are_the_last_resort(readable: str | None) -> None:
    """Before a paid job ends without a link, each link that its acceptance announced is probed once."""

    def look(action: Any, _: float) -> Any:
        if isinstance(action, Fetch):
            return WITHOUT_LINK
        return Readable(action.url) if action.url == readable else Unreadable("HTTP 404")

    driven = Driven(look)
    outcome = driven.run(a_watch(links=LINKS, link_grace=10.0, timeout=300.0))
    probes = [action.url for _, action in driven.actions if isinstance(action, Probe)]
    if readable:
        assert outcome == wire.Ready(links=(readable,))
        assert probes == list(LINKS[: LINKS.index(readable) + 1])
    else:
        assert isinstance(outcome.error, errors.InvalidVideoError)
        assert probes == list(LINKS)


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
    """Probes start near the expected end, take the links in turn, and grow apart while they miss; a readable link is
    the end. In between the service is asked.
    """
    driven = Driven(lambda action, now: _link(action, now, 1150))
    outcome = driven.run(a_watch(links=LINKS, strategy="links"))
    looks = [(at, action) for at, action in driven.actions if not isinstance(action, Wait)]
    probes = [(at, action.url) for at, action in looks if isinstance(action, Probe)]
    assert outcome == wire.Ready(links=(probes[-1][1],))
    assert probes[0][0] >= 1000 + 20
    assert [url for _, url in probes] == list(itertools.islice(itertools.cycle(LINKS), len(probes)))
    misses = [at for at, _ in probes]
    assert all(later - earlier >= 4 * 2**miss for miss, (earlier, later) in enumerate(itertools.pairwise(misses)))
    assert len(looks) > len(probes) >= 3


def test_a_wake_up_asks_the_service() -> None:
    """Also while waiting for links: a CDN may cache that there is no file yet."""
    driven = Driven(lambda action, now: _link(action, now, 1150), wakes=[1039.5, 1041.5])
    driven.run(a_watch(links=LINKS, strategy="links"))
    assert {1039.5, 1041.5} <= set(driven.times(Fetch))


def _link(action: Any, now: float, ready_at: float) -> Any:
    if isinstance(action, Fetch):
        return wire.NotReady()
    return Readable(action.url) if now >= ready_at else Unreadable("HTTP 404")


def test_a_failure_is_seen_while_waiting_on_links() -> None:
    """The fetch between the probes tells it."""
    fail = wire.Failed(message="no")
    driven = Driven(lambda action, _: fail if isinstance(action, Fetch) else Unreadable("HTTP 404"))
    assert isinstance(driven.run(a_watch(links=LINKS, strategy="links")), lifecycle.Failed)


def test_no_wake_up_while_a_file_is_looked_for() -> None:
    """After success a wake-up tells no news: it costs nothing."""
    driven = Driven(lambda *_: Unreadable("HTTP 404"), wakes=[1001.0, 1002.0])
    driven.run(a_settling())
    assert not any(action.wakeable for _, action in driven.actions if isinstance(action, Wait))
    assert not {1001.0, 1002.0} & set(driven.times(Probe))


def a_settling(grace: float | None = 60.0) -> Generator[flow.Action, Seen, Any]:
    return flow.poll_until_readable(LINKS, partial(DELAYS, 8.0), now=1000.0, probe_timeout=10.0, grace=grace)


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


def test_an_error_shows_the_beginning_of_a_link() -> None:
    """Signed links have thousands of characters: each shows its beginning, and its reason all the same."""
    links = tuple(f"{link}?{'a' * 4000}" for link in LINKS)
    steps = flow.poll_until_readable(links, partial(DELAYS, 8.0), now=1000.0, probe_timeout=10.0, grace=0.0)
    outcome = Driven(lambda *_: Unreadable("HTTP 403")).run(steps)
    assert len(outcome.reason) < 700
    assert outcome.reason.count("HTTP 403") == 2
