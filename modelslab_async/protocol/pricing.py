"""What calls cost, and what may be spent on them. Money is Decimal; a clock is passed in, as unix seconds."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum, auto
from typing import Literal, NamedTuple, cast

import attrs

from modelslab_async.errors import BudgetExceededError
from modelslab_async.protocol.problems import refusal, require
from modelslab_async.protocol.record import Charge

_DAY = 86_400
_MOST_DIGITS = 12
"""Before and after the point: sums of such amounts are exact in the 28 digits of Decimal's own context."""
Money = Decimal | int | float | str
Period = Literal["day", "ever"] | None


class Plan(Enum):
    """The plans whose credits the documentation page names, with the API credits that each has."""

    BASIC = 3250
    STANDARD = 10_000


_CREDITS: Mapping[Plan, int] = {Plan.BASIC: 31, Plan.STANDARD: 43}


class Estimate(NamedTuple):
    """What so many calls cost: in USD, or in the credits of each plan."""

    jobs: int
    usd: Decimal
    credits: Mapping[Plan, int]


def _money(value: Money) -> Decimal:
    """A float is taken as it is written: 0.1 is a tenth. What is no amount stays as it is, to be shown."""
    return Decimal(str(value)) if _is_amount(value, whole=False) else cast("Decimal", value)


@attrs.frozen(kw_only=True)
class PriceList:
    """What a call costs. The page says $0.2, which is 31 credits of the Basic plan and 43 of the Standard plan.

    Raises InvalidRequestError for prices that cannot be right.
    """

    usd: Decimal = attrs.field(default=Decimal("0.2"), converter=_money)
    credits: Mapping[Plan, int] = attrs.field(factory=lambda: dict(_CREDITS))

    def __attrs_post_init__(self) -> None:
        priced = self.credits.items() if isinstance(self.credits, Mapping) else ()
        are_credits = all(isinstance(plan, Plan) and _is_amount(price, whole=True) for plan, price in priced)
        requirement, hint = "whole numbers, not below 0, by Plan", "pass {Plan.BASIC: 31}, or leave it out"
        require(_amount("usd", self.usd), (bool(priced) and are_credits, "credits", self.credits, requirement, hint))

    def estimate(self, jobs: int) -> Estimate:
        """What so many calls cost."""
        require(_amount("jobs", jobs))
        return Estimate(jobs, self.usd * jobs, {plan: price * jobs for plan, price in self.credits.items()})


class _State(Enum):
    """What is known of a call that counts."""

    RESERVED = auto()
    HELD = auto()
    SETTLED = auto()


class _Price(NamedTuple):
    """What one call took. `credits` is None for a call of an earlier run: it takes what a call takes now."""

    usd: Decimal
    credits: int | None


class _Call(NamedTuple):
    """`period` is that in which it was settled, None before."""

    price: _Price
    state: _State
    period: int | None = None


class _Limit(NamedTuple):
    """One limit: what a call takes of it, and what is left, never below 0. All in `unit`."""

    unit: str
    limit: Decimal
    price: Decimal
    used: Decimal

    @property
    def left(self) -> Decimal:
        return max(self.limit - self.used, Decimal(0))


class Budget:
    """What may be spent: reserved at submit, settled when the service takes the job, released when it surely does not.

    A job whose reply was lost is held: it counts until somebody knows. One Budget may be shared by several clients.

    Its methods are the client's: a job is told by a key of its own, since a ref may be used again.

    usd: dollars. jobs: calls. credits: API credits of a `plan`. At least one of them; None is no limit.
    per: "day" counts what was spent on this UTC day, "ever" all that was; both count what a journal knows of earlier
        runs. None counts what is spent through this object.
    check_balance: a client that starts with it first asks what the account's wallet holds, and raises where that is
        less than what may be spent.

    Raises InvalidRequestError for limits that cannot be right.
    """

    def __init__(
        self,
        *,
        usd: Money | None = None,
        jobs: int | None = None,
        credits: int | None = None,  # noqa: A002 - the service's word
        plan: Plan | None = None,
        per: Period = None,
        check_balance: bool = False,
    ) -> None:
        _check(usd, jobs, credits, plan, per)
        self.check_balance = check_balance
        self._usd = None if usd is None else _money(usd)
        self._jobs, self._credits, self._plan = jobs, credits, plan
        self._per: Period = per
        self._calls: dict[str, _Call] = {}
        self._counts = defaultdict[tuple[_State, int | None], Counter[_Price]](Counter)
        """How many calls at each price. Prices are few and jobs many: no sum goes over the jobs."""

    def __repr__(self) -> str:
        plan = self._plan and self._plan.name
        limits = {"usd": self._usd, "jobs": self._jobs, "credits": self._credits, "plan": plan, "per": self._per}
        told = ", ".join(f"{name}={value}" for name, value in limits.items() if value is not None)
        return f"<Budget {told}: reserved {self.reserved}, held {self.held} USD>"

    @property
    def reserved(self) -> Decimal:
        """USD of jobs that wait, or are being submitted."""
        return _usd(self._counts[_State.RESERVED, None])

    @property
    def held(self) -> Decimal:
        """USD of jobs of which nobody knows whether they were charged."""
        return _usd(self._counts[_State.HELD, None])

    def spent(self, now: float) -> Decimal:
        """USD that were charged, in this period."""
        return _usd(self._counts[_State.SETTLED, self._period(now)])

    def remaining(self, now: float) -> Decimal | None:
        """USD that may still be spent, never below 0; None without a limit in USD."""
        return None if self._usd is None else max(self._usd - _usd(self._counting(now)), Decimal(0))

    def jobs_left(self, prices: PriceList, now: float) -> int | None:
        """How many more calls all limits allow at these prices; None for any number, where calls are free.

        Raises InvalidRequestError as `reserve` does.
        """
        return min((int(each.left // each.price) for each in self._limits(prices, now) if each.price), default=None)

    def reserve(self, key: str, prices: PriceList, now: float) -> None:
        """A job is about to be submitted. A key that counts already is not counted again.

        Raises BudgetExceededError, or InvalidRequestError for prices that lack those of the budget's plan; then
        nothing is reserved.
        """
        if key in self._calls:
            return
        for each in self._limits(prices, now):
            if each.used + each.price > each.limit:
                words = f"a job takes {each.price} {each.unit} of a budget of {each.limit}, {each.left} of it are left"
                raise BudgetExceededError(words, needed=each.price, remaining=each.left)
        self._put(key, _Call(_Price(prices.usd, self._credits_of(prices)), _State.RESERVED))

    def settle(self, key: str, now: float) -> None:
        """The service took the job."""
        if call := self._taken_out(key):
            self._put(key, _Call(call.price, _State.SETTLED, self._period(now)))

    def release(self, key: str) -> None:
        """The job surely is not charged."""
        self._taken_out(key)

    def hold(self, key: str) -> None:
        """Nobody knows whether the job is charged."""
        if call := self._taken_out(key):
            self._put(key, _Call(call.price, _State.HELD))

    def spent_before(self, charges: Iterable[Charge]) -> None:
        """What a journal knows of earlier runs."""
        if self._per is not None:
            for charge in charges:
                if charge.key not in self._calls:
                    state = (_State.SETTLED, self._period(charge.at)) if charge.is_certain else (_State.HELD, None)
                    self._put(charge.key, _Call(_Price(charge.usd, None), *state))

    def compare(self, wallet: Decimal, now: float) -> None:
        """Raises BudgetExceededError where a wallet holds less USD than may still be spent."""
        needed = self.remaining(now)
        if needed is not None and wallet < needed:
            words = f"the account's wallet holds {wallet} USD, and the budget allows {needed} more"
            raise BudgetExceededError(words, needed=needed, remaining=wallet)

    def _period(self, at: float) -> int:
        """The period's number: a UTC day's, or always the same."""
        return int(at // _DAY) if self._per == "day" else 0

    def _put(self, key: str, call: _Call) -> None:
        self._calls[key] = call
        self._counts[call.state, call.period][call.price] += 1

    def _taken_out(self, key: str) -> _Call | None:
        """The call, counted no more; None, and nothing changes, for one that is unknown or settled."""
        call = self._calls.get(key)
        if call is None or call.state is _State.SETTLED:
            return None
        del self._calls[key]
        self._counts[call.state, call.period][call.price] -= 1
        return call

    def _counting(self, now: float) -> Counter[_Price]:
        """The calls of this period, and all that are not settled."""
        settled = self._counts[_State.SETTLED, self._period(now)]
        return self._counts[_State.RESERVED, None] + self._counts[_State.HELD, None] + settled

    def _credits_of(self, prices: PriceList) -> int:
        """What a call takes of the credits; 0 where they do not matter."""
        if self._plan is None:
            return 0
        if self._plan not in prices.credits:
            requirement = f"the budget counts credits of {self._plan}"
            raise refusal("prices", prices, requirement, "pass the credits of that plan too")
        return prices.credits[self._plan]

    def _limits(self, prices: PriceList, now: float) -> Iterator[_Limit]:
        """Those that were given."""
        counting, credit = self._counting(now), self._credits_of(prices)
        if self._usd is not None:
            yield _Limit("USD", self._usd, prices.usd, _usd(counting))
        if self._jobs is not None:
            yield _Limit("jobs", Decimal(self._jobs), Decimal(1), Decimal(counting.total()))
        if self._credits is not None:
            used = sum(
                count * (credit if price.credits is None else price.credits) for price, count in counting.items()
            )
            yield _Limit("credits", Decimal(self._credits), Decimal(credit), Decimal(used))


def _usd(calls: Counter[_Price]) -> Decimal:
    return sum((price.usd * count for price, count in calls.items() if count), Decimal(0))


def _check(usd: object, jobs: object, credits: object, plan: object, per: object) -> None:  # noqa: A002
    limits = {"usd": usd, "jobs": jobs, "credits": credits}
    is_plan = isinstance(plan, Plan | None) and (credits is None) == (plan is None)
    plan_rule = "credits are those of a plan, and a plan counts credits"
    plan_way = "pass credits= with plan=Plan.BASIC or Plan.STANDARD"
    is_limited = any(value is not None for value in limits.values())
    require(
        *(_amount(name, value) for name, value in limits.items() if value is not None),
        (is_limited, "usd", None, "a budget needs a limit", "pass usd=, jobs= or credits="),
        (is_plan, "plan", plan, plan_rule, plan_way),
        (per in (None, "day", "ever"), "per", per, '"day", "ever" or None', "pass one of them"),
    )


def _amount(name: str, value: object) -> tuple[bool, str, object, str, str]:
    """What is required of one."""
    is_money = name == "usd"
    kind = "number" if is_money else "whole number"
    requirement = f"a {kind}, not below 0, of at most {_MOST_DIGITS} digits before and after the point"
    return _is_amount(value, whole=not is_money), name, value, requirement, "pass one, or leave it out"


def _is_amount(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else Decimal | int | float | str):
        return False
    try:
        amount = Decimal(str(value))
    except (InvalidOperation, ValueError):
        return False
    exponent = amount.as_tuple().exponent
    is_ordinary = isinstance(exponent, int) and exponent >= -_MOST_DIGITS and amount.adjusted() < _MOST_DIGITS
    return is_ordinary and amount >= 0
