"""Options of the emulated service are checked when it is made."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.emulated_service import KEY

from modelslab_async import InvalidRequestError
from modelslab_async.emulator import Fault, Rule, Service


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"speed": 0.0}, "speed"),
        ({"speed": math.nan}, "speed"),
        ({"speed": "10"}, "speed"),
        ({"queue_limit": 0}, "queue_limit"),
        ({"queue_limit": 1.5}, "queue_limit"),
        ({"workers": 0}, "workers"),
        ({"profile": "legasy"}, "profile"),
        ({"eta": {"bad": 1}}, "eta"),
        ({"eta": {"good": 0}}, "eta"),
        ({"eta": {"good": -1, "zero": 2}}, "eta"),
        ({"faults": ["RESET_AFTER"]}, "faults"),
        ({"faults": Rule(Fault.SLOW)}, "faults"),
        ({"keys": KEY}, "keys"),
        ({"keys": (key for key in (KEY,))}, "keys"),
        ({"wallet": 1.0}, "wallet"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], field: str) -> None:
    """A wrong option is refused when the service is made, and the error shows no key."""
    with pytest.raises(InvalidRequestError, match=field) as caught:
        Service(**options)
    assert KEY not in str(caught.value)
