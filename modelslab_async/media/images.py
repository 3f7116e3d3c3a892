"""Recognise the picture that a request names, check that it can be sent, and load its bytes.

A picture is given as a path, bytes, a data URI or a URL. Its content decides its type, never its name.
"""

import base64
import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from modelslab_async.errors import InvalidRequestError
from modelslab_async.protocol.problems import refusal, shown
from modelslab_async.protocol.request import Deployment, ImageToVideoUltra, is_http_url

MAX_IMAGE_BYTES = 5_000_000
"""The largest picture that is sent. The service documents 5 MB for uploads, and no limit inside a request."""
_HEAD_BYTES = 64
_URL_SAFE = str.maketrans("-_", "+/")
_KINDS = "PNG, JPEG, WebP, GIF, AVIF or HEIC"
_HEIC_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"}


class ImageUrl(NamedTuple):
    """A picture that the service downloads."""

    url: str


class ImageFile(NamedTuple):
    """A file that is read when its job is submitted, so that waiting jobs keep no picture in memory."""

    path: Path


class ImageBytes(NamedTuple):
    """A picture in memory."""

    data: bytes

    def __repr__(self) -> str:
        return f"ImageBytes({shown(self.data)})"


Image = ImageUrl | ImageFile | ImageBytes


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


def _sniff_boxes(head: bytes) -> str | None:
    """Return the MIME type by the brands of the file format that AVIF and HEIC share, or None."""
    end = min(int.from_bytes(head[:4]), len(head))
    brands = {head[8:12], *(head[at : at + 4] for at in range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "image/avif"
    return "image/heic" if brands & _HEIC_BRANDS else None


def examine(request: ImageToVideoUltra, deployment: Deployment) -> Image:
    """Return the request's picture. Of a file, only the first bytes are read.

    Raise InvalidRequestError if the picture cannot be sent.
    """
    image = _recognise(request.init_image, is_base64=request.base64 is True)
    if isinstance(image, ImageUrl):
        if request.base64:
            raise _refusal(request.init_image, "must be base64, not a URL", "omit base64")
        return image
    if request.base64 is False:
        raise refusal("base64", False, "must be True for a local picture", "omit base64, or pass a URL")
    if deployment is Deployment.ENTERPRISE:
        hint = "pass the URL that `await client.upload(picture)` of a client for the public API returns"
        raise _refusal(request.init_image, "must be a URL for an enterprise server", hint)
    _check(image, *_head(image))
    return image


def is_file(path: str) -> bool:
    """Return whether there is a file at *path* on this machine."""
    return Path(path).is_file()


def load(image: Image) -> str | bytes:
    """Return the picture's URL or its bytes. A file is read whole, so call this in a thread.

    Raise InvalidRequestError if the file is gone, or was replaced by something that cannot be sent.
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
    """Return the source of a picture ("url", "path" or "bytes"), and the URL or the absolute path as "where"."""
    match image:
        case ImageUrl(url=url):
            return {"source": "url", "where": url}
        case ImageFile(path=path):
            return {"source": "path", "where": str(path.absolute())}
        case ImageBytes():
            return {"source": "bytes"}


def known_facts(image: Image) -> dict[str, str | int]:
    """Return what is known of a picture before a file is read: its origin, and the facts of bytes in memory."""
    return facts(image, image.data) if isinstance(image, ImageBytes) else origin(image)


def facts(image: Image, loaded: str | bytes) -> dict[str, str | int]:
    """Return what the journal keeps of a picture: its origin, and the length and SHA-256 of its bytes if it has any."""
    if isinstance(loaded, str):
        return origin(image)
    return {**origin(image), "length_bytes": len(loaded), "sha256": hashlib.sha256(loaded).hexdigest()}


def _recognise(source: object, *, is_base64: bool) -> Image:
    match source:
        case str() if is_base64 or is_data_uri(source):
            return _decode(source)
        case str() if is_http_url(source):
            return ImageUrl(source)
        case str() if "://" in source:
            raise _refusal(source, "must be a URL that the service can fetch", "pass an http(s) URL, a path or bytes")
        case str() | os.PathLike() if str(source).strip():
            return ImageFile(Path(source))
        case bytes() | bytearray() | memoryview():
            return ImageBytes(bytes(source))
        case _:
            raise _refusal(source, "must be a picture", "pass an http(s) URL, a path, bytes or a data URI")


def is_data_uri(text: str) -> bool:
    """Return whether *text* is a data URI, perhaps after blanks."""
    return text.lstrip()[:5].lower() == "data:"


def _decode(text: str) -> Image:
    """Decode a data URI or raw base64, in every form that tools write.

    There may be line breaks, the URL-safe alphabet, escapes with %, and no padding.
    """
    data = text
    if is_data_uri(text):
        head, _, data = text.partition(",")
        if "base64" not in [parameter.strip().lower() for parameter in head.split(";")[1:]]:
            hint = "pass data:image/...;base64,... or the bytes themselves"
            raise _refusal(text, "must be a data URI in base64", hint)
    data = unquote(data).strip()
    digits = "".join(data.split())
    if " " in data and len(digits) % 4:
        raise _refusal(text, "must be whole base64", "pass the bytes themselves: a form may have turned + into blanks")
    digits = digits.translate(_URL_SAFE).rstrip("=")
    try:
        return ImageBytes(base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True))
    except ValueError:
        raise _refusal(text, "must be base64", "pass the bytes themselves") from None


def _head(image: ImageFile | ImageBytes) -> tuple[bytes, int]:
    """Return the first bytes of a picture, and its size in bytes."""
    if isinstance(image, ImageBytes):
        return image.data[:_HEAD_BYTES], len(image.data)
    try:
        status = image.path.stat()
        if stat.S_ISREG(status.st_mode):
            with image.path.open("rb") as file:
                return file.read(_HEAD_BYTES), status.st_size
    except (OSError, ValueError) as error:
        raise _unreadable(image.path, error) from error
    raise _refusal(image.path, "must be a file", "pass the path of a picture")


def _check(image: ImageFile | ImageBytes, head: bytes, size_bytes: int) -> None:
    source = image.path if isinstance(image, ImageFile) else image.data
    if not size_bytes:
        raise _refusal(source, "cannot be empty", f"pass a {_KINDS} picture")
    if size_bytes > MAX_IMAGE_BYTES:
        raise _refusal(source, f"cannot have more than {MAX_IMAGE_BYTES} bytes", "make it smaller, or pass its URL")
    if sniff(head) is None:
        raise _refusal(source, "cannot be sent: it is not a picture", f"pass a {_KINDS} picture")


def _unreadable(path: Path, error: OSError | ValueError) -> InvalidRequestError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return _refusal(path, f"cannot be read: {reason}", "check the path and its permissions")


def _refusal(source: object, requirement: str, hint: str) -> InvalidRequestError:
    return refusal("init_image", str(source) if isinstance(source, os.PathLike) else source, requirement, hint)
