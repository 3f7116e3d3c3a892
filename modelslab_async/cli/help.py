"""Help for the command line: options in groups, in colour on a terminal, as click's plain text everywhere else.

rich is imported only where it draws, so that help in a pipe costs no more than click's.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

REQUEST, SAVING, MONEY, SELECTION, DECISION = "The request", "Saving", "Money", "Selection", "The decision"
EMULATOR, SERVICE, WAITING, GENERAL = "The emulator", "Service and account", "Jobs and waiting", "General"
_GROUPS = (REQUEST, SAVING, MONEY, SELECTION, DECISION, EMULATOR, SERVICE, WAITING, GENERAL)
"""The groups of options, in the order in which help shows them."""
_MAX_COLUMNS = 100
_OPTION = r"(?<![\w-])--?[a-zA-Z][\w-]*"
_PLACEHOLDER = r"(?<![\w-])[A-Z][A-Z_]*(?:[|=][A-Z]+)*\b"
_FACTS = r"\[[^\]]*\]$"
"""What click adds to an option's help: its variable, default and range."""


def is_coloured(stream: IO[str]) -> bool:
    """Return whether a stream is a terminal that shows colours, and NO_COLOR (https://no-color.org) is not set."""
    is_dumb = os.environ.get("TERM", "") in ("dumb", "unknown")
    return stream.isatty() and not is_dumb and not os.environ.get("NO_COLOR")


def option(*names: str, group: str, **attributes: Any) -> Callable[[Any], Any]:
    """Add an option to a command. Help shows it in the group."""
    return click.option(*names, cls=Option, group=group, **attributes)


class Option(click.Option):
    """An option that belongs to a group."""

    def __init__(self, *arguments: Any, group: str = GENERAL, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.group = group


class Number(click.FloatRange):
    """A number. The name is for click's messages."""

    name = "number"


class WholeNumber(click.IntRange):
    """A whole number. The name is for click's messages."""

    name = "whole number"


class Formatter(click.HelpFormatter):
    """Write help: panels in colour if stdout is a coloured terminal, else click's plain text."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.is_coloured = is_coloured(sys.stdout)
        self._title = ""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line of usage, with the program's name in bold."""
        with self._restyled() as style:
            super().write_usage(prog, args, prefix)
            style(r"^\s*Usage:", "yellow")
            style(rf"(?<=Usage: ){prog}", "bold")

    def write_text(self, text: str) -> None:
        """Write paragraphs, with options in colour."""
        with self._restyled() as style:
            super().write_text(text)
            style(_OPTION, "cyan")
            style("Examples?:|Exit codes:", "yellow")

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Write a section: a panel with a title, or a heading and indented lines."""
        if self.is_coloured:
            if not self._title:  # panels follow each other without a blank line
                self.write_paragraph()
            self._title = name
            yield
        else:
            with super().section(name):
                yield

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names and their explanations, in the panel of the section."""
        if not self.is_coloured:
            super().write_dl(rows, col_max, col_spacing)
            return
        from rich.panel import Panel  # noqa: PLC0415 - see the module's docstring
        from rich.table import Table  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True)
        for name, explanation in rows:
            first, second = Text(name, "" if name.startswith("-") else "bold cyan"), Text(explanation)
            first.highlight_regex(_OPTION, "bold cyan")
            first.highlight_regex(_PLACEHOLDER, "yellow")
            second.highlight_regex(_OPTION, "cyan")
            second.highlight_regex(_FACTS, "dim")
            grid.add_row(first, second)
        panel = Panel(grid, title=self._title, title_align="left", border_style="dim", width=self.width)
        self.write(self._drawn(panel))

    @contextmanager
    def _restyled(self) -> Iterator[Callable[[str, str], None]]:
        """Collect what is written, and then the styles of its parts. A plain formatter writes it unchanged."""
        begin, styles = len(self.buffer), list[tuple[str, str]]()
        yield lambda pattern, style: styles.append((pattern, style))
        if self.is_coloured:
            from rich.text import Text  # noqa: PLC0415 - see the module's docstring

            text = Text("".join(self.buffer[begin:]), end="")
            for pattern, style in styles:
                text.highlight_regex(pattern, style)
            self.buffer[begin:] = [self._drawn(text)]

    def _drawn(self, content: RenderableType | Text) -> str:
        """Return what rich prints, with the codes of 16 colours, which all coloured terminals know."""
        from rich.console import Console  # noqa: PLC0415 - see the module's docstring

        file = io.StringIO()
        console = Console(file=file, force_terminal=True, color_system="standard", width=self.width, highlight=False)
        console.print(content, end="", soft_wrap=True)
        return file.getvalue()


class Context(click.Context):
    """A context whose help is written by `Formatter`."""

    formatter_class = Formatter

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"max_content_width": _MAX_COLUMNS, **settings})


class Command(click.Command):
    """A command whose help shows its options in groups, and an example at the end."""

    context_class = Context

    def __init__(self, *arguments: Any, example: str, **attributes: Any) -> None:
        super().__init__(*arguments, epilog=f"\b\nExample:\n  {example}", **attributes)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group."""
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in _GROUPS}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and not isinstance(parameter, click.Argument):
                groups[parameter.group if isinstance(parameter, Option) else GENERAL].append(record)
        for name, records in groups.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)
