"""What the checks need: clients of one storage, and a comparison that says what it found."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any, Protocol

from modelslab_async.journal.base import Journal, Row
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import JobRecord

S = JobState


class Harness(Protocol):
    """Open clients on one storage, make them die, and let time pass."""

    @property
    def account(self) -> str:
        """Return the name of an account that no other check uses. It is the same for the whole check."""
        ...

    async def open(self) -> Journal:
        """Return the open journal of one more client. The harness closes it after the check."""
        ...

    async def kill(self, journal: Journal) -> None:
        """Return once all other clients see *journal* as dead, as if its process had been killed.

        The object must still write: it then stands for a process that was paused, and that wakes up.
        """
        ...

    async def let_pass(self, seconds: float) -> None:
        """Let *seconds* pass for the journals. `asyncio.sleep` is right; a clock that jumps is faster."""
        ...


Check = Callable[[Harness], Awaitable[None]]


def expect(found: object, expected: object, *, of: object = None) -> None:
    """Raise AssertionError unless *found* equals *expected*. *of* names the case, if a check has several."""
    if found != expected:
        case = "" if of is None else f" ({of})"
        raise AssertionError(f"expected {expected!r}, found {found!r}{case}")


def a_record(harness: Harness, journal: Journal, ref: str, state: JobState = S.WAITING, **changes: Any) -> JobRecord:
    """Return a record of the client's job in *state*, with *changes*."""
    return JobRecord(
        account=harness.account, ref=ref, owner=journal.owner, created_at=1.0, state=state, price=Decimal("0.2")
    )._replace(**changes)


def an_intent(harness: Harness, journal: Journal, ref: str, **changes: Any) -> JobRecord:
    """Return the record that claims a slot now, with *changes*."""
    intent = a_record(harness, journal, ref, S.SUBMITTING, submitted_at=time.time(), charged=None)
    return intent._replace(**changes)


async def row_of(harness: Harness, journal: Journal, ref: str) -> Row:
    """Return the row of a job. Raise AssertionError if there is none."""
    row = await journal.find(harness.account, ref=ref)
    if row is None:
        raise AssertionError(f"no row has the ref {ref!r}")
    return row


async def record_of(harness: Harness, journal: Journal, ref: str) -> JobRecord:
    """Return the record of a job. Raise AssertionError if there is none."""
    return (await row_of(harness, journal, ref)).record


async def within(seconds: float, awaitable: Awaitable[object]) -> None:
    """Await something for at most *seconds*. Raise AssertionError if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            await awaitable
    except TimeoutError:
        raise AssertionError(f"nothing happened within {seconds} s") from None
