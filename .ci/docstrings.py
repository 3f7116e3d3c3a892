"""Show the arguments and fields that a docstring explains as a list, in the API reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ENTRY = re.compile(r"(?:\*{0,2}\w+|`[^`]+`)(?:, (?:\*{0,2}\w+|`[^`]+`))*: ")


def listed(docstring: str) -> str:
    """Return the docstring with each paragraph of lines `name: explanation` as a Markdown list.

    Indented lines continue the explanation above them.
    """
    return "\n\n".join(_listed(paragraph) for paragraph in docstring.split("\n\n"))


def _listed(paragraph: str) -> str:
    lines = paragraph.splitlines()
    if not lines or not all(_ENTRY.match(line) or line.startswith("    ") for line in lines):
        return paragraph
    return "\n".join(_entry(line) if _ENTRY.match(line) else line for line in lines)


def _entry(line: str) -> str:
    names, _, explanation = line.partition(": ")
    shown = ", ".join(f"`{name.strip('`')}`" for name in names.split(", "))
    return f"- {shown}: {explanation}"


class Arguments(griffe.Extension):
    """Rewrite the docstring of each object that Griffe has read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the object's docstring."""
        if obj.docstring:
            obj.docstring.value = listed(obj.docstring.value)
