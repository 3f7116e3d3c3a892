"""What the command prints: results on stdout, messages on stderr; with `--json`, only JSON on stdout."""

from __future__ import annotations

import ast
import errno
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import reduce
from pathlib import Path
from typing import Any

import attrs
import click
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem, usd
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.secret import ApiKey

AS_FLAGS = {
    r"^(line .*)extra=\{['\"]([^'\"]*)['\"]: \.\.\.\}": r'\1"extra": {"\2": ...}',
    r'Client\(limits="warn"\)': "--limits warn",
    r"Client\(api_key=\.\.\.\)": "MODELSLAB_API_KEY",
    r"\bpass journal=postgresql:": "pass --journal postgresql:",
    r"Client\.attach\('([^']*)'\)": r"modelslab-async collect \1",
    r"Client\.recover\(\)\.(uncertain|unsent)": "modelslab-async recover",
    r"recover\(search=True\)\.candidates": "modelslab-async recover --search",
    r"extra=\{['\"]([^'\"]*)['\"]: \.\.\.\}": r"--extra \1=JSON",
    r"\bpass allow_http=True\b": "pass --allow-http",
    r"\bpass an int\b": "pass a whole number",
    r"\bpass a float\b": "pass a number",
    r"\bpass a str\b": "pass text",
    r"\bpass a dict\b": "pass an object",
    r"\bpass True or False\b": "pass true or false",
}
"""Phrases of the library's messages for Python programs, and the same for the command line."""
_PLAIN = {
    r"ClientConnector\w*Error: Cannot connect to host (\S+) ssl:\S+ \[Connect call failed [^\]]*\]": r"\1 refused it",
    r"ClientConnector\w*Error: Cannot connect to host (\S+) ssl:\S+ \[([^\]]*)\]": r"\1: \2",
}
"""Phrases of other packages that only a programmer reads, and plain words for them."""
_HINTS = {
    errno.ENOSPC: "make room on the disk",
    errno.EEXIST: "choose another name",
    errno.ENOTDIR: "choose another path: a file is in the way",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a path that you may write to"),
}
"""Hints for errors of the disk."""


def as_flags(text: str) -> str:
    """Return a message of the library with flags and commands in place of Python's names."""
    for python, flags in {**AS_FLAGS, **_PLAIN}.items():
        text = re.sub(python, flags, text)
    return text


def problem_line(problem: Problem) -> str:
    """Return a problem as a line, with its value as a user types it."""
    subject = f"{problem.field}={_typed(problem.value)}" if problem.value else problem.field
    return f"{subject}: {problem.requirement} (hint: {problem.hint})"


def _typed(value: str) -> str:
    """Return a value as a user types it, instead of as Python writes it. Other texts are returned unchanged."""
    try:
        read = ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value[1:] if value[:1] in ("'", '"') and value.endswith("...") else value.replace("'", '"')
    is_plain = isinstance(read, str) and read.strip() == read != "" and read.isprintable()
    return read if is_plain else json.dumps(read, ensure_ascii=False, default=str)


def _width() -> int | None:
    """Return the width of stdout: None for a terminal's own, else enough for any table."""
    return None if sys.stdout.isatty() else 200


@attrs.frozen
class Output:
    """Print results and messages. rich honours NO_COLOR, and draws nothing live if stderr is no terminal.

    as_json: print JSON on stdout, and nothing else there.
    is_emulated: the service is an emulator, and each JSON object says so.
    keys: the keys known so far. They are hidden in everything: a user may have typed a key as another argument.
    """

    as_json: bool
    is_emulated: bool = False
    keys: list[ApiKey] = attrs.field(factory=list[ApiKey])
    err: Console = attrs.field(factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    out: Console = attrs.field(factory=lambda: Console(highlight=False, soft_wrap=True, width=_width()))

    @property
    def is_live(self) -> bool:
        """Whether a live display can be drawn."""
        return self.err.is_terminal and not self.as_json

    def redact(self, value: Any) -> Any:
        """Return a text or a JSON value without the keys."""
        return reduce(lambda rest, key: key.redact(rest), self.keys, value)

    def hide_in(self, error: BaseException) -> None:
        """Remove the keys from an error."""
        for key in self.keys:
            key.hide_in(error)

    def say(self, message: str, style: str = "") -> None:
        """Print a message on stderr."""
        text = Text(self.redact(as_flags(message)), style)
        text.highlight_regex(r"\(hint: .*\)$", "default")  # of an error, only what happened is red
        self.err.print(text)

    def result(self, values: Mapping[str, Any], text: str) -> None:
        """Print the command's result on stdout: *values* as a JSON object with `--json`, else *text*."""
        if self.as_json:
            self.json(values)
        else:
            self.out.print(Text(self.redact(text)))

    def json(self, values: Mapping[str, Any]) -> None:
        """Print one JSON object on a line of stdout."""
        values = {**values, "emulator": True} if self.is_emulated else values
        redacted = self.redact(json.loads(json.dumps(values, default=_json_value)))
        sys.stdout.write(json.dumps(redacted) + "\n")  # ASCII: whatever encoding stdout has
        sys.stdout.flush()

    def table(self, values: Mapping[str, Any], head: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
        """Print *values* as JSON with `--json`, else the rows as a table, or the message *empty* without rows."""
        if self.as_json:
            self.json(values)
        elif not rows:
            self.say(empty)
        else:
            table = Table(*[Column(name, no_wrap=name != head[-1]) for name in head], box=None, pad_edge=False)
            for row in rows:
                table.add_row(*(Text(self.redact(cell)) for cell in row))
            self.out.print(table)

    def error(self, error: BaseException) -> None:
        """Print an error on stderr, and with `--json` also on stdout. Each problem is a line."""
        self.hide_in(error)
        if self.as_json:
            self.json_error(error)
        problems = error.problems if isinstance(error, InvalidRequestError) else ()
        for line in [problem_line(problem) for problem in problems] or [message_of(error)]:
            self.say(line, "red")

    def json_error(self, error: BaseException) -> None:
        """Print an error as a JSON object."""
        self.hide_in(error)
        known = {name: getattr(error, name, None) for name in ("charged", "price", "ref", "job_id")}
        if isinstance(error, click.UsageError):
            known["charged"] = False
        values = {"type": type(error).__name__, "message": message_of(error), **known}
        problems = error.problems if isinstance(error, InvalidRequestError) else ()
        self.json({"error": {**values, "problems": problem_values(problems)}})


def problem_values(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Return problems as JSON values, with hints for the command line."""
    return [{**problem._asdict(), "hint": as_flags(problem.hint)} for problem in problems]


def message_of(error: BaseException) -> str:
    """Return an error's message for the command line."""
    match error:
        case click.ClickException():
            return error.format_message()
        case OSError(filename=str(path), strerror=str(reason)):
            hint = _HINTS.get(error.errno or 0)
            return f"{path}: {reason}{f' (hint: {hint})' if hint else ''}"
        case ModelsLabError() | OSError():
            return as_flags(str(error))
        case _:
            return as_flags(f"{type(error).__name__}: {error}")


def record_values(record: JobRecord) -> dict[str, Any]:
    """Return a journal row as JSON values."""
    internal = ("account", "owner", "video", "is_unpriced")
    values = {name: value for name, value in record._asdict().items() if name not in internal}
    values["price"] = record.usd
    times = {name: _time(values[name]) for name in values if name.endswith("_at")}
    return {**values, "state": record.state.value, **times}


def plain_lines(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the values of a journal row as names and texts. A mapping gives a line for each of its values."""
    for name, value in values.items():
        match value:
            case None if name in ("charged", "price"):
                yield name, "unknown"
            case None | ():
                pass
            case Mapping():
                yield from ((f"{name}.{inner}", text) for inner, text in plain_lines(value))
            case tuple() | list():
                yield from ((name, str(each)) for each in value)
            case bool():
                yield name, "yes" if value else "no"
            case datetime():
                yield name, value.astimezone().isoformat(" ", "seconds")
            case Decimal():
                yield name, usd(value)
            case _:
                yield name, str(value)


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _json_value(value: object) -> Any:
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case Decimal() | Path():
            return str(value)
        case _:
            return getattr(value, "value", str(value))
