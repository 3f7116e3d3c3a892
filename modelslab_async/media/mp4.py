"""Is this a whole mp4? A walk over its top-level boxes (ISO/IEC 14496-12, section 4.2), in chunks as they arrive.

A box is a 32-bit size and a four-letter type; size 1 means that 64 bits of size follow, size 0 that the box goes on to
the end of the file. Nothing but `moov` is kept. A file is whole once `moov` and `mdat` are, whatever trails: players
do not mind bytes after the last box. Two cuts cannot be seen from the boxes alone, and are left to the length that the
server announces: one inside a box of size 0, and one before the eighth byte of a further fragment.
"""

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

_LARGEST_MOOV_BYTES = 8 * 2**20
_MAX_CHILDREN = 100
"""Of one box. Those of `moov` and of a track are about ten."""
_TO_THE_END = -1
_FIRST = frozenset((b"ftyp", b"styp", b"pdin", b"free", b"skip", b"wide", b"uuid", b"moov", b"mdat"))
"""Boxes that a file may begin with. In files of old QuickTime there is no `ftyp`."""
_BRANDS = (b"ftyp", b"styp")
_VIDEO = frozenset((b"moov", b"mdat"))


class Verdict(Enum):
    """What the bytes are."""

    WHOLE = "a whole mp4"
    CUT_SHORT = "an mp4 that is cut short"
    NO_TRACK = "an mp4 without a track"
    NOT_MP4 = "not an mp4"


class Facts(NamedTuple):
    """What `moov` tells of the video track: pixels, frames, frames per second, seconds; None where it does not."""

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None


def looks_like_mp4(head: bytes) -> bool:
    """Return whether a file that starts with these bytes, at least eight, may be an mp4."""
    return len(head) >= 8 and head[4:8] in _FIRST and int.from_bytes(head[:4]) not in range(2, 8)


class Walk:
    """BoundedMap it the file's bytes in order, then ask for the verdict."""

    def __init__(self) -> None:
        self._moov = bytearray()
        self._header = self._kind = b""
        self._left = 0
        self._complete = set[bytes]()
        self._has_begun = self._has_brand = self._is_broken = False
        self._has_open_fragment = False
        """A `moof` came, and its `mdat` has not ended yet."""

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(chunk)
        while view and not self._is_broken:
            taken = self._take_header(view) if self._left == 0 else self._take_body(view)
            view = view[taken:]

    def verdict(self) -> Verdict:
        """What the bytes so far are, if they are all."""
        if self._complete != _VIDEO:
            return Verdict.NOT_MP4 if self._is_broken else Verdict.CUT_SHORT
        if self._has_open_fragment or (self._left > 0 and self._kind in _VIDEO):
            return Verdict.CUT_SHORT
        moov = memoryview(self._moov)
        if not (self._has_brand or _find(moov, b"mvhd")):
            return Verdict.NOT_MP4
        return Verdict.NO_TRACK if _has_no_track(moov) else Verdict.WHOLE

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
            self._left = max(declared - len(self._header), 0)
            self._is_broken = declared < len(self._header)
        self._header = b""
        self._is_broken |= not self._has_begun and self._kind not in _FIRST
        if self._is_broken:
            return
        self._has_begun = True
        self._has_brand |= self._kind in _BRANDS
        self._has_open_fragment |= self._kind == b"moof"
        if self._left in (0, _TO_THE_END):
            self._close()

    def _close(self) -> None:
        """The box is complete, as far as its size tells."""
        if self._kind in _VIDEO:
            self._complete.add(self._kind)
        if self._kind == b"mdat":
            self._has_open_fragment = False

    def _take_body(self, view: memoryview) -> int:
        taken = view if self._left == _TO_THE_END else view[: self._left]
        if self._kind == b"moov":
            self._moov += taken[: _LARGEST_MOOV_BYTES - len(self._moov)]
        if self._left != _TO_THE_END:
            self._left -= len(taken)
            if self._left == 0:
                self._close()
        return len(taken)


def _has_no_track(moov: memoryview) -> bool:
    """Return whether `moov` certainly describes no media: it is made of boxes, has a timescale, and no track.

    What is not made of whole boxes is not judged. With an `mvex`, the media are described in fragments.
    """
    boxes = dict(_boxes(moov))
    tracks = [dict(_boxes(track)) for track in _children(moov, b"trak")]
    has_media = any(not track.keys().isdisjoint((b"mdia", b"")) for track in tracks)
    return bool(_timescale(boxes.get(b"mvhd", moov[:0]))) and boxes.keys().isdisjoint((b"mvex", b"")) and not has_media


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
    """Ticks a second, of `mvhd` or `mdhd`."""
    return _field(header, 20 if _is_wide(header) else 12, 4)


def _is_wide(header: memoryview) -> bool:
    """Version 1 has times of 64 bits."""
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
    """Yield the type and content of each box, the last perhaps cut; then what is left over, with an empty type."""
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
