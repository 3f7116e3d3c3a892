"""The API key, wrapped from the first moment, and kept out of all that a program shows."""

import base64
import hmac
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cached_property, wraps
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction
from typing import Any, SupportsIndex, TypeVar, cast, overload

from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem

_SHORTEST_SECRET = 8
_HIDDEN = "***"
_Class = TypeVar("_Class", bound=type[Any])
_Method = TypeVar("_Method", bound=Callable[..., Any])


class SecretBytes(bytes):
    """Bytes that hold the key, such as a request's body. Among a traceback's local variables they stay hidden.

    A part of them stays hidden too: structlog and rich show just the beginning of a long value.
    """

    @overload
    def __getitem__(self, index: SupportsIndex) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> "SecretBytes": ...
    def __getitem__(self, index: SupportsIndex | slice) -> "int | SecretBytes":
        part = super().__getitem__(index)
        return SecretBytes(part) if isinstance(part, bytes) else part

    def __repr__(self) -> str:
        return f"<{len(self)} hidden bytes>"

    __str__ = __repr__


class _SecretText(str):
    """Text with a hidden repr: error reporters also show the attributes that a line of source names."""

    __slots__ = ()

    def __getitem__(self, index: SupportsIndex | slice) -> "_SecretText":
        return _SecretText(super().__getitem__(index))

    def __repr__(self) -> str:
        return "<hidden>"

    __str__ = __repr__


class ApiKey:
    """A key that no output shows. `as_json` is used in one place only: where a request's body is encoded.

    Redaction finds the key also in base64 and in URL encoding. It leaves a key of fewer than 8 characters alone: a word
    such as "any" serves an emulator, and is no secret.
    """

    def __init__(self, value: str) -> None:
        self._value = _SecretText(value)
        self._bytes: bytes = SecretBytes(value.encode(errors="replace"))
        self._is_plain = value.isascii() and value.isalnum()

    def as_json(self) -> SecretBytes:
        """Return the key as a JSON string, to be put into a request's body."""
        return SecretBytes(json.dumps(self._value).encode())

    def fingerprint(self, purpose: str) -> str:
        """Return 16 hexadecimal digits that tell keys apart and do not reveal them."""
        return hmac.digest(self._bytes, purpose.encode(), "sha256").hex()[:16]

    @property
    def is_empty(self) -> bool:
        """Whether there is no key at all."""
        return not self._value

    @property
    def is_short(self) -> bool:
        """Whether it is shorter than any key of the service."""
        return len(self._value) < _SHORTEST_SECRET

    def problem(self, *, is_any_length: bool) -> str | None:
        """Return what makes this no usable key, without showing it; None if it may be one."""
        if not self._value.isprintable():
            return "it holds a character that no key has, such as a line break (hint: pass just the key)"
        if is_any_length:
            return None
        if self._value.startswith(('"', "'")) or self._value.endswith(('"', "'")):
            return "it has quotes around it, as in an .env file (hint: pass it without them)"
        if self.is_short:
            return f"it has fewer than {_SHORTEST_SECRET} characters (hint: check that it was copied whole)"
        return None

    def __repr__(self) -> str:
        return "ApiKey(hidden)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an API key is not pickled: pass it to the other process in its environment")

    # --- redaction; a method of a pattern is kept, since the repr of the pattern would show the key ---

    @cached_property
    def _forms(self) -> tuple[_SecretText, ...]:
        return tuple(_SecretText(form) for form in dict.fromkeys(_written_forms(self._bytes.decode())))

    @cached_property
    def _find_quoted(self) -> Callable[[str], re.Match[str] | None]:
        return re.compile(_quoted(self._bytes.decode())).search

    @cached_property
    def _replace_quoted(self) -> Callable[[str, str], str]:
        return re.compile(_quoted(self._bytes.decode())).sub

    @cached_property
    def _find_beginning(self) -> Callable[[str], re.Match[str] | None]:
        return re.compile(_beginning(self._bytes.decode())).search

    def is_in(self, text: str) -> bool:
        """Return whether a text holds the key: as it is, in base64 or in URL encoding."""
        if self.is_short or len(text) < len(self._value):
            return False
        return any(form in text for form in self._forms) or ("%" in text and self._find_quoted(text) is not None)

    def may_be_in(self, body: bytes) -> bool:
        """Return whether a JSON text may hold the key, also with letters escaped, or in an encoding of wide letters."""
        return not self._is_plain or b"\\u" in body or b"\0" in body or self.is_in(body.decode("latin-1"))

    def redact(self, value: Any) -> Any:
        """Return a JSON value, or a text, without the key."""
        if self.is_short:
            return value
        match value:
            case str():
                return self._redacted(value) if self.is_in(value) else value
            case int() if str(value) == self._value:
                return _HIDDEN
            case list():
                return [self.redact(item) for item in value]
            case dict():
                return {self.redact(name): self.redact(item) for name, item in value.items()}
            case _:
                return value

    def _redacted(self, text: str) -> str:
        if "%" in text:
            text = self._replace_quoted(_HIDDEN, text)
        for form in self._forms:
            text = text.replace(form, _HIDDEN)
        return text

    def cut(self, text: str) -> str:
        """Return a redacted text up to where the key begins once more, and was cut short."""
        beginning = None if self.is_short else self._find_beginning(text)
        return text[: beginning.start()] + _HIDDEN if beginning else text

    def redact_problem(self, problem: Problem) -> Problem:
        """Return a problem without the key. Its value, and a name that no parameter has, may be shown cut short."""
        field, value = self.cut(self.redact(problem.field)), self.cut(self.redact(problem.value))
        return problem._replace(
            field=field, value=value, requirement=self.redact(problem.requirement), hint=self.redact(problem.hint)
        )

    def hide_in(self, error: BaseException) -> None:
        """Remove from an error all that may show the key: words, contexts, and frames with their variables.

        Its causes are treated alike. An InvalidRequestError keeps none, such as the OSError with a picture's path.
        """
        if isinstance(error, InvalidRequestError):
            error.__cause__ = None
            error.problems = tuple(self.redact_problem(problem) for problem in error.problems)
            error.args = ("\n".join(str(problem) for problem in error.problems),)
        each: BaseException | None = error
        hidden = set[int]()
        while each is not None and id(each) not in hidden:
            hidden.add(id(each))
            each.__traceback__ = each.__context__ = None
            each.args = tuple(self.redact(argument) for argument in each.args)
            for name, value in vars(each).items():
                setattr(each, name, self.redact(value))
            each = each.__cause__

    def problems_in(self, **given: object) -> list[Problem]:
        """Return a problem for each text or path among the arguments that holds the key.

        As a reference, an id or a path it would get into URLs, logs and names of files.
        """
        return [
            Problem(name, "hidden", "must not hold the API key", "pass the key as Client(api_key=...) only")
            for name, value in given.items()
            if isinstance(value, str | bytes | os.PathLike) and self.is_in(os.fsdecode(value))
        ]

    def require_absent(self, **given: object) -> None:
        """Raise InvalidRequestError if one of the arguments holds the key, see `problems_in`."""
        if problems := self.problems_in(**given):
            raise InvalidRequestError(problems)


def hides_key(public: _Class) -> _Class:
    """Decorate a class that has an ApiKey as `_api_key`: what its public methods raise does not show that key.

    Generators are left alone: they are given jobs and requests, which are no part of an error.
    """
    for name, member in [*vars(public).items()]:
        is_public = not name.startswith("_") or name in ("__init__", "__aenter__")
        if is_public and isfunction(member) and not isasyncgenfunction(member):
            setattr(public, name, without_key(member))
    return public


def without_key(method: _Method) -> _Method:
    """Decorate a method, see `hides_key`.

    The traceback of an error of ours ends where the method was called. Its context is what the caller is handling.
    """

    @wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        handled = sys.exception()
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            _hide(error, self._api_key, handled)
            raise
        finally:
            del args, kwargs  # a traceback may be shown with local variables

    @wraps(method)
    async def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        handled = sys.exception()
        try:
            return await method(self, *args, **kwargs)
        except Exception as error:
            _hide(error, self._api_key, handled)
            raise
        finally:
            del args, kwargs

    return cast("_Method", wait if iscoroutinefunction(method) else call)


def _hide(error: Exception, key: ApiKey, handled: BaseException | None) -> None:
    """Hide the key in an error of ours, or in Python's about a method that has no such parameter, which names it."""
    is_of_call = isinstance(error, TypeError) and error.__traceback__ is not None and not error.__traceback__.tb_next
    if (isinstance(error, ModelsLabError) or is_of_call) and error is not handled:
        key.hide_in(error)
        error.__context__ = handled


def _written_forms(key: str) -> Iterator[str]:
    """Yield how a reply or a message may write the key: as it is, with escapes, in base64.

    In base64 a letter holds six bits, so there are three ways to write the key, by its position in the whole. Only the
    letters that depend on nothing but the key are searched for. PHP's JSON has a backslash before each slash, and a URL
    percent-encodes two of the letters.
    """
    yield from (key, repr(key)[1:-1], json.dumps(key)[1:-1])
    yield from _in_base64(key)


def _in_base64(key: str) -> Iterator[str]:
    data = key.encode(errors="replace")
    for before, start in ((0, 0), (1, 2), (2, 3)):
        letters = base64.b64encode(bytes(before) + data).decode()[start : (before + len(data)) * 8 // 6]
        for plus, slash in ("+/", ("+", r"\/"), "-_", ("%2B", "%2F"), ("%2b", "%2f")):
            yield letters.replace("+", plus).replace("/", slash)


def _quoted(key: str) -> str:
    """Return a pattern for the key in which some or all characters are percent-encoded."""
    return "".join(f"(?:{'|'.join(map(re.escape, dict.fromkeys(_ways(character))))})" for character in key)


def _ways(character: str) -> Iterator[str]:
    codes = character.encode(errors="replace")
    yield from ("".join(f"%{code:02X}" for code in codes), "".join(f"%{code:02x}" for code in codes), character)


def _beginning(key: str) -> str:
    """Return a pattern for the first 8 characters of the key, in any of its forms."""
    letters = _SHORTEST_SECRET * 8 // 6
    return "|".join([_quoted(key[:_SHORTEST_SECRET]), *(re.escape(form[:letters]) for form in _in_base64(key))])
