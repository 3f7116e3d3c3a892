"""What calls cost, and what may be spent on them. Money is Decimal; a clock is passed in, as unix seconds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Literal

import attrs

from modelslab_async.errors import BudgetExceededError, InvalidRequestError, Problem
from modelslab_async.protocol.record import Charge
from modelslab_async.protocol.request import shown

_DAY = 86_400
Money = Decimal | int | float | str
Period = Literal["day", "ever"] | None


class Plan(Enum):
    """The plans whose credits the documentation page names, with the API credits that each has."""

    BASIC = 3250
    STANDARD = 10_000


_CREDITS: Mapping[Plan, int] = {Plan.BASIC: 31, Plan.STANDARD: 43}


@attrs.frozen
class Estimate:
    """What so many calls cost: in USD, or in the credits of each plan."""

    jobs: int
    usd: Decimal
    credits: Mapping[Plan, int]


@attrs.frozen(kw_only=True)
class PriceList:
    """What a call costs. The page says $0.2, which is 31 credits of the Basic plan and 43 of the Standard plan."""

    usd: Decimal = Decimal("0.2")
    credits: Mapping[Plan, int] = attrs.field(factory=lambda: dict(_CREDITS))

    def estimate(self, jobs: int) -> Estimate:
        """What so many calls cost."""
        return Estimate(jobs, self.usd * jobs, {plan: price * jobs for plan, price in self.credits.items()})


@attrs.define
class _Call:
    """A call that counts. `at` is when it was charged, None while it is reserved, or nobody knows."""

    usd: Decimal
    at: float | None = None
    is_held: bool = False


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
        self._usd = None if usd is None else Decimal(str(usd))
        self._jobs, self._credits, self._plan, self._per = jobs, credits, plan, per
        self._calls: dict[str, _Call] = {}

    def __repr__(self) -> str:
        limits = {"usd": self._usd, "jobs": self._jobs, "credits": self._credits, "per": self._per}
        told = ", ".join(f"{name}={value}" for name, value in limits.items() if value is not None)
        return f"<Budget {told}: reserved {self.reserved}, held {self.held} USD>"

    @property
    def reserved(self) -> Decimal:
        """USD of jobs that wait, or are being submitted."""
        return _sum(call for call in self._calls.values() if call.at is None and not call.is_held)

    @property
    def held(self) -> Decimal:
        """USD of jobs of which nobody knows whether they were charged."""
        return _sum(call for call in self._calls.values() if call.is_held)

    def spent(self, now: float) -> Decimal:
        """USD that were charged, in this period."""
        return _sum(call for call in self._counting(now) if call.at is not None)

    def remaining(self, now: float) -> Decimal | None:
        """USD that may still be spent; None without a limit in USD."""
        return None if self._usd is None else self._usd - _sum(self._counting(now))

    def reserve(self, key: str, prices: PriceList, now: float) -> None:
        """A job is about to be submitted. Raises BudgetExceededError, and then nothing is reserved."""
        if key in self._calls:
            return
        counting = self._counting(now)
        credit = prices.credits.get(self._plan, 0) if self._plan else 0
        for unit, limit, price, used in (
            ("USD", self._usd, prices.usd, _sum(counting)),
            ("jobs", self._jobs, 1, len(counting)),
            ("credits", self._credits, credit, credit * len(counting)),
        ):
            if limit is not None and used + price > limit:
                needed, remaining = Decimal(price), Decimal(limit) - used
                words = f"a job takes {needed} {unit} of a budget of {limit}, of which {remaining} are left"
                raise BudgetExceededError(words, needed=needed, remaining=remaining)
        self._calls[key] = _Call(prices.usd)

    def settle(self, key: str, now: float) -> None:
        """The service took the job."""
        call = self._calls.get(key)
        if call and call.at is None:
            call.at, call.is_held = now, False

    def release(self, key: str) -> None:
        """The job surely is not charged."""
        call = self._calls.get(key)
        if call and call.at is None:
            del self._calls[key]

    def hold(self, key: str) -> None:
        """Nobody knows whether the job is charged."""
        call = self._calls.get(key)
        if call and call.at is None:
            call.is_held = True

    def spent_before(self, charges: Iterable[Charge]) -> None:
        """What a journal knows of earlier runs."""
        if self._per is not None:
            for charge in charges:
                self._calls.setdefault(charge.key, _Call(charge.usd, charge.at))

    def compare(self, wallet: Decimal, now: float) -> None:
        """Raises BudgetExceededError where a wallet holds less USD than may still be spent."""
        needed = self.remaining(now)
        if needed is not None and wallet < needed:
            words = f"the account's wallet holds {wallet} USD, and the budget allows {needed} more"
            raise BudgetExceededError(words, needed=needed, remaining=wallet)

    def _counting(self, now: float) -> list[_Call]:
        """The calls of this period, and all that are not settled."""
        today = now // _DAY
        daily = self._per == "day"
        return [c for c in self._calls.values() if c.at is None or not daily or c.at // _DAY == today]


def _sum(calls: Iterable[_Call]) -> Decimal:
    return sum((call.usd for call in calls), Decimal(0))


def _check(usd: object, jobs: object, credits: object, plan: object, per: object) -> None:  # noqa: A002
    problems = [
        Problem(name, shown(value), "a number, not below 0", "pass one, or leave it out")
        for name, value in (("usd", usd), ("jobs", jobs), ("credits", credits))
        if value is not None and not _is_amount(value, whole=name != "usd")
    ]
    if usd is None and jobs is None and credits is None:
        problems.append(Problem("usd", "None", "a budget needs a limit", "pass usd=, jobs= or credits="))
    if (credits is None) != (plan is None) or not isinstance(plan, Plan | None):
        rule = "credits are those of a plan, and a plan counts credits"
        problems.append(Problem("plan", shown(plan), rule, "pass credits= with plan=Plan.BASIC or Plan.STANDARD"))
    if per not in (None, "day", "ever"):
        problems.append(Problem("per", shown(per), '"day", "ever" or None', "pass one of them"))
    if problems:
        raise InvalidRequestError(problems)


def _is_amount(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else Decimal | int | float | str):
        return False
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return False
    return amount.is_finite() and amount >= 0
