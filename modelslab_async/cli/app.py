"""The group of all commands. The module of a command is imported when the command is used.

The group's own help imports neither a command nor the client, so that it comes at once.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from modelslab_async.cli.help import Context

GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Make videos": {
        "generate": ("generate", "Turn a picture and a prompt into an mp4."),
        "batch": ("batch", "Make the videos of a manifest, or of a folder of pictures."),
        "cost": ("batch", "Check a manifest, and print what it costs."),
        "report": ("report", "Write a page about a batch."),
    },
    "Jobs of earlier runs": {
        "jobs": ("jobs", "List the unfinished jobs in the journal."),
        "show": ("jobs", "Show what the journal knows about a job."),
        "collect": ("jobs", "Save the videos of paid jobs."),
        "recover": ("jobs", "List the jobs that dead processes left behind."),
        "resolve": ("jobs", "Resolve an uncertain job by hand."),
    },
    "Service": {
        "balance": ("service", "Show the wallet's balance."),
        "emulator": ("service", "Run an emulator of the service on this machine."),
        "completion": ("service", "Print a script that makes your shell complete commands."),
    },
}
"""The commands by group: the module of each, and its line in the group's help."""
COMMANDS: Mapping[str, tuple[str, str]] = {name: known for group in GROUPS.values() for name, known in group.items()}
_EPILOG = """\
The API key comes from MODELSLAB_API_KEY, from a file that only you can read (--key-file), or from the system's
keyring. Options that most commands take can also be set by environment variables, or in config.toml.

\b
Exit codes:
  0  done                        5    no such job
  1  a job or the disk failed,   6    wallet or budget too small
     or you answered no          7    the job took too long
  2  usage error, nothing sent   10   network or service down
  3  the API key                 130  interrupted by Ctrl-C
  4  rate limit

\b
Example, which needs no account:
  modelslab-async generate castle.jpg -p "clouds pass" --emulate
"""


class _LazyGroup(click.Group):
    context_class = Context

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"modelslab_async.cli.{module}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest a command if the given one does not exist. The rest is click's."""
        from difflib import get_close_matches  # noqa: PLC0415 - help does without it

        if args and args[0] not in COMMANDS and (close := get_close_matches(args[0], COMMANDS, n=1)):
            ctx.fail(f"No such command '{args[0]}'. Did you mean {close[0]}?")
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands, and then the options."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the commands by group, without importing them."""
        for name, commands in GROUPS.items():
            with formatter.section(name):
                formatter.write_dl([(command, summary) for command, (_, summary) in commands.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the names of commands, without importing them. The rest is click's."""
        names = [name for name in COMMANDS if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=COMMANDS[name][1]) for name in names), *options]

    def main(self, args: Sequence[str] | None = None, **options: Any) -> Any:  # type: ignore[override]
        """Report usage errors as JSON if --json is given, and hide the keys in them. The rest is click's."""
        arguments, keys = sys.argv[1:] if args is None else args, list[Any]()
        try:
            code = super().main(args, **{**options, "standalone_mode": False, "obj": keys})
        except click.ClickException as error:
            from modelslab_async.cli.failures import report_usage_error  # noqa: PLC0415 - help does without it

            code = report_usage_error(error, keys, as_json="--json" in arguments)
        except click.Abort:  # click's for Ctrl-C
            code = 130
        sys.exit(code or 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Take the settings of config.toml as defaults: flags and environment variables take precedence."""
        from modelslab_async.cli.settings import config, keys_from_environment  # noqa: PLC0415 - help does without it

        ctx.obj += keys_from_environment()
        logging.getLogger("modelslab_async").addHandler(logging.NullHandler())  # the command prints its own messages
        defaults = config()
        ctx.default_map = {name: {**defaults, "prune": defaults} for name in COMMANDS}  # of `jobs prune` too
        return super().invoke(ctx)


@click.group(cls=_LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="modelslab_async")
def app() -> None:
    """Turn pictures into videos with ModelsLab's Image to Video Ultra, and never pay twice."""
