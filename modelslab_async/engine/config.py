"""What a user gave to `Client` and `submit`, checked and made into one thing."""

import os
from collections.abc import Callable, Mapping
from typing import Any, get_args
from urllib.parse import urlsplit

import attrs

from modelslab_async.errors import AuthenticationError, InvalidRequestError, Problem
from modelslab_async.polling.flow import WaitStrategy
from modelslab_async.protocol import wire
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.problems import is_positive, refusal, require
from modelslab_async.protocol.request import ImageToVideoUltra, is_loopback
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.transport.proxies import Proxies, from_argument, from_environment, problem_of, without_password

AnyRequest = ImageToVideoUltra | Mapping[str, Any]
KEY_VARIABLE = "MODELSLAB_API_KEY"


def wrapped_key(argument: object) -> ApiKey:
    """Hide the argument, or the environment's key if it is None. This is called before anything can be raised."""
    if isinstance(argument, ApiKey):
        return argument
    key = os.environ.get(KEY_VARIABLE, "") if argument is None else argument
    return ApiKey(key.strip() if isinstance(key, str) else "")


def require_key(key: ApiKey) -> None:
    """Raise AuthenticationError if there is no key, or one that no HTTP client could send, such as two lines."""
    if key.is_empty:
        raise AuthenticationError(
            f"no API key: pass Client(api_key=...) or set {KEY_VARIABLE}. Without an account there is the emulator: "
            "async with modelslab_async.emulator.Emulator() as emulator: "
            'Client(api_key="any", base_url=emulator.url)'
        )
    _refuse(key.problem(is_any_length=True))


def check_key(key: ApiKey, base_url: str) -> None:
    """Raise AuthenticationError if the service can have given no such key. An emulator on loopback takes any text."""
    _refuse(key.problem(is_any_length=is_loopback(urlsplit(base_url).hostname)))


def _refuse(problem: str | None) -> None:
    if problem:
        raise AuthenticationError(f"the API key is not usable: {problem}")


def proxies_of(proxy: str | None, base_url: str, *, is_session_passed_in: bool) -> Proxies:
    """Return the proxies of a client: the argument, or else the environment's.

    Raises InvalidRequestError for one that cannot be used, and for a proxy beside a session, which has its own.
    """
    if is_session_passed_in:
        hint = "configure the proxy on that session, or omit session"
        require((proxy is None, "proxy", without_password(proxy), "must be omitted with session", hint))
        return Proxies()
    if proxy is None:
        proxies = from_environment(os.environ)
        problems = list(proxies.problems(base_url))
    else:
        proxies = from_argument(proxy)
        wrong = problem_of(proxy)
        problems = [Problem("proxy", repr(without_password(proxy)), *wrong)] if wrong else []
    if problems:
        raise InvalidRequestError(problems)
    return proxies


def normalize_request(request: AnyRequest | None, params: Mapping[str, Any]) -> ImageToVideoUltra:
    """Return one request of what `submit` was given. Raise InvalidRequestError if it is no request."""
    given: object = request
    if not isinstance(given, ImageToVideoUltra | Mapping | None):
        requirement = "must be an ImageToVideoUltra, or a mapping of parameters"
        raise refusal("request", given, requirement, "pass submit(prompt=..., init_image=...)")
    if isinstance(request, ImageToVideoUltra):
        if not params:
            return request
        request = attrs.asdict(request, recurse=False)
        if "shift_sample" in params:
            del request["sample_shift"]
    return wire.request_from({**(request or {}), **params})


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_journal(value: object) -> bool:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value) not in ("", b"")
    return value is None or callable(getattr(value, "append", None))


_RULES: Mapping[str, tuple[Callable[[Any], bool], str, str]] = {
    "base_url": (
        wire.is_safe_base_url,
        "an https URL, or http to this machine: the key travels in every request",
        "pass one, or leave it out",
    ),
    "max_in_flight": (_is_count, "an integer, at least 1", "pass 5, 10 or 15"),
    "limits": (("refuse", "warn", None).__contains__, '"refuse", "warn" or None', "pass one of them"),
    "wait": (get_args(WaitStrategy).__contains__, '"auto", "poll" or "links"', "pass one of them"),
    "poll_cost": (is_positive, "seconds above 0", "pass 1, or leave it out"),
    "max_polls_per_second": (
        lambda rate: rate is None or is_positive(rate),
        "a number above 0, or None for no bounds",
        "pass 20, or leave it out",
    ),
    "journal": (_is_journal, "the path of a file, or a Journal", 'pass "jobs.db"'),
    "budget": (lambda it: isinstance(it, Budget | None), "a Budget", "pass Budget(usd=...)"),
    "prices": (lambda it: isinstance(it, PriceList | None), "a PriceList", "pass PriceList(usd=...), or leave it out"),
    "webhook": (
        lambda it: it is None or callable(getattr(it, "url", None)),
        "a Webhook",
        "pass Webhook(public_url=..., secret=...)",
    ),
}
"""What a client's arguments must be: whether one is right, the rule, the way out."""


def check_arguments(given: Mapping[str, object], key: ApiKey) -> None:
    """Those that have a rule. Raises InvalidRequestError with all that cannot be right, or holds the key."""
    key.require_absent(**{name: given[name] for name in (*_RULES, "proxy") if name in given})
    rules = ((name, given[name], *requirement) for name, requirement in _RULES.items() if name in given)
    require(*((is_right(value), name, value, requirement, hint) for name, value, is_right, requirement, hint in rules))
