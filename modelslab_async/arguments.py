"""What a user gave to `Client` and `submit`, checked and made into one thing."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any, get_args

import attrs

from modelslab_async.errors import AuthenticationError, InvalidRequestError, Problem
from modelslab_async.protocol import wire
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.request import ImageToVideoUltra, LimitsMode, shown
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.watch import WaitStrategy

AnyRequest = ImageToVideoUltra | Mapping[str, Any]
KEY_VARIABLE = "MODELSLAB_API_KEY"


def api_key_of(argument: str | None) -> ApiKey:
    """The argument, or the environment's. Raises AuthenticationError where there is neither."""
    key = os.environ.get(KEY_VARIABLE, "") if argument is None else argument
    if not isinstance(key, str) or not key.strip():
        raise AuthenticationError(
            f"no API key: pass Client(api_key=...) or set {KEY_VARIABLE}. Without an account there is the emulator: "
            "async with modelslab_async.emulator.Emulator() as emulator: "
            'Client(api_key="any", base_url=emulator.url)'
        )
    return ApiKey(key.strip())


def request_of(request: AnyRequest | None, params: Mapping[str, Any]) -> ImageToVideoUltra:
    """One request of what `submit` was given."""
    if isinstance(request, ImageToVideoUltra):
        if not params:
            return request
        request = {field.name: getattr(request, field.name) for field in attrs.fields(ImageToVideoUltra)}
        if "shift_sample" in params:
            del request["sample_shift"]
    return wire.request_from({**(request or {}), **params})


def check_arguments(
    base_url: str,
    max_in_flight: int,
    limits: LimitsMode,
    wait: WaitStrategy,
    poll_cost: float,
    max_polls_per_second: float | None,
) -> None:
    """Raises InvalidRequestError with all that cannot be right."""
    problems = []
    if not wire.is_safe_base_url(base_url):
        rule = "an https URL, or http to this machine: the key travels in every request"
        problems.append(Problem("base_url", shown(base_url), rule, "pass one, or leave it out"))
    if isinstance(max_in_flight, bool) or not isinstance(max_in_flight, int) or max_in_flight < 1:
        problems.append(Problem("max_in_flight", shown(max_in_flight), "an integer, at least 1", "pass 5, 10 or 15"))
    if limits not in ("refuse", "warn", None):
        problems.append(Problem("limits", shown(limits), '"refuse", "warn" or None', "pass one of them"))
    if wait not in get_args(WaitStrategy):
        problems.append(Problem("wait", shown(wait), '"auto", "poll" or "links"', "pass one of them"))
    if not _is_positive(poll_cost):
        problems.append(Problem("poll_cost", shown(poll_cost), "seconds above 0", "pass 1, or leave it out"))
    if max_polls_per_second is not None and not _is_positive(max_polls_per_second):
        rule = "a number above 0, or None for no bounds"
        problems.append(Problem("max_polls_per_second", shown(max_polls_per_second), rule, "pass 20, or leave it out"))
    if problems:
        raise InvalidRequestError(problems)


def check_parts(journal: object, budget: object, prices: object, webhook: object) -> None:
    """Raises InvalidRequestError for what is no journal, budget, price list or webhook."""
    problems = []
    is_path = isinstance(journal, str | os.PathLike) and os.fspath(journal) not in ("", b"")
    if journal is not None and not is_path and not callable(getattr(journal, "append", None)):
        problems.append(Problem("journal", shown(journal), "the path of a file, or a Journal", 'pass "jobs.db"'))
    if budget is not None and not isinstance(budget, Budget):
        problems.append(Problem("budget", shown(budget), "a Budget", "pass Budget(usd=...)"))
    if prices is not None and not isinstance(prices, PriceList):
        problems.append(Problem("prices", shown(prices), "a PriceList", "pass PriceList(usd=...), or leave it out"))
    if webhook is not None and not callable(getattr(webhook, "url", None)):
        problems.append(Problem("webhook", shown(webhook), "a Webhook", "pass Webhook(public_url=..., secret=...)"))
    if problems:
        raise InvalidRequestError(problems)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
