"""The laws of fault rules: which values they accept, and how often they hit."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError
from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.faults import FaultPlan


def a_plan(*rules: Rule, seed: object = 1) -> FaultPlan:
    """Return a plan of *rules* whose draws are seeded."""
    return FaultPlan(rules, random.Random(str(seed)))


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_a_rule_hits_its_share_of_its_occasions(rate: float) -> None:
    """A rule hits its share of its occasions, and no other occasions."""
    plan = a_plan(Rule(Fault.SLOW, rate=rate))
    hits = sum(plan.draw("submit") is not None for _ in range(4000))
    assert hits / 4000 == pytest.approx(rate, abs=0.03)
    assert plan.draw("fetch") is plan.draw("call") is plan.draw("file") is plan.draw("webhook") is None


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ((Fault.SLOW, None, -0.1), "rate"),
        ((Fault.SLOW, None, 1.1), "rate"),
        ((Fault.SLOW, None, 1.0, -1), "times"),
        ((Fault.SLOW, None, 1.0, 1, -5.0), "seconds"),
        ((Fault.SLOW, None, 1.0, 1, math.inf), "seconds"),
        ((Fault.SLOW, "fetsch"), "on"),
        (("RESET_AFTER",), "fault"),
    ],
)
def test_a_rule_with_a_wrong_value_is_refused(rule: tuple[Any, ...], field: str) -> None:
    """A wrong value is refused when the rule is made."""
    with pytest.raises(InvalidRequestError, match=rf"^{field}="):
        Rule(*rule)


@given(st.integers(0, 20), st.integers(0, 40))
def test_a_rule_hits_at_most_its_times(times: int, draws: int) -> None:
    """A rule hits at most `times` times; after that the next rule decides."""
    first, second = Rule(Fault.SLOW, times=times), Rule(Fault.STALL)
    plan = a_plan(first, second)
    assert [plan.draw("submit") for _ in range(draws)] == [first] * min(times, draws) + [second] * max(0, draws - times)


@given(st.integers(), st.lists(st.sampled_from(["submit", "fetch", "call", "file", "webhook"]), max_size=40))
def test_the_same_seed_draws_the_same_faults(seed: int, occasions: list[Any]) -> None:
    """Two plans with the same rules and seed draw the same faults."""
    rules = [Rule(Fault.SLOW, on=None, rate=0.4), Rule(Fault.STALL, on="fetch", rate=0.5, times=3), Rule(Fault.CUT_MP4)]
    draws = [[plan.draw(occasion) for occasion in occasions] for plan in (a_plan(*rules, seed=seed) for _ in range(2))]
    assert draws[0] == draws[1]
