"""Check what users pass to `Client` and `submit`, and hold what the clients of several accounts share."""

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, get_args
from urllib.parse import urlsplit

import attrs

from modelslab_async.errors import AuthenticationError, InvalidRequestError, Problem
from modelslab_async.journal.base import Journal
from modelslab_async.polling.estimator import DurationEstimator
from modelslab_async.polling.flow import WaitStrategy
from modelslab_async.polling.schedule import RateLimiter
from modelslab_async.protocol import wire
from modelslab_async.protocol.operations import DEFAULT_OPERATION, operation_of
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.problems import is_positive, refusal, require
from modelslab_async.protocol.request import Deployment, LimitsMode, Request, RequestParams, is_loopback
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.telemetry import Telemetry
from modelslab_async.transport.base import Transport
from modelslab_async.transport.proxies import Proxies, from_argument, from_environment, problem_of, without_password

if TYPE_CHECKING:
    from modelslab_async.webhook import Webhook

AnyRequest = Request | RequestParams | Mapping[str, Any]
KEY_VARIABLE = "MODELSLAB_API_KEY"


def wrapped_key(argument: object) -> ApiKey:
    """Wrap the argument, or the environment's key if it is None, so that no traceback shows it. Raises nothing."""
    if isinstance(argument, ApiKey):
        return argument
    key = os.environ.get(KEY_VARIABLE, "") if argument is None else argument
    return ApiKey(key.strip() if isinstance(key, str) else "")


class InsecureTransportWarning(UserWarning):
    """A client sends its API key in clear text, because of `Client(allow_http=True)`."""


def require_key(key: ApiKey) -> None:
    """Raise AuthenticationError if the key is missing, or if no HTTP request can carry it, such as two lines."""
    if key.is_empty:
        raise AuthenticationError(
            f"no API key (hint: pass Client(api_key=...) or set {KEY_VARIABLE}; without an account, use the emulator: "
            "async with modelslab_async.emulator.Emulator() as emulator: "
            'Client(api_key="any", base_url=emulator.url))'
        )
    _refuse(key.problem(is_any_length=True))


def check_key(key: ApiKey, base_url: str) -> None:
    """Raise AuthenticationError if the service gives out no such key. An emulator takes any text.

    A server on loopback, or one that is reached by plain http, counts as an emulator.
    """
    parts = urlsplit(base_url)
    _refuse(key.problem(is_any_length=parts.scheme == "http" or is_loopback(parts.hostname)))


def _refuse(problem: str | None) -> None:
    if problem:
        raise AuthenticationError(f"the API key is not usable: {problem}")


def proxies_of(proxy: str | None, base_url: str, *, is_session_passed_in: bool) -> Proxies:
    """Return the proxies of a client: the argument, or else the environment's.

    Raises InvalidRequestError for a proxy that cannot be used, and for a proxy together with a session.
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


def normalize_request(request: AnyRequest | Mapping[str, Any] | None, params: Mapping[str, Any]) -> Request:
    """Return the request that was passed to `submit`. Raises InvalidRequestError for unknown and missing names."""
    wanted, problems = parse_request(request, params)
    if problems:
        raise InvalidRequestError(problems)
    return wanted


def parse_request(
    request: AnyRequest | Mapping[str, Any] | None, params: Mapping[str, Any]
) -> tuple[Request, list[Problem]]:
    """Return the request that was passed to `submit`, and what is wrong with its names.

    Raises InvalidRequestError if *request* is neither a request nor a mapping, or if its operation is unknown.
    """
    given: object = {} if request is None else request
    if not isinstance(given, Request | Mapping):
        requirement = "must be a request, such as an ImageToVideoUltra, or a mapping of parameters"
        raise refusal("request", given, requirement, "pass submit(prompt=..., init_image=...)")
    if isinstance(given, Request):
        operation_of(given)
        if not params:
            return given, []
        given = attrs.asdict(given, recurse=False)
        if "shift_sample" in params:
            given.pop("sample_shift", None)
    return wire.parse_request({**given, **params})


def call_of(request: AnyRequest) -> tuple[str, object]:
    """Return the operation and the model of a request that was not checked."""
    if isinstance(request, Request):
        return request.operation, request.model_id
    return str(request.get("operation", DEFAULT_OPERATION)), request.get("model_id")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_journal(value: object) -> bool:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value) not in ("", b"")
    return value is None or callable(getattr(value, "append", None))


_Check = tuple[Callable[[Any], bool], str, str]
_CHECKS: Mapping[str, _Check] = {
    "base_url": (
        wire.is_safe_base_url,
        "must be an https URL, or http to this machine, because every request carries the key",
        "omit it for the service itself, or pass allow_http=True for an emulator on another host",
    ),
    "allow_http": (lambda it: isinstance(it, bool), "must be True or False", "omit it for False"),
    "max_in_flight": (_is_count, "must be an integer of at least 1", "pass your plan's limit: 5, 10 or 15"),
    "limits": (("refuse", "warn", None).__contains__, 'must be "refuse", "warn" or None', 'omit it for "refuse"'),
    "wait": (get_args(WaitStrategy).__contains__, 'must be "auto", "poll" or "links"', 'omit it for "auto"'),
    "poll_cost": (is_positive, "must be seconds above 0", "omit it for 1"),
    "max_polls_per_second": (
        lambda rate: rate is None or is_positive(rate),
        "must be a number above 0, or None for no limit",
        "omit it for 20",
    ),
    "journal": (_is_journal, "must be the path of a file, or a Journal", 'pass "jobs.db"'),
    "budget": (lambda it: isinstance(it, Budget | None), "must be a Budget", "pass Budget(usd=...)"),
    "prices": (lambda it: isinstance(it, PriceList | None), "must be a PriceList", "pass PriceList(usd=...)"),
    "webhook": (
        lambda it: it is None or callable(getattr(it, "url", None)),
        "must be a Webhook",
        "pass Webhook(public_url=..., secret=...)",
    ),
}
"""For each argument of `Client`: whether a value is right, the requirement, and the hint."""
_ALLOWED_HTTP: _Check = (
    partial(wire.is_safe_base_url, allow_http=True),
    "must be an http(s) URL without credentials and query",
    "omit it for the service itself",
)
"""The check of `base_url` with `Client(allow_http=True)`."""


def check_arguments(given: Mapping[str, object], key: ApiKey) -> None:
    """Check the arguments of `Client` together. Raises InvalidRequestError with all that are wrong or hold the key."""
    key.require_absent(**{name: given[name] for name in (*_CHECKS, "proxy") if name in given})
    rows = {**_CHECKS, "base_url": _ALLOWED_HTTP} if given.get("allow_http") is True else _CHECKS
    checks = ((name, given[name], *check) for name, check in rows.items() if name in given)
    require(*((is_right(value), name, value, requirement, hint) for name, value, is_right, requirement, hint in checks))


class SharedResources(NamedTuple):
    """What the engines of several accounts share: the checked arguments of `Client` and what is made from them.

    downloads: lets a bounded number of downloads run at a time.
    """

    base_url: str
    deployment: Deployment
    limits: LimitsMode
    wait: WaitStrategy
    estimator: DurationEstimator
    rate_limiter: RateLimiter
    journal: Journal | None
    prices: PriceList
    timeouts: Timeouts
    webhook: "Webhook | None"
    telemetry: Telemetry | None
    rng: random.Random
    transport: Transport
    max_in_flight: int
    downloads: asyncio.Semaphore
