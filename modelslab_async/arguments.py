"""What a user gave to `Client` and `submit`, checked and made into one thing."""

import os
from collections.abc import Mapping
from typing import Any, get_args

import attrs

from modelslab_async.errors import AuthenticationError
from modelslab_async.protocol import wire
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.request import ImageToVideoUltra, LimitsMode, is_positive, require
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.watch import WaitStrategy

AnyRequest = ImageToVideoUltra | Mapping[str, Any]
KEY_VARIABLE = "MODELSLAB_API_KEY"


def api_key_of(argument: str | None) -> ApiKey:
    """The argument, or the environment's. Raises AuthenticationError where there is neither, or it is no text."""
    key = os.environ.get(KEY_VARIABLE, "") if argument is None else argument
    if not isinstance(key, str) or not key.strip():
        raise AuthenticationError(
            f"no API key: pass Client(api_key=...) or set {KEY_VARIABLE}. Without an account there is the emulator: "
            "async with modelslab_async.emulator.Emulator() as emulator: "
            'Client(api_key="any", base_url=emulator.url)'
        )
    if not key.strip().isprintable():
        raise AuthenticationError("the API key holds what is no letter, such as a line break: pass just the key")
    return ApiKey(key.strip())


def request_of(request: AnyRequest | None, params: Mapping[str, Any]) -> ImageToVideoUltra:
    """One request of what `submit` was given."""
    if isinstance(request, ImageToVideoUltra):
        if not params:
            return request
        request = attrs.asdict(request, recurse=False)
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
    safe = "an https URL, or http to this machine: the key travels in every request"
    is_count = isinstance(max_in_flight, int) and not isinstance(max_in_flight, bool) and max_in_flight >= 1
    is_rate = max_polls_per_second is None or is_positive(max_polls_per_second)
    bounds = "a number above 0, or None for no bounds"
    require(
        (wire.is_safe_base_url(base_url), "base_url", base_url, safe, "pass one, or leave it out"),
        (is_count, "max_in_flight", max_in_flight, "an integer, at least 1", "pass 5, 10 or 15"),
        (limits in ("refuse", "warn", None), "limits", limits, '"refuse", "warn" or None', "pass one of them"),
        (wait in get_args(WaitStrategy), "wait", wait, '"auto", "poll" or "links"', "pass one of them"),
        (is_positive(poll_cost), "poll_cost", poll_cost, "seconds above 0", "pass 1, or leave it out"),
        (is_rate, "max_polls_per_second", max_polls_per_second, bounds, "pass 20, or leave it out"),
    )


def check_parts(journal: object, budget: object, prices: object, webhook: object) -> None:
    """Raises InvalidRequestError for what is no journal, budget, price list or webhook."""
    is_path = isinstance(journal, str | os.PathLike) and os.fspath(journal) not in ("", b"")
    is_journal = journal is None or is_path or callable(getattr(journal, "append", None))
    use = "pass PriceList(usd=...), or leave it out"
    is_webhook = webhook is None or callable(getattr(webhook, "url", None))
    require(
        (is_journal, "journal", journal, "the path of a file, or a Journal", 'pass "jobs.db"'),
        (isinstance(budget, Budget | None), "budget", budget, "a Budget", "pass Budget(usd=...)"),
        (isinstance(prices, PriceList | None), "prices", prices, "a PriceList", use),
        (is_webhook, "webhook", webhook, "a Webhook", "pass Webhook(public_url=..., secret=...)"),
    )
