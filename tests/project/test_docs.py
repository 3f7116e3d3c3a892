"""The pages about the emulator and the operations: they name flags, faults and operations that exist."""

from __future__ import annotations

import re

import pytest
from helpers.pages import text_of

from modelslab_async import OPERATIONS
from modelslab_async.emulator import Fault
from modelslab_async.emulator.__main__ import parser
from modelslab_async.emulator.faults import fault_named

EMULATOR = text_of("docs/emulator.md")
OTHER_FLAGS = {"--help", "--base-url", "--allow-http"}
"""Flags that the emulator's help does not list: its own `--help`, and two of the command `modelslab-async`."""


def test_named_flags_exist() -> None:
    """Each flag that the page names is one of the command's."""
    known = parser().format_help()
    named = set(re.findall(r"`?(--[a-z][a-z-]+)", EMULATOR)) - OTHER_FLAGS
    assert len(named) > 10
    assert {flag for flag in named if flag not in known} == set()


def test_named_faults_and_their_number() -> None:
    """The page names faults that exist, and about their number."""
    assert fault_named(re.findall(r"fault:(\w+):ANYTHING", EMULATOR)[0]) is Fault.RESET_AFTER
    (about,) = re.findall(r"about (\d+) kinds", EMULATOR)
    assert abs(int(about) - len(Fault)) <= 5


def test_the_page_says_that_this_is_not_modelslab() -> None:
    """The first paragraph says so."""
    assert "**It is not ModelsLab**" in EMULATOR.split("\n\n")[1]


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_readme_lists_each_operation(name: str) -> None:
    """The README has the row's price and how sure its parameters are."""
    row = OPERATIONS[name]
    price = "unknown" if row.price is None else f"${row.price:.2f}"
    table = text_of("README.md").split("## What it can call")[1].split("\n\n")[1]
    (line,) = [line for line in table.splitlines() if f"`{name}`" in line.split("|")[1]]
    assert line.endswith(f"| {price} | {row.confidence} |")
    assert row.request_type.__name__ in line
