"""Tests of decoding the replies to the calls other than submit and fetch."""

from __future__ import annotations

from decimal import Decimal

import pytest
from helpers.replies import A_KEY, CALLS, LINK, reply

from modelslab_async.protocol import wire
from modelslab_async.protocol.reply import Malformed, Refused


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("43.6", "43.6"),
        ('"43.60"', "43.60"),
        ("-5", "-5"),
        ("0", "0"),
        ("1e2", "100"),
        ("1E-7", "1E-7"),
        ('" 7 "', "7"),
    ],
)
def test_a_balance(written: str, amount: str) -> None:
    """A balance is a finite number or a string of it, and may be negative."""
    body = f'{{"status": "success", "data": {{"balance": {written}, "currency": "USD"}}}}'
    assert wire.decode(reply(body.encode()), A_KEY, wire.balance) == wire.Balance(Decimal(amount), "USD")


NO_NUMBERS = ["NaN", '"NaN"', '"sNaN"', "Infinity", "-Infinity", '"inf"', "1e400", '"1e999999"', '"1e-999999"', "true"]
NO_NUMBERS += ["false", "null", "[]", "{}", '""', '"1_000"', '"1,5"', '"7 USD"', "1" * 5000, f'"{"1" * 5000}"']


@pytest.mark.parametrize("written", [*NO_NUMBERS, "1e13", '"-1e99"'])
def test_a_reply_without_a_balance_is_malformed(written: str) -> None:
    """NaN, infinite or huge numbers and booleans are not amounts of money."""
    body = f'{{"status": "success", "data": {{"balance": {written}, "currency": "USD"}}}}'
    assert isinstance(wire.decode(reply(body.encode()), A_KEY, wire.balance), Malformed)


@pytest.mark.parametrize(("written", "depth"), [("0", 0), ("3", 3), ('"3"', 3), ("3.0", 3)])
def test_a_queue_depth(written: str, depth: int) -> None:
    """A queue depth is an integer, a string of it, or a float without a fraction."""
    body = f'{{"status": "success", "processing_count": {written}}}'
    assert wire.decode(reply(body.encode()), A_KEY, wire.queue_depth) == depth


@pytest.mark.parametrize("written", [*NO_NUMBERS, "-1", "-1.0", '"-1"', "2.5", '"2.5"', "1e300"])
def test_a_reply_without_a_queue_depth_is_malformed(written: str) -> None:
    """Booleans, fractions and numbers below 0 are not numbers of jobs."""
    body = f'{{"status": "success", "processing_count": {written}}}'
    assert isinstance(wire.decode(reply(body.encode()), A_KEY, wire.queue_depth), Malformed)


def test_the_results_of_the_other_calls() -> None:
    """Upload, queue depth, balance and videos give their value, a refusal, or a malformed reply."""
    assert wire.decode(reply({"status": "success", "output": [LINK]}), A_KEY, wire.upload) == LINK
    assert wire.decode(reply({"status": "success", "processing_count": 3}), A_KEY, wire.queue_depth) == 3
    rows = [{"id": 7, "output": LINK}, {"output": LINK}]
    assert wire.decode(reply({"status": "success", "data": rows}), A_KEY, wire.assets) == (wire.Asset("7", (LINK,)),)
    wallet = {"balance": 43.6, "currency": "USD"}
    balance = wire.decode(reply({"status": "success", "data": wallet}), A_KEY, wire.balance)
    assert isinstance(balance, wire.Balance)
    assert (str(balance.amount), balance.currency) == ("43.6", "USD")
    for decode in CALLS:
        assert isinstance(decode(reply({"status": "error", "message": "no"}), A_KEY), Refused)
        assert isinstance(decode(reply({"status": "success"}), A_KEY), Malformed)
