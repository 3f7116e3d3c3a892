"""Tests of which failure may be repeated, and after how long."""

from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import errors
from modelslab_async.protocol.retry import Verdict, after_submit, delays, may_pass

TABLE: list[tuple[errors.ModelsLabError, Verdict, bool]] = [
    (errors.ConnectError("refused"), Verdict.REPEAT, True),
    (errors.ReplyLostError("reset"), Verdict.UNCERTAIN, True),
    (errors.TransportError("either"), Verdict.UNCERTAIN, True),
    (errors.RateLimitError("full", http_status=429), Verdict.PUT_BACK, True),
    (errors.RateLimitError("full", http_status=200), Verdict.PUT_BACK, True),
    (errors.RateLimitError("full", http_status=429, retry_after=1800.0), Verdict.PUT_BACK, True),
    (errors.ServerError("down", http_status=503), Verdict.REPEAT, True),
    (errors.ServerError("down", http_status=503, retry_after=60.0), Verdict.REPEAT, True),
    (errors.ServerError("down", http_status=503, retry_after=61.0), Verdict.REFUSED, True),
    (errors.ServerError("broken", http_status=500), Verdict.UNCERTAIN, True),
    (errors.MalformedReplyError("a page", http_status=502), Verdict.UNCERTAIN, True),
    (errors.MalformedReplyError("a page", http_status=503), Verdict.UNCERTAIN, True),
    (errors.BadRequestError("no", http_status=400), Verdict.REFUSED, False),
    (errors.BadRequestError("timeout", http_status=408), Verdict.UNCERTAIN, False),
    (errors.AuthenticationError("no", http_status=401), Verdict.REFUSED, False),
    (errors.InsufficientCreditsError("no", http_status=402), Verdict.REFUSED, False),
    (errors.NotFoundError("no", http_status=404), Verdict.REFUSED, False),
    (errors.JobError("something else"), Verdict.UNCERTAIN, False),
]


@pytest.mark.parametrize(("error", "verdict", "passes"), TABLE, ids=lambda value: type(value).__name__)
def test_the_table(error: errors.ModelsLabError, verdict: Verdict, passes: bool) -> None:
    """A submit is repeated only if the service certainly did not accept it, a free call if it may succeed."""
    assert (after_submit(error), may_pass(error)) == (verdict, passes)


@given(seed=st.integers(), longest=st.floats(1, 60))
def test_waits_grow_to_a_bound_and_depend_on_the_seed_alone(seed: int, longest: float) -> None:
    """Each wait is at least half of a doubling time with an upper bound, and the same seed gives the same waits."""
    waits = list(islice(delays(random.Random(seed), longest), 10))
    assert waits == list(islice(delays(random.Random(seed), longest), 10))
    for number, wait in enumerate(waits):
        whole = min(0.5 * 2**number, longest)
        assert whole / 2 <= wait <= whole
