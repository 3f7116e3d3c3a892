"""Is this a whole mp4? A walk over its top-level boxes (ISO/IEC 14496-12, section 4.2), in chunks as they arrive.

A box is a 32-bit size and a four-letter type; size 1 means that 64 bits of size follow, size 0 that the box goes on to
the end of the file. Nothing but `moov` is kept. Two cuts cannot be seen from the boxes alone, and are left to the
length that the server announces: one inside a box of size 0, and one exactly between two fragments.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

_LARGEST_MOOV_BYTES = 8 * 2**20
_TO_THE_END = -1
_TELLING = (b"ftyp", b"moov", b"mdat")


class Verdict(Enum):
    """What the bytes are."""

    WHOLE = "a whole mp4"
    CUT_SHORT = "an mp4 that is cut short"
    NOT_MP4 = "not an mp4"


class Facts(NamedTuple):
    """What `moov` tells of the video track: pixels, frames, frames per second, seconds; None where it does not."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None


def looks_like_mp4(head: bytes) -> bool:
    """Whether a file that starts so may be an mp4: its first box is `ftyp`."""
    return len(head) >= 8 and head[4:8] == b"ftyp" and int.from_bytes(head[:4]) not in range(2, 8)


class Walk:
    """Feed it the file's bytes in order, then ask for the verdict."""

    def __init__(self) -> None:
        self._moov = bytearray()
        self._header = self._kind = b""
        self._left = 0
        self._seen = set[bytes]()
        self._foreign = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(chunk)
        while view and not self._foreign:
            taken = self._take_header(view) if self._left == 0 else self._take_body(view)
            view = view[taken:]

    def verdict(self) -> Verdict:
        """What the bytes so far are, if they are all."""
        if self._foreign:
            return Verdict.NOT_MP4
        at_a_boundary = not self._header and self._left in (0, _TO_THE_END)
        complete = at_a_boundary and self._kind != b"moof" and {b"moov", b"mdat"} <= self._seen
        return Verdict.WHOLE if complete else Verdict.CUT_SHORT

    def facts(self) -> Facts:
        """What `moov` tells; all None before it was seen."""
        return _facts(memoryview(self._moov))

    def _take_header(self, view: memoryview) -> int:
        """Collects the 8 or 16 bytes of a header, then opens its box; returns how many bytes it took."""
        missing = self._header_bytes() - len(self._header)
        self._header += view[:missing]
        if len(self._header) == self._header_bytes():
            self._open()
        return min(missing, len(view))

    def _header_bytes(self) -> int:
        return 16 if self._header[:4] == b"\0\0\0\1" and len(self._header) >= 8 else 8

    def _open(self) -> None:
        size, self._kind = int.from_bytes(self._header[:4]), self._header[4:8]
        if size == 0:
            self._left = _TO_THE_END
        else:
            declared = int.from_bytes(self._header[8:]) if size == 1 else size
            self._left = declared - len(self._header)
            self._foreign = self._left < 0
        self._foreign |= not self._seen and self._kind != b"ftyp"
        if self._kind in _TELLING:
            self._seen.add(self._kind)
        self._header = b""

    def _take_body(self, view: memoryview) -> int:
        taken = view if self._left == _TO_THE_END else view[: self._left]
        if self._kind == b"moov" and len(self._moov) < _LARGEST_MOOV_BYTES:
            self._moov += taken
        if self._left != _TO_THE_END:
            self._left -= len(taken)
        return len(taken)


def _facts(moov: memoryview) -> Facts:
    """Facts of the first track that has pixels. Garbage gives what can be read, and no exception."""
    for track in _children(moov, b"trak"):
        facts = _track_facts(track)
        if facts.width and facts.height:
            return facts
    return Facts()


def _track_facts(track: memoryview) -> Facts:
    tkhd, mdhd = _find(track, b"tkhd"), _find(track, b"mdia", b"mdhd")
    stsz = _find(track, b"mdia", b"minf", b"stbl", b"stsz")
    wide = bytes(mdhd[:1]) == b"\1"  # version 1 has times of 64 bits
    scale, ticks = (_field(mdhd, 20, 4), _field(mdhd, 24, 8)) if wide else (_field(mdhd, 12, 4), _field(mdhd, 16, 4))
    frames = _field(stsz, 8, 4)
    duration = ticks / scale if scale and ticks else None
    return Facts(
        width=_field(tkhd, len(tkhd) - 8, 2),
        height=_field(tkhd, len(tkhd) - 4, 2),
        frames=frames,
        fps=frames / duration if frames and duration else None,
        duration=duration,
    )


def _field(box: memoryview, offset: int, size: int) -> int | None:
    return (int.from_bytes(box[offset : offset + size]) or None) if 0 <= offset <= len(box) - size else None


def _find(data: memoryview, *path: bytes) -> memoryview:
    for kind in path:
        data = next(_children(data, kind), data[:0])
    return data


def _children(data: memoryview, wanted: bytes) -> Iterator[memoryview]:
    while len(data) >= 8:
        size = int.from_bytes(data[:4])
        if size < 8:
            return
        if data[4:8] == wanted:
            yield data[8:size]
        data = data[size:]
