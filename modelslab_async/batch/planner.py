"""A batch looked at before it is run."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import assert_never

from modelslab_async.batch.decider import Decider, Decision
from modelslab_async.batch.manifest import Entry, Source, entries
from modelslab_async.batch.plan import BatchPlan
from modelslab_async.batch.steps import Action
from modelslab_async.client import Client
from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.protocol.problems import wrong


async def survey(decider: Decider, source: Source, *, check_wallet: bool) -> BatchPlan:
    """Go over all lines, as a run would, without doing anything."""
    plan, client = BatchPlan(), decider.client
    with _items() as seen:
        async for entry in entries(source):
            plan.lines += 1
            if problem := _twice(seen, entry):
                plan.wrong(problem, entry.line)
            elif _counted(plan, await decider.decide(entry)) is Action.SUBMIT:
                for problem in problems_of(client, entry):
                    plan.wrong(problem, entry.line)
    plan.problems = [client._api_key.redact_problem(problem) for problem in plan.problems]
    plan.usd = client.prices.estimate(plan.submit).usd
    _check_budget(plan, client)
    if check_wallet and (wallet := (await client.balance()).amount) < plan.usd:
        plan.wrong(Problem("wallet", f"{wallet} USD", f"the batch costs {plan.usd} USD", "fill it, or make fewer"))
    return plan


async def price(client: Client, source: Source) -> BatchPlan:
    """What all lines that can be sent cost, whatever was made of them before; and what is wrong with the others."""
    plan = BatchPlan()
    with _items() as seen:
        async for entry in entries(source):
            plan.lines += 1
            problems = [problem] if (problem := _twice(seen, entry)) else problems_of(client, entry)
            plan.submit += not problems
            for problem in problems:
                plan.wrong(problem, entry.line)
    plan.problems = [client._api_key.redact_problem(problem) for problem in plan.problems]
    plan.usd = client.prices.estimate(plan.submit).usd
    return plan


@contextmanager
def _items() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect("")) as seen:  # "": a file that nobody else sees, so that memory does not grow
        seen.execute("CREATE TABLE items (item TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        yield seen


def _twice(seen: sqlite3.Connection, entry: Entry) -> Problem | None:
    if entry.request is None:
        return None
    if seen.execute("INSERT OR IGNORE INTO items VALUES (?, ?)", [entry.item, entry.line]).rowcount:
        return None
    [line] = seen.execute("SELECT line FROM items WHERE item = ?", [entry.item]).fetchone()
    if entry.request.track_id:
        return wrong("track_id", entry.request.track_id, f"line {line} has it already", "choose another")
    return Problem("line", "the same request", f"line {line} asks for it already", "give each a seed of its own")


def _counted(plan: BatchPlan, decision: Decision) -> Action:
    """What is to be done, with the ways of submitting as one."""
    match decision.action:
        case Action.KEEP:
            plan.kept += 1
        case Action.COLLECT:
            plan.collect += 1
        case Action.LEAVE if decision.has_failed:
            plan.failed += 1
        case Action.LEAVE:
            plan.uncertain += 1
        case Action.SUBMIT | Action.SUBMIT_ANEW:
            plan.submit += 1
            return Action.SUBMIT
        case _:
            assert_never(decision.action)
    return decision.action


def problems_of(client: Client, entry: Entry) -> Sequence[Problem]:
    """All that is wrong with an entry."""
    if entry.request is None:
        return entry.problems
    try:
        client.check(entry.request)
    except InvalidRequestError as error:
        return error.problems
    return ()


def _check_budget(plan: BatchPlan, client: Client) -> None:
    left = client.budget.jobs_left(client.prices, time.time()) if client.budget else None
    if left is not None and left < plan.submit:
        requirement = f"allows {left} more of the batch's {plan.submit} jobs, which cost {plan.usd} USD"
        plan.wrong(Problem("budget", repr(client.budget), requirement, "allow more, or make fewer"))
