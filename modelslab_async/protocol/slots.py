"""Who may be in flight: the account's places at the service, as far as this client can know them.

The account's limit counts jobs that are queued or processing there, over all endpoints and processes. So a slot is
taken from before the POST until the service says that the job ended, and other processes are met only as a 429:
then the cap falls to what we hold, and climbs back by one with each quiet success. No I/O and no clock in here.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from operator import itemgetter
from typing import Generic, TypeVar

DEFAULT_WAIT = 30.0
"""Seconds after a 429 that names no time: what the service names in its body."""
_SHORTEST_WAIT = 1.0

T = TypeVar("T")


class Slots(Generic[T]):
    """The places, and the queue before them. First in, first out; an item that is put back goes to its old place."""

    def __init__(self, limit: int) -> None:
        self._ceiling = limit
        self.cap = limit
        """How many places this client believes it may fill now."""
        self._taken: set[T] = set()
        self._unanswered: dict[T, int] = {}
        """Of those that hold a place and were not answered: what number each drew."""
        self._queue: OrderedDict[T, int] = OrderedDict()
        self._again: list[tuple[T, int]] = []
        """Those that were put back, by number. They came before all in the queue."""
        self._count = 0
        self.used_elsewhere = 0
        """Places that others are known to fill: clients that share the journal, and those that died."""
        self.retry_at: float | None = None
        """When to call `grant` again though nothing ended, or None."""

    @property
    def taken(self) -> int:
        """How many it fills."""
        return len(self._taken)

    @property
    def is_full(self) -> bool:
        """Whether all places that the account has are filled."""
        return self._filled >= self._ceiling

    @property
    def idle(self) -> int:
        """How many places are empty, of those that the account has, while somebody waits for one."""
        return max(min(self._ceiling - self._filled, self.waiting), 0)

    def enqueue(self, item: T) -> None:
        """At the end of the queue."""
        self._count += 1
        self._queue[item] = self._count

    def withdraw(self, item: T) -> None:
        """Out of the queue: it will not be granted."""
        if self._queue.pop(item, None) is None:
            self._again = [entry for entry in self._again if entry[0] != item]

    def occupy(self, item: T) -> None:
        """Fill a place without asking: the item is at the service already."""
        self._taken.add(item)

    def grant(self, now: float) -> Iterator[T]:
        """The items whose turn it is; each holds a place from here on."""
        if self.retry_at is not None and now >= self.retry_at:
            self.retry_at = None
            self.cap = min(self._ceiling, max(self.cap, self._filled + 1))
        while self.waiting and self._has_room():
            item, number = self._again.pop(0) if self._again else self._queue.popitem(last=False)
            self._taken.add(item)
            self._unanswered[item] = number
            yield item
        if self.waiting and self.cap < self._ceiling and not self._taken and self.retry_at is None:
            self.retry_at = now + DEFAULT_WAIT  # nothing of ours will end, and make the cap climb

    def _has_room(self) -> bool:
        """While places are short, one submit at a time: the order holds, and no volley of refusals comes back."""
        short = self.cap < self._ceiling
        return self._filled < self.cap and not (short and self._unanswered)

    def is_unanswered(self, item: T) -> bool:
        """Whether it was granted a place, and nothing was heard of it since."""
        return item in self._unanswered

    def accepted(self, item: T) -> None:
        """The service took it: the cap climbs, unless a refusal is still fresh."""
        self._unanswered.pop(item, None)
        if self.retry_at is None:
            self.cap = min(self._ceiling, self.cap + 1)

    def in_doubt(self, item: T) -> None:
        """Nobody knows whether the service took it. It may fill a place: held until it is released."""
        self._unanswered.pop(item, None)

    def put_back(self, item: T, now: float, *, wait: float | None, maximum: int | None) -> None:
        """The service has no place for it. `maximum` is the account's limit where the service names it."""
        number = self._unanswered[item]
        self.release(item)
        if maximum:
            self._ceiling = min(self._ceiling, maximum)
        self.cap = min(self._ceiling, self._filled)
        self.retry_at = now + (DEFAULT_WAIT if wait is None else max(wait, _SHORTEST_WAIT))
        insort(self._again, (item, number), key=itemgetter(1))

    def release(self, item: T) -> None:
        """It fills no place any more."""
        self._taken.discard(item)
        self._unanswered.pop(item, None)

    @property
    def waiting(self) -> int:
        """How many are in the queue."""
        return len(self._queue) + len(self._again)

    @property
    def _filled(self) -> int:
        return len(self._taken) + self.used_elsewhere
