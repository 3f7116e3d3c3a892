"""Find the requirements and hints of all problems that the package's source can build."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import attrs

_PLACEHOLDER = "…"
_CHECK_FIELDS = ("is_right", "field", "value", "requirement", "hint")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@attrs.frozen
class Message:
    """A literal requirement or hint. Placeholders of f-strings are shown as an ellipsis."""

    where: str
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.kind} {self.text!r}"


def messages_in(package: Path) -> list[Message]:
    """Return every literal requirement and hint that is passed to `Problem` or to a function that builds problems.

    Such a function is found by its parameters, which are named `requirement` and `hint`. A text that is itself such a
    parameter is found where the function is called.
    """
    modules = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(package.rglob("*.py"))}
    builders, constants = _builders_and_constants(modules.values())
    found = []
    for path, tree in modules.items():
        for function in (tree, *(node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))):
            names = {**constants, **_assigned([node for node in _own_nodes(function) if isinstance(node, ast.stmt)])}
            for call in _own_nodes(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                    where = f"{path.relative_to(package)}:{call.lineno}"
                    for kind, value in _arguments(call.func.id, call, builders, constants):
                        found += [Message(where, kind, text) for text in _texts(value, names)]
    return found


def _builders_and_constants(modules: Iterable[ast.Module]) -> tuple[dict[str, list[str]], dict[str, list[ast.expr]]]:
    """Return the parameters of each function that builds problems, and the values of all constants of modules."""
    builders: dict[str, list[str]] = {"Problem": ["field", "value", "requirement", "hint", "overridable"]}
    constants: dict[str, list[ast.expr]] = {}
    for tree in modules:
        for node in ast.walk(tree):
            if isinstance(node, _FUNCTIONS) and {"requirement", "hint"} <= {*_parameters(node)}:
                builders[node.name] = _parameters(node)
        for name, values in _assigned(tree.body).items():
            constants.setdefault(name, []).extend(values)
    return builders, constants


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    return [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a function or module, without those of the functions within it."""
    for child in ast.iter_child_nodes(function):
        yield child
        if not isinstance(child, _FUNCTIONS):
            yield from _own_nodes(child)


def _assigned(body: list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """Return the expressions that are assigned to each name, also by `a, b = x, y`."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in body:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    assigned.setdefault(target.id, []).append(node.value)
                elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for name, value in zip(target.elts, node.value.elts, strict=False):
                        if isinstance(name, ast.Name):
                            assigned.setdefault(name.id, []).append(value)
    return assigned


def _arguments(
    name: str, call: ast.Call, builders: Mapping[str, list[str]], constants: Mapping[str, list[ast.expr]]
) -> Iterator[tuple[str, ast.expr]]:
    """Yield the requirements and hints among the arguments of a call of *name*, each with its kind."""
    given = call.args
    if name == "partial" and isinstance(given[0], ast.Name):
        name, given = given[0].id, given[1:]
    if name == "require":
        for check in given:
            if isinstance(check, ast.Starred) and isinstance(check.value, ast.GeneratorExp):
                check = check.value.elt  # noqa: PLW2901 - the checks of a loop are alike
            if isinstance(check, ast.Tuple):
                yield from _texts_by_name(dict(zip(_CHECK_FIELDS, check.elts, strict=False)))
    elif name in builders:
        arguments: list[ast.expr] = []
        for argument in given:
            if isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Name):
                tuples = [each for each in constants.get(argument.value.id, ()) if isinstance(each, ast.Tuple)]
                arguments += tuples[0].elts if tuples else []
            else:
                arguments.append(argument)
        named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        yield from _texts_by_name({**dict(zip(builders[name], arguments, strict=False)), **named})


def _texts_by_name(arguments: Mapping[str, ast.expr]) -> Iterator[tuple[str, ast.expr]]:
    yield from ((name, value) for name, value in arguments.items() if name in ("requirement", "hint"))


def _texts(value: ast.expr, names: Mapping[str, list[ast.expr]], depth: int = 4) -> Iterator[str]:
    """Yield the texts that an expression can have, as far as they are literal."""
    match value:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else _PLACEHOLDER for part in parts)
        case ast.IfExp(body=body, orelse=otherwise):
            yield from _texts(body, names, depth)
            yield from _texts(otherwise, names, depth)
        case ast.Name(id=name) if depth:
            for each in names.get(name, ()):
                yield from _texts(each, names, depth - 1)
        case _:
            pass
