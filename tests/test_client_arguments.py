"""Arguments, keys and event loops that a client cannot work with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from helpers.world import KEY, MakeWorld, a_request

from modelslab_async import AuthenticationError, Client, ClientStateError, InvalidRequestError, Timeouts

pytestmark = pytest.mark.looptime


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_url": "http://modelslab.com"}, "base_url"),
        ({"base_url": "ftp://modelslab.com"}, "base_url"),
        ({"base_url": "https://user:word@modelslab.com"}, "base_url"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": True}, "max_in_flight"),
        ({"limits": "ignore"}, "limits"),
        ({"wait": "hope"}, "wait"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], field: str) -> None:
    """One clear error names the argument, before any request."""
    with pytest.raises(InvalidRequestError) as caught:
        Client(api_key=KEY, **options)  # type: ignore[arg-type]
    assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize("value", [0, -1, True, float("nan"), "10"])
def test_bad_timeouts_are_refused(value: object) -> None:
    """A timeout is seconds above 0, or None."""
    with pytest.raises(InvalidRequestError, match=r"timeouts\.submit"):
        Timeouts(submit=value)  # type: ignore[arg-type]


async def test_bad_arguments_of_calls_are_refused(make_world: MakeWorld) -> None:
    """One clear error each, and nothing is sent."""
    world = make_world()
    async with world.client() as client:
        with pytest.raises(InvalidRequestError, match="ref_or_id"):
            await client.attach(" ")
        with pytest.raises(InvalidRequestError, match="lookahead"):
            await client.map([a_request()], lookahead=0).__anext__()
    assert world.transport.requests == []


@pytest.mark.parametrize("key", ["secret\nkey-of-a-user", "secret\udc80key-of-a-user"])
def test_an_impossible_key_is_refused_and_not_shown(key: str) -> None:
    """A key may come from a file with two lines, or from an environment with bytes that are no text."""
    with pytest.raises(AuthenticationError, match="just the key") as caught:
        Client(api_key=key)
    assert "secret" not in repr(caught.value)
    assert caught.value.__context__ is None


def test_the_error_for_a_missing_key_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the argument, the environment variable, and the emulator, which needs no account."""
    monkeypatch.delenv("MODELSLAB_API_KEY", raising=False)
    with pytest.raises(AuthenticationError) as caught:
        Client()
    assert all(part in str(caught.value) for part in ("api_key", "MODELSLAB_API_KEY", "emulator"))
    monkeypatch.setenv("MODELSLAB_API_KEY", KEY)
    assert KEY not in repr(Client())


@pytest.mark.parametrize("name", ["init_image", "fps", "track_id", "webhook", "model_id"])
async def test_a_key_in_the_wrong_place_is_not_shown(make_world: MakeWorld, name: str) -> None:
    """If a request holds the key by mistake, the error says what is wrong without the key."""
    params: dict[str, Any] = {"prompt": "a", "init_image": "https://pictures.invalid/a.png", "seed": "x", name: KEY}
    async with make_world().client() as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.check(**params)
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.problems)


def test_a_client_belongs_to_one_event_loop(make_world: MakeWorld) -> None:
    """In another loop, and outside of any, a call raises instead of hanging."""
    world = make_world()
    client = world.client()
    with pytest.raises(ClientStateError, match="running event loop"):
        client.submit(a_request())

    async def use() -> None:
        await client.queue_depth()

    asyncio.run(use())
    with pytest.raises(ClientStateError, match="another event loop"):
        asyncio.run(use())
