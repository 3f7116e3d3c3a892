"""How many looks a second."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.polling.schedule import RateLimiter


@given(rate=st.floats(0.01, 1000), gaps=st.lists(st.floats(0, 100), min_size=1))
def test_turns_are_spaced_and_nobody_is_passed(rate: float, gaps: list[float]) -> None:
    """Turns come in the order in which they are asked for, never early, at most `rate` a second, and not later than
    the turns before them need.
    """
    rate_limiter, now, turns = RateLimiter(rate), 0.0, list[float]()
    for gap in gaps:
        now += gap
        turns.append(rate_limiter.reserve(now))
        assert turns[-1] >= now
        assert turns[-1] <= now + len(turns) / rate * (1 + 1e-9)
    assert all(later - earlier >= 1 / rate * (1 - 1e-6) for earlier, later in pairwise(turns))


def test_no_bounds() -> None:
    """Without a rate everybody goes at once."""
    rate_limiter = RateLimiter(None)
    assert [rate_limiter.reserve(5.0) for _ in range(3)] == [5.0] * 3
