"""The emulator's options, and their checks."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, TypedDict, cast, get_args
from urllib.parse import urlsplit

from modelslab_async.emulator.faults import Rule
from modelslab_async.emulator.job import EtaKind, Work
from modelslab_async.protocol.problems import is_positive, require
from modelslab_async.protocol.request import is_http_url

Profile = Literal["legacy", "documented", "strict"]
_KINDS = get_args(EtaKind)


class ServiceOptions(TypedDict, total=False):
    """Options of the emulated service, with or without a server. `Emulator` explains them."""

    profile: Profile
    queue_limit: int
    workers: int | None
    speed: float
    seed: int
    eta: Mapping[EtaKind, float] | None
    faults: Sequence[Rule]
    keys: Collection[str] | None
    wallet: Decimal | None
    keep: int


class ServerOptions(TypedDict, total=False):
    """Options of the emulator's server. `Emulator` explains them."""

    host: str
    port: int
    public_url: str | None
    files_origin: str | None
    offline_pictures: bool
    deterministic: bool
    record: str | os.PathLike[str] | None
    replay: str | os.PathLike[str] | None
    render: Callable[[Work], bytes] | None


class EmulatorOptions(ServiceOptions, ServerOptions, total=False):
    """All options of `Emulator`, which explains them."""


def split_options(options: EmulatorOptions) -> tuple[ServerOptions, ServiceOptions]:
    """Return the options of the server, and those of the service. Unknown ones are the service's."""
    own = {name: value for name, value in options.items() if name in ServerOptions.__annotations__}
    rest = {name: value for name, value in options.items() if name not in own}
    return cast("ServerOptions", own), cast("ServiceOptions", rest)


def check_options(
    *,
    profile: object,
    queue_limit: object,
    workers: object,
    speed: object,
    eta: object,
    faults: object,
    keys: object,
    wallet: object,
    keep: object,
) -> None:
    """Check the options of a `Service`. Raise InvalidRequestError with every option that is wrong; show no key."""
    are_keys = isinstance(keys, Collection | None) and not isinstance(keys, str)
    weights = f"must be non-negative weights, not all 0, of {', '.join(_KINDS)}"
    count = "must be an integer of at least 1"
    count_or_none = "must be an integer of at least 1, or None"
    require(
        (profile in get_args(Profile), "profile", profile, 'must be "documented", "legacy" or "strict"', "pass one"),
        (_is_count(queue_limit), "queue_limit", queue_limit, count, "pass 5, 10 or 15"),
        (workers is None or _is_count(workers), "workers", workers, count_or_none, "omit it"),
        (is_positive(speed), "speed", speed, "must be a number above 0", "pass 1 for the service's own speed"),
        (_are_weights(eta), "eta", eta, weights, 'pass {"good": 1}'),
        (_is_count(keep), "keep", keep, count, "pass 10000"),
        check_of_faults(faults),
        (are_keys, "keys", "hidden", "must be a set or a list of keys", 'pass {"key"}, or omit it'),
        (
            isinstance(wallet, Decimal | int | None),
            "wallet",
            wallet,
            "must be a Decimal",
            "pass Decimal(10), or omit it",
        ),
    )


def check_server_options(options: ServerOptions) -> None:
    """Check the options of the server. Raise InvalidRequestError with every option that is wrong."""
    checks: list[tuple[bool, str, object, str, str]] = []
    for name in ("public_url", "files_origin"):
        url: object = options.get(name)
        right = url is None or (isinstance(url, str) and _is_origin(url.removesuffix(":0")))  # 0 is a free port
        checks.append((right, name, url, "must be an http(s) URL", "pass http://127.0.0.1:8788, for example"))
    for name in ("offline_pictures", "deterministic"):
        flag = options.get(name, False)
        checks.append((isinstance(flag, bool), name, flag, "must be True or False", "omit it"))
    for name in ("record", "replay"):
        path = options.get(name)
        are_both = None not in (options.get("record"), options.get("replay"))
        right = isinstance(path, str | os.PathLike | None) and not are_both
        checks.append((right, name, path, "must be the path of a file, and not both record and replay", "omit one"))
    render = options.get("render")
    checks.append(
        (render is None or callable(render), "render", render, "must be a function", "pass skeleton, or omit it")
    )
    require(*checks)


def check_of_faults(faults: object) -> tuple[bool, str, object, str, str]:
    """Return the check for `require` that *faults* is a sequence of `Rule`."""
    are_rules = isinstance(faults, Sequence) and all(isinstance(rule, Rule) for rule in faults)
    return are_rules, "faults", faults, "must be a list of Rule", "pass [Rule(Fault.SLOW)]"


def _is_origin(url: str) -> bool:
    return is_http_url(url) and not urlsplit(url).query and not urlsplit(url).fragment


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_weights(value: object) -> bool:
    if not isinstance(value, Mapping) or not set(value) <= set(_KINDS):
        return False
    weights: list[Any] = list(value.values())
    return all(weight == 0 or is_positive(weight) for weight in weights) and sum(weights) > 0
