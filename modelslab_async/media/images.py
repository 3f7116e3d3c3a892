"""Recognise files by their first bytes, never by their names."""

MAX_IMAGE_BYTES = 5_000_000
"""The largest file that is sent. The service documents 5 MB for uploads, and no limit inside a request."""
HEAD_BYTES = 64
"""The first bytes that show what a file is."""
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


def sniff(head: bytes) -> str | None:
    """Return the MIME type of a picture that starts with *head*, or None if it is no picture."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return _sniff_boxes(head) if head[4:8] == b"ftyp" else None


def sniff_media(head: bytes) -> str | None:
    """Return the MIME type of a video or a sound that starts with *head*, or None if it is neither."""
    if head[4:8] == b"ftyp":
        return None if _sniff_boxes(head) else "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"
    if head[4:8] in (b"moov", b"mdat", b"wide"):  # old QuickTime files have no `ftyp`
        return "video/quicktime"
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # EBML, which Matroska and WebM begin with
        return "video/webm"
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "audio/wav"
    is_frame = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2  # MPEG audio, layer III
    return "audio/mpeg" if is_frame or head.startswith(b"ID3") else None


def _sniff_boxes(head: bytes) -> str | None:
    """Return the MIME type by the brands of the file format that AVIF and HEIC share, or None."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "image/avif"
    return "image/heic" if brands & _HEIC_BRANDS else None


def is_data_uri(text: str) -> bool:
    """Return whether *text* is a data URI, perhaps after blanks."""
    return text.lstrip()[:5].lower() == "data:"
