"""What jobs cost, and what may be spent on them."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers.inside import engine_of
from helpers.left_behind import until_known
from helpers.transports import intercepted
from helpers.world import KEY, MakeWorld, a_request

from modelslab_async import (
    AuthenticationError,
    Budget,
    BudgetExceededError,
    Client,
    InvalidRequestError,
    InvalidVideoError,
    JobFailedError,
    ModelsLabError,
    Plan,
    PriceList,
)
from modelslab_async.emulator import Fault, Rule
from modelslab_async.protocol.reply import HttpReply

PRICES = PriceList()
NOON = 20_000.5 * 86_400
"""Unix seconds at noon of some day."""


def at_noon(client: Client) -> Client:
    """Set a client's clock to noon, so that its records are of one day."""
    engine_of(client).recorder.clock = lambda: NOON
    return client


def test_the_estimate_follows_the_price_page() -> None:
    """A call costs $0.2: 31 credits of the Basic plan's 3250, or 43 of the Standard plan's 10000."""
    estimate = PRICES.estimate(3)
    assert (estimate.jobs, estimate.usd) == (3, Decimal("0.6"))
    assert estimate.credits == {Plan.BASIC: 93, Plan.STANDARD: 129}
    assert (Plan.BASIC.value, Plan.STANDARD.value) == (3250, 10_000)


@pytest.mark.parametrize(
    ("limits", "jobs"),
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
def test_each_limit_allows_a_number_of_jobs(limits: dict[str, Any], jobs: int) -> None:
    """A job beyond the limit is refused, with what it needs and what is left, and nothing is reserved for it."""
    budget = Budget(**limits)
    for number in range(jobs):
        budget.reserve(str(number), PRICES, 0.0)
    before = budget.reserved
    with pytest.raises(BudgetExceededError) as caught:
        budget.reserve("one too many", PRICES, 0.0)
    assert caught.value.needed > caught.value.remaining >= 0
    assert caught.value.charged is False
    assert budget.reserved == before == jobs * PRICES.usd


# --- with a client ---


@pytest.mark.looptime
async def test_a_budget_bounds_the_clients_that_share_it(make_world: MakeWorld) -> None:
    """Two clients share a budget. The job beyond it is refused, and nothing is sent for it."""
    world, budget = make_world(), Budget(usd="0.6")
    async with world.client(budget=budget) as one, world.client(budget=budget) as other:
        jobs = [one.submit(a_request()), other.submit(a_request()), one.submit(a_request())]
        with pytest.raises(BudgetExceededError):
            await other.submit(a_request())
        for job in jobs:
            await job
    assert budget.reserved == budget.held == 0
    assert len(world.service.ledger.charges) == 3
    assert budget.remaining(0.0) == 0


@pytest.mark.looptime
@pytest.mark.parametrize("kept", [False, True], ids=["no journal", "a journal"])
async def test_two_accounts_with_the_same_ref_are_two_charges(
    make_world: MakeWorld, tmp_path: Path, kept: bool
) -> None:
    """Two accounts that share a budget use one ref at the same instant. With a journal, the next run counts both."""
    world = make_world(keys=[KEY, "key-of-another-user"])
    journal, budget = (tmp_path / "jobs.db" if kept else None), Budget(jobs=2, per="ever")
    async with at_noon(world.client(journal=journal, budget=budget)) as one:
        other = at_noon(await one.account("key-of-another-user", budget=budget))
        jobs = [client.submit(a_request(track_id="mine")) for client in (one, other)]
        assert budget.jobs_left(PRICES, NOON) == 0
        with pytest.raises(BudgetExceededError):
            await one.submit(a_request())
        for job in jobs:
            await job
        assert budget.spent(NOON) == 2 * PRICES.usd == PRICES.usd * len(world.service.ledger.charges)
    later = Budget(jobs=2, per="ever")
    async with at_noon(world.client(journal=journal, budget=later)) as one:
        await one.account("key-of-another-user", budget=later)
        assert later.jobs_left(PRICES, NOON) == (0 if kept else 2)


@pytest.mark.looptime
async def test_what_was_not_charged_is_released(make_world: MakeWorld) -> None:
    """Refused and cancelled jobs cost nothing. After a lost reply the price is held until the job is resolved."""
    world = make_world(faults=[Rule(Fault.RESET_BEFORE, times=1)], keys=["another"])
    budget = Budget(jobs=3)
    async with world.client(budget=budget, max_in_flight=1) as client:
        uncertain, refused, cancelled = (client.submit(a_request()) for _ in range(3))
        cancelled.cancel()
        await uncertain.wait()
        assert budget.held == PRICES.usd
        await refused.wait()
        assert budget.reserved == 0
    assert budget.held == PRICES.usd


@pytest.mark.looptime
async def test_spending_of_earlier_runs_counts(make_world: MakeWorld, tmp_path: Path) -> None:
    """With a journal, a budget for the day includes what an earlier client spent today."""
    world = make_world()
    async with at_noon(world.client(journal=tmp_path / "jobs.db")) as client:
        await client.generate(a_request())
    async with at_noon(world.client(journal=tmp_path / "jobs.db", budget=Budget(jobs=2, per="day"))) as client:
        await client.generate(a_request())
        with pytest.raises(BudgetExceededError):
            await client.submit(a_request())
    assert len(world.service.ledger.charges) == 2


@pytest.mark.looptime
@pytest.mark.parametrize("per", ["day", "ever"])
async def test_the_jobs_of_a_budget_count_once_over_several_clients(
    make_world: MakeWorld, tmp_path: Path, per: Literal["day", "ever"]
) -> None:
    """Clients that follow each other use one budget and one journal. Their jobs, and those of another, count once."""
    world, budget = make_world(), Budget(jobs=9, per=per)
    async with at_noon(world.client(journal=tmp_path / "jobs.db")) as another:
        await another.generate(a_request())
    for turn in range(1, 4):
        async with at_noon(world.client(journal=tmp_path / "jobs.db", budget=budget)) as client:
            await client.generate(a_request())
        assert budget.jobs_left(PRICES, NOON) == 9 - 1 - turn
    assert budget.spent(NOON) == 4 * PRICES.usd


@pytest.mark.looptime
async def test_a_budget_above_the_wallet_is_refused(make_world: MakeWorld) -> None:
    """With `check_balance`, entering the client raises before anything is submitted."""
    world = make_world(wallet=Decimal("5.00"))
    with pytest.raises(BudgetExceededError, match="wallet") as caught:
        async with world.client(budget=Budget(usd=20, check_balance=True)):
            pytest.fail("the client was opened")
    assert caught.value.needed == 20
    assert caught.value.remaining == 5
    async with world.client(budget=Budget(usd=4, check_balance=True)) as client:
        await client.generate(a_request())


@pytest.mark.looptime
async def test_an_estimate_spends_nothing(make_world: MakeWorld) -> None:
    """`estimate` counts the requests, and sends nothing."""
    world = make_world()
    async with world.client() as client:
        assert client.estimate([a_request()] * 100).usd == 20
    assert world.transport.requests == []


@pytest.mark.looptime
async def test_the_price_of_an_uncertain_job_is_held_until_it_is_resolved(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    """The next process holds it too, and releases it when the user says that the job was lost."""
    world, path = make_world(faults=[Rule(Fault.RESET_BEFORE, times=1)]), tmp_path / "jobs.db"
    async with world.client(journal=path) as client:
        job = client.submit(a_request())
        await job.wait()
    budget = Budget(jobs=1, per="ever")
    async with world.client(journal=path, budget=budget) as client:
        assert budget.held == PRICES.usd
        with pytest.raises(BudgetExceededError):
            await client.submit(a_request())
        await client.resolve(job.ref, lost=True)
        await client.submit(a_request())
    assert (budget.held, len(world.service.ledger.charges)) == (Decimal(0), 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("journal", 5), ("journal", ""), ("budget", 20), ("budget", "20"), ("prices", Decimal("0.2"))],
)
def test_bad_journals_budgets_and_prices_are_refused(name: str, value: Any) -> None:
    """The client raises one clear error when it is made."""
    with pytest.raises(InvalidRequestError) as caught:
        Client(api_key="any", **{name: value})
    assert [problem.field for problem in caught.value.problems] == [name]


@pytest.mark.looptime
async def test_a_job_that_another_client_submits_is_not_held(make_world: MakeWorld, tmp_path: Path) -> None:
    """Only the other client learns whether the job is charged, so this client's budget could never release it."""
    world, budget = make_world(faults=[Rule(Fault.SLOW, times=1, seconds=20)]), Budget(usd=5, per="day")
    async with world.client(journal=tmp_path / "jobs.db") as one:
        job = one.submit(a_request())
        await asyncio.sleep(5)
        async with world.client(journal=tmp_path / "jobs.db", budget=budget):
            await job
            assert budget.held == 0


@pytest.mark.looptime
async def test_a_job_that_failed_at_once_counts_on_its_day(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job that fails in the reply to its submit counts on its day only, in this run and in the next."""
    world, week = make_world(), 7 * 86_400

    async def failing_at_once(*_: object) -> HttpReply:
        return HttpReply(200, b'{"status": "failed", "id": 5, "message": "not safe"}')

    world.transport = intercepted(world, failing_at_once)
    for budget in (Budget(usd=2, per="day"), Budget(usd=2, per="day")):
        async with at_noon(world.client(journal=tmp_path / "jobs.db", budget=budget)) as client:
            with pytest.raises(JobFailedError, match="may have been charged"):
                await client.submit(a_request())
            assert (budget.held, budget.remaining(NOON + week)) == (Decimal(0), Decimal(2))
    assert budget.spent(NOON) == Decimal("0.4")


@pytest.mark.looptime
async def test_a_job_that_was_resolved_counts_on_its_day(make_world: MakeWorld, tmp_path: Path) -> None:
    """A later run knows the day on which a resolved job was charged."""
    world, budget = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), Budget(usd=2, per="day")
    async with at_noon(world.client(journal=tmp_path / "jobs.db")) as client:
        job = client.submit(a_request())
        await job.wait()
        await client.resolve(job.ref, id=world.charged_id())
        await client.aclose(drain=False)
    async with at_noon(world.client(journal=tmp_path / "jobs.db", budget=budget)):
        assert (budget.held, budget.spent(NOON)) == (Decimal(0), Decimal("0.2"))


@pytest.mark.looptime
async def test_errors_say_what_was_charged(make_world: MakeWorld) -> None:
    """After the acceptance a failed or unreadable job's error names the price; a refused job's error does not."""
    failing, unreadable = make_world(faults=[Rule(Fault.JOB_FAILS)]), make_world(faults=[Rule(Fault.HTML_AS_MP4)])
    refusing = make_world(keys=["another"])
    errors = []
    for world in (failing, unreadable, refusing):
        async with world.client(prices=PriceList(usd=Decimal("0.25"))) as client:
            job = client.submit(a_request())
            await job.wait()
            errors.append(job.exception())
    assert [(type(error), error.charged) for error in errors if isinstance(error, ModelsLabError)] == [
        (JobFailedError, None),
        (InvalidVideoError, True),
        (AuthenticationError, False),
    ]
    assert ["$0.25" in str(error) for error in errors] == [True, True, False]


@pytest.mark.looptime
async def test_a_job_that_the_budget_refuses_releases_nothing_else(make_world: MakeWorld) -> None:
    """A second job with the ref of an uncertain one, at the same instant, leaves what is held for the first."""
    world, budget = make_world(faults=[Rule(Fault.RESET_AFTER, times=1)]), Budget(jobs=1)
    async with at_noon(world.client(budget=budget)) as client:
        await client.submit(a_request(track_id="mine")).wait()
        assert budget.held == PRICES.usd
        with pytest.raises(BudgetExceededError):
            await client.submit(a_request(track_id="mine"))
        assert budget.held == PRICES.usd


@pytest.mark.looptime
async def test_a_job_that_waited_since_yesterday_is_paid_from_todays_budget(
    make_world: MakeWorld, tmp_path: Path
) -> None:
    """A day's budget counts what is sent on that day, also if the job was submitted the day before."""
    world = make_world(queue_limit=5)
    async with at_noon(world.client(journal=tmp_path / "jobs.db", max_in_flight=1)) as client:
        client.submit(a_request(seed=1))
        client.submit(a_request(seed=2, track_id="waiting"))
        await until_known(client, "waiting")
        await client.aclose(drain=False)
    tomorrow = world.client(journal=tmp_path / "jobs.db", budget=Budget(jobs=1, per="day"))
    engine_of(tomorrow).recorder.clock = lambda: NOON + 86_400
    async with tomorrow as client:
        await client.generate(a_request(seed=3))
        with pytest.raises(BudgetExceededError):
            await (await client.follow("waiting"))
    assert len(world.service.ledger.charges) == 2
