"""Check whether a file is a whole mp4, by its top-level boxes (ISO/IEC 14496-12, section 4.2), as its bytes arrive.

A box begins with a 32-bit size and a four-letter type. Size 1 means that a 64-bit size follows; size 0 means that the
box extends to the end of the file. Only `moov` is kept in memory. A file is whole once `moov` and `mdat` are, whatever
follows, because players ignore bytes after the last box.

Two cuts cannot be seen in the boxes: a cut inside a box of size 0, and a cut before the eighth byte of a further
fragment. Only the length that the server announces reveals those.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

_LARGEST_MOOV_BYTES = 8 * 2**20
_MAX_CHILDREN = 100
"""Children that are read of one box. `moov` and a track have about ten."""
_TO_THE_END = -1
_FIRST_TYPES = frozenset((b"ftyp", b"styp", b"pdin", b"free", b"skip", b"wide", b"uuid", b"moov", b"mdat"))
"""Boxes that a file may begin with. Old QuickTime files have no `ftyp`."""
_BRAND_TYPES = (b"ftyp", b"styp")
_REQUIRED_TYPES = frozenset((b"moov", b"mdat"))


class Verdict(Enum):
    """What a file is, by the bytes that were fed."""

    WHOLE = "a whole mp4"
    CUT_SHORT = "a truncated mp4"
    NO_TRACK = "an mp4 without a track"
    NOT_MP4 = "not an mp4"


class Facts(NamedTuple):
    """Facts about the video track. Each is None if `moov` does not say it.

    width, height: pixels. frames: their number. fps: frames per second. duration: seconds.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None


def looks_like_mp4(head: bytes) -> bool:
    """Return whether a file that starts with *head*, of at least eight bytes, may be an mp4."""
    return len(head) >= 8 and head[4:8] in _FIRST_TYPES and int.from_bytes(head[:4]) not in range(2, 8)


class Parser:
    """Parse a file that is fed in order, chunk by chunk. Then `verdict` says what it is."""

    def __init__(self) -> None:
        self._moov = bytearray()
        self._header = self._type = b""
        self._left = 0
        self._complete = set[bytes]()
        self._has_begun = self._has_brand = self._is_broken = False
        self._has_open_fragment = False
        """Whether a `moof` came whose `mdat` has not ended yet."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(chunk)
        while view and not self._is_broken:
            taken = self._take_header(view) if self._left == 0 else self._take_body(view)
            view = view[taken:]

    def verdict(self) -> Verdict:
        """Return what the file is if it ends here."""
        if self._complete != _REQUIRED_TYPES:
            return Verdict.NOT_MP4 if self._is_broken else Verdict.CUT_SHORT
        if self._has_open_fragment or (self._left > 0 and self._type in _REQUIRED_TYPES):
            return Verdict.CUT_SHORT
        moov = memoryview(self._moov)
        if not (self._has_brand or _find(moov, b"mvhd")):
            return Verdict.NOT_MP4
        return Verdict.NO_TRACK if _has_no_track(moov) else Verdict.WHOLE

    def facts(self) -> Facts:
        """Return the facts in `moov`; all are None before it was fed."""
        return _facts(memoryview(self._moov))

    def _take_header(self, view: memoryview) -> int:
        """Collect the 8 or 16 bytes of a header, then begin its box. Return how many bytes were taken."""
        missing = self._header_bytes() - len(self._header)
        self._header += view[:missing]
        if len(self._header) == self._header_bytes():
            self._begin_box()
        return min(missing, len(view))

    def _header_bytes(self) -> int:
        return 16 if self._header[:4] == b"\0\0\0\1" and len(self._header) >= 8 else 8

    def _begin_box(self) -> None:
        size, self._type = int.from_bytes(self._header[:4]), self._header[4:8]
        if size == 0:
            self._left = _TO_THE_END
        else:
            declared = int.from_bytes(self._header[8:]) if size == 1 else size
            self._left = max(declared - len(self._header), 0)
            self._is_broken = declared < len(self._header)
        self._header = b""
        self._is_broken |= not self._has_begun and self._type not in _FIRST_TYPES
        if self._is_broken:
            return
        self._has_begun = True
        self._has_brand |= self._type in _BRAND_TYPES
        self._has_open_fragment |= self._type == b"moof"
        if self._left in (0, _TO_THE_END):
            self._end_box()

    def _end_box(self) -> None:
        """Record that the box is complete, as far as its size says."""
        if self._type in _REQUIRED_TYPES:
            self._complete.add(self._type)
        if self._type == b"mdat":
            self._has_open_fragment = False

    def _take_body(self, view: memoryview) -> int:
        taken = view if self._left == _TO_THE_END else view[: self._left]
        if self._type == b"moov":
            self._moov += taken[: _LARGEST_MOOV_BYTES - len(self._moov)]
        if self._left != _TO_THE_END:
            self._left -= len(taken)
            if self._left == 0:
                self._end_box()
        return len(taken)


def _has_no_track(moov: memoryview) -> bool:
    """Return whether `moov` certainly describes no media: it consists of boxes, has a timescale, and has no track.

    A `moov` that does not consist of whole boxes is not judged. If it has an `mvex`, fragments describe the media.
    """
    boxes = dict(_boxes(moov))
    tracks = [dict(_boxes(track)) for track in _children(moov, b"trak")]
    has_media = any(not track.keys().isdisjoint((b"mdia", b"")) for track in tracks)
    return bool(_timescale(boxes.get(b"mvhd", moov[:0]))) and boxes.keys().isdisjoint((b"mvex", b"")) and not has_media


def _facts(moov: memoryview) -> Facts:
    """Return the facts of the first track that has pixels. Garbage raises nothing."""
    for track in _children(moov, b"trak"):
        facts = _track_facts(track)
        if facts.width and facts.height:
            return facts
    return Facts()


def _track_facts(track: memoryview) -> Facts:
    tkhd, mdhd = _find(track, b"tkhd"), _find(track, b"mdia", b"mdhd")
    stsz = _find(track, b"mdia", b"minf", b"stbl", b"stsz")
    scale, ticks = _timescale(mdhd), _field(mdhd, 24, 8) if _is_wide(mdhd) else _field(mdhd, 16, 4)
    frames = _field(stsz, 8, 4)
    duration = ticks / scale if scale and ticks else None
    return Facts(
        width=_field(tkhd, len(tkhd) - 8, 2),
        height=_field(tkhd, len(tkhd) - 4, 2),
        frames=frames,
        fps=frames / duration if frames and duration else None,
        duration=duration,
    )


def _timescale(header: memoryview) -> int | None:
    """Return the ticks a second of an `mvhd` or `mdhd`, or None."""
    return _field(header, 20 if _is_wide(header) else 12, 4)


def _is_wide(header: memoryview) -> bool:
    """Return whether the times of an `mvhd` or `mdhd` have 64 bits, as in its version 1."""
    return bytes(header[:1]) == b"\1"


def _field(box: memoryview, offset: int, size: int) -> int | None:
    return (int.from_bytes(box[offset : offset + size]) or None) if 0 <= offset <= len(box) - size else None


def _find(data: memoryview, *path: bytes) -> memoryview:
    for kind in path:
        data = next(_children(data, kind), data[:0])
    return data


def _children(data: memoryview, wanted: bytes) -> Iterator[memoryview]:
    return (content for kind, content in _boxes(data) if kind == wanted)


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the type and content of each box; the last may be cut. Bytes after the last box come with an empty type."""
    for _ in range(_MAX_CHILDREN):
        size = int.from_bytes(data[:4])
        if size < 8 or len(data) < 8:
            break
        yield bytes(data[4:8]), data[8:size]
        if size > len(data):
            break
        data = data[size:]
    if data:
        yield b"", data
