"""Fault injection: rules that say what goes wrong and how often, and the seeded draw that applies them."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Any, Literal

import attrs

from modelslab_async.protocol.problems import refusal, require, shown_name

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
    HTML_503 = "the request is processed, and a gateway's HTML page with code 503 replaces the reply"
    HTML_504 = "the request is processed, and a gateway's HTML page with code 504 replaces the reply"
    HTML_520 = "the request is processed, and a gateway's HTML page with code 520 replaces the reply"
    HTML_522 = "the request is processed, and a gateway's HTML page with code 522 replaces the reply"
    HTML_524 = "the request is processed, and a gateway's HTML page with code 524 replaces the reply"
    TRUNCATED_JSON = "the request is processed, and its reply is cut in the middle"
    RATE_LIMIT = "the request is refused with code 429, as if the account had no free slot"
    TRY_LATER = 'the request is refused with code 429, and "try again in N minutes", at least one, in the message'
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
    FILE_429 = "the file's host refuses the download with code 429"
    HTML_AS_MP4 = "an HTML page is served as video/mp4"
    WEBHOOK_TWICE = "the webhook is delivered twice"
    WEBHOOK_LATE = "the webhook is delivered `seconds` late"
    WEBHOOK_FORGED = "a forged delivery that says failed precedes the true delivery"
    WEBHOOK_PROCESSING = "a delivery that says processing precedes the true delivery"
    WEBHOOK_MISSING = "the webhook is never delivered"


CUT_FAULTS = (Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD)
"""Faults that a reader of a file's head cannot notice."""
_JOB_FAULTS = (Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK)
_FETCH_FAULTS = (Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN)
_FILE_FAULTS = (*CUT_FAULTS, Fault.WRONG_TYPE, Fault.FILE_429, Fault.HTML_AS_MP4)
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


def fault_named(name: object) -> Fault:
    """Return the fault of this name, in any case and with hyphens or underscores. Raise InvalidRequestError if none."""
    found = Fault.__members__.get(name.strip().upper().replace("-", "_")) if isinstance(name, str) else None
    if found is None:
        names = ", ".join(each.lower() for each in Fault.__members__)
        raise refusal("fault", name, "must be the name of a fault", f"choose from {names}")
    return found


def rule_from(values: Mapping[str, Any]) -> Rule:
    """Return the rule with these values, such as {"fault": "reset_after", "times": 1}.

    Raises InvalidRequestError if a value is wrong or unknown.
    """
    known = {each.name for each in attrs.fields(Rule)}
    unknown = next((name for name in values if name not in known), None)
    if unknown is not None:
        raise refusal(shown_name(unknown), values[unknown], "unknown field", f"choose from {', '.join(sorted(known))}")
    numbers = {name: values[name] for name in ("rate", "seconds") if name in values}
    are_numbers = {name: isinstance(value, int | float) for name, value in numbers.items()}
    require(*((are_numbers[name], name, value, "must be a number", "pass 1") for name, value in numbers.items()))
    return Rule(**{**values, "fault": fault_named(values.get("fault"))})


def rule_from_text(text: str) -> Rule:
    """Return the rule that a command's flag describes, such as "reset_after=1" or "slow,on=fetch,rate=0.5,seconds=3".

    A number after the name is `times`. Raises InvalidRequestError if the text is no such rule.
    """
    head, *rest = text.split(",")
    name, _, times = head.partition("=")
    values: dict[str, Any] = {"fault": name, **({"times": times} if times else {})}
    values |= {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in rest)}
    for name, kind in (("times", int), ("rate", float), ("seconds", float)):
        with suppress(KeyError, ValueError):  # `rule_from` reports a text that is no number
            values[name] = kind(values[name])
    return rule_from(values)


def rule_as_json(rule: Rule) -> dict[str, Any]:
    """Return the values of *rule*, which `rule_from` takes again."""
    return {**attrs.asdict(rule), "fault": rule.fault.name.lower(), "on": rule.occasion}


_MAGIC = re.compile(r"fault:([^:]+):.+", re.DOTALL)


def magic_rule(track_id: object) -> Rule | None:
    """Return the rule that a track_id such as "fault:reset_after:ANYTHING" requests for its job, or None.

    Raises InvalidRequestError if there is no such fault, or if it would hit other requests too.
    """
    found = _MAGIC.fullmatch(track_id) if isinstance(track_id, str) else None
    if not found:
        return None
    fault = fault_named(found[1])
    if fault is Fault.REFUSED:
        raise refusal("fault", found[1], "cannot hit a single job: it stops the whole server", "add it as a rule")
    return Rule(fault)


@attrs.define
class RuleState:
    """A rule that is in effect: its number among all rules so far, and how often it has hit."""

    number: int
    rule: Rule
    hits: int = 0

    @property
    def is_used_up(self) -> bool:
        """Whether the rule has hit as often as it may."""
        return self.hits == self.rule.times


class FaultPlan:
    """Draw faults by rules, in order: the first rule that hits decides."""

    def __init__(self, rules: Sequence[Rule], rng: random.Random) -> None:
        self._rng, self._numbers = rng, itertools.count(1)
        self.states = [RuleState(next(self._numbers), rule) for rule in rules]
        """The rules in effect, in order."""

    def add(self, rule: Rule) -> RuleState:
        """Add a rule after the others."""
        self.states.append(RuleState(next(self._numbers), rule))
        return self.states[-1]

    def remove(self, number: int | None = None) -> bool:
        """Remove the rule of this number, or all rules if it is None. Return whether there was such a rule."""
        kept = [state for state in self.states if number not in (None, state.number)]
        has_changed = len(kept) < len(self.states)
        self.states = kept
        return has_changed

    def draw(self, occasion: Occasion, excluding: Collection[Fault] = ()) -> Rule | None:
        """Return the rule that hits this time, or None. Never return a rule whose fault is in *excluding*."""
        for state in self.states:
            rule = state.rule
            if rule.occasion != occasion or rule.fault in excluding or state.is_used_up:
                continue
            if self._rng.random() < rule.rate:
                state.hits += rule.fault not in _COUNTED_LATER
                return rule
        return None

    def count_effect(self, rule: Rule | None) -> None:
        """Count a hit of *rule* if `draw` could not know whether its fault would have an effect."""
        if rule and rule.fault in _COUNTED_LATER:
            for state in self.states:
                if state.rule is rule and not state.is_used_up:
                    state.hits += 1
                    return
