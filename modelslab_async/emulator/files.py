"""How a file is served: whole, a range of it, or what a fault makes of it. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from modelslab_async.emulator.faults import Fault
from modelslab_async.emulator.job import EmulatedJob, Work

_NOT_FOUND_PAGE = b"<!doctype html><html><head><title>404</title></head><body>There is no such file.</body></html>"


@attrs.frozen
class FileAnswer:
    """The state of a link at an instant: an HTTP status and, at 200, the job's file or an upload.

    fault: what goes wrong while the file is served, or None.
    is_video: whether an upload is a video.
    """

    status: int
    job: EmulatedJob | None = None
    upload: bytes = b""
    is_video: bool = False
    fault: Fault | None = None


class FileResponse(NamedTuple):
    """The HTTP response for a file; after `body` the connection breaks if `breaks_off` is set."""

    status: int
    headers: dict[str, str]
    body: bytes
    breaks_off: bool


def file_response(answer: FileAnswer, content: bytes, request_headers: Mapping[str, str]) -> FileResponse:
    """Return the response that serves *content* with the fault of *answer*, or its error page."""
    if answer.status != 200:
        return FileResponse(answer.status, {"Content-Type": "text/html"}, _NOT_FOUND_PAGE, breaks_off=False)
    content_type = "video/mp4" if answer.job or answer.is_video else "application/octet-stream"
    if answer.job and answer.job.work.container == "gif":
        content_type = "image/gif"
    match answer.fault:
        case Fault.HTML_AS_MP4:
            content = _NOT_FOUND_PAGE
        case Fault.WRONG_TYPE:
            content_type = "text/html"
        case Fault.CUT_MP4:
            content = content[: len(content) // 2]
        case _:
            pass
    status, body, headers = _requested_range(content, request_headers)
    breaks_off = answer.fault is Fault.BROKEN_DOWNLOAD and len(body) > 1
    headers |= {"Content-Type": content_type, "Content-Length": str(len(body))}
    return FileResponse(status, headers, body[: len(body) // 2] if breaks_off else body, breaks_off)


def _requested_range(content: bytes, request_headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
    """Return status, body and headers: the requested range, or the whole content without a valid `Range`."""
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": etag, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", request_headers.get("Range", ""))
    if not wanted or request_headers.get("If-Range", etag) != etag:
        return 200, content, headers
    first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
    if first >= len(content) or last < first:
        return 416, b"", headers | {"Content-Range": f"bytes */{len(content)}"}
    last = min(last, len(content) - 1)
    return 206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}


def skeleton(work: Work) -> bytes:
    """Return the bare boxes of a whole mp4 without a picture, for tests that do not play the video.

    If the job gives a gif, return a whole gif of one pixel.
    """
    content = f"{work.seed} {work.prompt}".encode(errors="surrogatepass")
    if work.container == "gif":
        comment = b"!\xfe" + bytes([len(content[:255])]) + content[:255] + b"\0" if content else b""
        image = b",\0\0\0\0\1\0\1\0\0\2\2D\1\0"
        return b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff" + comment + image + b";"
    boxes = ((b"ftyp", b"isom\0\0\2\0isommp41"), (b"moov", b""), (b"mdat", content))
    return b"".join((8 + len(data)).to_bytes(4) + kind + data for kind, data in boxes)
