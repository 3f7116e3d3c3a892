"""Wrap the API key, and keep it out of everything that a program shows.

Logs, exceptions, tracebacks with local variables, replies and the journal must not hold the key.
"""

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

_MIN_KEY_CHARACTERS = 8
_HIDDEN = "***"
_Class = TypeVar("_Class", bound=type[Any])
_Method = TypeVar("_Method", bound=Callable[..., Any])


class SecretBytes(bytes):
    """Bytes that hold the key, such as a request's body. Their repr, which a traceback may show, hides them.

    The repr of a slice is hidden too, because structlog and rich show only the beginning of a long value.
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
    """Text with a hidden repr, because error reporters also show the attributes that a line of source names."""

    __slots__ = ()

    def __getitem__(self, index: SupportsIndex | slice) -> "_SecretText":
        return _SecretText(super().__getitem__(index))

    def __repr__(self) -> str:
        return "<hidden>"

    __str__ = __repr__


class ApiKey:
    """API key that no output shows. Only the code that encodes a request's body uses `as_json`.

    Redaction also finds the key in base64 and in URL encoding. It ignores a key of fewer than 8 characters, because a
    word such as "any" is used for an emulator and is not a secret.
    """

    def __init__(self, value: str) -> None:
        self._value = _SecretText(value)
        self._bytes: bytes = SecretBytes(value.encode(errors="replace"))
        self._is_plain = value.isascii() and value.isalnum()

    def as_json(self) -> SecretBytes:
        """Return the key as a JSON string, for a request's body."""
        return SecretBytes(json.dumps(self._value).encode())

    def fingerprint(self, purpose: str) -> str:
        """Return 16 hexadecimal digits that distinguish keys and do not reveal them."""
        return hmac.digest(self._bytes, purpose.encode(), "sha256").hex()[:16]

    @property
    def is_empty(self) -> bool:
        """Whether the key is the empty string."""
        return not self._value

    @property
    def is_short(self) -> bool:
        """Whether the key is shorter than any key of the service."""
        return len(self._value) < _MIN_KEY_CHARACTERS

    def problem(self, *, is_any_length: bool) -> str | None:
        """Return why the key cannot be used, without showing it. Return None if it can be used.

        is_any_length: whether a short or quoted key is allowed, as for an emulator.
        """
        if not self._value.isprintable():
            return "it holds a character that no key has, such as a line break (hint: pass just the key)"
        if is_any_length:
            return None
        if self._value.startswith(('"', "'")) or self._value.endswith(('"', "'")):
            return "it has quotes around it, as in an .env file (hint: pass it without them)"
        if self.is_short:
            return f"it has fewer than {_MIN_KEY_CHARACTERS} characters (hint: check that it was copied whole)"
        return None

    def __repr__(self) -> str:
        return "ApiKey(hidden)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an ApiKey cannot be pickled (hint: pass the key to the other process in its environment)")

    # --- redaction; methods of patterns are kept, not the patterns, because the repr of a pattern shows the key ---

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
        """Return whether *text* holds the key, unchanged, in base64 or in URL encoding."""
        if self.is_short or len(text) < len(self._value):
            return False
        return any(form in text for form in self._forms) or ("%" in text and self._find_quoted(text) is not None)

    def may_be_in(self, body: bytes) -> bool:
        """Return whether JSON may hold the key, also with escaped characters, in UTF-16 or in UTF-32."""
        return not self._is_plain or b"\\u" in body or b"\0" in body or self.is_in(body.decode("latin-1"))

    def redact(self, value: Any) -> Any:
        """Return a JSON value or a text in which the key is replaced with asterisks."""
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
        """Return a redacted text without a beginning of the key that was cut short, and without the text after it."""
        beginning = None if self.is_short else self._find_beginning(text)
        return text[: beginning.start()] + _HIDDEN if beginning else text

    def redact_problem(self, problem: Problem) -> Problem:
        """Return *problem* without the key, also if its field or value holds a key that was cut short."""
        field, value = self.cut(self.redact(problem.field)), self.cut(self.redact(problem.value))
        return problem._replace(
            field=field, value=value, requirement=self.redact(problem.requirement), hint=self.redact(problem.hint)
        )

    def hide_in(self, error: BaseException) -> None:
        """Remove the key from an error: from its text, its context, and its frames with their variables.

        The same is done to its causes. An InvalidRequestError loses its cause, which may be an OSError with a picture's
        path.
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

        In a reference, an id or a path, the key would get into URLs, logs and file names.
        """
        return [
            Problem(name, "", "must not hold the API key", "pass the key as Client(api_key=...) only")
            for name, value in given.items()
            if isinstance(value, str | bytes | os.PathLike) and self.is_in(os.fsdecode(value))
        ]

    def require_absent(self, **given: object) -> None:
        """Raise InvalidRequestError if an argument holds the key, see `problems_in`."""
        if problems := self.problems_in(**given):
            raise InvalidRequestError(problems)


def hides_key(public: _Class) -> _Class:
    """Decorate a class that has an ApiKey as `_api_key`, so that no error of its public methods shows the key.

    Async generators are not decorated. Their arguments are jobs and requests, which are no part of an error.
    """
    for name, member in [*vars(public).items()]:
        is_public = not name.startswith("_") or name in ("__init__", "__aenter__")
        if is_public and isfunction(member) and not isasyncgenfunction(member):
            setattr(public, name, without_key(member))
    return public


def without_key(method: _Method) -> _Method:
    """Decorate a method, see `hides_key`.

    The traceback of an error of this package ends at the call of the method. The error's context is the exception that
    the caller is handling.
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
            del args, kwargs  # a traceback may show local variables

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
    """Hide the key in an error of this package, or in a TypeError about the method's arguments, which may name it."""
    is_of_call = isinstance(error, TypeError) and error.__traceback__ is not None and not error.__traceback__.tb_next
    if (isinstance(error, ModelsLabError) or is_of_call) and error is not handled:
        key.hide_in(error)
        error.__context__ = handled


def _written_forms(key: str) -> Iterator[str]:
    """Yield the forms in which a reply or a message may hold the key: unchanged, with escapes, in base64.

    A base64 letter holds six bits, so the key has three base64 forms, by its position within the encoded bytes. Only
    the letters that depend on the key alone are searched for. PHP's JSON has a backslash before each slash, and a URL
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
    return "".join(f"(?:{'|'.join(map(re.escape, dict.fromkeys(_spellings(character))))})" for character in key)


def _spellings(character: str) -> Iterator[str]:
    codes = character.encode(errors="replace")
    yield from ("".join(f"%{code:02X}" for code in codes), "".join(f"%{code:02x}" for code in codes), character)


def _beginning(key: str) -> str:
    """Return a pattern for the first 8 characters of the key, in any of its forms."""
    letters = _MIN_KEY_CHARACTERS * 8 // 6
    return "|".join([_quoted(key[:_MIN_KEY_CHARACTERS]), *(re.escape(form[:letters]) for form in _in_base64(key))])
