"""What asyncio lacks: the loop's time by a short name, a wait for an event with a bound, and one that cannot be cut."""

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
    """Wait for *future* however often the caller is cancelled, then return its result, or raise the cancellation.

    A scope of anyio cancels every await of its task again, and a program may cancel a task twice. Whatever must not be
    left half done, such as a paid request, runs in a task of its own and is awaited through this.
    """
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # seen here, so that asyncio does not report it as lost
        raise cancelled
    return future.result()
