"""Track the account's slots at the service, and decide which queued job may be submitted next.

The account's limit counts jobs that are queued or processing at the service, over all endpoints and processes. So a job
holds its slot from before the POST until the service says that the job ended. Jobs that the journal does not know show
only as a 429. Then the cap falls to the slots that are known to be used. It climbs back by one with each job that is
accepted without a recent refusal. This module has no I/O and no clock.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from operator import itemgetter
from typing import Generic, TypeVar

DEFAULT_WAIT = 30.0
"""Seconds to wait after a 429 that names no time. The service's own refusals name this time in their body."""
_SHORTEST_WAIT = 1.0

T = TypeVar("T")


class Slots(Generic[T]):
    """Track the account's slots and the queue of items that wait for one.

    The queue is first in, first out. An item that is put back returns to its old position.
    """

    def __init__(self, limit: int) -> None:
        self._ceiling = limit
        self.cap = limit
        """The number of the account's slots that this client believes all clients together can use now."""
        self._held: set[T] = set()
        self._unanswered: dict[T, int] = {}
        """Items that hold a slot and wait for the reply to their submit, each with its number in the queue."""
        self._queue: OrderedDict[T, int] = OrderedDict()
        self._returned: list[tuple[T, int]] = []
        """Items that were put back, in the order of their numbers. They go before all items of the queue."""
        self._last_number = 0
        self.used_elsewhere = 0
        """Slots that others are known to use: clients that share the journal, and clients that died."""
        self.retry_at: float | None = None
        """When to call `grant` again although no job ended; None if there is no need to."""

    @property
    def taken(self) -> int:
        """The number of slots that this client's items hold."""
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Whether all slots of the account are used."""
        return self._used >= self._ceiling

    @property
    def idle(self) -> int:
        """The number of the account's slots that are free while an item waits for one."""
        return max(min(self._ceiling - self._used, self.waiting), 0)

    def enqueue(self, item: T) -> None:
        """Add *item* at the end of the queue."""
        self._last_number += 1
        self._queue[item] = self._last_number

    def withdraw(self, item: T) -> None:
        """Remove *item* from the queue."""
        if self._queue.pop(item, None) is None:
            self._returned = [entry for entry in self._returned if entry[0] != item]

    def occupy(self, item: T) -> None:
        """Give *item* a slot although none may be free, because the service already has the job."""
        self._held.add(item)

    def grant(self, now: float) -> Iterator[T]:
        """Yield the items that may be submitted now. Each yielded item holds a slot."""
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            self.cap = min(self._ceiling, max(self.cap, self._used + 1))
        while self.waiting and self._may_grant():
            item, number = self._returned.pop(0) if self._returned else self._queue.popitem(last=False)
            self._held.add(item)
            self._unanswered[item] = number
            yield item
        if self.waiting and self.cap < self._ceiling and not self._held and self.retry_at is None:
            self.retry_at = now + DEFAULT_WAIT  # this client holds no slot, so no end of a job will call `grant`

    def _may_grant(self) -> bool:
        """Return whether one more item may be submitted.

        While the cap is below the account's limit, one submit goes out at a time. So the order holds, and the service
        does not refuse many submits at once.
        """
        is_capped = self.cap < self._ceiling
        return self._used < self.cap and not (is_capped and self._unanswered)

    def is_unanswered(self, item: T) -> bool:
        """Return whether *item* was granted a slot and its submit was not answered yet."""
        return item in self._unanswered

    def accepted(self, item: T) -> None:
        """Note that the service accepted *item*. The cap climbs by one, unless a refusal is recent."""
        self._unanswered.pop(item, None)
        if self.retry_at is None:
            self.cap = min(self._ceiling, self.cap + 1)

    def hold(self, item: T) -> None:
        """Hold the slot of *item* until `release`, because the service may have accepted the job."""
        self._unanswered.pop(item, None)

    def put_back(self, item: T, now: float, *, wait: float | None, maximum: int | None) -> None:
        """Return *item* to its position in the queue, because the service has no free slot for it.

        wait: the seconds after which the service asks to be called again; None for DEFAULT_WAIT.
        maximum: the account's limit, which holds from now on; None if the service named none.
        """
        number = self._unanswered[item]
        self.release(item)
        if maximum:
            self._ceiling = min(self._ceiling, maximum)
        self.cap = min(self._ceiling, self._used)
        self.retry_at = now + (DEFAULT_WAIT if wait is None else max(wait, _SHORTEST_WAIT))
        insort(self._returned, (item, number), key=itemgetter(1))

    def release(self, item: T) -> None:
        """Free the slot of *item*."""
        self._held.discard(item)
        self._unanswered.pop(item, None)

    @property
    def waiting(self) -> int:
        """The number of items in the queue."""
        return len(self._queue) + len(self._returned)

    @property
    def _used(self) -> int:
        return len(self._held) + self.used_elsewhere
