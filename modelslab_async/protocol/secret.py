"""The API key, wrapped from the first moment, and its redaction from everything that comes back."""

import hmac
import json
from typing import Any

_SHORTEST_SECRET = 8


class SecretBytes(bytes):
    """Bytes that hold the key, such as a request's body. Among a traceback's local variables they stay hidden."""

    def __repr__(self) -> str:
        return f"<{len(self)} hidden bytes>"

    __str__ = __repr__


class _SecretText(str):
    """Text with a hidden repr: error reporters also show the attributes that a line of source names."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<hidden>"

    __str__ = __repr__


class ApiKey:
    """A key that no output shows. `as_json` is used in one place only: where a request's body is encoded."""

    __slots__ = ("_bytes", "_is_plain", "_value")

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
    def is_printable(self) -> bool:
        """Whether it holds no character that no key has, such as a line break."""
        return self._value.isprintable()

    @property
    def is_short(self) -> bool:
        """Whether it is shorter than any key of the service. A word such as "any" serves an emulator: no secret."""
        return len(self._value) < _SHORTEST_SECRET

    def problem(self, *, is_any_length: bool) -> str | None:
        """Return what makes this no usable key, without showing it; None if it may be one."""
        if is_any_length:
            return None
        if self._value[:1] in "\"'" or self._value[-1:] in "\"'":
            return "it has quotes around it, as in an .env file (hint: pass it without them)"
        if self.is_short:
            return f"it has fewer than {_SHORTEST_SECRET} characters (hint: check that it was copied whole)"
        return None

    def __repr__(self) -> str:
        return "ApiKey(hidden)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an API key is not pickled: pass it to the other process in its environment")

    def may_be_in(self, body: bytes) -> bool:
        """Whether a JSON text may hold it: as it is, with letters escaped, or in an encoding of wide letters."""
        return not self._is_plain or self._bytes in body or b"\\u" in body or b"\0" in body

    def cut(self, text: str) -> str:
        """A redacted text up to where the key begins once more, and was cut short."""
        return text if self.is_short else text.partition(self._value[:_SHORTEST_SECRET])[0]

    def redact(self, value: Any) -> Any:
        """A JSON value or a text without the key. A word of under 8 letters is an emulator's key, and no secret."""
        if self.is_short:
            return value
        match value:
            case str():
                return value.replace(self._value, "***")
            case int() if str(value) == self._value:
                return "***"
            case list():
                return [self.redact(item) for item in value]
            case dict():
                return {self.redact(name): self.redact(item) for name, item in value.items()}
            case _:
                return value
