"""The command `python -m modelslab_async.emulator`."""

from __future__ import annotations

import asyncio
import signal
import sys

import aiohttp
import pytest
from helpers.emulator_server import running_emulator


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_serves_until_it_is_interrupted(interrupt: signal.Signals) -> None:
    """The command says its URL and that it is not ModelsLab, serves, and ends on SIGINT and SIGTERM."""
    command = [sys.executable, "-W", "error", "-m", "modelslab_async.emulator", "--port", "0", "--speed", "100"]
    async with asyncio.timeout(20):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout
            line = (await process.stdout.readline()).decode()
            assert "not ModelsLab" in line
            url = next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
            async with aiohttp.ClientSession() as session, session.get(f"{url}/emulator/ledger") as response:
                assert (response.status, (await response.json())["charges"]) == (200, [])
            process.send_signal(interrupt)
            _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, errors) == (0, b"")


async def test_a_taken_port_is_reported() -> None:
    """If it cannot listen, the command says so in one line and ends with code 1."""
    async with running_emulator() as running:
        port = running.emulator.url.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modelslab_async.emulator", "--port", port),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
    assert (process.returncode, output) == (1, b"")
    assert errors.startswith(f"cannot listen on 127.0.0.1:{port}: ".encode())
    assert errors.endswith(b"(hint: pass --port 0 for a free port)\n")
    assert errors.count(b"\n") == 1
