"""A path, bytes, a data URI or a URL as `init_image`: what it is, whether it can be sent, and its bytes.

A picture is told by its content, never by its name.
"""

import base64
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from modelslab_async.errors import InvalidRequestError
from modelslab_async.protocol.request import Endpoint, ImageToVideoUltra, is_http_url, refusal, shown

MAX_IMAGE_BYTES = 5_000_000
"""The service documents 5 MB for uploads; for pictures inside a request it documents nothing."""
_HEAD_BYTES = 64
_KINDS = "PNG, JPEG, WebP, GIF, AVIF or HEIC"
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


class ImageUrl(NamedTuple):
    """The service fetches it itself."""

    url: str


class ImageFile(NamedTuple):
    """Read when the job's turn comes, so that a thousand waiting jobs hold no pictures in memory."""

    path: Path


class ImageBytes(NamedTuple):
    """In memory already."""

    data: bytes

    def __repr__(self) -> str:
        return f"ImageBytes({shown(self.data)})"


Image = ImageUrl | ImageFile | ImageBytes


def sniff(head: bytes) -> str | None:
    """The MIME type of a picture that starts so, or None."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return _sniff_boxes(head) if head[4:8] == b"ftyp" else None


def _sniff_boxes(head: bytes) -> str | None:
    """AVIF and HEIC share a container: the brands tell them apart."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "image/avif"
    return "image/heic" if brands & _HEIC_BRANDS else None


def examine(request: ImageToVideoUltra, endpoint: Endpoint) -> Image:
    """The request's picture. Of a file, only the head is read. Raises InvalidRequestError for what cannot be sent."""
    image = _recognise(request.init_image, is_base64=request.base64 is True)
    if isinstance(image, ImageUrl):
        if request.base64:
            raise _refusal(request.init_image, "a URL is not base64", "leave base64 out")
        return image
    if request.base64 is False:
        raise refusal("base64", False, "a local picture travels as base64", "leave base64 out, or pass a URL")
    if endpoint is Endpoint.ENTERPRISE:
        way_out = "pass the URL of `await client.upload(picture)` of a client for the public API"
        raise _refusal(request.init_image, "an enterprise server takes only URLs", way_out)
    _check(image, *_head(image))
    return image


def load(image: Image) -> str | bytes:
    """The URL, or the bytes. Reads a file whole: call it in a thread.

    Raises InvalidRequestError where the file is gone or has changed into something that cannot be sent.
    """
    if isinstance(image, ImageUrl):
        return image.url
    if isinstance(image, ImageBytes):
        return image.data
    try:
        with image.path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise _unreadable(image.path, error) from error
    _check(image, data[:_HEAD_BYTES], len(data))
    return data


def origin(image: Image) -> dict[str, str | int]:
    """Return where a picture comes from: its source ("url", "path" or "bytes"), and the URL or the absolute path."""
    match image:
        case ImageUrl(url=url):
            return {"source": "url", "where": url}
        case ImageFile(path=path):
            return {"source": "path", "where": str(path.absolute())}
        case ImageBytes():
            return {"source": "bytes"}


def facts(image: Image, loaded: str | bytes) -> dict[str, str | int]:
    """Return what is kept of a picture: its origin, and of its bytes only length and digest."""
    if isinstance(loaded, str):
        return origin(image)
    return {**origin(image), "length_bytes": len(loaded), "sha256": hashlib.sha256(loaded).hexdigest()}


def _recognise(source: object, *, is_base64: bool) -> Image:
    match source:
        case str() if is_base64 or source[:5].lower() == "data:":
            return _decode(source)
        case str() if is_http_url(source):
            return ImageUrl(source)
        case str() if "://" in source:
            raise _refusal(source, "not a URL that the service can fetch", "pass an http(s) URL, a path or bytes")
        case str() | os.PathLike() if str(source).strip():
            return ImageFile(Path(source))
        case bytes() | bytearray() | memoryview():
            return ImageBytes(bytes(source))
        case _:
            raise _refusal(source, "not a picture", "pass an http(s) URL, a path, bytes or a data URI")


def _decode(text: str) -> Image:
    head, comma, data = text.partition(",")
    is_uri = head[:5].lower() == "data:"
    if is_uri and not (comma and head.lower().endswith(";base64")):
        raise _refusal(text, "a data URI without base64", "pass data:image/...;base64,... or the bytes themselves")
    try:
        return ImageBytes(base64.b64decode(data if is_uri else text, validate=True))
    except ValueError:
        raise _refusal(text, "not base64", "pass the bytes themselves") from None


def _head(image: ImageFile | ImageBytes) -> tuple[bytes, int]:
    """The first bytes, and the size."""
    if isinstance(image, ImageBytes):
        return image.data[:_HEAD_BYTES], len(image.data)
    try:
        status = image.path.stat()
        if stat.S_ISREG(status.st_mode):
            with image.path.open("rb") as file:
                return file.read(_HEAD_BYTES), status.st_size
    except (OSError, ValueError) as error:
        raise _unreadable(image.path, error) from error
    raise _refusal(image.path, "not a file", "pass the path of a picture")


def _check(image: ImageFile | ImageBytes, head: bytes, size_bytes: int) -> None:
    source = image.path if isinstance(image, ImageFile) else image.data
    if not size_bytes:
        raise _refusal(source, "empty", f"pass a {_KINDS} picture")
    if size_bytes > MAX_IMAGE_BYTES:
        raise _refusal(source, f"more than {MAX_IMAGE_BYTES} bytes", "make it smaller, or pass the URL of one")
    if sniff(head) is None:
        raise _refusal(source, "not a picture", f"pass a {_KINDS} picture")


def _unreadable(path: Path, error: OSError | ValueError) -> InvalidRequestError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return _refusal(path, f"cannot be read: {reason}", "check the path and its permissions")


def _refusal(source: object, rule: str, way_out: str) -> InvalidRequestError:
    return refusal("init_image", str(source) if isinstance(source, os.PathLike) else source, rule, way_out)
