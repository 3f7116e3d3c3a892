"""The group of all commands. The module of a command is imported when the command is used."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import click

from modelslab_async.cli.output import Output
from modelslab_async.cli.settings import config, keys_from_environment

COMMANDS = {
    "generate": "generate",
    "batch": "batch",
    "cost": "batch",
    "report": "report",
    "jobs": "jobs",
    "show": "jobs",
    "collect": "jobs",
    "recover": "jobs",
    "resolve": "jobs",
    "balance": "service",
    "emulator": "service",
    "completion": "service",
}
"""The commands, and the module of each."""
_EPILOG = """\b
Options of every command; environment variables and config.toml set them too:
  --base-url URL      MODELSLAB_BASE_URL       --enterprise      a dedicated server
  --journal FILE      MODELSLAB_JOURNAL        --max-in-flight N MODELSLAB_MAX_IN_FLIGHT
  --key-file FILE     MODELSLAB_KEY_FILE       --limits refuse|warn|off
  --timeout SECONDS   MODELSLAB_TIMEOUT        --poll-cost SECONDS  the cost of a poll
The key: MODELSLAB_API_KEY, or a file that only you can read, or the system's keyring.

\b
Exit codes: 0 done, 1 some jobs failed, 2 usage error, 3 key, 4 rate limit, 5 not found,
6 payment, 7 timeout, 10 network, 130 interrupted.
"""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"modelslab_async.cli.{COMMANDS[cmd_name]}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a command if the given one does not exist. The rest is click's."""
        if args and args[0] not in COMMANDS and (close := get_close_matches(args[0], COMMANDS, n=1)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {close[0]}?")
        return super().resolve_command(ctx, args)

    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Report usage errors as JSON if --json is given, and hide the keys in them. The rest is click's."""
        arguments = sys.argv[1:] if args is None else args
        output = Output(as_json=True, keys=keys_from_environment())
        try:
            code = super().main(args, **{**options, "standalone_mode": False, "obj": output.keys})
        except click.ClickException as error:
            if "--json" in arguments:
                output.json_error(error)
            output.hide_in(error)
            error.show()
            code = error.exit_code
        except click.Abort:
            click.echo("Aborted!", err=True)
            code = 1
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Take the settings of config.toml as defaults: flags and environment variables take precedence."""
        logging.getLogger("modelslab_async").addHandler(logging.NullHandler())  # the command prints its own messages
        settings = config()
        ctx.default_map = dict.fromkeys(COMMANDS, settings)
        return super().invoke(ctx)


@click.group(
    cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="modelslab_async")
def app() -> None:
    """Turn pictures into videos with ModelsLab's Image to Video Ultra, and never pay twice.

    Try it without an account:  modelslab-async generate castle.jpg -p "clouds pass" --emulate
    """
