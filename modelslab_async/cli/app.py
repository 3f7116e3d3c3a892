"""The commands by name. Each is imported when it is asked for."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from modelslab_async.cli.output import Output
from modelslab_async.cli.settings import config, keys_at_hand

_COMMANDS = {
    "generate": "generate",
    "batch": "batch",
    "cost": "batch",
    "report": "batch",
    "jobs": "jobs",
    "show": "jobs",
    "collect": "jobs",
    "recover": "jobs",
    "resolve": "jobs",
    "balance": "service",
    "emulator": "service",
    "completion": "service",
}
_EPILOG = """\b
Every command takes, by flag, environment or config.toml:
  --base-url URL      MODELSLAB_BASE_URL       --enterprise      a dedicated server
  --journal FILE      MODELSLAB_JOURNAL        --max-in-flight N MODELSLAB_MAX_IN_FLIGHT
  --key-file FILE     MODELSLAB_KEY_FILE       --limits refuse|warn|off
  --timeout SECONDS   MODELSLAB_TIMEOUT        --poll-cost SECONDS  what a look is worth
The key: MODELSLAB_API_KEY, or a file that only you can read, or the system's keyring.

\b
Exit codes: 0 done, 1 some jobs failed, 2 usage, 3 key, 4 rate, 5 not found,
6 payment, 7 timeout, 10 network, 130 interrupted.
"""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"modelslab_async.cli.{_COMMANDS[cmd_name]}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but for the hint where there is no such command."""
        if args and args[0] not in _COMMANDS and (close := get_close_matches(args[0], _COMMANDS, n=1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]}?")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:  # type: ignore[override]
        """As click does; with --json, what is wrong with the words that were typed is told in JSON too."""
        words = sys.argv[1:] if args is None else args
        output = Output(as_json=True, keys=keys_at_hand())
        try:
            code = super().main(args, **{**options, "standalone_mode": False, "obj": output.keys})
        except click.ClickException as error:
            if "--json" in words:
                output.json_error(error)
            output.hide_in(error)
            error.show()
            code = error.exit_code
        except click.Abort:
            click.echo("Aborted!", err=True)
            code = 1
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """The file's word holds where neither flag nor environment has one."""
        logging.getLogger("modelslab_async").addHandler(logging.NullHandler())  # what matters is told in its own words
        told = config()
        ctx.default_map = dict.fromkeys(_COMMANDS, told)
        return super().invoke(ctx)


@click.group(
    cls=_Lazy, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="modelslab_async")
def app() -> None:
    """Turn pictures into videos with ModelsLab's Image to Video Ultra, and never pay twice.

    Try it without an account:  modelslab-async generate castle.jpg -p "clouds pass" --emulate
    """
