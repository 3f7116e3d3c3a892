"""What an emulator may be asked for, checked before it listens."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal, get_args

from modelslab_async.emulator.faults import Rule
from modelslab_async.emulator.order import EtaKind
from modelslab_async.protocol.problems import is_positive, require

Profile = Literal["legacy", "documented"]
_KINDS = get_args(EtaKind)


def check_options(options: Mapping[str, Any]) -> None:
    """Those of a `Service`, by name. Raises InvalidRequestError with all that no emulator can be made of."""
    profile, queue_limit, workers, speed = (options[name] for name in ("profile", "queue_limit", "workers", "speed"))
    eta, faults, keys, wallet = (options[name] for name in ("eta", "faults", "keys", "wallet"))
    are_rules = isinstance(faults, Sequence) and all(isinstance(rule, Rule) for rule in faults)
    are_keys = isinstance(keys, Collection | None) and not isinstance(keys, str)
    require(
        (profile in get_args(Profile), "profile", profile, '"legacy" or "documented"', "pass one of them"),
        (_is_count(queue_limit), "queue_limit", queue_limit, "an integer, at least 1", "pass 5, 10 or 15"),
        (workers is None or _is_count(workers), "workers", workers, "an integer, at least 1, or None", "leave it out"),
        (is_positive(speed), "speed", speed, "a number above 0", "pass 1 for the service's own pace"),
        (_are_weights(eta), "eta", eta, f"weights, above 0 in sum, of {', '.join(_KINDS)}", 'pass {"good": 1}'),
        (are_rules, "faults", faults, "a list of Rule", "pass [Rule(Fault.SLOW)]"),
        (are_keys, "keys", "hidden", "a set or a list of keys", 'pass {"key"}, or leave it out'),
        (isinstance(wallet, Decimal | int | None), "wallet", wallet, "a Decimal", "pass Decimal(10), or leave it out"),
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_weights(value: Any) -> bool:
    if not isinstance(value, Mapping) or not set(value) <= set(_KINDS):
        return False
    weights = list(value.values())
    return all(weight == 0 or is_positive(weight) for weight in weights) and sum(weights) > 0
