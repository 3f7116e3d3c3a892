"""Whether deliveries of a webhook come, so that waiting may rely on them."""

import asyncio

from modelslab_async.polling.estimator import PollValue

PROVED = 3
"""So many ends in a row that a delivery told."""
LATE = 10.0
"""Seconds after an end was seen by a look, in which its delivery still counts as come."""


class WebhookHealth:
    """Counts ends that were told in a row; one that was not told begins anew."""

    def __init__(self) -> None:
        self.poll_value = PollValue()
        self._row = 0
        self._told = set[str]()
        """Refs of jobs that still run here."""
        self._awaited = dict[str, asyncio.TimerHandle]()

    def told(self, ref: str) -> None:
        """A delivery came for a job that runs here."""
        self._told.add(ref)

    def delivered_late(self, ref: str) -> None:
        """A delivery came for a job that does not run here any more."""
        if timer := self._awaited.pop(ref, None):
            timer.cancel()
            self._count(self._row + 1)

    def ended(self, ref: str) -> None:
        """The end of a job was seen."""
        if ref in self._told:
            self._told.discard(ref)
            self._count(self._row + 1)
        else:
            self._awaited[ref] = asyncio.get_running_loop().call_later(LATE, self._missed, ref)

    def close(self) -> None:
        """Nobody listens any more."""
        for timer in self._awaited.values():
            timer.cancel()
        self._awaited.clear()

    def _missed(self, ref: str) -> None:
        self._awaited.pop(ref, None)
        self._count(0)

    def _count(self, row: int) -> None:
        self._row = row
        self.poll_value.is_reliable = row >= PROVED
