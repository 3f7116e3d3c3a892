"""What calls cost, and what may be spent on them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from helpers.inside import engine_of
from helpers.world import KEY, World, a_request

from modelslab_async import Budget, BudgetExceededError, Client, InvalidRequestError, JobFailedError, Plan, PriceList
from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.inprocess import InProcess
from modelslab_async.protocol.reply import HttpReply

MakeWorld = Callable[..., World]
PRICES = PriceList()
NOON = 20_000.5 * 86_400


def at_noon(client: Client) -> Client:
    """What it writes down is of one day, whenever the test runs."""
    engine_of(client).recorder.clock = lambda: NOON
    return client


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


# --- with a client ---


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
@pytest.mark.parametrize("kept", [False, True], ids=["no journal", "a journal"])
async def test_two_accounts_with_the_same_ref_are_two_charges(world: MakeWorld, tmp_path: Path, kept: bool) -> None:
    """Of a budget that they share, though both submit in one instant; and in the next run, if a journal knows."""
    here = world(keys=[KEY, "key-of-another-user"])
    journal, budget = (tmp_path / "jobs.db" if kept else None), Budget(jobs=2, per="ever")
    async with at_noon(here.client(journal=journal, budget=budget)) as one:
        other = at_noon(await one.account("key-of-another-user", budget=budget))
        jobs = [client.submit(a_request(track_id="mine")) for client in (one, other)]
        assert budget.jobs_left(PRICES, NOON) == 0
        with pytest.raises(BudgetExceededError):
            one.submit(a_request())
        for job in jobs:
            await job
        assert budget.spent(NOON) == 2 * PRICES.usd == PRICES.usd * len(here.service.ledger.charges)
    later = Budget(jobs=2, per="ever")
    async with at_noon(here.client(journal=journal, budget=later)) as one:
        await one.account("key-of-another-user", budget=later)
        assert later.jobs_left(PRICES, NOON) == (0 if kept else 2)


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
    async with at_noon(here.client(journal=tmp_path / "jobs.db")) as client:
        await client.generate(a_request())
    async with at_noon(here.client(journal=tmp_path / "jobs.db", budget=Budget(jobs=2, per="day"))) as client:
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


@pytest.mark.looptime
async def test_what_is_uncertain_stays_held_until_a_person_speaks(world: MakeWorld, tmp_path: Path) -> None:
    """Also in the next process a lost reply counts against the budget, and is given back when it is said to be lost."""
    here, path = world(faults=[Rule(Fault.RESET_BEFORE, times=1)]), tmp_path / "jobs.db"
    async with here.client(journal=path) as client:
        job = client.submit(a_request())
        await job.wait()
    budget = Budget(jobs=1, per="ever")
    async with here.client(journal=path, budget=budget) as client:
        assert budget.held == PRICES.usd
        with pytest.raises(BudgetExceededError):
            client.submit(a_request())
        await client.resolve(job.ref, lost=True)
        await client.submit(a_request())
    assert (budget.held, len(here.service.ledger.charges)) == (Decimal(0), 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("journal", 5), ("journal", ""), ("budget", 20), ("budget", "20"), ("prices", Decimal("0.2"))],
)
def test_what_is_no_journal_budget_or_price_list(name: str, value: Any) -> None:
    """One clear error, when the client is made."""
    with pytest.raises(InvalidRequestError) as caught:
        Client(api_key="any", **{name: value})
    assert [problem.field for problem in caught.value.problems] == [name]


@pytest.mark.looptime
async def test_what_another_client_is_submitting_is_not_held(world: MakeWorld, tmp_path: Path) -> None:
    """That client will hear whether it is charged; this one would hold it on every day to come."""
    here, budget = world(faults=[Rule(Fault.SLOW, times=1, seconds=20)]), Budget(usd=5, per="day")
    async with here.client(journal=tmp_path / "jobs.db") as one:
        job = one.submit(a_request())
        await asyncio.sleep(5)
        async with here.client(journal=tmp_path / "jobs.db", budget=budget):
            await job
            assert budget.held == 0


@attrs.define
class FailsAtOnce(InProcess):
    """Takes submits only to fail them in its reply."""

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        if url.endswith("/img2video_ultra"):
            return HttpReply(200, b'{"status": "failed", "id": 5, "message": "not safe"}')
        return await super().post(url, body, timeout=timeout, own_connection=own_connection)


@pytest.mark.looptime
async def test_a_job_that_failed_at_once_counts_on_its_day(world: MakeWorld, tmp_path: Path) -> None:
    """As one that fails later does: it takes nothing from the days to come, in this run and in the next."""
    here, week = world(), 7 * 86_400
    here.transport = FailsAtOnce(here.service)
    for budget in (Budget(usd=2, per="day"), Budget(usd=2, per="day")):
        async with at_noon(here.client(journal=tmp_path / "jobs.db", budget=budget)) as client:
            with pytest.raises(JobFailedError, match="may have been charged"):
                await client.submit(a_request())
            assert (budget.held, budget.remaining(NOON + week)) == (Decimal(0), Decimal(2))
    assert budget.spent(NOON) == Decimal("0.4")


@pytest.mark.looptime
async def test_a_job_that_was_resolved_counts_on_its_day(world: MakeWorld, tmp_path: Path) -> None:
    """A later run knows when it was charged."""
    here, budget = world(faults=[Rule(Fault.RESET_AFTER, times=1)]), Budget(usd=2, per="day")
    async with at_noon(here.client(journal=tmp_path / "jobs.db")) as client:
        job = client.submit(a_request())
        await job.wait()
        await client.resolve(job.ref, id=here.service.ledger.charges[0].job_id)
        await client.aclose(drain=False)
    async with at_noon(here.client(journal=tmp_path / "jobs.db", budget=budget)):
        assert (budget.held, budget.spent(NOON)) == (Decimal(0), Decimal("0.2"))
