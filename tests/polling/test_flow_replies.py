"""Tests of how the replies to the polls end the polling."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from helpers.flows import ETAS, LINKS, READY, Driver, polling
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import errors
from modelslab_async.polling import flow
from modelslab_async.polling.flow import Fetch, Probe, Readable, Unreadable
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.reply import Malformed, Refused

PASSING = [
    errors.ReplyLostError("reset"),
    errors.ConnectError("refused"),
    Malformed(reason="a page", http_status=502),
    Refused(kind=errors.ServerError, message="down", http_status=503),
    Refused(kind=errors.RateLimitError, message="slowly", http_status=429),
    Refused(kind=errors.RateLimitError, message="try again in 2 minutes", http_status=429, retry_after=120.0),
    Refused(kind=errors.ServerError, message="down", http_status=503, retry_after=120.0),
    wire.NotReady(under_failed=True),
    wire.UnknownId(message="Request not found"),
    Refused(kind=errors.NotFoundError, message="hm", http_status=404),
    Refused(kind=errors.BadRequestError, message="a page", http_status=403, is_reported=False),
    wire.NotReady(success_without_link="[]"),
]


@pytest.mark.parametrize("failure", PASSING, ids=repr)
def test_a_failure_that_may_pass_is_tolerated(failure: Any) -> None:
    """A poll whose failure may pass does not end the polling, and does not make the polls more frequent."""
    driver = Driver(lambda _, now: READY if now >= 1050 else failure)
    assert driver.run(polling()) == READY
    assert len(driver.times(Fetch)) <= 25


def test_failed_polls_back_off() -> None:
    """The gaps between failed polls grow, up to half a minute."""
    driver = Driver(lambda _, now: READY if now >= 1600 else errors.ReplyLostError("reset"))
    driver.run(polling())
    times = driver.times(Fetch)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps[:3]) < 12
    assert all(10 <= gap <= 30 + flow.TICK for gap in gaps[8:])


def test_retry_after_is_respected() -> None:
    """After a 429 with retry_after, the next poll comes no sooner than that time."""
    refusal = Refused(kind=errors.RateLimitError, message="slowly", http_status=429, retry_after=55.0)
    driver = Driver(lambda _, now: READY if now >= 1050 else refusal)
    driver.run(polling())
    first, second = driver.times(Fetch)[:2]
    assert second - first >= 55


@pytest.mark.parametrize("kind", [errors.AuthenticationError, errors.InsufficientCreditsError])
def test_a_refused_key_ends_the_polling_at_once(kind: type[errors.APIError]) -> None:
    """A refusal of the key or for lack of credits ends the polling, since waiting does not help."""
    driver = Driver(lambda *_: Refused(kind=kind, message="no", http_status=200))
    outcome = driver.run(polling())
    assert isinstance(outcome, lifecycle.Abandoned)
    assert isinstance(outcome.error, kind)
    assert len(driver.times(Fetch)) == 1


def test_a_failed_job_ends_the_polling() -> None:
    """The error holds the service's message."""
    outcome = Driver(lambda *_: wire.Failed(message="no faces")).run(polling())
    assert isinstance(outcome, lifecycle.Failed)
    assert "no faces" in str(outcome.error)


BOUNDED: list[tuple[Any, float, type[Exception]]] = [
    (wire.UnknownId(message="Request not found"), flow.UNKNOWN_ID_GRACE, errors.NotFoundError),
    (wire.NotReady(under_failed=True), flow.FAILURE_GRACE, errors.JobFailedError),
    (Refused(kind=errors.NotFoundError, message="hm", http_status=404), flow.UNKNOWN_ID_GRACE, errors.NotFoundError),
    (
        Refused(kind=errors.BadRequestError, message="a page", http_status=403, is_reported=False),
        flow.FAILURE_GRACE,
        errors.BadRequestError,
    ),
]


@pytest.mark.parametrize(("reply", "grace", "error"), BOUNDED, ids=lambda value: repr(value)[:20])
def test_a_reply_that_is_ignored_at_first_counts_after_its_grace(
    reply: Any, grace: float, error: type[Exception]
) -> None:
    """A reply that may be wrong shortly after the submit ends the polling once its grace is over."""
    driver = Driver(lambda *_: reply)
    outcome = driver.run(polling())
    assert isinstance(outcome.error, error)
    assert grace <= driver.now - 1000 <= grace + 31


ERROR = Refused(kind=errors.BadRequestError, message="CUDA out of memory", http_status=200)


def replying(*replies: Any) -> Callable[[Any, float], Any]:
    """Return a service that gives these replies, one for each poll, and then the video."""
    left = list(replies)
    return lambda *_: left.pop(0) if left else READY


def test_an_error_at_two_polls_in_a_row_ends_the_polling() -> None:
    """The second status error in a row means that the job failed."""
    driver = Driver(lambda *_: ERROR)
    outcome = driver.run(polling())
    assert isinstance(outcome, lifecycle.Failed)
    assert isinstance(outcome.error, errors.JobFailedError)
    assert "CUDA out of memory" in str(outcome.error)
    assert len(driver.times(Fetch)) == 2


def test_one_error_is_tolerated() -> None:
    """A status error is tolerated once, and again after another reply."""
    driver = Driver(replying(ERROR, wire.NotReady(), ERROR, wire.NotReady(success_without_link="[]"), ERROR))
    assert driver.run(polling()) == READY
    assert len(driver.times(Fetch)) == 6


@pytest.mark.parametrize("failure", PASSING[:5], ids=repr)
def test_failed_polls_do_not_hide_an_error(failure: Any) -> None:
    """Two status errors count as in a row even if a poll between them failed."""
    driver = Driver(replying(ERROR, failure, ERROR))
    assert isinstance(driver.run(polling()), lifecycle.Failed)


WITHOUT_LINK = wire.NotReady(success_without_link='{"frames": 81}')


@given(eta=ETAS, seconds=st.floats(0, 500), grace=st.floats(0.1, 300), seed=st.integers())
def test_success_without_a_link_ends_after_its_grace(
    eta: float | None, seconds: float, grace: float, seed: int
) -> None:
    """The polling ends a grace after the first success without a link, and the error shows the output."""
    driver = Driver(lambda _, now: WITHOUT_LINK if now >= 1000 + seconds else wire.NotReady())
    outcome = driver.run(polling(eta, link_grace=grace, seed=seed))
    assert isinstance(outcome, lifecycle.Abandoned)
    assert isinstance(outcome.error, errors.InvalidVideoError)
    assert 'the service reports success, but its output holds no link: output={"frames": 81}' in str(outcome.error)
    first = next(at for at in driver.times(Fetch) if at >= 1000 + seconds)
    assert grace - 1e-6 <= driver.now - first <= grace + 1 + flow.TICK


@given(late=st.floats(0, 59), seed=st.integers())
def test_a_link_within_the_grace_ends_the_polling(late: float, seed: int) -> None:
    """An output that is empty at first, as several users saw, means that the job is not ready."""
    times: list[float] = []

    def poll(_: Any, now: float) -> Any:
        times.append(now)
        return READY if now >= times[0] + late else WITHOUT_LINK

    assert Driver(poll).run(polling(seed=seed)) == READY


def test_without_a_grace_the_deadline_ends_the_polling() -> None:
    """With a grace of None, polling goes on until the deadline, and the error says that the link is missing."""
    driver = Driver(lambda *_: WITHOUT_LINK)
    outcome = driver.run(polling(link_grace=None, timeout=900.0))
    assert isinstance(outcome.error, errors.InvalidVideoError)
    assert driver.now == pytest.approx(1900)


def test_a_job_that_runs_again_gets_a_new_grace() -> None:
    """If the service reports processing after success, the grace starts again."""
    driver = Driver(lambda _, now: wire.NotReady() if 1040 <= now < 1200 else WITHOUT_LINK)
    outcome = driver.run(polling(link_grace=60.0))
    assert isinstance(outcome.error, errors.InvalidVideoError)
    assert driver.now >= 1260


def test_failed_polls_do_not_prolong_the_grace() -> None:
    """The grace of a success without a link goes on during failed polls."""
    driver = Driver(lambda _, now: WITHOUT_LINK if now < 1040 else errors.ReplyLostError("reset"))
    assert isinstance(driver.run(polling(link_grace=60.0)).error, errors.InvalidVideoError)
    assert driver.now <= 1000 + 40 + 60 + 31


@pytest.mark.parametrize("readable", [*LINKS, None])
def test_the_announced_links_are_probed_last(readable: str | None) -> None:
    """Before a paid job ends without a link, each link that its acceptance announced is probed once."""

    def poll(action: Any, _: float) -> Any:
        if isinstance(action, Fetch):
            return WITHOUT_LINK
        return Readable(action.url) if action.url == readable else Unreadable("HTTP 404")

    driver = Driver(poll)
    outcome = driver.run(polling(links=LINKS, link_grace=10.0, timeout=300.0))
    probes = [action.url for _, action in driver.actions if isinstance(action, Probe)]
    if readable:
        assert outcome == wire.Ready(links=(readable,))
        assert probes == list(LINKS[: LINKS.index(readable) + 1])
    else:
        assert isinstance(outcome.error, errors.InvalidVideoError)
        assert probes == list(LINKS)
