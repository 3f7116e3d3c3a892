"""What goes wrong, and how often: a declarative plan, drawn from a seeded rng."""

from __future__ import annotations

import random
from collections.abc import Sequence
from enum import Enum
from typing import Literal

import attrs

Occasion = Literal["submit", "fetch", "call", "file", "webhook"]


class Fault(Enum):
    """One thing that goes wrong."""

    REFUSED = "the server stops listening for `seconds`"
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


_FETCH_ONLY = {Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN}


def _occasion(fault: Fault) -> Occasion:
    if fault in _FETCH_ONLY:
        return "fetch"
    if fault.name.startswith("WEBHOOK"):
        return "webhook"
    return "file" if fault in (Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD, Fault.WRONG_TYPE, Fault.HTML_AS_MP4) else "submit"


@attrs.frozen
class Rule:
    """`fault` hits a share `rate` of the occasions `on`, at most `times` times (None: without end).

    on: "submit", "fetch", "call" (balance and the like), "file" or "webhook"; None: where the fault belongs.
    seconds: how long or how late, before `speed` divides it, for the faults that tell so.
    """

    fault: Fault
    on: Occasion | None = None
    rate: float = attrs.field(default=1.0, validator=[attrs.validators.ge(0), attrs.validators.le(1)])
    times: int | None = None
    seconds: float = 30.0

    @property
    def occasion(self) -> Occasion:
        """Where it hits."""
        return self.on or _occasion(self.fault)


@attrs.define
class FaultPlan:
    """Rules in order: the first that hits decides."""

    rules: Sequence[Rule]
    rng: random.Random
    _hits: dict[int, int] = attrs.field(factory=dict[int, int], init=False)

    def draw(self, occasion: Occasion) -> Rule | None:
        """What goes wrong this time, or None."""
        for index, rule in enumerate(self.rules):
            if rule.occasion != occasion or (rule.times is not None and self._hits.get(index, 0) >= rule.times):
                continue
            if self.rng.random() < rule.rate:
                self._hits[index] = self._hits.get(index, 0) + 1
                return rule
        return None
