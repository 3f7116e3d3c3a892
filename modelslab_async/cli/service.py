"""The commands `balance`, `emulator` and `completion`."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import AsyncExitStack
from typing import Any

import click
from click.shell_completion import get_completion_class

from modelslab_async.batch.results import counted
from modelslab_async.cli.exit_codes import Exit
from modelslab_async.cli.help import EMULATOR, Command, Number, WholeNumber, option
from modelslab_async.cli.runner import handle_interrupts, open_client, require_emulator, run
from modelslab_async.cli.settings import ACCOUNT, Settings, common_options


@click.command(cls=Command, example="modelslab-async balance --json")
@common_options(*ACCOUNT)
def balance(settings: Settings) -> None:
    """Show the wallet's balance, and how many jobs are under way."""

    async def work() -> Exit:
        async with open_client(settings) as client:
            wallet, depth = await asyncio.gather(client.balance(), client.queue_depth())
        values = {"amount": wallet.amount, "currency": wallet.currency, "queued_or_processing": depth}
        text = f"{wallet.amount} {wallet.currency}, {counted(depth, 'job')} queued or processing"
        settings.output.result(values, text)
        return Exit.DONE

    run(settings.output, work)


@click.command(cls=Command, example="modelslab-async emulator --speed 10 --port 8787")
@option(
    "--host", group=EMULATOR, metavar="ADDRESS", default="127.0.0.1", show_default=True, help="address to listen on"
)
@option(
    "--port",
    group=EMULATOR,
    type=WholeNumber(0, 65535),
    metavar="N",
    default=8787,
    show_default=True,
    help="0 picks a free port",
)
@option(
    "--queue-limit",
    group=EMULATOR,
    type=WholeNumber(1),
    metavar="N",
    default=5,
    show_default=True,
    help="slots per key",
)
@option(
    "--workers",
    group=EMULATOR,
    type=WholeNumber(1),
    metavar="N",
    help="jobs per key that are processed at once; default all",
)
@option(
    "--speed",
    group=EMULATOR,
    type=Number(0, min_open=True),
    metavar="FACTOR",
    default=1.0,
    show_default=True,
    help="divides all times",
)
@option("--seed", group=EMULATOR, type=int, metavar="N", default=0, show_default=True, help="seed of all randomness")
@option(
    "--profile", group=EMULATOR, type=click.Choice(["documented", "legacy", "strict"]), default="documented",
    show_default=True, help="legacy: errors come with HTTP 200; strict: documented limits are enforced",
)  # fmt: skip
@common_options()
def emulator(settings: Settings, **options: Any) -> None:
    """Run the emulator of the service on this machine until Ctrl-C. It is not ModelsLab, and costs nothing."""
    require_emulator()

    async def work() -> Exit:
        from modelslab_async.emulator import Emulator  # noqa: PLC0415 - heavy, and needed by this command only

        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            try:
                running = await stack.enter_async_context(Emulator(**options))
            except OSError as error:
                raise click.UsageError(_listen_message(error, **options)) from None
            await stack.enter_async_context(handle_interrupts(stop.set))
            text = f"modelslab_async emulator (not ModelsLab) at {running.url} (Ctrl-C stops it)"
            settings.output.result({"emulator": True, "url": running.url}, text)
            await stop.wait()
        return Exit.DONE

    run(settings.output, work)


def _listen_message(error: OSError, *, host: str, port: int, **_: object) -> str:
    """Return why the emulator cannot listen. asyncio's own text for it shows a Python tuple."""
    number = error.errno or 0
    # A name that is not found has a negative number. Since Python 3.13, an address of another machine has none.
    reason = os.strerror(number) if number > 0 else error.strerror or "no address of this machine"
    hint = "--port 0 picks a free port" if number in (errno.EADDRINUSE, errno.EACCES) else "omit --host for 127.0.0.1"
    return f"cannot listen on {host}:{port}: {reason} (hint: {hint})"


@click.command(cls=Command, example='eval "$(modelslab-async completion bash)"')
@click.argument("shell", metavar="SHELL", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes your shell complete this command."""
    root = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has these three
    click.echo(kind(root.command, {}, "modelslab-async", "_MODELSLAB_ASYNC_COMPLETE").source())
