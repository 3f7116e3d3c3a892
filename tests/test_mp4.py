"""Whole, cut short, or not an mp4; and what the file tells of itself."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol.mp4 import Facts, Verdict, Walk, looks_like_mp4


def box(kind: bytes, content: bytes = b"", *, wide: bool = False, open_ended: bool = False) -> bytes:
    if open_ended:
        return bytes(4) + kind + content
    if wide:
        return (1).to_bytes(4) + kind + (16 + len(content)).to_bytes(8) + content
    return (8 + len(content)).to_bytes(4) + kind + content


def movie(frames: int = 81, scale: int = 16, width: int = 832, height: int = 480, *, version: int = 0) -> bytes:
    """A `moov` with an audio track before the video track."""
    size = 8 if version else 4
    times = bytes(2 * size) + scale.to_bytes(4) + frames.to_bytes(size)
    video = box(b"tkhd", bytes(76) + width.to_bytes(2) + bytes(2) + height.to_bytes(2) + bytes(2))
    sizes = box(b"stsz", bytes(8) + frames.to_bytes(4))
    media = box(b"mdhd", bytes([version, 0, 0, 0]) + times + bytes(4)) + box(b"minf", box(b"stbl", sizes))
    sound = box(b"trak", box(b"tkhd", bytes(84)))
    return box(b"moov", box(b"mvhd", bytes(100)) + sound + box(b"trak", video + box(b"mdia", media)))


FTYP = box(b"ftyp", b"isom\0\0\2\0isom")
DATA = bytes(range(200))
FILES = {
    "moov first": FTYP + movie() + box(b"free") + box(b"mdat", DATA),
    "moov last": FTYP + box(b"mdat", DATA) + movie(),
    "64-bit sizes": FTYP + movie() + box(b"mdat", DATA, wide=True),
    "fragmented": FTYP + movie() + box(b"moof", b"x" * 30) + box(b"mdat", DATA),
}


def verdict(*chunks: bytes) -> Verdict:
    walk = Walk()
    for chunk in chunks:
        walk.feed(chunk)
    return walk.verdict()


@pytest.mark.parametrize("name", FILES)
def test_cut_at_every_byte(name: str) -> None:
    """The whole file is whole; cut anywhere before its last box ends, it is cut short."""
    content = FILES[name]
    assert verdict(content) is Verdict.WHOLE
    for length in range(len(content)):
        assert verdict(content[:length]) is Verdict.CUT_SHORT, length


def test_a_box_that_goes_on_to_the_end() -> None:
    """Size 0: whole once it began with everything before it; the length that the server tells has to say the rest."""
    content = FTYP + movie() + box(b"mdat", DATA, open_ended=True)
    assert verdict(content) is Verdict.WHOLE
    assert verdict(content[: len(FTYP + movie())]) is Verdict.CUT_SHORT


@given(name=st.sampled_from(sorted(FILES)), cuts=st.lists(st.integers(0, 900)), length=st.integers(0, 900))
def test_chunks_do_not_matter(name: str, cuts: list[int], length: int) -> None:
    """However the bytes arrive, the verdict and the facts are the same."""
    content = FILES[name][:length]
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = [content[start:end] for start, end in itertools.pairwise(edges)]
    one, many = Walk(), Walk()
    one.feed(content)
    for piece in pieces:
        many.feed(piece)
    assert (one.verdict(), one.facts()) == (many.verdict(), many.facts())


@given(st.binary(max_size=400))
def test_garbage_is_never_whole(content: bytes) -> None:
    """Arbitrary bytes raise nothing and are no video; after a true beginning they still raise nothing."""
    assert verdict(content) is not Verdict.WHOLE
    walk = Walk()
    walk.feed(FTYP + box(b"moov", content) + content)
    assert isinstance(walk.facts(), Facts)
    assert walk.verdict() in Verdict


@pytest.mark.parametrize(
    "content",
    [b"<!doctype html><html>404</html>", b'{"status": "error"}', b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(100)],
)
def test_other_files_are_not_mp4(content: bytes) -> None:
    """A page, JSON, a picture, zeros."""
    assert verdict(content) is Verdict.NOT_MP4
    assert not looks_like_mp4(content)


@pytest.mark.parametrize("size", [2, 7])
def test_impossible_sizes(size: int) -> None:
    """A box cannot be smaller than its header; hostile sizes neither hang nor pass."""
    bad = size.to_bytes(4) + b"free"
    assert verdict(FTYP + bad + movie() + box(b"mdat", DATA)) is Verdict.NOT_MP4
    huge = (1).to_bytes(4) + b"mdat" + (2**63).to_bytes(8)
    assert verdict(FTYP + movie() + huge + DATA) is Verdict.CUT_SHORT


@pytest.mark.parametrize("version", [0, 1])
@given(
    frames=st.integers(1, 10_000), scale=st.integers(1, 90_000), width=st.integers(1, 4000), height=st.integers(1, 4000)
)
def test_facts(version: int, frames: int, scale: int, width: int, height: int) -> None:
    """Pixels, frames, fps and duration are those that were written, the sound before them notwithstanding."""
    walk = Walk()
    walk.feed(FTYP + movie(frames, scale, width, height, version=version))
    facts = walk.facts()
    assert (facts.width, facts.height, facts.frames) == (width, height, frames)
    assert facts.duration == pytest.approx(frames / scale)
    assert facts.fps == pytest.approx(scale)


def test_the_head_is_enough_to_tell() -> None:
    """Eight bytes suffice for a probe; fewer say nothing."""
    assert looks_like_mp4(FTYP[:8])
    assert not looks_like_mp4(FTYP[:7])
