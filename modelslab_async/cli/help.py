"""Help for the command line: options in groups, in colour on a terminal, as click's plain text everywhere else.

It looks like rich-click's. But rich-click is not used: to draw help, it takes about four times as long as the import of
click and rich. This module takes less than half of that import's time.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import click
from click.formatting import wrap_text

REQUEST, SAVING, MONEY, SELECTION, DECISION = "The request", "Saving", "Money", "Selection", "The decision"
EMULATOR, SERVICE, WAITING, GENERAL = "The emulator", "Service and account", "Jobs and waiting", "General"
_GROUPS = (REQUEST, SAVING, MONEY, SELECTION, DECISION, EMULATOR, SERVICE, WAITING, GENERAL)
"""The groups of options, in the order in which help shows them."""
_MAX_COLUMNS = 100
_OPTION = r"(?<![\w-])--?[a-zA-Z][\w-]*"
_PLACEHOLDER = r"(?<![\w-])[A-Z][A-Z_]*(?:[|=][A-Z]+)*\b|\[?\w+(?:\|\w+)+\]?"
_FACTS = re.compile(r"\[(env var|default|required|x[<>]|\d+<).*")
"""What click adds to the end of an option's help: its variable, default and range."""
_STYLES: Mapping[str, Mapping[str, Any]] = {
    "heading": {"fg": "yellow"},
    "program": {"bold": True},
    "name": {"fg": "cyan", "bold": True},
    "option": {"fg": "cyan"},
    "placeholder": {"fg": "yellow"},
}
"""click's styles of the parts of help."""


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
        with self._painted(heading=r"^\s*Usage:", program=re.escape(prog)):
            super().write_usage(prog, args, prefix)

    def write_text(self, text: str) -> None:
        """Write paragraphs, with options in colour."""
        with self._painted(heading="^ *(Example|Exit codes).*:$", option=_OPTION):
            super().write_text(text)

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
        rows, inner = list(rows), self.width - 4
        column = max(len(name) for name, _ in rows) + col_spacing
        self.write(_dim(f"╭─ {self._title} {'─' * (inner - len(self._title) - 1)}╮") + "\n")
        for name, explanation in rows:
            left = _paint(name.ljust(column), name=_OPTION if name.startswith("-") else ".+", placeholder=_PLACEHOLDER)
            is_fact = False
            for line in wrap_text(explanation, inner - column).splitlines():
                facts = _FACTS.search(line)
                begin = 0 if is_fact else facts.start() if facts else len(line)
                is_fact = begin < len(line)  # facts are at the end, and may be wrapped
                right = _paint(line[:begin], option=_OPTION) + _dim(line[begin:])
                self.write(f"{_dim('│')} {left}{right}{' ' * (inner - column - len(line))} {_dim('│')}\n")
                left = " " * column
        self.write(_dim(f"╰{'─' * (self.width - 2)}╯") + "\n")

    @contextmanager
    def _painted(self, **patterns: str) -> Iterator[None]:
        """Colour the text that is written to a coloured terminal. Each pattern is named after its style."""
        begin = len(self.buffer)
        yield
        if self.is_coloured:
            self.buffer[begin:] = [_paint("".join(self.buffer[begin:]), **patterns)]


def _dim(text: str) -> str:
    return click.style(text, dim=True) if text else ""


def _paint(text: str, **patterns: str) -> str:
    """Return the text with codes of 16 colours, which all coloured terminals know."""
    pattern = "|".join(f"(?P<{style}>{pattern})" for style, pattern in patterns.items())
    return re.sub(
        pattern, lambda found: click.style(found[0], **_STYLES[found.lastgroup or ""]), text, flags=re.MULTILINE
    )


class Context(click.Context):
    """A context whose help is written by `Formatter`."""

    formatter_class = Formatter

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **{"max_content_width": _MAX_COLUMNS, **settings})


class Command(click.Command):
    """A command whose help shows its options in groups, and an example at the end."""

    context_class = Context

    def __init__(self, *arguments: Any, example: str, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.epilog = f"\b\nExample:\n  {example}"

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


class CommandGroup(Command, click.Group):
    """A command that does something by itself, and has further commands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group, and then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
