"""The mp4 parser: whether a file is whole, cut short or no mp4, and the facts that it states."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.media.mp4 import Facts, Parser, Verdict, looks_like_mp4

STARTS = (b"styp", b"pdin", b"free", b"skip", b"wide", b"uuid")


def box(kind: bytes, content: bytes = b"", *, wide: bool = False, open_ended: bool = False) -> bytes:
    if open_ended:
        return bytes(4) + kind + content
    if wide:
        return (1).to_bytes(4) + kind + (16 + len(content)).to_bytes(8) + content
    return (8 + len(content)).to_bytes(4) + kind + content


def movie(frames: int = 81, scale: int = 16, width: int = 832, height: int = 480, *, version: int = 0) -> bytes:
    """Make a `moov` with an audio track before the video track."""
    size = 8 if version else 4
    times = bytes(2 * size) + scale.to_bytes(4) + frames.to_bytes(size)
    video = box(b"tkhd", bytes(76) + width.to_bytes(2) + bytes(2) + height.to_bytes(2) + bytes(2))
    sizes = box(b"stsz", bytes(8) + frames.to_bytes(4))
    media = box(b"mdhd", bytes([version, 0, 0, 0]) + times + bytes(4)) + box(b"minf", box(b"stbl", sizes))
    sound = box(b"trak", box(b"tkhd", bytes(84)))
    return box(b"moov", MVHD + sound + box(b"trak", video + box(b"mdia", media)))


MVHD = box(b"mvhd", bytes(12) + (600).to_bytes(4) + bytes(84))
FTYP = box(b"ftyp", b"isom\0\0\2\0isom")
DATA = bytes(range(200))
FRAGMENT = box(b"moof", b"x" * 30) + box(b"mdat", DATA)
FILES = {
    "moov first": FTYP + movie() + box(b"free") + box(b"mdat", DATA),
    "moov last": FTYP + box(b"mdat", DATA) + movie(),
    "64-bit sizes": FTYP + movie() + box(b"mdat", DATA, wide=True),
    "fragmented": FTYP + movie() + FRAGMENT,
    "old QuickTime": box(b"wide") + box(b"mdat", DATA) + movie(),
    "old QuickTime, moov first": movie() + box(b"mdat", DATA),
    **{f"{kind.decode()} first": box(kind, b"x" * 16) + FTYP + movie() + box(b"mdat", DATA) for kind in STARTS},
}
TAILS = {
    "a newline": b"\n",
    "half a header": bytes(7),
    "zeros": bytes(40),
    "a page": b"<html><body>served by a cache</body></html>",
    "an impossible size": (3).to_bytes(4) + b"free" + DATA,
    "an impossible wide size": (1).to_bytes(4) + b"free" + bytes(8),
    "a box that is cut": (900).to_bytes(4) + b"free" + DATA,
    "a box without a name": (900).to_bytes(4) + b"\xff\0\1\2" + DATA,
    "an index of fragments": box(b"mfra", DATA),
}


def verdict(*chunks: bytes) -> Verdict:
    parser = Parser()
    for chunk in chunks:
        parser.feed(chunk)
    return parser.verdict()


@pytest.mark.parametrize("name", FILES)
def test_cut_at_every_byte(name: str) -> None:
    """The whole file is whole. Cut anywhere before the end of its last box, it is cut short."""
    content = FILES[name]
    assert verdict(content) is Verdict.WHOLE
    for length in range(len(content)):
        assert verdict(content[:length]) is Verdict.CUT_SHORT, length


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("name", FILES)
def test_bytes_after_the_last_box_do_not_matter(name: str, tail: str) -> None:
    """Players play a whole file with anything after its last box. Such bytes do not make a cut file whole."""
    content = FILES[name]
    assert verdict(content + TAILS[tail]) is Verdict.WHOLE
    assert verdict(content[:-100]) is Verdict.CUT_SHORT


def test_a_file_with_a_cut_fragment_is_cut_short() -> None:
    """A fragment without the end of its `mdat` is cut, even if all fragments before it are whole.

    Up to its seventh byte, a further fragment counts as bytes after the last box. Boxes after a cut do not repair it.
    """
    begun = FTYP + movie() + FRAGMENT
    for length in range(8, len(FRAGMENT)):
        assert verdict(begun + FRAGMENT[:length]) is Verdict.CUT_SHORT, length
    assert verdict(begun + FRAGMENT) is Verdict.WHOLE
    moof = box(b"moof", b"x" * 30)
    for between in (b"", box(b"free", b"x"), (3).to_bytes(4) + b"free"):
        assert verdict(begun + moof + between) is Verdict.CUT_SHORT


@pytest.mark.parametrize("content", [b"", bytes(100), DATA], ids=["empty", "zeros", "no boxes"])
def test_old_quicktime_needs_a_real_moov(content: bytes) -> None:
    """Without `ftyp`, bytes that happen to spell `moov` and `mdat` do not make a video."""
    assert verdict(box(b"moov", content) + box(b"mdat", DATA)) is Verdict.NOT_MP4
    assert verdict(FTYP + box(b"moov", content) + box(b"mdat", DATA)) is Verdict.WHOLE


NO_MEDIA = {
    "no track": MVHD,
    "an empty track": MVHD + box(b"trak"),
    "a track without media": MVHD + box(b"trak", box(b"tkhd", bytes(84))),
    "other boxes": MVHD + box(b"udta", DATA) + box(b"meta"),
    "times of 64 bits": box(b"mvhd", b"\1" + bytes(19) + (600).to_bytes(4) + bytes(88)),
}
UNJUDGED = {
    "zeros": bytes(500),
    "a header of zeros": box(b"mvhd", bytes(100)),
    "described in fragments": MVHD + box(b"mvex"),
    "a track of zeros": MVHD + box(b"trak", bytes(100)),
    "a box that is cut": MVHD + (900).to_bytes(4) + b"udta",
    "what is no box": MVHD + b"x",
    "too many boxes": MVHD + 200 * box(b"free"),
    "a track with media": MVHD + box(b"trak", box(b"mdia")),
}


@pytest.mark.parametrize("name", NO_MEDIA)
def test_a_file_without_a_track_is_not_whole(name: str) -> None:
    """Its `moov` is well formed and describes nothing to play."""
    content = FTYP + box(b"moov", NO_MEDIA[name]) + box(b"mdat", DATA)
    assert verdict(content) is Verdict.NO_TRACK
    assert verdict(content[:-1]) is Verdict.CUT_SHORT


@pytest.mark.parametrize("name", UNJUDGED)
def test_a_moov_that_cannot_be_judged_counts_as_whole(name: str) -> None:
    """Only a well-formed `moov` can lack a track. Otherwise the outer boxes alone decide."""
    assert verdict(FTYP + box(b"moov", UNJUDGED[name]) + box(b"mdat", DATA)) is Verdict.WHOLE


def peak_memory(parser: Parser, chunk: bytes, times: int) -> int:
    """Return the peak of allocated bytes while a chunk is fed *times* times."""
    tracemalloc.start()
    try:
        for _ in range(times):
            parser.feed(chunk)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_constant() -> None:
    """Of a file of any size, only the beginning of `moov` is kept, up to a bound."""
    parser = Parser()
    parser.feed(FTYP + (1).to_bytes(4) + b"moov" + (2**40).to_bytes(8))
    assert peak_memory(parser, bytes(2**20), 32) < 20 * 2**20
    assert peak_memory(Parser(), FTYP + b"".join(box(b"%04x" % number) for number in range(2**13)), 2) < 2**16


def test_a_box_that_extends_to_the_end_of_the_file() -> None:
    """A file whose last box has size 0 is whole once that box began. Only the announced length can reveal a cut."""
    content = FTYP + movie() + box(b"mdat", DATA, open_ended=True)
    assert verdict(content) is Verdict.WHOLE
    assert verdict(content[: len(FTYP + movie())]) is Verdict.CUT_SHORT


@given(
    name=st.sampled_from(sorted(FILES)),
    tail=st.sampled_from(sorted(TAILS)) | st.none(),
    cuts=st.lists(st.integers(0, 1200)),
    length=st.integers(0, 1200),
)
def test_the_size_of_chunks_does_not_matter(name: str, tail: str | None, cuts: list[int], length: int) -> None:
    """In whatever chunks the bytes arrive, the verdict and the facts are the same."""
    content = (FILES[name] + (TAILS[tail] if tail else b""))[:length]
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    pieces = [content[start:end] for start, end in itertools.pairwise(edges)]
    one, many = Parser(), Parser()
    one.feed(content)
    for piece in pieces:
        many.feed(piece)
    assert (one.verdict(), one.facts()) == (many.verdict(), many.facts())


@given(st.binary(max_size=400))
def test_garbage_is_never_whole(content: bytes) -> None:
    """Arbitrary bytes are no video and raise nothing, not even after a valid beginning."""
    assert verdict(content) is not Verdict.WHOLE
    parser = Parser()
    parser.feed(FTYP + box(b"moov", content) + content)
    assert isinstance(parser.facts(), Facts)
    assert parser.verdict() in Verdict


@pytest.mark.parametrize(
    "content",
    [b"<!doctype html><html>404</html>", b'{"status": "error"}', b"\x89PNG\r\n\x1a\n" + bytes(50), bytes(100)],
)
def test_other_files_are_not_mp4(content: bytes) -> None:
    """A page, JSON, a picture and zeros are no mp4."""
    assert verdict(content) is Verdict.NOT_MP4
    assert not looks_like_mp4(content)


@pytest.mark.parametrize("size", [2, 7])
def test_impossible_box_sizes_are_rejected(size: int) -> None:
    """A box cannot be smaller than its header. Hostile sizes neither hang the parser nor make a file whole."""
    bad = size.to_bytes(4) + b"free"
    assert verdict(FTYP + bad + movie() + box(b"mdat", DATA)) is Verdict.NOT_MP4
    huge = (1).to_bytes(4) + b"mdat" + (2**63).to_bytes(8)
    assert verdict(FTYP + movie() + huge + DATA) is Verdict.CUT_SHORT


@pytest.mark.parametrize("version", [0, 1])
@given(
    frames=st.integers(1, 10_000), scale=st.integers(1, 90_000), width=st.integers(1, 4000), height=st.integers(1, 4000)
)
def test_facts_are_read_from_the_video_track(version: int, frames: int, scale: int, width: int, height: int) -> None:
    """Pixels, frames, fps and duration are those of the video track, even if an audio track comes first."""
    parser = Parser()
    parser.feed(FTYP + movie(frames, scale, width, height, version=version))
    facts = parser.facts()
    assert (facts.width, facts.height, facts.frames) == (width, height, frames)
    assert facts.duration == pytest.approx(frames / scale)
    assert facts.fps == pytest.approx(scale)


def test_eight_bytes_are_enough_for_a_probe() -> None:
    """Eight bytes of any whole file look like an mp4; fewer do not."""
    for content in FILES.values():
        assert looks_like_mp4(content[:8])
        assert not looks_like_mp4(content[:7])
