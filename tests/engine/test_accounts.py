"""Clients of several accounts: slots and budgets of their own, one session and journal, and one close."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers.webhooks import TrackingWebhook
from helpers.world import KEY, MakeWorld, a_request

from modelslab_async import (
    AuthenticationError,
    Budget,
    BudgetExceededError,
    ClientStateError,
    InvalidRequestError,
    JobState,
)
from modelslab_async.emulator import Fault, Rule


@pytest.mark.looptime
async def test_accounts_have_slots_and_budgets_of_their_own(make_world: MakeWorld, tmp_path: Path) -> None:
    """The clients share the session, the journal and what is learned about waiting. A budget bounds its own account
    only.
    """
    world = make_world(queue_limit=5)
    async with world.client(journal=tmp_path / "jobs.db", max_in_flight=5) as client:
        ann = await client.account("key of Ann", budget=Budget(usd=Decimal("0.2")))
        ben, again = await asyncio.gather(client.account("key of Ben"), client.account("key of Ben"))
        assert ben is again is not ann
        assert await ann.account("key of Ben") is ben
        assert await ann.account(KEY) is await client.account(KEY) is client
        jobs = [each.submit(a_request()) for each in (client, ann, ben)]
        with pytest.raises(BudgetExceededError):
            await ann.submit(a_request())
        await asyncio.gather(*jobs)
        assert len({charge.account for charge in world.service.ledger.charges}) == 3
        assert [len(await each.history()) for each in (client, ann, ben)] == [1, 1, 1]
        with pytest.raises(AuthenticationError):
            await client.account(" ")
        last = ben.submit(a_request())
    assert last.state is JobState.READY
    with pytest.raises(ClientStateError, match="closed"):
        ben.submit(a_request())


async def test_the_clients_own_key_gives_the_client_itself(make_world: MakeWorld) -> None:
    """A budget or slots for that key alone are refused, because the client has its own already."""
    async with make_world().client() as client:
        assert await client.account(KEY) is client
        options: dict[str, Any]
        for options in ({"budget": Budget(jobs=1)}, {"max_in_flight": 1}):
            with pytest.raises(InvalidRequestError, match="its budget"):
                await client.account(KEY, **options)


@pytest.mark.looptime
async def test_no_account_submits_while_the_client_closes(make_world: MakeWorld) -> None:
    """A job of the account would be detached as soon as the jobs of the first client have ended."""
    world = make_world()
    async with world.client() as client:
        ben = await client.account("key of Ben")
        job = client.submit(a_request())
        closing = asyncio.create_task(client.aclose())
        await job.submitted()
        with pytest.raises(ClientStateError, match="closed"):
            ben.submit(a_request())
        await closing
    assert len(world.service.ledger.charges) == 1


async def test_accounts_that_open_at_the_close_leave_no_listener(make_world: MakeWorld, tmp_path: Path) -> None:
    """Whether they were opened and closed or never opened, no listener stays registered with the webhook."""
    webhook = TrackingWebhook()
    async with make_world().client(webhook=webhook, journal=tmp_path / "jobs.db") as client:
        opening = [asyncio.create_task(client.account(f"the key of user {number}")) for number in range(4)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert webhook.registered
        await client.aclose(drain=False)
        await asyncio.gather(*opening, return_exceptions=True)
    assert webhook.registered == {}


@pytest.mark.looptime
async def test_an_account_that_opens_during_the_close_is_never_returned(make_world: MakeWorld) -> None:
    """The account is closed with the others, so nothing can be paid with it, and it leaves no listener."""
    world, budget = make_world(faults=[Rule(Fault.SLOW, on="call", seconds=5)]), Budget(usd=5, check_balance=True)
    webhook = TrackingWebhook()
    async with world.client(webhook=webhook) as client:
        opening = asyncio.create_task(client.account("key of Ben", budget=budget))
        await asyncio.sleep(1)
        assert len(webhook.registered) == 2
        await client.aclose()
        with pytest.raises(ClientStateError, match="closed"):
            await opening
        assert webhook.registered == {}
