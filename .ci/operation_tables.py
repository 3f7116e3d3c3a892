"""Write the tables of the operations, their files and their parameters into the pages, from the rows of the code.

    python .ci/operation_tables.py

Each table replaces what a page has between `<!-- begin NAME ... -->` and `<!-- end NAME -->`.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from modelslab_async.media.images import MAX_IMAGE_BYTES
from modelslab_async.protocol.operations import OPERATIONS, Input, InputKind, Operation, Range
from modelslab_async.protocol.request import Deployment, Request
from modelslab_async.protocol.wire import UPLOAD_PATH, VIDEO_UPLOAD_PATH, encode_request

ROOT = Path(__file__).parents[1]
PAGES = ("docs/operations.md", "docs/parameters.md")
COMMAND = "python .ci/operation_tables.py"
_DEPLOYMENTS: Mapping[Deployment, str] = {Deployment.V6: "public API", Deployment.ENTERPRISE: "dedicated server"}
_KINDS: Mapping[InputKind, str] = {"image": "picture", "video": "video", "audio": "sound"}
_UPLOADS: Mapping[InputKind, tuple[str, str]] = {"image": ("picture", UPLOAD_PATH), "video": ("mp4", VIDEO_UPLOAD_PATH)}
_SIZE = f"{MAX_IMAGE_BYTES // 10**6} MB"
_NOTHING = "–"
_REF = "a new ref"
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")

Rows = Sequence[Operation]


def updated(page: str, rows: Rows) -> str:
    """Return the text of a page with its tables written anew. Raise KeyError for the name of an unknown table."""

    def table(found: re.Match[str]) -> str:
        name = found["name"]
        return f"<!-- begin {name}, which `{COMMAND}` writes -->\n\n{TABLES[name](rows)}\n\n<!-- end {name} -->"

    pattern = r"<!-- begin (?P<name>\w+)\b.*?-->.*?<!-- end (?P=name) -->"
    return re.sub(pattern, table, page, flags=re.DOTALL)


def _overview(rows: Rows) -> str:
    head = ("operation", "request", "what it does", "documented price", "how well its parameters are known")
    return _table(
        head,
        [
            (_code(row.name), _link(row.request_type), row.summary, _price(row), row.confidence or _NOTHING)
            for row in rows
        ],
    )


def _files(rows: Rows) -> str:
    inputs = [(row, each) for row in rows for each in row.inputs]
    inside = [(f"{_code(each.name)} of {_code(row.name)}", each) for row, each in inputs if each.is_inline]
    others = {each.kind: each for _, each in inputs if not each.is_inline}
    named = {each.kind for _, each in inside}
    cells = [*inside, *((f"every {'other ' * (kind in named)}{_KINDS[kind]}", each) for kind, each in others.items())]
    return _table(("input", "a local file"), [(name, _local_file(each)) for name, each in cells])


def _local_file(each: Input) -> str:
    if each.is_inline:
        return "travels inside the request, as base64; a dedicated server needs a URL"
    if each.kind not in _UPLOADS:
        return "cannot be sent: the service documents no upload, so pass a URL"
    what, path = _UPLOADS[each.kind]
    other = "" if what == _KINDS[each.kind] else f"; another {_KINDS[each.kind]} needs a URL"
    return f"{'an' if what == 'mp4' else 'a'} {what} is uploaded first, at {_code(path)}{other}"


def _parameters(rows: Rows) -> str:
    """Return the parameters of all operations, by the class of their requests."""
    kinds = list(dict.fromkeys(row.request_type for row in rows))
    own = {name for kind in kinds for name in inspect.get_annotations(kind)}
    common = [name for name in attrs.fields_dict(Request) if name not in own]
    parts = ["## Parameters of every operation", _parameter_table(rows, common)]
    for kind in kinds:
        members = [row for row in rows if row.request_type is kind]
        names = [name for name in members[0].parameters if name not in common]
        parts += [f"## {kind.__name__}", "\n".join(map(_facts, members)), _parameter_table(members, names)]
    return "\n\n".join(parts)


def _facts(row: Operation) -> str:
    paths = [
        f"    - {_DEPLOYMENTS[where]}: submitted at {_code(endpoint.submit)}, fetched at {_code(endpoint.fetch + 'ID')}"
        for where, endpoint in row.endpoints.items()
    ]
    return "\n".join([f"- {_code(row.name)}: {row.summary}. Documented price: {_price(row)}.", *paths])


def _parameter_table(rows: Rows, names: Sequence[str]) -> str:
    """Return the table of parameters that all rows have. The rows have one class of requests, unless it is common."""
    kind = rows[0].request_type
    types, explained = get_type_hints(kind), _explanations(kind)
    cells = [
        (
            _code(name),
            _type(name, types[name], rows),
            _limits(name, rows),
            _omitted(name, rows),
            explained.get(name, ""),
        )
        for name in names
    ]
    return _table(("parameter", "type", "limits", "if omitted", "meaning"), cells)


def _type(name: str, hint: Any, rows: Rows) -> str:
    inputs = [each for row in rows for each in row.inputs if each.name == name]
    if inputs:
        kinds = dict.fromkeys(_KINDS[each.kind] for each in inputs)
        return " or ".join([*kinds, *(["list"] if any(each.is_list for each in inputs) else [])])
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    names = [getattr(get_origin(part) or part, "__name__", str(part)) for part in parts if part is not NoneType]
    return " or ".join(names)


def _limits(name: str, rows: Rows) -> str:
    inputs = {each.kind: each for row in rows for each in row.inputs if each.name == name}
    found = [_file_limit(each) for each in inputs.values()] or _by_deployment(
        rows, lambda row, at: _range(name, row, at)
    )
    if name == "model_id":
        found += [", ".join(map(_value, row.models)) for row in rows if row.models]
    if name == "output_type":
        found += [" or ".join(map(_value, row.containers)) for row in rows]
    if name == "fps" and any(at.is_fps_below_num_frames for row in rows for at in row.endpoints.values()):
        found.append("less than `num_frames`")
    return "; ".join(dict.fromkeys(found))


def _file_limit(each: Input) -> str:
    if each.is_inline:
        return f"URL, or file of at most {_SIZE}; dedicated server: URL"
    what = _UPLOADS.get(each.kind)
    return f"URL, or {what[0]} of at most {_SIZE}" if what else "URL"


def _range(name: str, row: Operation, where: Deployment) -> str:
    limits = row.endpoints[where].limits
    usual = _range_text(limits[None].get(name))
    models = [(model, _range_text(limits[model].get(name))) for model in limits if model is not None]
    return "; ".join([usual, *(f"{model}: {text}" for model, text in models if text != usual)]).strip("; ")


def _range_text(limit: Range | None) -> str:
    match limit:
        case Range(minimum=None, maximum=float() | int() as most):
            return f"at most {most:g}"
        case Range(minimum=float() | int() as least, maximum=None):
            return f"at least {least:g}"
        case Range(minimum=float() | int() as least, maximum=float() | int() as most):
            return f"{least:g} to {most:g}"
        case _:
            return ""


def _omitted(name: str, rows: Rows) -> str:
    own: dict[str, list[str]] = {}
    for row in rows:
        if text := _without(name, row):
            own.setdefault(text, []).append(_code(row.name))
    found = [
        text if len(names) == len(rows) else f"{text} for {', '.join(names)}"  # rows that share a class may differ
        for text, names in own.items()
    ]
    found = found or _by_deployment(rows, lambda row, at: _default(row.endpoints[at].defaults, name))
    return "; ".join(found) or _NOTHING


def _without(name: str, row: Operation) -> str:
    """Return what the client does by itself if a request does not have the parameter; "" if nothing."""
    if name in row.required or any(each.is_required for each in row.inputs if each.name == name):
        return "**required**"
    sent = _sent(row).get(name)
    return "" if sent is None else f"the client sends {_REF if sent == _REF else _value(sent)}"


def _sent(row: Operation) -> Mapping[str, Any]:
    """Return what the client sends for a request that has nothing."""
    return encode_request(row.request(dict.fromkeys(row.required)), ref=_REF)


def _default(defaults: Mapping[str, Any], name: str) -> str:
    return _value(defaults[name]) if name in defaults else ""


def _by_deployment(rows: Rows, text: Callable[[Operation, Deployment], str]) -> list[str]:
    """Return what holds for the public API, and what else holds for a dedicated server."""
    found: list[str] = []
    for where, title in _DEPLOYMENTS.items():
        texts = dict.fromkeys(text(row, where) for row in rows if where in row.endpoints)
        here = "; ".join(filter(None, texts))
        if here and here not in found:
            found.append(here if where is Deployment.V6 else f"{title}: {here}")
    return found


def _explanations(kind: type[Request]) -> Mapping[str, str]:
    """Return the first sentence on each parameter, from the docstring of the class or the nearest of its bases."""
    bases = [each for each in reversed(kind.__mro__) if issubclass(each, Request)]
    return {name: sentence for each in bases for name, sentence in _entries(inspect.getdoc(each) or "")}


def _entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Yield each name that a docstring explains as `name: explanation`, and the explanation's first sentence."""
    joined = re.sub(r"\n {4,}", " ", docstring)
    for found in filter(None, map(_ENTRY.fullmatch, joined.splitlines())):
        sentence = found[2].split(". ")[0].removesuffix(".")
        for name in found[1].split(", "):
            yield name, re.sub(r"(?<![`\w])\w+_\w+(?![`\w])", r"`\g<0>`", sentence)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_line(head), f"|{'---|' * len(head)}", *map(_line, rows)]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in (cell.replace("|", r"\|") for cell in cells))


def _price(row: Operation) -> str:
    return "unknown" if row.price is None else f"${row.price:.2f}"


def _link(kind: type[Request]) -> str:
    return f"[{_code(kind.__name__)}](parameters.md#{kind.__name__.lower()})"


def _code(text: str) -> str:
    return f"`{text}`"


def _value(value: Any) -> str:
    return _code(json.dumps(value) if isinstance(value, str) else str(value))


TABLES: Mapping[str, Callable[[Rows], str]] = {"overview": _overview, "files": _files, "parameters": _parameters}
"""The tables, by the name that a page's marks give."""


if __name__ == "__main__":
    for page in PAGES:
        path = ROOT / page
        path.write_text(updated(path.read_text(encoding="utf-8"), [*OPERATIONS.values()]), encoding="utf-8")
