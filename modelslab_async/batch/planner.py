"""Make the plan of a batch: check every item, count what a run would do, and compute the price."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import assert_never

from modelslab_async.batch.decider import Decider, Decision
from modelslab_async.batch.manifest import Entry, Source, entries
from modelslab_async.batch.plan import BatchPlan
from modelslab_async.batch.results import counted
from modelslab_async.batch.steps import Action
from modelslab_async.client import Client
from modelslab_async.engine.config import call_of
from modelslab_async.errors import InvalidRequestError, Problem, usd
from modelslab_async.protocol.operations import DEFAULT_OPERATION
from modelslab_async.protocol.pricing import Estimate
from modelslab_async.protocol.problems import wrong

_CHUNK = 256
"""Items that are decided about at a time, with one query."""
Calls = Counter[tuple[str, object]]
"""How many items call each operation and model."""


async def plan_run(decider: Decider, source: Source, *, check_wallet: bool) -> BatchPlan:
    """Return what a run would do with each item. Only the items to submit are checked and priced."""
    plan, client, calls = BatchPlan(), decider.client, Calls()
    with _open_items() as items:
        async for chunk in _chunks(source):
            plan.lines += len(chunk)
            duplicates = [_duplicate(items, entry) for entry in chunk]
            unique = [entry for entry, problem in zip(chunk, duplicates, strict=True) if problem is None]
            decisions = iter(await decider.decide_all(unique))
            for entry, problem in zip(chunk, duplicates, strict=True):
                if problem:
                    plan.add_problem(problem, entry.line)
                elif _count(plan, next(decisions)) is Action.SUBMIT:
                    calls += _call_of(entry)
                    for each in problems_of(client, entry):
                        plan.add_problem(each, entry.line)
    _finish(plan, client, calls)
    _check_budget(plan, client, calls)
    if check_wallet and (wallet := (await client.balance()).amount) < plan.usd:
        requirement, hint = f"must cover the batch's cost of {usd(plan.usd)}", "add funds, or make fewer videos"
        plan.add_problem(Problem("wallet", usd(wallet), requirement, hint))
    return plan


async def _chunks(source: Source) -> AsyncIterator[Sequence[Entry]]:
    """Yield the items of a source, some at a time."""
    chunk = list[Entry]()
    async for entry in entries(source):
        chunk.append(entry)
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def plan_price(client: Client, source: Source) -> tuple[BatchPlan, Estimate]:
    """Return the price of all items that can be sent, as if none was made before, and the problems of the others."""
    plan, calls = BatchPlan(), Calls()
    with _open_items() as items:
        async for entry in entries(source):
            plan.lines += 1
            problems = [problem] if (problem := _duplicate(items, entry)) else problems_of(client, entry)
            plan.submit += not problems
            calls += Calls() if problems else _call_of(entry)
            for problem in problems:
                plan.add_problem(problem, entry.line)
    return plan, _finish(plan, client, calls)


def _call_of(entry: Entry) -> Calls:
    """Return the call of an item. An item that cannot be read counts as an Image to Video Ultra."""
    return Calls([call_of(entry.request) if entry.request else (DEFAULT_OPERATION, None)])


def _finish(plan: BatchPlan, client: Client, calls: Calls) -> Estimate:
    """Hide the key in the problems, and compute the price."""
    plan.problems = [client.api_key.redact_problem(problem) for problem in plan.problems]
    estimate = client.prices.estimate_calls(calls.elements())
    plan.usd, plan.unpriced = estimate.usd, estimate.unpriced
    return estimate


@contextmanager
def _open_items() -> Iterator[sqlite3.Connection]:
    """Open a set of items on disk, so that memory does not grow with the manifest."""
    with closing(sqlite3.connect("")) as items:  # "": a new temporary file
        items.execute("CREATE TABLE items (item TEXT PRIMARY KEY, line INTEGER) WITHOUT ROWID")
        yield items


def _duplicate(items: sqlite3.Connection, entry: Entry) -> Problem | None:
    """Return the problem of an item that an earlier line has too, or None."""
    if entry.request is None:
        return None
    if items.execute("INSERT OR IGNORE INTO items VALUES (?, ?)", [entry.item, entry.line]).rowcount:
        return None
    [line] = items.execute("SELECT line FROM items WHERE item = ?", [entry.item]).fetchone()
    if entry.request.track_id:
        return wrong("track_id", entry.request.track_id, f"must differ from line {line}", "choose another track_id")
    requirement = f"must differ from line {line}, which has the same request"
    return Problem("line", "duplicate", requirement, "give each line its own seed")


def _count(plan: BatchPlan, decision: Decision) -> Action:
    """Count the decision. Return its action, with SUBMIT for both ways of submitting."""
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
    """Return every problem of an entry."""
    if entry.request is None:
        return entry.problems
    try:
        client.check(entry.request)
    except InvalidRequestError as error:
        return error.problems
    return ()


def _check_budget(plan: BatchPlan, client: Client, calls: Calls) -> None:
    if client.budget is None:
        return
    now = time.time()
    priced = [(client.prices.price_of(*call), count) for call, count in calls.items()]
    try:
        left = client.budget.allowed(priced, now)
    except InvalidRequestError:  # each item with an unknown price has this problem already
        return
    if left < calls.total():
        remaining = client.budget.remaining(now)
        value = counted(left, "job") if remaining is None else usd(remaining)
        requirement = f"must allow the batch's {counted(calls.total(), 'job')} at {plan.cost}; it allows {left}"
        plan.add_problem(Problem("budget", value, requirement, "raise the budget, or make fewer videos"))
