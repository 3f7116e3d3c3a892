"""Add to asyncio the loop's time, a bounded wait for an event, and an await that a cancellation cannot interrupt."""

import asyncio
from contextlib import suppress
from typing import TypeVar

_T = TypeVar("_T")


def now() -> float:
    """Return the event loop's time, seconds."""
    return asyncio.get_running_loop().time()


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until *event* is set, for at most *seconds*; None for as long as it takes. Return whether it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def uninterrupted(future: asyncio.Future[_T]) -> _T:
    """Wait for *future* until it is done, even if the caller is cancelled. Then return its result.

    Raise the caller's CancelledError once *future* is done, if the caller was cancelled meanwhile. A scope of anyio
    cancels every await of its task again, and a program may cancel a task twice. Work that must be completed, such as
    a paid request, runs in a separate task, which the caller awaits with this function.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # retrieved, so that asyncio does not log it as never retrieved
        raise cancelled
    return future.result()
