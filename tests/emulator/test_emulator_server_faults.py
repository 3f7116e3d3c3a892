"""Faults of the emulator as a client sees them on its connections."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from helpers.emulator_server import BALANCE, INLINE_PICTURE, KEY, SUBMIT, running_emulator

from modelslab_async.emulator import Fault, Rule


async def test_refused_connections() -> None:
    """It stops listening, then listens again on the same port after the rule's seconds. Nothing is charged."""
    async with running_emulator(faults=[Rule(Fault.REFUSED, times=1, seconds=40.0)]) as running:
        url = running.emulator.url
        with pytest.raises(aiohttp.ClientConnectionError):
            await running.submit()
        with pytest.raises(aiohttp.ClientConnectorError):
            await running.submit()
        while True:
            try:
                status, reply = await running.submit()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0)
            else:
                break
        assert (status, reply["status"], running.emulator.url) == (200, "processing", url)
        assert len(running.emulator.ledger.charges) == 1


async def test_a_taken_port_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    """If another process has taken the port, the emulator logs it and listens again once the port is free."""
    async with running_emulator(faults=[Rule(Fault.REFUSED, times=1, seconds=40.0)]) as running:
        with pytest.raises(aiohttp.ClientConnectionError):
            await running.submit()
        other = await asyncio.start_server(lambda *_: None, "127.0.0.1", int(running.emulator.url.rpartition(":")[2]))
        while not any("cannot listen again" in record.message for record in caplog.records):  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)
        other.close()
        await other.wait_closed()
        while True:
            try:
                assert (await running.submit())[0] == 200
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(("fault", "charges"), [(Fault.RESET_BEFORE, 0), (Fault.RESET_AFTER, 1)])
async def test_reset_connections(fault: Fault, charges: int) -> None:
    """The connection breaks instead of a reply. RESET_AFTER charges the submit. The next request is answered."""
    async with running_emulator(faults=[Rule(fault, times=1)]) as running:
        with pytest.raises(aiohttp.ClientConnectionError):
            await running.submit()
        assert len(running.emulator.ledger.charges) == charges
        assert (await running.submit())[0] == 200


async def test_stalled_requests() -> None:
    """No reply comes, though the job was accepted. Other requests are answered, and closing does not wait."""
    async with running_emulator(faults=[Rule(Fault.STALL, times=1)]) as running:
        waiting = asyncio.ensure_future(running.submit())
        while not running.emulator.ledger.charges:
            await running.post(BALANCE)
        assert not waiting.done()
    with pytest.raises((aiohttp.ClientError, asyncio.CancelledError)):
        await waiting


async def test_a_stalled_request_ends_when_its_client_leaves() -> None:
    """Nothing of the request remains in memory, so that a test of timeouts may stall any number of requests."""
    async with running_emulator(faults=[Rule(Fault.STALL, times=1)]) as running:
        before = asyncio.all_tasks()
        waiting = asyncio.create_task(running.submit())
        while not running.emulator.ledger.charges:
            await asyncio.wait([waiting], timeout=0.01)
        waiting.cancel()
        new_tasks = asyncio.all_tasks() - before
        _, pending = await asyncio.wait(new_tasks, timeout=10)
        assert len(new_tasks) > 1
        assert not pending


async def test_gateway_pages_and_truncated_json() -> None:
    """A gateway's page comes as HTML with its code, and truncated JSON cannot be decoded. Both jobs are charged."""
    rules = [Rule(Fault.HTML_502, times=1), Rule(Fault.TRUNCATED_JSON, times=1)]
    async with running_emulator(faults=rules) as running:
        replies = []
        for _ in rules:
            params = {"key": KEY, "prompt": "p", **INLINE_PICTURE}
            async with running.session.post(running.emulator.url + SUBMIT, json=params) as response:
                replies.append((response.status, response.content_type, await response.text()))
        assert [reply[:2] for reply in replies] == [(502, "text/html"), (200, "application/json")]
        with pytest.raises(json.JSONDecodeError):
            json.loads(replies[1][2])
        assert len(running.emulator.ledger.charges) == 2


async def test_broken_downloads() -> None:
    """The connection breaks in the middle of the file. The received part is its start, and a range gives the rest."""
    async with running_emulator(faults=[Rule(Fault.BROKEN_DOWNLOAD, times=1)]) as running:
        _, reply = await running.submit()
        job_id, link = reply["id"], reply["future_links"][0]
        await running.poll_until(job_id)
        received, promised = b"", 0
        while not received:
            async with running.session.get(link) as response:
                if response.status == 200:
                    promised = int(response.headers["Content-Length"])
                    with pytest.raises(aiohttp.ClientError):
                        async for chunk in response.content.iter_any():
                            received += chunk
        assert 0 < len(received) < promised
        status, rest = await running.get(link, Range=f"bytes={len(received)}-")
        assert (status, received + rest) == (206, (await running.get(link))[1])
