"""The commands `balance`, `emulator` and `completion`."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import click
from click.shell_completion import get_completion_class

from modelslab_async.batch.results import counted
from modelslab_async.cli.exit_codes import Exit
from modelslab_async.cli.runner import handle_interrupts, open_client, run
from modelslab_async.cli.settings import Settings, common_options


@click.command(epilog="Example: modelslab-async balance --json")
@common_options
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


@click.command(epilog="Example: modelslab-async emulator --speed 10 --port 8787")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8787, show_default=True, help="0 picks a free port")
@click.option("--queue-limit", type=click.IntRange(1), default=5, show_default=True, help="slots of each key")
@click.option("--workers", type=click.IntRange(1), help="jobs of a key processed at once; default all")
@click.option(
    "--speed", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="divides all times"
)
@click.option("--seed", type=int, default=0, show_default=True, help="seed of all randomness")
@click.option(
    "--profile",
    type=click.Choice(["documented", "legacy"]),
    default="documented",
    show_default=True,
    help="legacy: errors come with HTTP 200",
)
@common_options
def emulator(settings: Settings, **options: Any) -> None:
    """Run the emulator of the service on this machine until Ctrl-C. It is not ModelsLab, and takes no money."""

    async def work() -> Exit:
        from modelslab_async.emulator import Emulator  # noqa: PLC0415 - heavy, and needed by this command only

        stop = asyncio.Event()
        async with AsyncExitStack() as stack:
            try:
                running = await stack.enter_async_context(Emulator(**options))
            except OSError as error:
                address = f"{options['host']}:{options['port']}"
                raise click.UsageError(
                    f"cannot listen at {address}: {error.strerror} (hint: --port 0 picks a free port)"
                ) from None
            await stack.enter_async_context(handle_interrupts(stop.set))
            text = f"modelslab_async emulator (not ModelsLab) at {running.url} (Ctrl-C stops it)"
            settings.output.result({"emulator": True, "url": running.url}, text)
            await stop.wait()
        return Exit.DONE

    run(settings.output, work)


@click.command(epilog='Example: eval "$(modelslab-async completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script with which your shell completes this command."""
    root = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has these three
    click.echo(kind(root.command, {}, "modelslab-async", "_MODELSLAB_ASYNC_COMPLETE").source())
