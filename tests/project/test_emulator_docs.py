"""The page about the emulator: it names flags and faults that exist."""

from __future__ import annotations

import re

from helpers.pages import text_of

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
