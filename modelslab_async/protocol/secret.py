"""The API key, wrapped from the first moment, and its redaction from all that comes back."""

from typing import Any

_SHORTEST_SECRET = 8


class ApiKey:
    """A key that no output shows. `reveal` is called in one place only: where a body is encoded."""

    __slots__ = ("_bytes", "_is_plain", "_value")

    def __init__(self, value: str) -> None:
        self._value, self._bytes = value, value.encode()
        self._is_plain = value.isascii() and value.isalnum()

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    def __repr__(self) -> str:
        return "ApiKey(hidden)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("an API key is not pickled: pass it to the other process in its environment")

    def may_be_in(self, body: bytes) -> bool:
        """Whether a JSON text may hold it: as it is, with letters escaped, or in an encoding of wide letters."""
        return not self._is_plain or self._bytes in body or b"\\u" in body or b"\0" in body

    def cut(self, text: str) -> str:
        """A redacted text up to where the key begins once more, and was cut short."""
        return text if len(self._value) < _SHORTEST_SECRET else text.partition(self._value[:_SHORTEST_SECRET])[0]

    def redact(self, value: Any) -> Any:
        """A JSON value or a text without the key. A word of under 8 letters is an emulator's key, and no secret."""
        if len(self._value) < _SHORTEST_SECRET:
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
