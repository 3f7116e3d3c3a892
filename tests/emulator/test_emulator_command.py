"""The command `python -m modelslab_async.emulator`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from helpers.emulator_server import INLINE_PICTURE, KEY, SUBMIT, running_emulator

from modelslab_async.emulator import Fault, Rule, skeleton
from modelslab_async.emulator.__main__ import PREFIX, options_from, parser

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-W", "error", "-m", "modelslab_async.emulator")


@asynccontextmanager
async def command(
    *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """Run the command; yield its process and the JSON of its first line."""
    async with asyncio.timeout(30):
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "--port", "0", *arguments),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **(environment or {})},
        )
        try:
            assert process.stdout
            yield process, json.loads(await process.stdout.readline())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def run(*arguments: str) -> tuple[int | None, bytes, bytes]:
    """Run the command to its end; return its exit code, output and errors."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    return process.returncode, output, errors


@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_serves_until_it_is_interrupted(interrupt: signal.Signals) -> None:
    """Once it listens, it prints a JSON line with its URL, and that it is not ModelsLab. It ends on both signals."""
    async with command("--speed", "100") as (process, facts):
        assert (facts["emulator"], facts["pid"], "not ModelsLab" in facts["notice"]) == (True, process.pid, True)
        assert re.fullmatch(r"\d+\.\d+\.\d+.*", facts["version"])
        async with aiohttp.ClientSession() as session, session.get(f"{facts['url']}/emulator/ledger") as response:
            assert (response.status, (await response.json())["charges"]) == (200, [])
        process.send_signal(interrupt)
        _, errors = await process.communicate()
    assert (process.returncode, errors.count(b"\n"), b"not ModelsLab" in errors) == (0, 1, True)


async def test_verbose_logs_each_request() -> None:
    """With --verbose, stderr has a line for each request: path, account, status and fault, and no key."""
    async with command("--render", "skeleton", "--verbose", "--fault", "html_502=1") as (process, facts):
        async with aiohttp.ClientSession() as session:
            for _ in range(2):
                params = {"key": KEY, "prompt": "zoom", **INLINE_PICTURE}
                async with session.post(facts["url"] + SUBMIT, json=params) as response:
                    await response.read()
        process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
    lines = [line for line in errors.decode().splitlines() if SUBMIT in line]
    assert [re.sub(r".*HTTP ", "", line) for line in lines] == ["502, fault html_502", "200"]
    assert KEY not in errors.decode()


async def test_a_taken_port_is_reported() -> None:
    """If it cannot listen, the command says so in one line and ends with code 1."""
    async with running_emulator() as running:
        port = running.emulator.url.rpartition(":")[2]
        code, output, errors = await run("--port", port)
    assert (code, output) == (1, b"")
    assert errors.startswith(f"cannot listen on 127.0.0.1:{port}: ".encode())
    assert errors.endswith(b"(hint: pass --port 0 for a free port)\n")
    assert errors.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--fault", "no_such"), b"fault='no_such'"),
        (("--fault", "slow,rate=x"), b"rate='x'"),
        (("--eta", "good=x"), b"--eta"),
        (("--eta", "fine"), b"eta="),
        (("--wallet", "much"), b"--wallet"),
        (("--keep", "0"), b"keep=0"),
        (("--replay", "no/such/file"), b"replay='no/such/file': must be a recording: No such file"),
    ],
)
async def test_a_wrong_option_is_reported(arguments: tuple[str, ...], says: bytes) -> None:
    """A wrong option ends the command with code 2 and its reason, without a traceback."""
    code, _, errors = await run("--port", "0", *arguments)
    assert (code, says in errors, b"Traceback" in errors) == (2, True, False), errors


def test_without_the_extra_the_command_names_it() -> None:
    """Without PyAV, the command ends with code 3 and names the extra and the way without it. That way works."""
    start = "import sys; sys.modules['av'] = None; from modelslab_async.emulator.__main__ import main; "
    done = subprocess.run(
        [sys.executable, "-c", start + "sys.exit(main(['--port', '0']))"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert "pip install 'modelslab_async[emulator]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_and_variables_are_the_options() -> None:
    """Each option has a flag and a variable. A flag counts more than its variable."""
    environment = {
        f"{PREFIX}PORT": "1234",
        f"{PREFIX}SPEED": "7",
        f"{PREFIX}FAULT": "slow,seconds=2 reset_after=1",
        f"{PREFIX}KEY": "a b",
        f"{PREFIX}DETERMINISTIC": "yes",
        f"{PREFIX}OFFLINE_PICTURES": "0",
        f"{PREFIX}RENDER": "skeleton",
    }
    options = options_from(["--speed", "9", "--wallet", "1.50", "--eta", "good=2,absent"], environment)
    assert (options["port"], options["speed"], options["wallet"]) == (1234, 9.0, Decimal("1.50"))
    assert options["faults"] == [Rule(Fault.SLOW, seconds=2.0), Rule(Fault.RESET_AFTER, times=1)]
    assert (options["keys"], options["deterministic"], options["offline_pictures"]) == (["a", "b"], True, False)
    assert (options["render"], options["eta"]) == (skeleton, {"good": 2.0, "absent": 1.0})


async def test_a_variable_reaches_the_emulator() -> None:
    """The command reads the environment."""
    variables = {f"{PREFIX}KEY": "only", f"{PREFIX}RENDER": "skeleton"}
    async with command(environment=variables) as (_, facts), aiohttp.ClientSession() as session:
        for key, status in (("only", 200), ("other", 401)):
            async with session.post(facts["url"] + "/api/wallet_balance", json={"key": key}) as response:
                assert response.status == status


async def test_all_faults_are_listed() -> None:
    """--list-faults prints each fault with its meaning."""
    code, output, _ = await run("--list-faults")
    assert code == 0
    assert [line.split()[0] for line in output.decode().splitlines()] == [fault.name.lower() for fault in Fault]


def test_the_containerfile() -> None:
    """The recipe has ten lines at most, copies what exists, and starts the command with flags that it has."""
    lines = (ROOT / "examples" / "emulator.Containerfile").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 10
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    words = json.loads(next(line for line in lines if line.startswith("ENTRYPOINT")).removeprefix("ENTRYPOINT "))
    assert words[1:3] == ["-m", "modelslab_async.emulator"]
    assert parser().parse_args(words[3:]).host == "0.0.0.0"
