"""Tests of prices and budgets."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any, Literal

import hypothesis.strategies as st
import pytest
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from modelslab_async import Budget, BudgetExceededError, InvalidRequestError, Plan, PriceList
from modelslab_async.protocol.record import Charge, Charges, key_of, ref_and_time_of

PRICES = PriceList()
CHEAP = PriceList(usd=Decimal("0.07"))
DAY = 86_400.0
Per = Literal["day", "ever"] | None
PERIODS: tuple[Per, ...] = (None, "day", "ever")


def amounts(budget: Budget, now: float) -> tuple[object, ...]:
    return budget.reserved, budget.held, budget.spent(now), budget.remaining(now)


def test_every_wrong_limit_is_reported_at_once() -> None:
    """One error has a problem for each wrong argument, with its field, value, requirement and hint."""
    wrong: dict[str, Any] = {"usd": "much", "jobs": True, "credits": -3, "per": "week"}
    with pytest.raises(InvalidRequestError) as caught:
        Budget(**wrong)
    problems = {problem.field: problem for problem in caught.value.problems}
    assert problems.keys() == {"usd", "jobs", "credits", "plan", "per"}
    assert {field: problems[field].value for field in wrong} == {field: repr(value) for field, value in wrong.items()}
    assert all(problem.requirement and problem.hint for problem in problems.values())
    assert all(str(problem) in str(caught.value) for problem in problems.values())


@pytest.mark.parametrize("usd", [Decimal("sNaN"), Decimal("-Infinity"), "", "-0.01", [], b"1", float("-inf")], ids=repr)
def test_a_value_that_is_no_amount_is_refused(usd: Any) -> None:
    """The error is an InvalidRequestError, never one of decimal's errors."""
    with pytest.raises(InvalidRequestError) as caught:
        Budget(usd=usd)
    assert [problem.field for problem in caught.value.problems] == ["usd"]


@pytest.mark.parametrize("usd", [1, "1", 1.0, Decimal(1), "1.00"], ids=repr)
def test_money_may_be_written_in_many_ways(usd: Any) -> None:
    """An int, a string, a float or a Decimal becomes an exact Decimal: five calls of $0.2 are exactly a dollar."""
    budget = Budget(usd=usd)
    for number in range(5):
        budget.reserve(str(number), PRICES, 0.0)
    assert budget.remaining(0.0) == 0
    assert isinstance(budget.remaining(0.0), Decimal)


def test_a_request_without_a_model_has_the_price_of_the_default_model() -> None:
    """The service uses its default model then, so a price for that model counts, alone and in estimates."""
    prices = PriceList(of={("text2video_ultra", "wan2.2"): "0.3", "img2video_ultra": "0.5"})
    assert prices.price_of("text2video_ultra").usd == Decimal("0.3")
    assert prices.price_of("text2video_ultra", "wan2.1").usd == Decimal("0.2")
    assert prices.estimate(3).usd == prices.estimate_calls([("img2video_ultra", None)] * 3).usd == Decimal("1.5")


@pytest.mark.parametrize(
    ("limits", "unit", "needed", "remaining"),
    [
        ({"usd": "0.5"}, r"\$", "0.2", "0.1"),
        ({"jobs": 2}, "jobs", "1", "0"),
        ({"credits": 92, "plan": Plan.BASIC}, "credits", "31", "30"),
        ({"credits": 128, "plan": Plan.STANDARD}, "credits", "43", "42"),
    ],
    ids=str,
)
def test_a_refusal_names_amounts_in_the_unit_of_the_limit(limits: Any, unit: str, needed: str, remaining: str) -> None:
    """The error's text and its amounts are in the unit of the limit that the job exceeds."""
    budget = Budget(**limits)
    with pytest.raises(BudgetExceededError, match=unit) as caught:
        for number in range(3):
            budget.reserve(str(number), PRICES, 0.0)
    assert (caught.value.needed, caught.value.remaining) == (Decimal(needed), Decimal(remaining))


def test_a_settled_call_stays_charged() -> None:
    """No call after `settle` changes what was charged."""
    budget = Budget(usd=1)
    budget.reserve("a", PRICES, 0.0)
    budget.settle("a", 0.0)
    before = amounts(budget, 0.0)
    budget.release("a")
    budget.hold("a")
    budget.settle("a", DAY)
    budget.reserve("a", PRICES, 0.0)
    assert amounts(budget, 0.0) == before == (0, 0, Decimal("0.2"), Decimal("0.8"))


@pytest.mark.parametrize(("end", "left"), [("settle", "0.8"), ("release", "1")])
def test_a_held_call_counts_until_its_outcome_is_known(end: str, left: str) -> None:
    """A call may be held over days. It is charged on the day on which `settle` is called, or released."""
    budget = Budget(usd=1, per="day")
    budget.reserve("a", PRICES, 0.0)
    budget.hold("a")
    assert (budget.held, budget.remaining(3 * DAY)) == (Decimal("0.2"), Decimal("0.8"))
    budget.settle("a", 3 * DAY) if end == "settle" else budget.release("a")
    assert budget.held == 0
    assert budget.remaining(3 * DAY) == Decimal(left)


@pytest.mark.parametrize("per", PERIODS)
def test_unknown_keys_are_harmless(per: Per) -> None:
    """Calls with an unknown key change nothing."""
    budget = Budget(usd=1, per=per)
    budget.settle("unknown", 0.0)
    budget.release("unknown")
    budget.hold("unknown")
    assert amounts(budget, 0.0) == (0, 0, 0, 1)


def test_charges_of_earlier_runs_count_once() -> None:
    """A charge that two clients with a shared journal both report counts once, in USD and as one job."""
    budget = Budget(usd=1, jobs=3, per="ever")
    for _ in range(2):
        budget.spent_before([Charge("a", 1.0, Decimal("0.3")), Charge("b", DAY, Decimal("0.3"))])
    assert budget.remaining(5 * DAY) == Decimal("0.4")
    budget.reserve("c", PRICES, 5 * DAY)
    with pytest.raises(BudgetExceededError, match="jobs"):
        budget.reserve("d", PRICES, 5 * DAY)


def test_the_repr_of_a_budget() -> None:
    """The repr shows the limits and amounts, and no key of a job."""
    budget = Budget(usd="20", jobs=100, per="day")
    budget.reserve("my-secret", PRICES, 0.0)
    assert repr(budget) == "<Budget usd=20, jobs=100, per=day: reserved 0.2, held 0 USD>"


@given(st.integers(0, 40_000), st.floats(0, DAY - 0.01))
def test_a_day_ends_at_utc_midnight(day: int, second: float) -> None:
    """A charge at any second of a UTC day counts during all of that day, and on no other day."""
    budget, midnight = Budget(jobs=1, per="day"), day * DAY
    budget.reserve("a", PRICES, midnight)
    budget.settle("a", midnight + second)
    last = midnight + DAY - 0.01
    assert [budget.spent(now) for now in (midnight, last, midnight + DAY)] == [PRICES.usd, PRICES.usd, 0]
    with pytest.raises(BudgetExceededError):
        budget.reserve("b", PRICES, last)
    budget.reserve("b", PRICES, midnight + DAY)
    assert budget.reserved == PRICES.usd


@given(st.lists(st.sampled_from([PRICES, CHEAP]), max_size=20), st.sampled_from(["", "hold"]))
def test_release_returns_exactly_the_reserved_amount(prices: list[PriceList], hold: str) -> None:
    """After the release of all calls, held or not and in another order, nothing is reserved or held."""
    budget = Budget(usd=100)
    for number, price in enumerate(prices):
        budget.reserve(str(number), price, 0.0)
        if hold:
            budget.hold(str(number))
    assert budget.reserved + budget.held == sum((price.usd for price in prices), Decimal(0))
    for number in reversed(range(len(prices))):
        budget.release(str(number))
    assert amounts(budget, 0.0) == (0, 0, 0, 100)


def test_what_a_storage_reports_replaces_what_it_reported_before() -> None:
    """The counts of another storage or account are added. Jobs in doubt count once, and those of today count today."""
    budget, price = Budget(usd=10, per="day"), Decimal("0.5")
    doubt = Charge("a/doubt@1.0", 1.0, price, is_certain=False)
    for storage, account, count in (("one", "a", 3), ("one", "a", 4), ("two", "a", 1), ("one", "b", 2)):
        budget.spent_elsewhere(account, Charges(storage, {price: count}, [doubt]), now=DAY)
    assert budget.spent(DAY) == (4 + 1 + 2) * price
    assert budget.held == price
    assert budget.remaining(DAY) == 10 - 8 * price
    assert budget.remaining(2 * DAY) == 10 - price
    budget.settle("a/doubt@1.0", 2.0 * DAY)
    assert amounts(budget, 2 * DAY) == (0, 0, price, 10 - price)


def test_a_budget_knows_its_calls_of_an_account() -> None:
    """They are those whose keys begin with the account's name, in whichever state."""
    budget = Budget(jobs=9, per="ever")
    for number, account in enumerate(("a", "b", "a", "ab")):
        budget.reserve(key_of(account, f"r{number}", 1.0), PRICES, 0.0)
    budget.settle(key_of("a", "r0", 1.0), 0.0)
    assert sorted(budget.known("a")) == [key_of("a", "r0", 1.0), key_of("a", "r2", 1.0)]
    assert budget.since(3.5 * DAY) == -math.inf
    assert Budget(jobs=9, per="day").since(3.5 * DAY) == 3 * DAY


@pytest.mark.parametrize("ref", ["r", "a/b@c", "@", "1.5@2.5"])
def test_a_key_gives_the_ref_and_the_time(ref: str) -> None:
    """A key is unique to a job, so both can be read from it."""
    assert ref_and_time_of("the/account", key_of("the/account", ref, 1764000000.123456)) == (ref, 1764000000.123456)


def test_credits_count_at_the_price_of_their_reservation() -> None:
    """A call counts the credits at which it was reserved; a call of an earlier run counts at the present price."""
    budget, cheaper = Budget(credits=104, plan=Plan.BASIC, per="ever"), PriceList(credits={Plan.BASIC: 10})
    budget.spent_before([Charge("earlier", 0.0, PRICES.usd)])
    for key in "abc":
        budget.reserve(key, PRICES if key != "c" else cheaper, 0.0)
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve("d", PriceList(credits={Plan.BASIC: 23}), 0.0)
    assert (caught.value.needed, caught.value.remaining) == (Decimal(23), Decimal(104 - 31 - 31 - 10 - 23))


def test_prices_must_include_the_credits_of_the_plan() -> None:
    """Prices without the credits of the budget's plan are refused, since they would allow any number of calls."""
    budget = Budget(credits=10, plan=Plan.BASIC)
    with pytest.raises(InvalidRequestError, match="BASIC"):
        budget.reserve("a", PriceList(credits={Plan.STANDARD: 43}), 0.0)
    assert budget.reserved == 0


@pytest.mark.parametrize("usd", [0.3, "0.3", Decimal("0.3")], ids=repr)
def test_prices_may_be_written_in_many_ways(usd: Any) -> None:
    """A price may be a float, a string or a Decimal, and becomes an exact Decimal."""
    assert PriceList(usd=usd).estimate(3).usd == Decimal("0.9")


def test_wrong_prices_are_reported_at_once() -> None:
    """One error has a problem for each wrong price. A price below 0 would raise the budget."""
    wrong: dict[str, Any] = {"usd": -1, "credits": {"basic": 31}}
    with pytest.raises(InvalidRequestError) as caught:
        PriceList(**wrong)
    assert [problem.field for problem in caught.value.problems] == ["usd", "credits"]


@pytest.mark.parametrize("jobs", [-1, 1.5, True, "3"], ids=repr)
def test_an_estimate_needs_a_whole_number_of_jobs(jobs: Any) -> None:
    """A number of jobs that is negative, a fraction, a boolean or a string is refused."""
    with pytest.raises(InvalidRequestError, match="jobs"):
        PRICES.estimate(jobs)


@pytest.mark.parametrize("amount", [10**5000, "1e999999999", "1e-999999999"], ids=["digits", "large", "small"])
def test_amounts_have_a_limited_number_of_digits(amount: Any) -> None:
    """A huge or tiny amount is refused, so that sums are exact and decimal raises no error."""
    with pytest.raises(InvalidRequestError, match="usd"):
        Budget(usd=amount)


def test_the_remaining_amount_is_never_negative() -> None:
    """If earlier runs spent more than the limit, 0 remains."""
    budget = Budget(usd=1, per="ever")
    budget.spent_before([Charge("a", 0.0, Decimal(7))])
    assert budget.remaining(0.0) == 0
    assert budget.jobs_left(PRICES, 0.0) == 0


@pytest.mark.parametrize(
    ("limits", "left"),
    [({"usd": 1}, 4), ({"usd": 1, "jobs": 3}, 2), ({"credits": 100, "plan": Plan.BASIC}, 2), ({"usd": 0}, 0)],
    ids=str,
)
def test_jobs_left_follows_the_tightest_limit(limits: Any, left: int) -> None:
    """Exactly `jobs_left` more calls can be reserved."""
    budget = Budget(**limits)
    if left:
        budget.reserve("first", PRICES, 0.0)
    assert budget.jobs_left(PRICES, 0.0) == left
    for number in range(left):
        budget.reserve(str(number), PRICES, 0.0)
    with pytest.raises(BudgetExceededError):
        budget.reserve("one too many", PRICES, 0.0)


def test_free_calls_are_not_limited() -> None:
    """A budget in USD allows any number of calls that cost nothing."""
    assert Budget(usd=0).jobs_left(PriceList(usd=Decimal(0)), 0.0) is None


class Spending(RuleBasedStateMachine):
    """Compare a budget with a model: the state, the price and the time of the charge of each key."""

    keys = st.sampled_from("abcdefgh")

    @initialize(usd=st.integers(0, 10), jobs=st.integers(0, 6), credits_=st.integers(0, 200), which=st.integers(1, 7))
    def a_budget(self, usd: int, jobs: int, credits_: int, which: int) -> None:
        self.per = PERIODS[which % 3]
        self.usd = Decimal(usd) / 5 if which & 1 else None
        self.jobs = jobs if which & 2 else None
        self.credits = credits_ if which & 4 else None
        plan = Plan.BASIC if which & 4 else None
        self.budget = Budget(usd=self.usd, jobs=self.jobs, credits=self.credits, plan=plan, per=self.per)
        self.now = 0.0
        self.calls: dict[str, tuple[str, Decimal, float]] = {}
        self.before = 0

    @rule(key=keys, prices=st.sampled_from([PRICES, CHEAP]))
    def reserve(self, key: str, prices: PriceList) -> None:
        try:
            self.budget.reserve(key, prices, self.now)
        except BudgetExceededError:
            assert key not in self.calls
            assert not self.fits(prices.usd, 1)
        else:
            assert key in self.calls or self.fits(prices.usd, 1)
            self.calls.setdefault(key, ("reserved", prices.usd, 0.0))

    @rule(key=keys)
    def settle(self, key: str) -> None:
        self.budget.settle(key, self.now)
        if self.is_open(key):
            self.calls[key] = ("charged", self.calls[key][1], self.now)

    @rule(key=keys)
    def release(self, key: str) -> None:
        self.budget.release(key)
        if self.is_open(key):
            del self.calls[key]

    @rule(key=keys)
    def hold(self, key: str) -> None:
        self.budget.hold(key)
        if self.is_open(key):
            self.calls[key] = ("held", self.calls[key][1], 0.0)

    @rule(hours=st.floats(0.1, 30))
    def wait(self, hours: float) -> None:
        self.now += hours * 3600

    @rule(hours=st.floats(0, 60), usd=st.sampled_from([PRICES.usd, CHEAP.usd]))
    def report_an_earlier_run(self, hours: float, usd: Decimal) -> None:
        """Report a charge that the limits allow, although earlier runs may have spent more than the limits."""
        at = max(self.now - hours * 3600, 0.0)
        counts = self.per == "ever" or (self.per == "day" and at // DAY == self.now // DAY)
        if counts and not self.fits(usd, 1):
            return
        self.before += 1
        self.budget.spent_before([Charge(f"before {self.before}", at, usd)])
        if self.per is not None:
            self.calls[f"before {self.before}"] = ("charged", usd, at)

    def is_open(self, key: str) -> bool:
        return key in self.calls and self.calls[key][0] != "charged"

    def usd_of(self, state: str) -> Decimal:
        return sum((usd for usd in self.counted(state)), Decimal(0))

    def counted(self, *states: str) -> list[Decimal]:
        """Return the prices of the calls that count and are in one of these states."""
        today = self.now // DAY
        return [
            usd
            for state, usd, at in self.calls.values()
            if state in states and (state != "charged" or self.per != "day" or at // DAY == today)
        ]

    def fits(self, usd: Decimal, more: int) -> bool:
        counted = self.counted("reserved", "held", "charged")
        count = len(counted) + more
        return (
            (self.usd is None or sum(counted) + usd <= self.usd)
            and (self.jobs is None or count <= self.jobs)
            and (self.credits is None or 31 * count <= self.credits)
        )

    @invariant()
    def no_limit_is_exceeded(self) -> None:
        assert self.fits(Decimal(0), 0)
        total = self.budget.reserved + self.budget.held + self.budget.spent(self.now)
        assert self.usd is None or total <= self.usd

    @invariant()
    def the_amounts_equal_the_model(self) -> None:
        amounts = (self.budget.reserved, self.budget.held, self.budget.spent(self.now))
        assert amounts == (self.usd_of("reserved"), self.usd_of("held"), self.usd_of("charged"))
        left = None if self.usd is None else self.usd - sum(amounts)
        assert self.budget.remaining(self.now) == left


TestSpending = Spending.TestCase
