"""Kill -9 in the middle: nothing is paid twice, nothing that is paid for is forgotten. Real processes, real time."""

from __future__ import annotations

import asyncio
import random

import pytest

from benchmarks._crash import JOBS, Killer

WAYS = {
    "one process": Killer(random.Random(1)),
    "the emulator goes away": Killer(random.Random(2), restarts=True),
    "two processes": Killer(random.Random(3), children=2),
    "two, and the emulator goes away": Killer(random.Random(4), children=2, restarts=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_random_instants(way: str) -> None:
    """Forty jobs, their program killed again and again and started again: at most one charge for each, and each is
    collected, or listed as uncertain.
    """
    toll = asyncio.run(WAYS[way].run(kills=8))
    assert toll.kills >= 5
    assert (toll.charged_twice, toll.forgotten) == (0, 0)
    assert toll.collected + toll.uncertain + toll.failed == JOBS
    assert toll.charges >= toll.collected
