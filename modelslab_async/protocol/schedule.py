"""When to look next.

A first, plain schedule: half of the way to the service's eta at a time, then gaps that grow. Whatever the eta says, no
gap is under `floor` or over `ceiling`, so an eta that is absent, zero or ten times off costs little.
"""

from __future__ import annotations

import random
from typing import Protocol

import attrs

_JITTER = 0.1
_UNKNOWN_ETA = 40.0
"""Seconds. The service was measured at 34 to 44 s for 480p and 82 frames."""


class Schedule(Protocol):
    """Answers one question."""

    def gap(self, elapsed: float) -> float:
        """Seconds from now to the next look, for a job that has been watched for `elapsed` seconds."""
        ...


@attrs.define
class EtaSchedule:
    """Sparse far from the eta, dense around it, growing in the tail. `eta` in seconds from the start, or None."""

    eta: float | None
    rng: random.Random
    floor: float = 1.0
    ceiling: float = 10.0

    def gap(self, elapsed: float) -> float:
        """Half of the time to the eta; past it, an eighth of the time overdue."""
        eta = self.eta or _UNKNOWN_ETA
        distance = (eta - elapsed) / 2 if elapsed < eta else (elapsed - eta) / 8
        jitter = self.rng.uniform(1 - _JITTER, 1 + _JITTER)
        return min(max(distance * jitter, self.floor), self.ceiling)
