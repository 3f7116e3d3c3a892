"""Report the errors of the command line itself: a wrong option, argument or setting."""

from __future__ import annotations

import sys

import click
from rich.panel import Panel
from rich.text import Text

from modelslab_async.cli.help import is_coloured
from modelslab_async.cli.output import Output
from modelslab_async.cli.settings import keys_from_environment
from modelslab_async.protocol.secret import ApiKey

_ONLY_SOME_EMULATE = (
    "only generate and batch take it: their emulator ends with the command (hint: for other commands, run "
    "modelslab-async emulator, and pass its URL as --base-url)"
)


def report_usage_error(error: click.ClickException, keys: list[ApiKey], *, as_json: bool) -> int:
    """Print the error without the keys, on stderr, and with *as_json* also on stdout. Return the exit code.

    keys: those that the command knew when it failed. The keys of the environment are hidden too.
    """
    output = Output(as_json=True, keys=[*keys, *keys_from_environment()])
    if isinstance(error, click.NoSuchOption) and error.option_name == "--emulate":
        error = click.UsageError(f"No such option '--emulate': {_ONLY_SOME_EMULATE}", error.ctx)
    output.hide_in(error)
    if as_json:
        output.json_error(error)
    is_help = isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ()))  # since click 8.2
    if is_coloured(sys.stderr) and not is_help:
        _draw(output, error)
    else:
        error.show()
    return error.exit_code


def _draw(output: Output, error: click.ClickException) -> None:
    """Print the usage and the message in colour."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context:
        click.echo(context.get_usage(), err=True)
        output.err.print(Text.assemble(("Try ", "dim"), (f"{context.command_path} --help", "cyan")))
    message = Text(output.redact(error.format_message()))
    message.highlight_regex(r"(?<![\w-])--?[a-z][\w-]*", "cyan")
    width = min(output.err.width, 100)
    output.err.print(
        Panel(message, title="Error", title_align="left", border_style="red", width=width), soft_wrap=False
    )
