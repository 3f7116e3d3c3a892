"""The emulator and synchronous code: in a thread of its own, and in a loop that the code blocks."""

from __future__ import annotations

import json
import socket
import threading
import urllib.error
import urllib.request

import aiohttp
import pytest

from modelslab_async import InvalidRequestError
from modelslab_async.emulator import Emulator, skeleton, threads

BALANCE = "/api/wallet_balance"


def post(url: str) -> tuple[int, dict[str, str], str]:
    """Post a key synchronously and without a timeout. Return the status, the headers and the body."""
    request = urllib.request.Request(url + BALANCE, b'{"key": "any"}')  # noqa: S310 - the emulator's own URL
    try:
        with urllib.request.urlopen(request) as response:  # noqa: S310
            return response.status, dict(response.headers), response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()


def test_synchronous_code_is_served() -> None:
    """A synchronous client of the same thread is answered. At the end the port is free and the thread has ended."""
    with Emulator.running(render=skeleton) as emulator:
        assert post(emulator.url)[0] == 200
        assert emulator.now() >= 0
    host, port = emulator.url.removeprefix("http://").split(":")
    assert "modelslab_async emulator" not in {thread.name for thread in threading.enumerate()}
    with socket.create_server((host, int(port))):
        pass


async def test_synchronous_code_in_a_coroutine_is_served() -> None:
    """`running` serves also if the synchronous code blocks a running event loop."""
    with Emulator.running(render=skeleton) as emulator:
        assert post(emulator.url)[0] == 200


def test_several_run_side_by_side() -> None:
    """Emulators in threads do not disturb each other."""
    with Emulator.running(render=skeleton) as one, Emulator.running(render=skeleton) as other:
        assert one.url != other.url
        assert [post(emulator.url)[0] for emulator in (one, other)] == [200, 200]


def test_an_error_of_the_start_is_raised() -> None:
    """A wrong option and a taken port raise where `running` is entered."""
    with pytest.raises(InvalidRequestError, match="speed=0"), Emulator.running(speed=0):
        pass
    with Emulator.running(render=skeleton) as emulator:
        port = int(emulator.url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"), Emulator.running(render=skeleton, port=port):
            pass


def test_an_error_of_the_block_closes_the_emulator() -> None:
    """An exception passes through, and the emulator is closed."""
    with pytest.raises(ZeroDivisionError), Emulator.running(render=skeleton) as emulator:
        raise ZeroDivisionError
    with pytest.raises(urllib.error.URLError):
        post(emulator.url)


def test_a_subclass_runs_as_such() -> None:
    """`running` makes an instance of the class it is called on."""

    class Mine(Emulator):
        pass

    with Mine.running(render=skeleton) as emulator:
        assert type(emulator) is Mine


async def test_code_that_blocks_the_loop_is_answered_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A synchronous client in the emulator's own loop does not hang: HTTP 503 says why, and how to do it.

    The request has no other effect, and the emulator answers again once the loop is free.
    """
    monkeypatch.setattr(threads, "BLOCKED_SECONDS", 0.2)
    async with Emulator(render=skeleton) as emulator:
        status, headers, body = post(emulator.url)
        reply = json.loads(body)
        assert (status, reply["status"], "not ModelsLab" in headers["X-Emulator"]) == (503, "error", True)
        assert "hint: `with Emulator.running() as emulator:`" in reply["message"]
        assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [reply["message"]]
        async with aiohttp.ClientSession() as session, session.post(emulator.url + BALANCE, json={"key": "k"}) as again:
            assert again.status == 200


async def test_the_guard_ends_with_its_emulator() -> None:
    """No thread is left after an emulator is closed."""
    before = set(threading.enumerate())
    async with Emulator(render=skeleton):
        new = {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("modelslab_async")}
    for thread in new:
        thread.join(5)
        assert not thread.is_alive()
    assert new
