"""Check whether a file is a whole gif, by its blocks (GIF89a, https://www.w3.org/Graphics/GIF/spec-gif89a.txt), as its
bytes arrive.

A gif begins with a header and the size of its screen. Blocks follow: extensions and images, each of which ends in a
chain of sub-blocks of at most 255 bytes. A file is whole once its trailer came after an image, whatever follows.
"""

from collections.abc import Generator
from enum import Enum

from modelslab_async.media.mp4 import Facts

MAGIC = (b"GIF87a", b"GIF89a")
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_GRAPHIC_CONTROL = 0xF9
_HAS_TABLE, _TABLE_SIZE = 0x80, 0x07
_TICKS_A_SECOND = 100


class Verdict(Enum):
    """What a file is, by the bytes that were fed."""

    WHOLE = "a whole gif"
    CUT_SHORT = "a truncated gif"
    NO_IMAGE = "a gif without an image"
    NOT_GIF = "not a gif"


class Parser:
    """Parse a file that is fed in order, chunk by chunk. Then `verdict` says what it is."""

    def __init__(self) -> None:
        self._blocks = self._walk()
        self._needed = next(self._blocks)
        self._buffer = bytearray()
        self._width = self._height = self._images = self._ticks = 0
        self._verdict = Verdict.CUT_SHORT
        self._has_ended = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        if self._has_ended:
            return
        self._buffer += chunk
        at = 0
        while len(self._buffer) - at >= self._needed and not self._has_ended:
            piece = bytes(self._buffer[at : at + self._needed])
            at += self._needed
            try:
                self._needed = self._blocks.send(piece)
            except StopIteration:
                self._has_ended = True
        del self._buffer[:at]

    def verdict(self) -> Verdict:
        """Return what the file is if it ends here."""
        return self._verdict

    def facts(self) -> Facts:
        """Return the size of the screen, the number of images, and their duration."""
        seconds = self._ticks / _TICKS_A_SECOND
        return Facts(
            width=self._width or None,
            height=self._height or None,
            frames=self._images or None,
            fps=self._images / seconds if seconds and self._images else None,
            duration=seconds or None,
        )

    def _walk(self) -> Generator[int, bytes, None]:
        """Read the file. Each `yield` names a number of bytes, and returns them."""
        header = yield 13
        if header[:6] not in MAGIC:
            self._verdict = Verdict.NOT_GIF
            return
        self._width, self._height = int.from_bytes(header[6:8], "little"), int.from_bytes(header[8:10], "little")
        yield from _skip_table(header[10])
        while True:
            kind = (yield 1)[0]
            if kind == _TRAILER:
                self._verdict = Verdict.WHOLE if self._images else Verdict.NO_IMAGE
                return
            if kind == _IMAGE:
                descriptor = yield 9
                yield from _skip_table(descriptor[8])
                yield 1  # the size of the first codes
                yield from self._read_data(is_control=False)
                self._images += 1
            elif kind == _EXTENSION:
                label = yield 1
                yield from self._read_data(is_control=label[0] == _GRAPHIC_CONTROL)
            else:
                self._verdict = Verdict.NOT_GIF
                return

    def _read_data(self, *, is_control: bool) -> Generator[int, bytes, None]:
        """Read a chain of sub-blocks. That of a graphic control names how long the next image is shown."""
        while size := (yield 1)[0]:
            data = yield size
            if is_control and size >= 4:
                self._ticks += int.from_bytes(data[1:3], "little")


def _skip_table(flags: int) -> Generator[int, bytes, None]:
    """Skip the table of colours that the flags announce."""
    if flags & _HAS_TABLE:
        yield 3 << ((flags & _TABLE_SIZE) + 1)
