"""What goes wrong, and how often: a declarative plan, drawn from a seeded rng."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Literal

import attrs

from modelslab_async.protocol.problems import refusal, require

Occasion = Literal["submit", "fetch", "call", "file", "webhook"]


class Fault(Enum):
    """One thing that goes wrong."""

    REFUSED = "the server stops listening for `seconds`; a connection that is open then is reset"
    RESET_BEFORE = "the connection is reset before the request is looked at"
    RESET_AFTER = "the connection is reset after the request was done: a submit is charged"
    SLOW = "the reply comes `seconds` late"
    STALL = "the request is done, and no reply ever comes"
    HTML_502 = "a gateway's page, after the request was done"
    HTML_520 = "a gateway's page, after the request was done (520)"
    HTML_524 = "a gateway's page, after the request was done (524)"
    TRUNCATED_JSON = "the request is done, and its reply cut in the middle"
    RATE_LIMIT = "429, as if the account's places were all taken"
    ERROR_500 = "the service breaks, in its own JSON"
    UNAVAILABLE_503 = "the service is down, in its own JSON"
    EMPTY_OUTPUT = "success with an empty output"
    TRY_AGAIN = '"Try Again" under status failed'
    JOB_FAILS = "the job is taken, and fails at its end"
    EARLY_LINK = "the file is there `seconds` before the job is done"
    LATE_LINK = "the file is there only `seconds` after success"
    CUT_MP4 = "half of the file, as if it were whole"
    BROKEN_DOWNLOAD = "the connection breaks in the middle of the file"
    WRONG_TYPE = "the file as text/html"
    HTML_AS_MP4 = "a page as video/mp4"
    WEBHOOK_TWICE = "delivered twice"
    WEBHOOK_LATE = "delivered `seconds` late"
    WEBHOOK_FORGED = "before the true one, a false one that says failed"
    WEBHOOK_MISSING = "never delivered"


CUTS = (Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD)
_OF_A_JOB = (Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK)
_OF_A_FETCH = (Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN)
_OF_A_FILE = (*CUTS, Fault.WRONG_TYPE, Fault.HTML_AS_MP4)
_LATER = (*_OF_A_JOB, *_OF_A_FETCH)
"""They are drawn before it is known whether there is anything that they can show on."""


def _occasions(fault: Fault) -> tuple[Occasion, ...]:
    """Where a fault can hit; first where it belongs."""
    if fault.name.startswith("WEBHOOK"):
        return ("webhook",)
    if fault in _OF_A_FILE:
        return ("file",)
    if fault in _OF_A_FETCH:
        return ("fetch",)
    return ("submit",) if fault in _OF_A_JOB else ("submit", "fetch", "call")


@attrs.frozen
class Rule:
    """`fault` hits a share `rate` of the occasions `on`, at most `times` times (None: without end).

    on: "submit", "fetch", "call" (balance and the like), "file" or "webhook", as far as the fault can be there; None:
        where it belongs.
    seconds: how long or how late, before `speed` divides it, for the faults that tell so.

    Raises InvalidRequestError for a rule that could never show, or is none.
    """

    fault: Fault
    on: Occasion | None = None
    rate: float = 1.0
    times: int | None = None
    seconds: float = 30.0

    def __attrs_post_init__(self) -> None:
        fault: object = self.fault
        if not isinstance(fault, Fault):
            raise refusal("fault", fault, "one of Fault", "pass Fault.RESET_AFTER")
        known = _occasions(fault)
        is_count = self.times is None or (isinstance(self.times, int) and self.times >= 0)
        require(
            (self.on in (None, *known), "on", self.on, f"{fault.name} can be on {', '.join(known)}", "leave it out"),
            (0 <= self.rate <= 1, "rate", self.rate, "a share from 0 to 1", "pass 1 for always"),
            (is_count, "times", self.times, "an integer, at least 0, or None", "leave it out for no end"),
            (0 <= self.seconds < math.inf, "seconds", self.seconds, "a number, at least 0", "pass 30"),
        )

    @property
    def occasion(self) -> Occasion:
        """Where it hits."""
        return self.on or _occasions(self.fault)[0]


@attrs.define
class FaultPlan:
    """Rules in order: the first that hits decides."""

    rules: Sequence[Rule]
    rng: random.Random
    _hits: Counter[int] = attrs.field(factory=Counter[int], init=False)

    def draw(self, occasion: Occasion, but: Collection[Fault] = ()) -> Rule | None:
        """What goes wrong this time, or None; none of `but`."""
        for index, rule in enumerate(self.rules):
            if rule.occasion != occasion or rule.fault in but or self._hits[index] == rule.times:
                continue
            if self.rng.random() < rule.rate:
                self._hits[index] += rule.fault not in _LATER
                return rule
        return None

    def shown(self, rule: Rule | None) -> None:
        """What was drawn before one could know whether it would show has shown."""
        if rule and rule.fault in _LATER:
            index = next(i for i, each in enumerate(self.rules) if each is rule and self._hits[i] != rule.times)
            self._hits[index] += 1
