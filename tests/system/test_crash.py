"""Processes killed with SIGKILL: nothing is paid twice or forgotten. Real processes, real time."""

from __future__ import annotations

import asyncio
import random

import pytest

from benchmarks._crash import JOBS, Killer

SCENARIOS = {
    "one process": Killer(random.Random(1)),
    "the emulator restarts": Killer(random.Random(2), restarts=True),
    "two processes": Killer(random.Random(3), children=2),
    "two processes, and the emulator restarts": Killer(random.Random(4), children=2, restarts=True),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_random_instants(scenario: str) -> None:
    """A program with forty jobs is killed and started again many times: each job is charged at most once.

    Each job is collected, failed, or listed as uncertain.
    """
    toll = asyncio.run(SCENARIOS[scenario].run(kills=8))
    assert toll.kills >= 5
    assert (toll.charged_twice, toll.forgotten) == (0, 0)
    assert toll.collected + toll.uncertain + toll.failed == JOBS
    assert toll.charges >= toll.collected
