"""`python -m modelslab_async.emulator`: run the emulator until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar, get_args

from modelslab_async import __version__
from modelslab_async.emulator.faults import Fault, rule_from_text
from modelslab_async.emulator.files import skeleton
from modelslab_async.emulator.job import EtaKind
from modelslab_async.emulator.options import Profile
from modelslab_async.emulator.server import NOTICE, Emulator
from modelslab_async.errors import InvalidRequestError

PREFIX = "MODELSLAB_EMULATOR_"
"""A variable of this name and a flag's name, such as MODELSLAB_EMULATOR_PORT, has the flag's default."""
_TRUE = ("1", "true", "yes", "on")
_EXITS = """Exit codes: 0 after an interrupt, 1 cannot listen or write, 2 wrong option, 3 a package is missing"""
_T = TypeVar("_T")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's flags."""
    return _parser_and_flags()[0]


def _parser_and_flags() -> tuple[argparse.ArgumentParser, Sequence[argparse.Action]]:
    """Return the parser, and its flags. Their names are those of the options of `Emulator`."""
    parser = argparse.ArgumentParser(
        prog="python -m modelslab_async.emulator",
        description="Emulate ModelsLab's video endpoints on this machine. This is not ModelsLab.",
        epilog=f"Each flag has an environment variable, such as {PREFIX}PORT for --port. In the variable of a flag "
        f"that may be repeated, separate the values by spaces. {_EXITS}.",
    )
    flags = list[argparse.Action]()

    def add(*names: str, **options: Any) -> None:
        flags.append(parser.add_argument(*names, **options))

    add("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    add("--port", type=int, default=8787, help="port to listen on, 0 for a free port (default: 8787)")
    add("--public-url", metavar="URL", help="begins all links (default: the Host header of each request)")
    add("--files-origin", metavar="URL", help="begins links to files; the emulator listens on its port too")
    add(
        "--profile",
        choices=get_args(Profile),
        default="documented",
        help="how errors are reported (default: documented)",
    )
    add("--queue-limit", type=int, default=5, metavar="N", help="jobs queued or processing per key (default: 5)")
    add("--workers", type=int, metavar="N", help="jobs processed at a time per key (default: all)")
    add("--speed", type=float, default=1.0, metavar="X", help="divides all times (default: 1, about 40 s a job)")
    add("--seed", type=int, default=0, metavar="N", help="seed of all random draws (default: 0)")
    add("--deterministic", action="store_true", help="the same ids and file names in each run")
    eta_help = f"weights of the kinds of eta, such as good=3,absent=1; kinds: {', '.join(get_args(EtaKind))}"
    add("--eta", type=_checked(_eta), metavar="KINDS", help=eta_help)
    fault_help = "NAME[=TIMES][,on=...][,rate=...][,seconds=...], such as reset_after=1; may be repeated"
    add("--fault", action="append", type=_checked(rule_from_text), metavar="RULE", dest="faults", help=fault_help)
    add("--list-faults", action="store_true", help="print all faults, and exit")
    add("--key", action="append", metavar="KEY", dest="keys", help="an accepted key; may be repeated (default: any)")
    add("--wallet", type=_checked(_amount), metavar="USD", help="what each key may spend (default: no limit)")
    add(
        "--render",
        choices=("mp4", "skeleton"),
        default="mp4",
        help="skeleton makes, at once, files that no player shows",
    )
    add("--offline-pictures", action="store_true", help="use placeholders for pictures on other hosts")
    add("--keep", type=int, default=10_000, metavar="N", help="how many jobs and charges are kept (default: 10000)")
    add("--record", metavar="FILE", help="append each exchange to a file, without the key")
    add("--replay", metavar="FILE", help="answer from a recording")
    add("--verbose", action="store_true", help="log each request to stderr")
    return parser, flags


def _checked(read: Callable[[str], _T]) -> Callable[[str], _T]:
    """Return *read* as argparse needs it: with the errors that it prints."""

    def checked(text: str) -> _T:
        try:
            return read(text)
        except (InvalidRequestError, ValueError, InvalidOperation) as error:
            raise argparse.ArgumentTypeError(str(error) or f"{text!r} is wrong") from None

    return checked


def _amount(text: str) -> Decimal:
    amount = Decimal(text)
    if not amount.is_finite():
        raise ValueError(f"{text!r} is not an amount")
    return amount


def _eta(text: str) -> dict[str, float]:
    pairs = (part.partition("=") for part in text.split(","))
    return {kind.strip(): float(weight or 1) for kind, _, weight in pairs}


def arguments_from(environment: Mapping[str, str]) -> list[str]:
    """Return the flags that the environment variables set."""
    arguments: list[str] = []
    for action in _parser_and_flags()[1]:
        flag = action.option_strings[-1]
        text = environment.get(PREFIX + flag.removeprefix("--").replace("-", "_").upper(), "")
        if not text:
            continue
        if action.nargs == 0:
            arguments += [flag] if text.lower() in _TRUE else []
        else:
            texts = text.split() if isinstance(action, argparse._AppendAction) else [text]  # noqa: SLF001
            arguments += [f"{flag}={each}" for each in texts]
    return arguments


def options_from(arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of `Emulator`, `verbose` and `list_faults`. A flag counts more than its variable."""
    options = vars(parser().parse_args([*arguments_from(environment), *arguments]))
    options["faults"] = options["faults"] or ()
    options["render"] = skeleton if options["render"] == "skeleton" else None
    return options


async def _serve(options: dict[str, Any]) -> None:
    stop = asyncio.Event()
    with suppress(NotImplementedError):  # on Windows, Ctrl-C raises KeyboardInterrupt instead
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Emulator(**options) as emulator:
        facts = {"emulator": True, "url": emulator.url, "pid": os.getpid(), "version": __version__, "notice": NOTICE}
        print(json.dumps(facts), flush=True)  # noqa: T201 - the command's output
        sys.stderr.write(f"modelslab_async emulator (not ModelsLab) at {emulator.url} (press Ctrl-C to stop)\n")
        await stop.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the emulator until it is interrupted. Print a JSON line on stdout when it listens. Return an exit code."""
    options = options_from(sys.argv[1:] if arguments is None else arguments, os.environ)
    if options.pop("list_faults"):
        print("\n".join(f"{fault.name.lower():20} {fault.value}" for fault in Fault))  # noqa: T201
        return 0
    level = logging.INFO if options.pop("verbose") else logging.WARNING
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", stream=sys.stderr)
    logging.getLogger("modelslab_async.emulator").setLevel(level)
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(options))
    except InvalidRequestError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    except (OSError, OverflowError) as error:
        hint = "pass --port 0 for a free port"
        if isinstance(error, OSError) and error.filename:
            sys.stderr.write(f"cannot write {error.filename}: {error.strerror}\n")
        else:
            sys.stderr.write(f"cannot listen on {options['host']}:{options['port']}: {error} (hint: {hint})\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
