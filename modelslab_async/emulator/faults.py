"""Fault injection: rules that say what goes wrong and how often, and the seeded draw that applies them."""

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
"""Where a fault can hit. "call" is every POST except submits and fetches, for example balance."""


class Fault(Enum):
    """A fault that the emulator can inject. `seconds` in a description means the `seconds` of its `Rule`."""

    REFUSED = "the server resets its connections and stops listening for `seconds`"
    RESET_BEFORE = "the connection is reset before the request is processed"
    RESET_AFTER = "the connection is reset after the request was processed: a submit is charged"
    SLOW = "the reply comes `seconds` late"
    STALL = "the request is processed, and no reply ever comes"
    HTML_502 = "the request is processed, and a gateway's HTML page with code 502 replaces the reply"
    HTML_520 = "the request is processed, and a gateway's HTML page with code 520 replaces the reply"
    HTML_524 = "the request is processed, and a gateway's HTML page with code 524 replaces the reply"
    TRUNCATED_JSON = "the request is processed, and its reply is cut in the middle"
    RATE_LIMIT = "the request is refused with code 429, as if the account had no free slot"
    ERROR_500 = "the request is not processed, and the service answers code 500 in its own JSON"
    UNAVAILABLE_503 = "the request is not processed, and the service answers code 503 in its own JSON"
    EMPTY_OUTPUT = "a fetch of a finished job says success with an empty output"
    TRY_AGAIN = 'a fetch says "Try Again" with the status failed'
    JOB_FAILS = "the job is accepted and charged, and fails at its end"
    EARLY_LINK = "the file appears `seconds` before the job is done"
    LATE_LINK = "the file appears only `seconds` after success"
    CUT_MP4 = "half of the file is served as if it were the whole file"
    BROKEN_DOWNLOAD = "the connection breaks in the middle of the file"
    WRONG_TYPE = "the file is served as text/html"
    HTML_AS_MP4 = "an HTML page is served as video/mp4"
    WEBHOOK_TWICE = "the webhook is delivered twice"
    WEBHOOK_LATE = "the webhook is delivered `seconds` late"
    WEBHOOK_FORGED = "a forged delivery that says failed precedes the true delivery"
    WEBHOOK_MISSING = "the webhook is never delivered"


CUT_FAULTS = (Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD)
"""Faults that a reader of a file's head cannot notice."""
_JOB_FAULTS = (Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK)
_FETCH_FAULTS = (Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN)
_FILE_FAULTS = (*CUT_FAULTS, Fault.WRONG_TYPE, Fault.HTML_AS_MP4)
_COUNTED_LATER = (*_JOB_FAULTS, *_FETCH_FAULTS)
"""Faults that are drawn before the service knows whether there is a job or a result that they can change."""


def _occasions(fault: Fault) -> tuple[Occasion, ...]:
    """Return the occasions at which *fault* can hit; the first is its default."""
    if fault.name.startswith("WEBHOOK"):
        return ("webhook",)
    if fault in _FILE_FAULTS:
        return ("file",)
    if fault in _FETCH_FAULTS:
        return ("fetch",)
    return ("submit",) if fault in _JOB_FAULTS else ("submit", "fetch", "call")


@attrs.frozen
class Rule:
    """Make `fault` hit a share `rate` of the occasions `on`, at most `times` times (None: without limit).

    on: "submit", "fetch", "call" (every other POST, for example balance), "file" or "webhook". Each fault can hit only
        on some of them. None chooses the fault's own occasion.
    seconds: the duration or delay of a fault whose description names `seconds`; the emulator divides it by `speed`.

    Raises InvalidRequestError if a value is out of range, or if the fault cannot hit on that occasion.
    """

    fault: Fault
    on: Occasion | None = None
    rate: float = 1.0
    times: int | None = None
    seconds: float = 30.0

    def __attrs_post_init__(self) -> None:
        fault: object = self.fault
        if not isinstance(fault, Fault):
            raise refusal("fault", fault, "must be a Fault", "pass Fault.RESET_AFTER, for example")
        known = _occasions(fault)
        where = f"must be {' or '.join(known)} for {fault.name}"
        is_count = self.times is None or (isinstance(self.times, int) and self.times >= 0)
        require(
            (self.on in (None, *known), "on", self.on, where, "omit it"),
            (0 <= self.rate <= 1, "rate", self.rate, "must be a share from 0 to 1", "pass 1 for always"),
            (is_count, "times", self.times, "must be None or an integer of at least 0", "omit it for no limit"),
            (0 <= self.seconds < math.inf, "seconds", self.seconds, "must be a finite number of at least 0", "pass 30"),
        )

    @property
    def occasion(self) -> Occasion:
        """The occasion at which the fault hits."""
        return self.on or _occasions(self.fault)[0]


@attrs.define
class FaultPlan:
    """Draw faults by rules, in order: the first rule that hits decides."""

    rules: Sequence[Rule]
    rng: random.Random
    _hits: Counter[int] = attrs.field(factory=Counter[int], init=False)

    def draw(self, occasion: Occasion, excluding: Collection[Fault] = ()) -> Rule | None:
        """Return the rule that hits this time, or None. Never return a rule whose fault is in *excluding*."""
        for index, rule in enumerate(self.rules):
            if rule.occasion != occasion or rule.fault in excluding or self._hits[index] == rule.times:
                continue
            if self.rng.random() < rule.rate:
                self._hits[index] += rule.fault not in _COUNTED_LATER
                return rule
        return None

    def count_effect(self, rule: Rule | None) -> None:
        """Count a hit of *rule* if `draw` could not know whether its fault would have an effect."""
        if rule and rule.fault in _COUNTED_LATER:
            index = next(i for i, each in enumerate(self.rules) if each is rule and self._hits[i] != rule.times)
            self._hits[index] += 1
