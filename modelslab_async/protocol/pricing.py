"""Price calls, and keep what they cost within a budget.

Money is Decimal. Callers pass the time as unix seconds.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum, auto
from typing import Literal, NamedTuple, cast

import attrs

from modelslab_async.errors import BudgetExceededError, InvalidRequestError, Problem, usd
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS
from modelslab_async.protocol.problems import plural, refusal, require
from modelslab_async.protocol.record import Charge, Charges

DAY = 86_400
"""Seconds of a UTC day."""
_MAX_DIGITS = 12
"""Digits before and after the point. Sums of such amounts are exact in the 28 digits of Decimal's default context."""
Money = Decimal | int | float | str
Period = Literal["day", "ever"] | None


class Plan(Enum):
    """The subscription plans whose credits the documentation page names. The value is the plan's API credits."""

    BASIC = 3250
    STANDARD = 10_000


_CREDITS: Mapping[Plan, int] = {Plan.BASIC: 31, Plan.STANDARD: 43}


class Estimate(NamedTuple):
    """The cost of calls, in USD and in the credits of each plan.

    unpriced: how many of the calls have an unknown price, which the cost does not include.
    """

    jobs: int
    usd: Decimal
    credits: Mapping[Plan, int]
    unpriced: int = 0


class CallPrice(NamedTuple):
    """The price of one call.

    usd: None if it is unknown. credits: by plan; empty if they are unknown.
    call: the operation and the model, for errors.
    """

    usd: Decimal | None
    credits: Mapping[Plan, int]
    call: str

    def require_known(self) -> Decimal:
        """Return the price in USD. Raise InvalidRequestError if it is unknown."""
        if self.usd is None:
            requirement = f"must include the price of {self.call}, which is not documented"
            hint = f'pass PriceList(of={{"{self.call.partition(" ")[0]}": ...}}), or Budget(jobs=...)'
            raise InvalidRequestError([Problem("prices", "unknown", requirement, hint)])
        return self.usd


def _money(value: Money) -> Decimal:
    """Return *value* as a Decimal, a float by its digits, so that 0.1 is a tenth.

    A value that is not an amount is returned unchanged, so that an error can show it.
    """
    return Decimal(str(value)) if _is_amount(value, whole=False) else cast("Decimal", value)


PriceOf = Mapping[str | tuple[str, str], Money]


def _prices_of(value: PriceOf) -> Mapping[str | tuple[str, str], Decimal]:
    return {each: _money(price) for each, price in value.items()} if isinstance(value, Mapping) else value


@attrs.frozen(kw_only=True)
class PriceList:
    """The prices of calls, by default those of the documentation pages.

    usd: the price of an Image to Video Ultra in USD. The page names $0.2.
    credits: its price in credits of each plan. The page names 31 for the Basic plan and 43 for the Standard plan. The
        credits of other operations are not documented.
    of: the prices in USD of other calls, by the operation's name, or by (operation, model_id), which takes precedence.
        A request without a model has the operation's default model. An operation that is not in it has its documented
        price, or none.

    Raises InvalidRequestError for invalid prices.
    """

    usd: Decimal = attrs.field(default=Decimal("0.2"), converter=_money)
    credits: Mapping[Plan, int] = attrs.field(factory=lambda: dict(_CREDITS))
    of: Mapping[str | tuple[str, str], Decimal] = attrs.field(
        factory=dict[str | tuple[str, str], Decimal], converter=_prices_of
    )

    def __attrs_post_init__(self) -> None:
        priced = self.credits.items() if isinstance(self.credits, Mapping) else ()
        are_credits = all(isinstance(plan, Plan) and _is_amount(price, whole=True) for plan, price in priced)
        requirement, hint = "must be whole numbers of at least 0, by Plan", "pass {Plan.BASIC: 31}, or omit it"
        others = self.of.items() if isinstance(self.of, Mapping) else [(None, None)]
        are_prices = all(_is_call(call) and _is_amount(price, whole=False) for call, price in others)
        of_requirement = "must be amounts in USD by operation, or by (operation, model_id)"
        of_hint = f'pass {{"image-to-video": 0.5}}; the operations are {", ".join(OPERATIONS)}'
        require(
            _amount("usd", self.usd),
            (bool(priced) and are_credits, "credits", self.credits, requirement, hint),
            (are_prices, "of", self.of, of_requirement, of_hint),
        )

    def price_of(self, operation: str, model_id: object = None) -> CallPrice:
        """Return the price of a call."""
        row, is_default = OPERATIONS.get(operation), operation == DEFAULT_OPERATION
        model = model_id if isinstance(model_id, str) else row.default_model if row else None
        usd = self.of.get((operation, model)) if model else None
        if usd is None:
            usd = self.of.get(operation)
        if usd is None:
            usd = self.usd if is_default else row.price if row else None
        return CallPrice(usd, self.credits if is_default else {}, f"{operation} {model}" if model else operation)

    def estimate(self, jobs: int) -> Estimate:
        """Return the cost of *jobs* calls of Image to Video Ultra.

        Raise InvalidRequestError if *jobs* is not a number of calls.
        """
        require(_amount("jobs", jobs))
        usd = self.price_of(DEFAULT_OPERATION).usd or Decimal(0)
        return Estimate(jobs, usd * jobs, {plan: price * jobs for plan, price in self.credits.items()})

    def estimate_calls(self, calls: Iterable[tuple[str, object]]) -> Estimate:
        """Return the cost of calls, each an operation and a model.

        The credits are those of the calls whose credits are known.
        """
        jobs, unpriced, usd, by_plan = 0, 0, Decimal(0), dict.fromkeys(self.credits, 0)
        for operation, model in calls:
            price = self.price_of(operation, model)
            jobs, unpriced, usd = jobs + 1, unpriced + (price.usd is None), usd + (price.usd or 0)
            for plan, count in price.credits.items():
                by_plan[plan] += count
        return Estimate(jobs, usd, by_plan, unpriced)


def _is_call(call: object) -> bool:
    operation = call[0] if isinstance(call, tuple) and len(call) == 2 and isinstance(call[1], str) else call
    return isinstance(operation, str) and operation in OPERATIONS


Priced = PriceList | CallPrice
"""What has the price of a call. A PriceList stands for that of an Image to Video Ultra."""


class _State(Enum):
    """State of a call that counts against the budget."""

    RESERVED = auto()
    HELD = auto()
    SETTLED = auto()


class _Price(NamedTuple):
    """The price of one call. `credits` is None for a call of an earlier run, which counts at the present price."""

    usd: Decimal
    credits: int | None


class _Call(NamedTuple):
    """A call that counts against the budget. `period` is the period in which it was settled, None before that."""

    price: _Price
    state: _State
    period: int | None = None


class _Limit(NamedTuple):
    """One limit of a budget (None for none), the price of a call and the amount that is used, all in `unit`."""

    unit: str
    limit: Decimal | None
    price: Decimal
    used: Decimal

    @property
    def remaining(self) -> Decimal:
        """The remaining amount, never below 0; infinite without a limit."""
        return Decimal("Infinity") if self.limit is None else max(self.limit - self.used, Decimal(0))

    def require(self) -> None:
        """Raise BudgetExceededError if this limit does not allow the job."""
        if self.limit is not None and self.used + self.price > self.limit:
            raise self._exceeded(self.limit)

    def _exceeded(self, limit: Decimal) -> BudgetExceededError:
        if self.unit == "USD":
            words = f"this job needs {usd(self.price)} of the budget's {usd(limit)}; {usd(self.remaining)} remains"
        else:
            budget = plural(limit, self.unit)
            remain = "remains" if self.remaining == 1 else "remain"
            words = f"this job needs {self.price} of the budget's {budget}; {self.remaining} {remain}"
        return BudgetExceededError(words, needed=self.price, remaining=self.remaining)


class SpendingLimit(NamedTuple):
    """What a budget allows to all clients of an account together, whose charges a journal counts.

    usd, jobs, credits: the limits; None for no limit.
    price: USD of the job that is about to be sent. credit: its price in credits of the budget's plan, or 0.
    since: the beginning of a UTC day, unix seconds; -infinity for all days. Only charges since then count, and all jobs
        that may have been charged.
    """

    usd: Decimal | None
    jobs: int | None
    credits: int | None
    price: Decimal
    credit: int
    since: float

    def require(self, counts: Mapping[Decimal, int]) -> None:
        """Raise BudgetExceededError if one more job is not allowed after those of *counts*: jobs by price in USD."""
        jobs = sum(counts.values())
        spent = sum((price * count for price, count in counts.items()), Decimal(0))
        for each in (
            _Limit("USD", self.usd, self.price, spent),
            _Limit("job", _decimal(self.jobs), Decimal(1), Decimal(jobs)),
            _Limit("credit", _decimal(self.credits), Decimal(self.credit), Decimal(jobs * self.credit)),
        ):
            each.require()


class Budget:
    """Limit what may be spent.

    The price of a job is reserved at submit and settled when the service accepts the job. It is released if the service
    certainly did not accept the job. If the reply was lost, the price is held: it counts until the outcome is known.
    Several clients may share one Budget.

    The methods are for the client. They identify a job by a unique key, because a ref may be used again.

    usd: the limit in USD. jobs: the limit in calls. credits: the limit in API credits of `plan`. At least one of the
        three is needed; None sets no limit.
    plan: the plan whose credits are counted; None without `credits`.
    per: "day" counts the spending of the current UTC day, and "ever" counts all spending. Both include the earlier runs
        that the journal records. None counts only the spending through this object.
    check_balance: whether a client, when it starts, compares the account's wallet with the budget. It raises
        BudgetExceededError if the wallet holds less than may still be spent.

    Raises InvalidRequestError for invalid limits.
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
        """The number of calls at each price. There are few prices and many jobs, so no sum iterates over the jobs."""
        self._earlier: dict[tuple[str, str], tuple[int, Counter[_Price]]] = {}
        """The calls of earlier runs and other processes, by account and storage: their period, and how many they are at
        each price."""

    def __repr__(self) -> str:
        plan = self._plan and self._plan.name
        limits = {"usd": self._usd, "jobs": self._jobs, "credits": self._credits, "plan": plan, "per": self._per}
        shown = ", ".join(f"{name}={value}" for name, value in limits.items() if value is not None)
        return f"<Budget {shown}: reserved {self.reserved}, held {self.held} USD>"

    @property
    def reserved(self) -> Decimal:
        """USD reserved for jobs that wait or are being submitted."""
        return _usd(self._counts[_State.RESERVED, None])

    @property
    def held(self) -> Decimal:
        """USD held for jobs that may have been charged."""
        return _usd(self._counts[_State.HELD, None])

    def spent(self, now: float) -> Decimal:
        """Return the amount in USD that was charged in the period of *now*."""
        return _usd(self._settled(now))

    def remaining(self, now: float) -> Decimal | None:
        """Return the amount in USD that may still be spent, never below 0. Return None if there is no limit in USD."""
        return None if self._usd is None else max(self._usd - _usd(self._counting(now)), Decimal(0))

    def jobs_left(self, prices: Priced, now: float) -> int | None:
        """Return how many more calls all limits allow at this price. Return None if calls are free.

        Raises InvalidRequestError if the price is unknown in what the budget limits.
        """
        return min(
            (int(each.remaining // each.price) for each in self._limits(prices, now) if each.price), default=None
        )

    def allowed(self, calls: Iterable[tuple[Priced, int]], now: float) -> int:
        """Return how many of these calls all limits allow, in this order. Each entry is a price and a number of calls.

        Raises InvalidRequestError if a price is unknown in what the budget limits.
        """
        allowed, used = 0, defaultdict[str, Decimal](Decimal)
        for prices, count in calls:
            limits = [each._replace(used=each.used + used[each.unit]) for each in self._limits(prices, now)]
            most = min((int(each.remaining // each.price) for each in limits if each.price), default=count)
            allowed += min(most, count)
            for each in limits:
                used[each.unit] += min(most, count) * each.price
        return allowed

    def require_prices(self, prices: Priced) -> None:
        """Raise InvalidRequestError if the budget limits USD or credits, and the price in them is unknown."""
        for _ in self._limits(prices, 0.0):
            pass

    def reserve(self, key: str, prices: Priced, now: float) -> None:
        """Reserve the price of a job that is to be submitted. A key that counts already is not counted again.

        Raises BudgetExceededError if a limit does not allow the job. Raises InvalidRequestError if the budget limits
        USD or a plan's credits, and the price in them is unknown. In both cases nothing is reserved.
        """
        if key in self._calls:
            return
        for each in self._limits(prices, now):
            each.require()
        self._put(key, _Call(_Price(prices.usd or Decimal(0), self._credits_of(prices)), _State.RESERVED))

    def shared_limit(self, prices: Priced, now: float) -> SpendingLimit | None:
        """Return what this budget allows to all clients of an account together, for one job at these prices.

        Return None without `per`: then the budget counts only the spending through this object.
        """
        if self._per is None:
            return None
        credit, since = self._credits_of(prices), self.since(now)
        return SpendingLimit(self._usd, self._jobs, self._credits, prices.usd or Decimal(0), credit, since)

    def settle(self, key: str, now: float) -> None:
        """Count the job as charged, because the service accepted it."""
        if call := self._pop_unsettled(key):
            self._put(key, _Call(call.price, _State.SETTLED, self._period(now)))

    def release(self, key: str) -> None:
        """Stop counting the job, because it is certainly not charged."""
        self._pop_unsettled(key)

    def hold(self, key: str) -> None:
        """Count the job until the outcome is known, because it may have been charged."""
        if call := self._pop_unsettled(key):
            self._put(key, _Call(call.price, _State.HELD))

    def since(self, now: float) -> float:
        """Return the beginning of the period of *now*, unix seconds; -infinity if all spending counts."""
        return self._period(now) * DAY if self._per == "day" else -math.inf

    def known(self, account: str) -> Collection[str]:
        """Return the keys of the account's calls that count through this object."""
        return [key for key in self._calls if key.startswith(f"{account}/")]

    def spent_before(self, charges: Iterable[Charge]) -> None:
        """Count single charges of earlier runs, which the journal records. Without `per` they do not count."""
        if self._per is not None:
            for charge in charges:
                if charge.key not in self._calls:
                    state = (_State.SETTLED, self._period(charge.at)) if charge.is_certain else (_State.HELD, None)
                    self._put(charge.key, _Call(_Price(charge.usd, None), *state))

    def spent_elsewhere(self, account: str, charges: Charges, now: float) -> None:
        """Count what the journal records of an account, apart from the calls that are `known`.

        The counts are those since `since`. They replace what the same storage reported of the account before. Without
        `per`, these charges do not count.
        """
        if self._per is not None:
            counts = Counter({_Price(usd, None): count for usd, count in charges.counts.items()})
            self._earlier[account, charges.storage] = self._period(now), counts
            self.spent_before(charges.in_doubt)

    def compare(self, wallet: Decimal, now: float) -> None:
        """Raise BudgetExceededError if a wallet of *wallet* USD holds less than may still be spent."""
        needed = self.remaining(now)
        if needed is not None and wallet < needed:
            words = f"the account's wallet holds {usd(wallet)}; the budget still allows {usd(needed)}"
            raise BudgetExceededError(words, needed=needed, remaining=wallet)

    def _period(self, at: float) -> int:
        """Return the number of the period: that of the UTC day, or 0 if the budget does not count by day."""
        return int(at // DAY) if self._per == "day" else 0

    def _put(self, key: str, call: _Call) -> None:
        self._calls[key] = call
        self._counts[call.state, call.period][call.price] += 1

    def _pop_unsettled(self, key: str) -> _Call | None:
        """Stop counting the call and return it. Return None, and change nothing, if it is unknown or settled."""
        call = self._calls.get(key)
        if call is None or call.state is _State.SETTLED:
            return None
        del self._calls[key]
        self._counts[call.state, call.period][call.price] -= 1
        return call

    def _counting(self, now: float) -> Counter[_Price]:
        """Return the calls that were settled in the period of *now*, and all calls that are not settled."""
        return self._counts[_State.RESERVED, None] + self._counts[_State.HELD, None] + self._settled(now)

    def _settled(self, now: float) -> Counter[_Price]:
        """Return the calls that were settled in the period of *now*, here and elsewhere."""
        period = self._period(now)
        settled = self._counts[_State.SETTLED, period].copy()
        for of_period, counts in self._earlier.values():
            if of_period == period:
                settled += counts
        return settled

    def _credits_of(self, prices: Priced) -> int:
        """Return the price of a call in credits of the budget's plan; 0 if the budget has no plan."""
        if self._plan is None:
            return 0
        if isinstance(prices, CallPrice) and not prices.credits:
            requirement = f"must be known for a budget in credits: the credits of {prices.call} are not documented"
            raise refusal("prices.credits", {}, requirement, "pass Budget(usd=...) or Budget(jobs=...)")
        if self._plan not in prices.credits:
            requirement = f"must include credits of {self._plan}, which the budget counts"
            raise refusal("prices.credits", prices.credits, requirement, "pass PriceList(credits={plan: credits})")
        return prices.credits[self._plan]

    def _limits(self, prices: Priced, now: float) -> Iterator[_Limit]:
        """Yield the limits that are set."""
        counting, credit = self._counting(now), self._credits_of(prices)
        if self._usd is not None:
            price = prices.require_known() if isinstance(prices, CallPrice) else prices.usd
            yield _Limit("USD", self._usd, price, _usd(counting))
        if self._jobs is not None:
            yield _Limit("job", Decimal(self._jobs), Decimal(1), Decimal(counting.total()))
        if self._credits is not None:
            used = sum(
                count * (credit if price.credits is None else price.credits) for price, count in counting.items()
            )
            yield _Limit("credit", Decimal(self._credits), Decimal(credit), Decimal(used))


def _decimal(value: int | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def _usd(calls: Counter[_Price]) -> Decimal:
    return sum((price.usd * count for price, count in calls.items() if count), Decimal(0))


def _check(usd: object, jobs: object, credits: object, plan: object, per: object) -> None:  # noqa: A002
    limits = {"usd": usd, "jobs": jobs, "credits": credits}
    is_plan = isinstance(plan, Plan | None) and (credits is None) == (plan is None)
    plan_requirement = "must be a Plan if credits are limited, else None"
    plan_hint = "pass plan=Plan.BASIC or Plan.STANDARD with credits=, or omit both"
    is_limited = any(value is not None for value in limits.values())
    require(
        *(_amount(name, value) for name, value in limits.items() if value is not None),
        (is_limited, "usd", None, "must be set if neither jobs nor credits is", "pass usd=, jobs= or credits="),
        (is_plan, "plan", plan, plan_requirement, plan_hint),
        (per in (None, "day", "ever"), "per", per, 'must be "day", "ever" or None', 'pass per="day", or omit it'),
    )


def _amount(name: str, value: object) -> tuple[bool, str, object, str, str]:
    """Return the check that *value* is an amount: of money for "usd", a whole number for any other name."""
    is_money = name == "usd"
    kind = "number" if is_money else "whole number"
    requirement = f"must be a {kind} of at least 0, with at most {_MAX_DIGITS} digits before and after the point"
    return _is_amount(value, whole=not is_money), name, value, requirement, f"pass a {kind}, or omit it"


def _is_amount(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else Decimal | int | float | str):
        return False
    try:
        amount = Decimal(str(value))
    except (InvalidOperation, ValueError):
        return False
    exponent = amount.as_tuple().exponent
    is_ordinary = isinstance(exponent, int) and exponent >= -_MAX_DIGITS and amount.adjusted() < _MAX_DIGITS
    return is_ordinary and amount >= 0
