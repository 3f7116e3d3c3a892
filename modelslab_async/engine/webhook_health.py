"""Track whether webhook deliveries arrive, so that the poller can rely on them."""

import asyncio

from modelslab_async.polling.estimator import PollValue

ENDS_IN_A_ROW = 3
"""Deliveries are relied on after they reported this many consecutive job ends."""
LATE_WITHIN = 10.0
"""Seconds after a poll saw an end during which its delivery still counts as arrived."""


class WebhookHealth:
    """Count the consecutive job ends that a delivery reported. An end without a delivery starts the count again."""

    def __init__(self, poll_value: PollValue) -> None:
        self.poll_value = poll_value
        self._in_a_row = 0
        self._delivered = set[str]()
        """Refs of running jobs that had a delivery."""
        self._awaited = dict[str, asyncio.TimerHandle]()
        """Refs of ended jobs whose delivery may still arrive."""

    def delivered(self, ref: str) -> None:
        """Count a delivery for a job that runs here."""
        self._delivered.add(ref)

    def delivered_late(self, ref: str) -> None:
        """Count a delivery for a job that does not run here any more."""
        if timer := self._awaited.pop(ref, None):
            timer.cancel()
            self._count(self._in_a_row + 1)

    def ended(self, ref: str) -> None:
        """Count the end of a job with a webhook."""
        if ref in self._delivered:
            self._delivered.discard(ref)
            self._count(self._in_a_row + 1)
        else:
            self._awaited[ref] = asyncio.get_running_loop().call_later(LATE_WITHIN, self._missed, ref)

    def forget(self, ref: str) -> None:
        """Forget a job that is no longer polled, although the service may still run it."""
        self._delivered.discard(ref)

    def close(self) -> None:
        """Stop waiting for late deliveries."""
        for timer in self._awaited.values():
            timer.cancel()
        self._awaited.clear()

    def _missed(self, ref: str) -> None:
        self._awaited.pop(ref, None)
        self._count(0)

    def _count(self, in_a_row: int) -> None:
        self._in_a_row = in_a_row
        self.poll_value.is_reliable = in_a_row >= ENDS_IN_A_ROW
