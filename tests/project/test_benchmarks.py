"""The pure parts of the benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import __main__ as runner
from benchmarks._common import Samples, Target
from benchmarks.growth import line, shares
from benchmarks.hosts import longest_idle

ROOT = Path(__file__).parents[2]
amounts = st.floats(min_value=0.01, max_value=100.0)


@given(amounts, amounts)
def test_line_fits_points_on_a_line(constant: float, slope: float) -> None:
    """Points of a straight line give its constant and slope."""
    found = line({x: constant + slope * x for x in (10, 100, 1000, 10_000)})
    assert found == pytest.approx((constant, slope), rel=1e-4)


@given(amounts, amounts)
def test_linear_growth_has_no_deviation(constant: float, slope: float) -> None:
    """If the cost grows linearly, each batch's share of the line is 1, however large the constant is."""
    per_job = {jobs: (constant + slope * jobs) / jobs for jobs in (10, 100, 1000, 10_000)}
    assert list(shares(per_job).values()) == pytest.approx([1.0] * 4, rel=1e-4)


@given(st.lists(amounts, min_size=1), amounts)
def test_a_disturbance_of_both_contenders_cancels(values: list[float], factor: float) -> None:
    """Two contenders that a round slows down by the same factor keep their ratio."""
    assert Samples([factor * value for value in values]).ratio_to(Samples(values)).median == pytest.approx(factor)


@given(st.lists(amounts, min_size=2), st.lists(amounts, min_size=2), st.integers(1, 5))
def test_the_longest_idle_time_is_that_of_one_slot(lengths: list[float], gaps: list[float], slots: int) -> None:
    """Slots that do the same, job after job, are idle for as long as the longest gap between two jobs of one slot."""
    spans, now, longest = list[tuple[float, float]](), 0.0, 0.0
    for number, (length, gap) in enumerate(zip(lengths, gaps, strict=False)):
        longest = max(longest, gap if number else 0.0)
        spans += [(now + gap, now + gap + length)] * slots
        now += gap + length
    assert longest_idle(spans, slots) == pytest.approx(longest, abs=1e-6)


def test_an_outage_of_the_database_is_no_idle_time() -> None:
    """Only the part of a gap in which the database could be reached counts."""
    spans = [(0.0, 1.0), (11.0, 12.0)]
    assert longest_idle(spans, 1) == 10.0
    assert longest_idle(spans, 1, [(0.5, 3.0), (4.0, 6.0), (9.0, 20.0)]) == 4.0


def test_a_missed_target_is_reported() -> None:
    """A value equal to the target meets it; a higher value misses it."""
    verdicts = [str(Target("x", measured, at_most=1.0)).split(":")[0] for measured in (0.9, 1.0, 1.1)]
    assert verdicts == ["met", "met", "MISSED"]


def test_an_unknown_benchmark_is_refused_with_the_known_names() -> None:
    """The error names the unknown benchmark and all known ones."""
    command = [sys.executable, "-m", "benchmarks", "speed"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert "unknown benchmark: speed" in process.stderr
    assert all(name in process.stderr for name in runner.NAMES)


def test_stored_results_have_the_keys_that_are_drawn() -> None:
    """Each stored result names its targets, each with the measured value and whether it is missed."""
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for path in files:
        results = json.loads(path.read_text(encoding="utf-8"))
        assert all({"name", "measured", "at_most", "missed"} == set(target) for target in results["targets"]), path
        for target in results["targets"]:
            verdict = Target(target["name"], target["measured"], target["at_most"])
            assert verdict.missed == target["missed"], path
