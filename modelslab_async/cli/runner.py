"""Run a command: open its client, handle signals, and turn every error into a message and an exit code."""

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

from modelslab_async import BeyondDocumentationWarning, Client, InsecureTransportWarning
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.output import Output
from modelslab_async.cli.settings import URL_VARIABLE, Settings, find_key, is_installed
from modelslab_async.engine.config import wrapped_key
from modelslab_async.errors import ModelsLabError
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.protocol.pricing import Budget
from modelslab_async.protocol.request import LimitsMode
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.protocol.wire import DEFAULT_BASE_URL

EMULATOR_SPEED = 40.0
"""The emulator's speed with `--emulate`: a job of 40 s takes 1 s."""


def run(output: Output, work: Callable[[], Coroutine[Any, Any, Exit]]) -> None:
    """Run a command's coroutine to its end, and exit with its code."""

    def print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        is_of_limits = isinstance(message, BeyondDocumentationWarning)
        output.say(f"beyond the documented limits: {message}" if is_of_limits else f"{message}", "yellow")

    try:
        with warnings.catch_warnings():
            for category in (BeyondDocumentationWarning, InsecureTransportWarning):
                warnings.simplefilter("once", category)
            warnings.showwarning = print_warning
            code = asyncio.run(work())
    except (KeyboardInterrupt, asyncio.CancelledError):
        code = Exit.INTERRUPTED
    except (ModelsLabError, OSError) as error:
        output.error(error)
        code = code_of(error)
    sys.stdout.flush()
    raise click.exceptions.Exit(code)


def limits_mode(settings: Settings) -> LimitsMode:
    """Return `--limits` as the client takes it."""
    return cast("LimitsMode", None if settings.limits == "off" else settings.limits)


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of `Client` that are the same for the workers of a cluster."""
    return {
        "max_in_flight": settings.max_in_flight,
        "limits": limits_mode(settings),
        "timeouts": Timeouts() if settings.timeout is None else Timeouts(job=settings.timeout),
        "poll_cost": 1 / EMULATOR_SPEED if settings.emulate else settings.poll_cost,
    }


def require_emulator() -> None:
    """Raise click.UsageError if a package that the emulator needs is missing."""
    for module, package in (("av", "av"), ("PIL", "pillow")):
        if not is_installed(module):
            raise click.UsageError(
                f"the emulator needs {package} (hint: python -m pip install 'modelslab_async[emulator]')"
            )


@asynccontextmanager
async def open_client(settings: Settings, *, budget: Budget | None = None) -> AsyncIterator[Client]:
    """Open the client that the settings describe. At the end it detaches from running jobs, without waiting for them.

    Raises AuthenticationError without a key, JournalError, and click.UsageError for a wrong setting.
    """
    async with AsyncExitStack() as stack:
        if settings.emulate:
            require_emulator()
            from modelslab_async.emulator import Emulator  # noqa: PLC0415 - heavy, and rarely needed

            emulator = await stack.enter_async_context(Emulator(speed=EMULATOR_SPEED, eta={"good": 1}))
            settings.output.say("This is the emulator on this machine, not ModelsLab. No money is spent.", "yellow")
            journal: Path | PostgresJournal | None = (
                Path(stack.enter_context(tempfile.TemporaryDirectory())) / "jobs.db"
            )
            key, url = wrapped_key("any"), emulator.url
        else:
            if os.environ.get(URL_VARIABLE) == "" and settings.base_url is None:
                raise click.UsageError(
                    f"{URL_VARIABLE} is empty (hint: unset it to use ModelsLab, or set it to an emulator's URL)"
                )
            key, url = find_key(settings), settings.base_url or DEFAULT_BASE_URL
            journal = settings.journal
        client = Client(
            key,
            base_url=url,
            allow_http=settings.allow_http,
            enterprise=settings.enterprise,
            journal=journal,
            budget=budget,
            **client_options(settings),
        )
        if isinstance(journal, Path):
            journal.parent.mkdir(parents=True, exist_ok=True)
        stack.push_async_callback(client.aclose, drain=False)
        await client.__aenter__()
        yield client


@asynccontextmanager
async def handle_interrupts(on_first: Callable[[], object] | None = None) -> AsyncIterator[None]:
    """Call *on_first* at the first Ctrl-C. Cancel the current task at the second, and at SIGTERM.

    Without *on_first*, the first Ctrl-C cancels the task.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None  # noqa: S101 - this code runs in a task
    first_handlers = iter([on_first] if on_first else [])

    def handle() -> None:
        next(first_handlers, task.cancel)()

    with suppress(NotImplementedError):  # on Windows, Ctrl-C raises KeyboardInterrupt
        loop.add_signal_handler(signal.SIGINT, handle)
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
