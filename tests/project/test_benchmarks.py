"""The pure parts of the benchmarks: a wrong yardstick makes good figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as every
from benchmarks._common import Reach, Seen
from benchmarks.growth import line, shares

ROOT = Path(__file__).parents[2]
amounts = st.floats(min_value=0.01, max_value=100.0)


@given(amounts, amounts)
def test_a_straight_line_is_found(constant: float, slope: float) -> None:
    """Points of a line give that line."""
    found = line({x: constant + slope * x for x in (10, 100, 1000, 10_000)})
    assert found == pytest.approx((constant, slope), rel=1e-4)


@given(amounts, amounts)
def test_what_grows_in_a_straight_line_is_on_it(constant: float, slope: float) -> None:
    """Each batch's share of the line is 1, however large the constant is."""
    each = {jobs: (constant + slope * jobs) / jobs for jobs in (10, 100, 1000, 10_000)}
    assert list(shares(each).values()) == pytest.approx([1.0] * 4, rel=1e-4)


@given(st.lists(amounts, min_size=1), amounts)
def test_what_disturbs_a_round_cancels(values: list[float], factor: float) -> None:
    """Two contenders that are disturbed alike keep their ratio."""
    assert Seen([factor * value for value in values]).over(Seen(values)).median == pytest.approx(factor)


def test_a_reach_that_is_missed_is_named() -> None:
    """At most means at most."""
    assert [str(Reach("x", value, 1.0)).split(":")[0] for value in (0.9, 1.0, 1.1)] == ["kept", "kept", "MISSED"]


def test_a_benchmark_that_is_not_there_is_told() -> None:
    """With the names of those that are."""
    words = [sys.executable, "-m", "benchmarks", "speed"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "there is no speed" in ran.stderr
    assert all(name in ran.stderr for name in every.NAMES)
