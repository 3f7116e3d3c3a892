"""Tests of removing a Content-Encoding."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol.coding import GZIP_MAGIC, Gunzip, decoded

RAW = zlib.compressobj(wbits=-15)
CODED = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    " GZIP ": gzip.compress,
    "gzip, identity": gzip.compress,
    "deflate, gzip": lambda body: gzip.compress(zlib.compress(body)),
    "": gzip.compress,
}


@pytest.mark.parametrize("coding", CODED)
@given(body=st.binary(max_size=300))
def test_a_coded_body_is_decoded(coding: str, body: bytes) -> None:
    """Gzip and deflate are decoded, also one around the other, and gzip also without a header that announces it."""
    assert decoded(CODED[coding](body), coding, 1000) == body


def test_deflate_without_its_header_is_decoded() -> None:
    """A raw deflate stream, as some servers send it, is decoded."""
    assert decoded(RAW.compress(b"abc" * 9) + RAW.flush(), "deflate", 100) == b"abc" * 9


@given(st.binary(max_size=300).filter(lambda body: not body.startswith(GZIP_MAGIC)), st.text(max_size=20))
def test_no_coding_raises_or_outgrows_its_limit(body: bytes, coding: str) -> None:
    """Any header with any body gives a result within the limit."""
    assert len(decoded(body, coding, 100)) <= 100


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "compress", "aws-chunked"])
def test_a_coding_that_the_body_does_not_have_is_ignored(coding: str) -> None:
    """A body that is not in the named encoding is returned unchanged."""
    assert decoded(b'{"status": "success"}', coding, 100) == b'{"status": "success"}'


def test_a_bomb_is_cut() -> None:
    """A few kilobytes that would decode to megabytes are decoded only up to the limit."""
    assert decoded(gzip.compress(bytes(10_000_000)), "gzip", 1000) == bytes(1000)


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_a_stream_is_decoded_chunk_by_chunk(body: bytes, size: int) -> None:
    """Chunks of any size give the same bytes, and the stream is whole only after its last byte."""
    coded, gunzip = gzip.compress(body), Gunzip()
    assert not gunzip.is_whole
    pieces = [piece for at in range(0, len(coded), size) for piece in gunzip.feed(coded[at : at + size])]
    assert (b"".join(pieces), gunzip.is_whole) == (body, True)


def test_pieces_of_a_bomb_are_bounded() -> None:
    """A chunk that decodes to megabytes is yielded in pieces of at most 256 KiB."""
    pieces = list(Gunzip().feed(gzip.compress(bytes(3_000_000))))
    assert sum(map(len, pieces)) == 3_000_000
    assert max(map(len, pieces)) <= 2**18


def test_a_damaged_stream_raises() -> None:
    """A stream with a changed byte raises ValueError."""
    coded = bytearray(gzip.compress(bytes(range(256))))
    coded[12] ^= 0xFF
    with pytest.raises(ValueError, match="gzip"):
        list(Gunzip().feed(bytes(coded)))
