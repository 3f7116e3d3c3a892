"""How a command runs: a client, signals, and an exit code for whatever happens."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import click

from modelslab_async import BeyondDocumentationWarning, Client
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.output import Output
from modelslab_async.cli.settings import URL_VARIABLE, Settings, key_of
from modelslab_async.engine.config import wrapped_key
from modelslab_async.errors import ModelsLabError
from modelslab_async.protocol.pricing import Budget
from modelslab_async.protocol.request import LimitsMode
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.protocol.wire import DEFAULT_BASE_URL

EMULATOR_SPEED = 40.0
"""A job of the emulator's 40 s takes one."""


def run(output: Output, work: Callable[[], Coroutine[Any, Any, Exit]]) -> None:
    """Run a command to its end, and exit with its code."""

    def warned(message: Warning | str, *_: Any, **__: Any) -> None:
        output.say(f"beyond the documented limits: {message}", "yellow")

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("once", BeyondDocumentationWarning)
            warnings.showwarning = warned
            code = asyncio.run(work())
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = Exit.INTERRUPTED
    except (ModelsLabError, OSError) as error:
        output.error(error)
        code = code_of(error)
    sys.stdout.flush()
    raise click.exceptions.Exit(code)


def limits_of(settings: Settings) -> LimitsMode:
    """As the library names it."""
    return cast("LimitsMode", None if settings.limits == "off" else settings.limits)


@asynccontextmanager
async def client_of(settings: Settings, *, budget: Budget | None = None) -> AsyncIterator[Client]:
    """A client as it was asked for. When the block ends it is closed and its jobs are let go, not waited for."""
    async with AsyncExitStack() as stack:
        if settings.emulate:
            from modelslab_async.emulator import Emulator  # noqa: PLC0415 - only for those who ask

            emulator = await stack.enter_async_context(Emulator(speed=EMULATOR_SPEED, eta={"good": 1}))
            settings.output.say("This is the emulator on this machine, not ModelsLab. No money is spent.", "yellow")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            key, url, journal, poll_cost = wrapped_key("any"), emulator.url, folder / "jobs.db", 1 / EMULATOR_SPEED
        else:
            if os.environ.get(URL_VARIABLE) == "" and settings.base_url is None:
                raise click.UsageError(f"{URL_VARIABLE} is empty: unset it for ModelsLab, or name an emulator's URL")
            key, url = key_of(settings), settings.base_url or DEFAULT_BASE_URL
            journal, poll_cost = settings.journal, settings.poll_cost
        client = Client(
            key,
            base_url=url,
            enterprise=settings.enterprise,
            max_in_flight=settings.max_in_flight,
            limits=limits_of(settings),
            journal=journal,
            budget=budget,
            timeouts=Timeouts() if settings.timeout is None else Timeouts(job=settings.timeout),
            poll_cost=poll_cost,
        )
        journal.parent.mkdir(parents=True, exist_ok=True)
        stack.push_async_callback(client.aclose, drain=False)
        await client.__aenter__()
        yield client


@asynccontextmanager
async def interrupts(first: Callable[[], object] | None = None) -> AsyncIterator[None]:
    """Ctrl-C calls `first`; a second one, or SIGTERM, cancels the task that is in here. None: each cancels it."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - it runs
    times = iter([first] if first else [])

    def interrupted() -> None:
        next(times, task.cancel)()

    with suppress(NotImplementedError):  # on Windows a Ctrl-C comes as KeyboardInterrupt
        loop.add_signal_handler(signal.SIGINT, interrupted)
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
