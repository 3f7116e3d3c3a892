"""Tests of the limit on polls per second."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling.schedule import RateLimiter


@given(rate=st.floats(0.01, 1000), gaps=st.lists(st.floats(0, 100), min_size=1))
def test_polls_are_spaced_in_the_order_of_their_requests(rate: float, gaps: list[float]) -> None:
    """Polls are allowed in order, at most `rate` a second, never early, and no later than earlier polls need."""
    rate_limiter, now, times = RateLimiter(rate), 0.0, list[float]()
    for gap in gaps:
        now += gap
        times.append(rate_limiter.reserve(now))
        assert times[-1] >= now
        assert times[-1] <= now + len(times) / rate * (1 + 1e-9)
    assert all(later - earlier >= 1 / rate * (1 - 1e-6) for earlier, later in pairwise(times))


def test_without_a_rate_every_poll_is_allowed_at_once() -> None:
    """With a rate of None, `reserve` always returns the present time."""
    rate_limiter = RateLimiter(None)
    assert [rate_limiter.reserve(5.0) for _ in range(3)] == [5.0] * 3
