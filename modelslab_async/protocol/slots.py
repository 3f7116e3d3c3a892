"""Keep the queue of one client's jobs, and the slots that its jobs hold at the service.

`claims` decides whether the account has a free slot: for a client without a journal in `grant`, else in the journal.
This module has no I/O and no clock.
"""

from bisect import insort
from collections import OrderedDict
from collections.abc import Iterator
from operator import itemgetter
from typing import Generic, TypeVar

from modelslab_async.protocol.claims import AccountCap, Ask, Claimed, NoSlot, Others, decide
from modelslab_async.protocol.pricing import SpendingLimit

T = TypeVar("T")


class Slots(Generic[T]):
    """Track the slots of a client's items and the queue of items that wait for one.

    The queue is first in, first out. An item that is put back returns to its old position.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.cap = limit
        """The number of slots that this client believes all clients of the account together can use now."""
        self._account = AccountCap()
        """What refusals taught; the journal keeps it for a client that has one."""
        self._held: set[T] = set()
        self._uncertain: set[T] = set()
        """Items that hold a slot because the service may have accepted the job."""
        self._unanswered: dict[T, int] = {}
        """Items that hold a slot and wait for the reply to their submit, each with its number in the queue."""
        self._queue: OrderedDict[T, int] = OrderedDict()
        self._returned: list[tuple[T, int]] = []
        """Items that were put back, in the order of their numbers. They go before all items of the queue."""
        self._last_number = 0
        self.is_blocked = False
        """Whether the last claim in the journal found no free slot: other clients may use what this one does not."""

    @property
    def taken(self) -> int:
        """The number of slots that this client's items hold."""
        return len(self._held)

    @property
    def is_full(self) -> bool:
        """Whether this client uses all slots that it may use."""
        return len(self._held) >= self._limit

    @property
    def idle(self) -> int:
        """The number of slots that are free while an item waits for one."""
        return 0 if self.is_blocked else max(min(self._limit - len(self._held), self.waiting), 0)

    @property
    def waiting(self) -> int:
        """The number of items in the queue."""
        return len(self._queue) + len(self._returned)

    @property
    def head(self) -> T | None:
        """The item whose turn it is; None if the queue is empty."""
        return self._returned[0][0] if self._returned else next(iter(self._queue), None)

    @property
    def retry_at(self) -> float | None:
        """When to call `grant` again although no job ended; None if there is no need to."""
        return self._account.retry_at

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
        self._uncertain.discard(item)

    def ask(self, spending: SpendingLimit | None = None) -> Ask:
        """Return what this client asks for when it claims a slot for the head of its queue."""
        return Ask(self._limit, len(self._held - self._uncertain), len(self._unanswered), spending)

    def grant(self, now: float) -> Iterator[T]:
        """Yield the items that may be submitted now, if the client has no journal. Each yielded item holds a slot."""
        self._account = self._account.at(now, len(self._held))
        while self.waiting and not self.is_full:
            answer, self._account = decide(self.ask(), Others(held=len(self._uncertain)), self._account, now)
            self.cap = answer.usable
            if isinstance(answer, NoSlot):
                return
            yield self.take()

    def note(self, answer: Claimed | NoSlot) -> None:
        """Note what a claim in the journal said about the account's slots."""
        self.cap, self.is_blocked = min(answer.usable, self._limit), isinstance(answer, NoSlot)

    def take(self) -> T:
        """Give the head of the queue a slot, and return it."""
        item, number = self._returned.pop(0) if self._returned else self._queue.popitem(last=False)
        self._held.add(item)
        self._unanswered[item] = number
        return item

    def is_unanswered(self, item: T) -> bool:
        """Return whether *item* was granted a slot and its submit was not answered yet."""
        return item in self._unanswered

    def accepted(self, item: T, now: float) -> None:
        """Note that the service accepted *item*. The cap climbs by one, unless a refusal is recent."""
        self._unanswered.pop(item, None)
        self._account = self._account.after_acceptance()
        self.cap = self._account.usable(self._limit, now)

    def hold(self, item: T) -> None:
        """Hold the slot of *item* until `release`, because the service may have accepted the job."""
        self._unanswered.pop(item, None)
        self._uncertain.add(item)

    def refused(self, item: T, now: float, *, wait: float | None, maximum: int | None) -> None:
        """Return *item* to its position in the queue, because the service has no free slot for it.

        For *wait* and *maximum* see `AccountCap.after_refusal`.
        """
        self.put_back(item)
        self._account = self._account.after_refusal(len(self._held), now, wait=wait, maximum=maximum)
        self.cap = self._account.usable(self._limit, now)

    def put_back(self, item: T) -> None:
        """Return *item* to its position in the queue, because it was not sent."""
        number = self._unanswered[item]
        self.release(item)
        insort(self._returned, (item, number), key=itemgetter(1))

    def release(self, item: T) -> None:
        """Free the slot of *item*, or remove it from the queue."""
        if item in self._held:
            self._held.discard(item)
            self._uncertain.discard(item)
            self._unanswered.pop(item, None)
        else:
            self.withdraw(item)
