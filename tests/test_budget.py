"""What calls cost, and what may be spent on them."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from conftest import World, a_request
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from modelslab_async import Budget, BudgetExceededError, InvalidRequestError, Plan, PriceList
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol.record import Charge

MakeWorld = Callable[..., World]
PRICES = PriceList()
DAY = 86_400.0


def test_what_the_page_says() -> None:
    """A call is $0.2, 31 credits of the Basic plan's 3250, and 43 of the Standard plan's 10000."""
    estimate = PRICES.estimate(3)
    assert (estimate.jobs, estimate.usd) == (3, Decimal("0.6"))
    assert estimate.credits == {Plan.BASIC: 93, Plan.STANDARD: 129}
    assert (Plan.BASIC.value, Plan.STANDARD.value) == (3250, 10_000)


@pytest.mark.parametrize(
    ("limits", "calls"),
    [
        ({"usd": "1"}, 5),
        ({"usd": 0.7}, 3),
        ({"jobs": 4}, 4),
        ({"credits": 100, "plan": Plan.BASIC}, 3),
        ({"credits": 100, "plan": Plan.STANDARD}, 2),
        ({"usd": 20, "jobs": 2}, 2),
        ({"usd": 0}, 0),
    ],
    ids=str,
)
def test_each_limit_allows_so_many_calls(limits: dict[str, Any], calls: int) -> None:
    """The call that would go beyond is refused, with what it needs and what is left; nothing is reserved for it."""
    budget = Budget(**limits)
    for number in range(calls):
        budget.reserve(str(number), PRICES, 0.0)
    before = budget.reserved
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve("one too many", PRICES, 0.0)
    assert caught.value.needed > caught.value.remaining >= 0
    assert caught.value.charged is False
    assert budget.reserved == before == calls * PRICES.usd


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({}, "usd"),
        ({"usd": -1}, "usd"),
        ({"usd": True}, "usd"),
        ({"usd": "much"}, "usd"),
        ({"usd": float("nan")}, "usd"),
        ({"usd": float("inf")}, "usd"),
        ({"jobs": 1.5}, "jobs"),
        ({"jobs": -1}, "jobs"),
        ({"credits": 100}, "plan"),
        ({"usd": 1, "plan": Plan.BASIC}, "plan"),
        ({"usd": 1, "per": "week"}, "per"),
    ],
    ids=str,
)
def test_limits_that_cannot_be_right(limits: dict[str, Any], field: str) -> None:
    """One clear error, which names the field and the way out."""
    with pytest.raises(InvalidRequestError) as caught:
        Budget(**limits)
    assert field in [problem.field for problem in caught.value.problems]
    assert all(problem.way_out for problem in caught.value.problems)


def test_a_day_ends_at_midnight() -> None:
    """What was charged yesterday does not count; what is reserved or held always does."""
    budget = Budget(usd="0.6", per="day")
    for ref in ("charged", "held", "reserved"):
        budget.reserve(ref, PRICES, DAY - 2)
    budget.settle("charged", DAY - 1)
    budget.hold("held")
    assert (budget.remaining(DAY - 1), budget.remaining(DAY)) == (Decimal(0), Decimal("0.2"))
    assert (budget.spent(DAY - 1), budget.spent(DAY)) == (Decimal("0.2"), Decimal(0))


@pytest.mark.parametrize(("per", "left"), [(None, "1"), ("day", "0.8"), ("ever", "0.6")])
def test_what_earlier_runs_spent(per: Any, left: str) -> None:
    """Counts as `per` says."""
    budget = Budget(usd=1, per=per)
    budget.spent_before([Charge("a", 10.0, Decimal("0.2")), Charge("b", DAY + 10, Decimal("0.2"))])
    assert budget.remaining(DAY + 20) == Decimal(left)


class Spending(RuleBasedStateMachine):
    """A budget beside a plain count of what each ref is."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(usd=1, per="day")
        self.now = 0.0
        self.states: dict[str, tuple[str, float]] = {}

    refs = st.sampled_from("abcdefgh")

    @rule(ref=refs)
    def reserve(self, ref: str) -> None:
        known = ref in self.states
        try:
            self.budget.reserve(ref, PRICES, self.now)
        except BudgetExceededError:
            assert not known
            assert self.counted() + PRICES.usd > 1
        else:
            self.states.setdefault(ref, ("reserved", 0.0))

    @rule(ref=refs)
    def settle(self, ref: str) -> None:
        self.budget.settle(ref, self.now)
        if self.states.get(ref, ("charged",))[0] != "charged":
            self.states[ref] = ("charged", self.now)

    @rule(ref=refs)
    def release(self, ref: str) -> None:
        self.budget.release(ref)
        if self.states.get(ref, ("charged",))[0] != "charged":
            del self.states[ref]

    @rule(ref=refs)
    def hold(self, ref: str) -> None:
        self.budget.hold(ref)
        if self.states.get(ref, ("charged",))[0] != "charged":
            self.states[ref] = ("held", 0.0)

    @rule(hours=st.floats(0.1, 30))
    def wait(self, hours: float) -> None:
        self.now += hours * 3600

    def counted(self) -> Decimal:
        today = self.now // DAY
        return PRICES.usd * sum(kind != "charged" or at // DAY == today for kind, at in self.states.values())

    @invariant()
    def the_numbers_agree(self) -> None:
        kinds = [kind for kind, _ in self.states.values()]
        assert self.budget.reserved == PRICES.usd * kinds.count("reserved")
        assert self.budget.held == PRICES.usd * kinds.count("held")
        assert self.budget.remaining(self.now) == 1 - self.counted()

    @precondition(lambda self: self.now < DAY)
    @invariant()
    def never_above(self) -> None:
        assert self.budget.reserved + self.budget.held + self.budget.spent(self.now) <= 1


TestSpending = Spending.TestCase


# --- with a client ------------------------------------------------------------------------------------------------


@pytest.mark.looptime
async def test_a_client_keeps_to_its_budget(world: MakeWorld) -> None:
    """The submit that is one too many raises where it was made, sends nothing, and two clients share a budget."""
    here, budget = world(), Budget(usd="0.6")
    async with here.client(budget=budget) as one, here.client(budget=budget) as other:
        jobs = [one.submit(a_request()), other.submit(a_request()), one.submit(a_request())]
        with pytest.raises(BudgetExceededError):
            other.submit(a_request())
        for job in jobs:
            await job
    assert budget.reserved == budget.held == 0
    assert len(here.service.ledger.charges) == 3
    assert budget.remaining(0.0) == 0


@pytest.mark.looptime
async def test_what_was_surely_not_charged_is_given_back(world: MakeWorld) -> None:
    """Refused and cancelled jobs cost nothing; a lost reply is held until a person says that it was lost."""
    here = world(faults=[Rule(Fault.RESET_BEFORE, times=1)], keys=["another"])
    budget = Budget(jobs=3)
    async with here.client(budget=budget, max_in_flight=1) as client:
        uncertain, refused, cancelled = (client.submit(a_request()) for _ in range(3))
        cancelled.cancel()
        await uncertain.wait()
        assert budget.held == PRICES.usd
        await refused.wait()
        assert budget.reserved == 0
    assert budget.held == PRICES.usd


@pytest.mark.looptime
async def test_spending_of_earlier_runs_counts(world: MakeWorld, tmp_path: Path) -> None:
    """With a journal: a budget for the day knows what an earlier client spent today."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        await client.generate(a_request())
    async with here.client(journal=tmp_path / "jobs.db", budget=Budget(jobs=2, per="day")) as client:
        await client.generate(a_request())
        with pytest.raises(BudgetExceededError):
            client.submit(a_request())
    assert len(here.service.ledger.charges) == 2


@pytest.mark.looptime
async def test_the_wallet_is_compared_first(world: MakeWorld) -> None:
    """A budget that the account cannot pay for is told before anything is submitted."""
    here = world(wallet=Decimal("5.00"))
    with pytest.raises(BudgetExceededError, match="wallet") as caught:
        async with here.client(budget=Budget(usd=20, check_balance=True)):
            pytest.fail("it must not get here")
    assert caught.value.needed == 20
    assert caught.value.remaining == 5
    async with here.client(budget=Budget(usd=4, check_balance=True)) as client:
        await client.generate(a_request())


@pytest.mark.looptime
async def test_an_estimate_spends_nothing(world: MakeWorld) -> None:
    """It counts, and sends nothing."""
    here = world()
    async with here.client() as client:
        assert client.estimate([a_request()] * 100).usd == 20
    assert here.transport.requests == []
