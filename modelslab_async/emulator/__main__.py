"""`python -m modelslab_async.emulator`: run the emulator until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import suppress

from modelslab_async.emulator.server import Emulator
from modelslab_async.errors import InvalidRequestError


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modelslab_async.emulator",
        description="Emulate ModelsLab's Image to Video Ultra endpoint on this machine. This is not ModelsLab.",
        epilog="example: python -m modelslab_async.emulator --port 8787 --speed 10",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8787, help="port to listen on, 0 for a free port (default: 8787)")
    parser.add_argument("--queue-limit", type=int, default=5, help="jobs queued or processing per key (default: 5)")
    parser.add_argument("--workers", type=int, default=None, help="jobs processed at a time per key (default: all)")
    parser.add_argument("--speed", type=float, default=1.0, help="divides all times (default: 1, about 40 s a job)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random draws (default: 0)")
    parser.add_argument(
        "--profile",
        choices=("documented", "legacy"),
        default="documented",
        help="legacy answers errors with HTTP 200 (default: documented)",
    )
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # on Windows, Ctrl-C raises KeyboardInterrupt instead
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Emulator(**vars(options)) as emulator:
        print(f"modelslab_async emulator (not ModelsLab) at {emulator.url} (press Ctrl-C to stop)", flush=True)  # noqa: T201 - the command's output
        await stop.wait()


def main() -> int:
    """Run the emulator until it is interrupted. Return an exit code: 1 if it cannot listen, 2 for a wrong option."""
    options = _arguments()
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(options))
    except InvalidRequestError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (OSError, OverflowError) as error:
        hint = "pass --port 0 for a free port"
        sys.stderr.write(f"cannot listen on {options.host}:{options.port}: {error} (hint: {hint})\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
