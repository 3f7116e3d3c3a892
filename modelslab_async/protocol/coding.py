"""Remove a Content-Encoding, within bounds.

Requests ask for no encoding, but some servers and proxies add one. Others name an encoding that the body does not have,
such as object storage with wrong metadata. So a body that cannot be decoded is returned unchanged.
"""

import zlib
from collections.abc import Iterator

GZIP_MAGIC = b"\x1f\x8b"
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_PIECE_BYTES = 2**18


def decoded(body: bytes, coding: str, limit: int) -> bytes:
    """Return *body* without its encoding, cut after *limit* bytes.

    coding: the value of the Content-Encoding header, or "". gzip and deflate are decoded, also if one wraps the other.
        The body is returned unchanged if the encoding is unknown, or if the body is not in it.
    """
    names = [name for each in coding.lower().split(",") if (name := each.strip()) not in ("", "identity")]
    if not names and body.startswith(GZIP_MAGIC):
        names = ["gzip"]
    for name in reversed(names):
        if name not in ("gzip", "x-gzip", "deflate"):
            break
        body = _inflated(body, limit, try_raw=name == "deflate")
    return body[:limit]


def _inflated(body: bytes, limit: int, *, try_raw: bool) -> bytes:
    """Return *body* decompressed, or unchanged if it is not compressed.

    try_raw: whether to try deflate without its zlib header too, as some servers send it.
    """
    try:
        return zlib.decompressobj(_GZIP_OR_ZLIB).decompress(body, limit)
    except zlib.error:
        if not try_raw:
            return body
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(body, limit)
    except zlib.error:
        return body


class Gunzip:
    """Decode a gzip stream chunk by chunk, in pieces of bounded size."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(_GZIP_OR_ZLIB)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the bytes that *chunk* decodes to, at most 256 KiB at a time. Raise ValueError for a damaged stream."""
        while chunk:
            try:
                piece = self._inflate.decompress(chunk, _PIECE_BYTES)
            except zlib.error as error:
                raise ValueError(f"damaged gzip: {error}") from None
            if piece:
                yield piece
            chunk = self._inflate.unconsumed_tail
            if not piece and not chunk:
                return

    @property
    def is_whole(self) -> bool:
        """Whether the stream has ended."""
        return self._inflate.eof
