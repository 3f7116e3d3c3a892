"""What people and programs are told: results on stdout, all else on stderr; with --json only JSON on stdout."""

from __future__ import annotations

import errno
import json
import re
import sys
from collections.abc import Mapping, Sequence
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

from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.secret import ApiKey

_AS_FLAGS = {
    r"^(line .*)extra=\{['\"]([^'\"]*)['\"]: \.\.\.\}": r'\1"extra": {"\2": ...}',
    r'Client\(limits="warn"\)': "--limits warn",
    r"Client\(api_key=\.\.\.\)": "MODELSLAB_API_KEY",
    r"Client\.attach\('([^']*)'\)": r"modelslab-async collect \1",
    r"Client\.recover or attach": "modelslab-async collect",
    r"Client\.recover\(\)\.uncertain": "modelslab-async recover",
    r"recover\(search=True\)\.candidates": "modelslab-async recover --search",
    r"extra=\{['\"]([^'\"]*)['\"]: \.\.\.\}": r"--extra \1=JSON",
    r"\bpass an int\b": "pass a whole number",
    r"\bpass a float\b": "pass a number",
    r"\bpass a str\b": "pass a text",
    r"\bpass a dict\b": "pass an object",
    r"\bpass True or False\b": "pass true or false",
}
"""What the library says to those who write Python, as it is said to those who type."""
_WAYS_OUT = {
    errno.ENOSPC: "make room on the disk",
    errno.EEXIST: "choose another name",
    errno.ENOTDIR: "a file is in the way: choose another place",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "choose a place that you may write to"),
}
"""Of what a disk says no to."""


def as_flags(words: str) -> str:
    """Names of flags and commands in the place of Python's."""
    for python, flags in _AS_FLAGS.items():
        words = re.sub(python, flags, words)
    return words


def _width() -> int | None:
    """The terminal's, or enough for any table where there is none."""
    return None if sys.stdout.isatty() else 200


@attrs.frozen
class Output:
    """How to tell it. rich honours NO_COLOR, and draws nothing live where stderr is no terminal.

    Where it `is_emulated`, each JSON object says so: there is no account, and what it tells of money is a play's.
    keys: those that are known so far; a user may have typed one in the place of something else.
    """

    as_json: bool
    is_emulated: bool = False
    keys: list[ApiKey] = attrs.field(factory=list[ApiKey])
    err: Console = attrs.field(factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    out: Console = attrs.field(factory=lambda: Console(highlight=False, soft_wrap=True, width=_width()))

    @property
    def is_live(self) -> bool:
        """Whether a display may be drawn."""
        return self.err.is_terminal and not self.as_json

    def hidden(self, told: Any) -> Any:
        """Return words, or a JSON value, without the keys."""
        return reduce(lambda rest, key: key.redact(rest), self.keys, told)

    def hide_in(self, error: BaseException) -> None:
        """Remove the keys from an error."""
        for key in self.keys:
            key.hide_in(error)

    def say(self, words: str, style: str = "") -> None:
        """For people: what happens."""
        self.err.print(Text(self.hidden(as_flags(words)), style))

    def result(self, told: Mapping[str, Any], words: str) -> None:
        """What was asked for: a JSON object, or words."""
        if self.as_json:
            self.json(told)
        else:
            self.out.print(Text(self.hidden(words)))

    def json(self, told: Mapping[str, Any]) -> None:
        """One JSON object in a line."""
        told = {**told, "emulator": True} if self.is_emulated else told
        values = self.hidden(json.loads(json.dumps(told, default=_plain)))
        sys.stdout.write(json.dumps(values) + "\n")  # ASCII: whatever encoding stdout has
        sys.stdout.flush()

    def table(self, told: Mapping[str, Any], head: Sequence[str], rows: Sequence[Sequence[str]], none: str) -> None:
        """A JSON object, or a table; `none` where it has no rows."""
        if self.as_json:
            self.json(told)
        elif not rows:
            self.say(none)
        else:
            table = Table(*[Column(name, no_wrap=name != head[-1]) for name in head], box=None, pad_edge=False)
            for row in rows:
                table.add_row(*(Text(self.hidden(cell)) for cell in row))
            self.out.print(table)

    def error(self, error: BaseException) -> None:
        """Why it did not work."""
        self.hide_in(error)
        if self.as_json:
            self.json_error(error)
        problems = error.problems if isinstance(error, InvalidRequestError) else ()
        for line in [str(problem) for problem in problems] or [words_of(error)]:
            self.say(line, "red")

    def json_error(self, error: BaseException) -> None:
        """The same as a JSON object."""
        self.hide_in(error)
        known = {name: getattr(error, name, None) for name in ("charged", "price", "ref", "job_id")}
        if isinstance(error, click.UsageError):
            known["charged"] = False
        told = {"type": type(error).__name__, "message": words_of(error), **known}
        problems = error.problems if isinstance(error, InvalidRequestError) else ()
        self.json({"error": {**told, "problems": told_problems(problems)}})


def told_problems(problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """For JSON, in the words of those who type."""
    return [{**problem._asdict(), "hint": as_flags(problem.hint)} for problem in problems]


def words_of(error: BaseException) -> str:
    """An error in words."""
    match error:
        case click.ClickException():
            return error.format_message()
        case OSError(filename=str(path), strerror=str(reason)):
            hint = _WAYS_OUT.get(error.errno or 0)
            return f"{path}: {reason}{f'; {hint}' if hint else ''}"
        case ModelsLabError() | OSError():
            return as_flags(str(error))
        case _:
            return as_flags(f"{type(error).__name__}: {error}")


def told_of(record: JobRecord) -> dict[str, Any]:
    """A row of the journal, for JSON."""
    names = ("account", "owner", "video")
    told = {name: value for name, value in record._asdict().items() if name not in names}
    return {**told, "state": record.state.value, **{name: _time(told[name]) for name in told if name.endswith("_at")}}


def _time(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _plain(value: object) -> Any:
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case Decimal() | Path():
            return str(value)
        case _:
            return getattr(value, "value", repr(value))
