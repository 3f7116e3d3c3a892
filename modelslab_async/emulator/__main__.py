"""`python -m modelslab_async.emulator`: the emulator alone, until it is interrupted."""

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
        description="An emulator of ModelsLab's Image to Video Ultra on this machine. It is not the service.",
        epilog="example: python -m modelslab_async.emulator --port 8787 --speed 10",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: this machine only)")
    parser.add_argument("--port", type=int, default=8787, help="0 for a free one (default: 8787)")
    parser.add_argument("--queue-limit", type=int, default=5, help="jobs a key may have at a time (default: 5)")
    parser.add_argument("--workers", type=int, default=None, help="jobs of a key processed at a time (default: all)")
    parser.add_argument("--speed", type=float, default=1.0, help="divides all times (default: 1, about 40 s a job)")
    parser.add_argument("--seed", type=int, default=0, help="of all noise (default: 0)")
    profiles = ("documented", "legacy")
    parser.add_argument("--profile", choices=profiles, default=profiles[0], help="legacy: errors come at HTTP 200")
    return parser.parse_args()


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # on Windows a Ctrl-C comes as KeyboardInterrupt
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Emulator(**vars(options)) as emulator:
        print(f"modelslab_async emulator (not ModelsLab) at {emulator.url} , Ctrl-C ends it", flush=True)  # noqa: T201 - its word
        await stop.wait()


def main() -> int:
    """Run until interrupted."""
    options = _arguments()
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(options))
    except InvalidRequestError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (OSError, OverflowError) as error:
        words = f"cannot listen on {options.host}:{options.port}: {error}; --port 0 finds a free port"
        sys.stderr.write(f"{words}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
