"""Keys that the service cannot have given out, and keys that it may have."""

from __future__ import annotations

import pytest
from helpers.secret import client_of
from helpers.world import KEY

from modelslab_async import AuthenticationError, Client
from modelslab_async.emulator import Emulator
from modelslab_async.engine.config import check_key
from modelslab_async.protocol.secret import ApiKey


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("abcdefg", "fewer than 8 characters"),
        ('"abcdefghijkl"', "quotes around it"),
        ("'abcdefghijkl'", "quotes around it"),
        ('"abcdefghijkl', "quotes around it"),
        ("abcdefghijkl'", "quotes around it"),
        ("abcdefgh\nijkl", "a line break"),
        ("abcdefgh\tijkl", "a character that no key has"),
        ("abcdefgh\udc80ijkl", "a character that no key has"),
    ],
)
async def test_an_impossible_key_is_refused_before_any_request(key: str, problem: str) -> None:
    """When the client is opened or first used, the error says what is wrong, and shows no part of the key."""

    async def open_it() -> None:
        async with Client(key):
            pass

    async def use_it() -> None:
        await Client(key).balance()

    for begin in (open_it, use_it):
        with pytest.raises(AuthenticationError, match=problem) as caught:
            await begin()
        assert (caught.value.charged, caught.value.http_status) == (False, None)
        assert "abc" not in f"{caught.value!r}{caught.value}"
    async with client_of() as client:
        with pytest.raises(AuthenticationError, match=problem):
            await client.account(key)


@pytest.mark.parametrize("key", ["any", '"quoted"', "abcdefg"])
async def test_an_emulator_takes_any_key(key: str) -> None:
    """A key for an emulator on loopback is no secret, so any text will do. A client that is not used checks no key."""
    assert KEY not in repr(Client(key))
    async with Emulator(speed=400) as emulator, Client(key, base_url=emulator.url) as client:
        assert await client.queue_depth() == 0
        assert await (await client.account(f"{key}2")).queue_depth() == 0


@pytest.mark.parametrize("key", ["abcdefgh", "a-key_with.signs~", "a key", "schlüssel"])
def test_a_possible_key_is_accepted(key: str) -> None:
    """The service documents no format of its keys, so whatever may be one is sent."""
    key_of_service = ApiKey(key.ljust(8, "x"))
    check_key(key_of_service, "https://modelslab.com")
    assert key_of_service.problem(is_any_length=False) is None
