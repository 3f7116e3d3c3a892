"""The jobs of all accounts, in the order in which they came: who has a place, and when a job starts. Pure."""

from __future__ import annotations

from bisect import bisect_right, insort_right
from collections import defaultdict
from operator import attrgetter

import attrs

from modelslab_async.emulator.order import Order

_end = attrgetter("done_at")


@attrs.define
class Book:
    """limit: jobs that an account may have queued or processing; workers: how many of them are processed at a time."""

    limit: int
    workers: int
    orders: dict[int, Order] = attrs.field(factory=dict[int, Order])
    busiest: int = 0
    """The most jobs that one account ever had queued or processing."""
    _open: defaultdict[str, list[Order]] = attrs.field(factory=lambda: defaultdict[str, list[Order]](list), init=False)
    """By account, in the order in which they are done."""
    _rendering: defaultdict[str, list[Order]] = attrs.field(
        factory=lambda: defaultdict[str, list[Order]](list), init=False
    )
    """By account, those whose files are being made: they keep their places until that is done."""
    _names: dict[str, Order] = attrs.field(factory=dict[str, Order], init=False)

    def running(self, account: str, now: float) -> list[Order]:
        """The jobs of an account that are queued or processing, the first to be done first."""
        queue = self._open[account]
        return [*self._late(account, now), *queue[bisect_right(queue, now, key=_end) :]]

    def has_place(self, account: str, now: float) -> bool:
        """Whether the account may have one more job."""
        return self._filled(account, now) < self.limit

    def _filled(self, account: str, now: float) -> int:
        queue = self._open[account]
        del queue[: bisect_right(queue, now, key=_end)]
        return len(queue) + len(self._late(account, now))

    def _late(self, account: str, now: float) -> list[Order]:
        """Those that should be done, and are still being rendered."""
        return [
            order for order in self._rendering[account] if order.done_at <= now and order.state(now) == "processing"
        ]

    def starts_at(self, account: str, now: float) -> float:
        """First in, first out: when a worker is free of all that came before."""
        queue = self._open[account]
        return now if len(queue) < self.workers else max(now, queue[-self.workers].done_at)

    def add(self, order: Order) -> None:
        """A job was taken."""
        queue = self._open[order.account]
        insort_right(queue, order, key=_end)
        self.orders[order.id] = order
        self._names[order.name] = order
        self.busiest = max(self.busiest, self._filled(order.account, order.taken_at))

    def render(self, order: Order) -> None:
        """Its file is being made from now on."""
        order.is_rendering = True
        self._rendering[order.account].append(order)

    def rendered(self, order: Order, now: float, failed: str) -> None:
        """Its file is made, or failed: a job that should have been done before is done now."""
        order.is_rendering = False
        self._rendering[order.account].remove(order)
        if not order.failed:
            late = max(now - order.done_at, 0.0)
            order.done_at, order.file_at, order.failed = order.done_at + late, max(order.file_at + late, now), failed

    def named(self, name: str) -> Order | None:
        """The job whose file has this name."""
        return self._names.get(name)

    def clear(self, now: float) -> None:
        """Drop all jobs that are queued or processing: they fail."""
        for order in self.orders.values():
            if order.state(now) in ("queued", "processing"):
                order.failed, order.done_at = "The queue was cleared.", now
                order.starts_at = min(order.starts_at, now)
