"""Tests of probing links, before and after the service reports success."""

from __future__ import annotations

import itertools
from collections.abc import Generator
from functools import partial
from typing import Any

import pytest
from helpers.flows import DELAYS, LINKS, Driver, polling
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling import flow
from modelslab_async.polling.flow import ActionResult, Fetch, Probe, Readable, Unreadable, Wait
from modelslab_async.protocol import lifecycle, wire


def test_polling_of_links() -> None:
    """Probes start near the expected end, take the links in turn, and grow apart while no file is found.

    Fetches come in between, and a readable link ends the polling.
    """
    driver = Driver(lambda action, now: _link(action, now, 1150))
    outcome = driver.run(polling(links=LINKS, strategy="links"))
    polls = [(at, action) for at, action in driver.actions if not isinstance(action, Wait)]
    probes = [(at, action.url) for at, action in polls if isinstance(action, Probe)]
    assert outcome == wire.Ready(links=(probes[-1][1],))
    assert probes[0][0] >= 1000 + 20
    assert [url for _, url in probes] == list(itertools.islice(itertools.cycle(LINKS), len(probes)))
    misses = [at for at, _ in probes]
    assert all(later - earlier >= 4 * 2**miss for miss, (earlier, later) in enumerate(itertools.pairwise(misses)))
    assert len(polls) > len(probes) >= 3


def test_a_wake_up_causes_a_fetch() -> None:
    """A poll after a wake-up is a fetch, also while links are probed, because a CDN may cache a 404."""
    driver = Driver(lambda action, now: _link(action, now, 1150), wakes=[1039.5, 1041.5])
    driver.run(polling(links=LINKS, strategy="links"))
    assert {1039.5, 1041.5} <= set(driver.times(Fetch))


def _link(action: Any, now: float, ready_at: float) -> Any:
    if isinstance(action, Fetch):
        return wire.NotReady()
    return Readable(action.url) if now >= ready_at else Unreadable("HTTP 404")


def test_a_failed_job_is_detected_while_links_are_probed() -> None:
    """The fetches between the probes detect the failure."""
    fail = wire.Failed(message="no")
    driver = Driver(lambda action, _: fail if isinstance(action, Fetch) else Unreadable("HTTP 404"))
    assert isinstance(driver.run(polling(links=LINKS, strategy="links")), lifecycle.Failed)


def test_a_wait_for_the_file_cannot_be_woken() -> None:
    """After success a webhook has nothing new to report, so it causes no probe."""
    driver = Driver(lambda *_: Unreadable("HTTP 404"), wakes=[1001.0, 1002.0])
    driver.run(reading())
    assert not any(action.wakeable for _, action in driver.actions if isinstance(action, Wait))
    assert not {1001.0, 1002.0} & set(driver.times(Probe))


def reading(grace: float | None = 60.0) -> Generator[flow.Action, ActionResult, Any]:
    """Return the flow that waits from 1000 s until one of LINKS can be read."""
    return flow.poll_until_readable(LINKS, partial(DELAYS, 8.0), now=1000.0, probe_timeout=10.0, grace=grace)


def test_each_link_is_tried_in_turn() -> None:
    """The links are probed without a wait between them, and the first readable link is returned."""
    driver = Driver(lambda action, _: Readable(action.url) if action.url == LINKS[1] else Unreadable("HTTP 404"))
    assert driver.run(reading()) == Readable(LINKS[1])
    assert driver.now == 1000.0


@given(late=st.floats(0, 59))
def test_a_late_link_is_found(late: float) -> None:
    """A file that appears within the grace is found at most one round later."""
    driver = Driver(lambda action, now: Readable(action.url) if now >= 1000 + late else Unreadable("HTTP 404"))
    assert driver.run(reading()) == Readable(LINKS[0])
    assert driver.now <= 1000 + late + 8
    assert len(driver.times(Probe)) <= 40


def test_links_that_never_become_readable() -> None:
    """After a last probe at the end of the grace, the result holds a reason for each link."""
    driver = Driver(lambda *_: Unreadable("HTTP 403"))
    outcome = driver.run(reading())
    assert isinstance(outcome, Unreadable)
    assert all(f"{link}: HTTP 403" in outcome.reason for link in LINKS)
    assert driver.times(Probe)[-1] == pytest.approx(1060.0)


@pytest.mark.parametrize("grace", [60.0, None])
def test_without_links_there_is_nothing_to_wait_for(grace: float | None) -> None:
    """If the service named no link, the flow ends at once, even if it has no time limit."""
    steps = flow.poll_until_readable((), partial(DELAYS, 8.0), now=1000.0, probe_timeout=10.0, grace=grace)
    driver = Driver(lambda *_: Unreadable("HTTP 404"))
    assert driver.run(steps) == Unreadable("the service named no link")
    assert driver.actions == []


def test_long_links_are_shortened_in_the_reason() -> None:
    """The reason shows the beginning of each link, which may have thousands of characters."""
    links = tuple(f"{link}?{'a' * 4000}" for link in LINKS)
    steps = flow.poll_until_readable(links, partial(DELAYS, 8.0), now=1000.0, probe_timeout=10.0, grace=0.0)
    outcome = Driver(lambda *_: Unreadable("HTTP 403")).run(steps)
    assert len(outcome.reason) < 700
    assert outcome.reason.count("HTTP 403") == 2
