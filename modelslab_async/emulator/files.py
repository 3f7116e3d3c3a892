"""How a file is served: whole, a range of it, or what a fault makes of it. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import attrs

from modelslab_async.emulator.faults import Fault
from modelslab_async.emulator.order import Order


@attrs.frozen
class FileAnswer:
    """What a link gives now: a status, and at 200 whose file, or an upload; `fault` is what goes wrong with it."""

    status: int
    order: Order | None = None
    upload: bytes = b""
    fault: Fault | None = None


Served = tuple[int, dict[str, str], bytes, bool]
"""Status, headers, body, and whether the connection breaks off after it."""
_PAGE = b"<!doctype html><html><head><title>404</title></head><body>There is no such file.</body></html>"


def served(answer: FileAnswer, content: bytes, headers: Mapping[str, str]) -> Served:
    """What goes over the wire for a file with this content."""
    if answer.status != 200:
        return answer.status, {"Content-Type": "text/html"}, _PAGE, False
    kind = "video/mp4" if answer.order else "application/octet-stream"
    match answer.fault:
        case Fault.HTML_AS_MP4:
            content = _PAGE
        case Fault.WRONG_TYPE:
            kind = "text/html"
        case Fault.CUT_MP4:
            content = content[: len(content) // 2]
        case _:
            pass
    status, body, more = _ranged(content, headers)
    breaks_off = answer.fault is Fault.BROKEN_DOWNLOAD and len(body) > 1
    more |= {"Content-Type": kind, "Content-Length": str(len(body))}
    return status, more, body[: len(body) // 2] if breaks_off else body, breaks_off


def _ranged(content: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, dict[str, str]]:
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    more = {"ETag": etag, "Accept-Ranges": "bytes"}
    wanted = re.fullmatch(r"bytes=([0-9]{1,18})-([0-9]{0,18})", headers.get("Range", ""))
    if not wanted or headers.get("If-Range", etag) != etag:
        return 200, content, more
    first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
    if first >= len(content) or last < first:
        return 416, b"", more | {"Content-Range": f"bytes */{len(content)}"}
    last = min(last, len(content) - 1)
    return 206, content[first : last + 1], more | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
