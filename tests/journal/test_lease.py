"""The lease of a client on PostgreSQL: until when it may send, and whether it can tell that others are dead."""

from __future__ import annotations

import pytest

pytest.importorskip("asyncpg", reason="asyncpg is not installed")
from modelslab_async.journal.postgres_store import Lease


class LeaseAt(Lease):
    """A lease of 30 s whose clocks the test sets."""

    def __init__(self) -> None:
        super().__init__(30.0)
        self.at = 0.0

    def now(self) -> tuple[float, float]:  # type: ignore[override]
        return self.at, self.at + 1e9

    def beat(self, at: float) -> None:
        self.at = at
        self.renew(self.now())


def test_a_client_that_beats_sees_who_is_dead() -> None:
    """From its first beat, and as long as its own beats are regular."""
    lease = LeaseAt()
    assert not lease.shows_deaths
    for at in range(0, 100, 5):
        lease.beat(at)
        assert lease.shows_deaths


def test_after_an_outage_the_others_get_one_more_lease() -> None:
    """While its own beats fail, and for a lease after that, a client takes no other one for dead."""
    lease = LeaseAt()
    lease.beat(0.0)
    lease.at = 16.0
    assert not lease.shows_deaths
    for at in range(40, 70, 5):
        lease.beat(at)
        assert not lease.shows_deaths
    lease.beat(70.0)
    assert lease.shows_deaths


def test_a_corrected_clock_is_no_outage() -> None:
    """If the time of day is set forward, the next beat shows that the database was there all the time."""
    lease = LeaseAt()
    lease.renew((0.0, 0.0))
    lease.beat(1.0)
    assert lease.shows_deaths
