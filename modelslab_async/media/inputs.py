"""Recognise the files that a request names, check that they can be sent, and load their bytes.

A file is given as a path, bytes, a data URI or a URL. Its content decides its type, never its name.
"""

import base64
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.media.images import HEAD_BYTES, MAX_IMAGE_BYTES, is_data_uri, sniff, sniff_media
from modelslab_async.protocol.operations import Input, InputKind, inputs_of, operation_of
from modelslab_async.protocol.problems import refusal, shown
from modelslab_async.protocol.request import Deployment, Request, evolved, is_http_url

_URL_SAFE = str.maketrans("-_", "+/")
_KINDS: Mapping[InputKind, str] = {
    "image": "PNG, JPEG, WebP, GIF, AVIF or HEIC picture",
    "video": "video",
    "audio": "sound",
}
_UPLOADED: Mapping[InputKind, str] = {"image": "picture", "video": "mp4"}
"""What the service has an upload for, by kind."""
_LONG_URL = 10_000
"""Characters from which a text is taken for a file itself, not for its URL or path."""
_DIGEST = re.compile(r"sha256:([0-9a-f]{64}|unknown)")
"""What a journal's row has in place of bytes."""


class Url(NamedTuple):
    """A file that the service downloads."""

    url: str


class File(NamedTuple):
    """A file that is read when its job is submitted, so that waiting jobs keep no file in memory."""

    path: Path
    field: str = "init_image"
    kind: InputKind = "image"


class Bytes(NamedTuple):
    """A file in memory."""

    data: bytes

    def __repr__(self) -> str:
        return f"Bytes({shown(self.data)})"


Source = Url | File | Bytes
Sources = Source | list[Source]


class Media(NamedTuple):
    """The files of a request.

    picture: the picture that travels inside the request; None if the operation has no such input.
    others: the other files, by parameter. A parameter that is a list has a list.
    """

    picture: Source | None = None
    others: Mapping[str, Sources] = {}

    @property
    def is_local(self) -> bool:
        """Whether a file must be read on this machine."""
        return any(not isinstance(each, Url) for each in (*self._all_others(), *filter(None, [self.picture])))

    def _all_others(self) -> Iterator[Source]:
        for value in self.others.values():
            yield from value if isinstance(value, list) else [value]


def examine(request: Request, deployment: Deployment = Deployment.V6) -> Media:
    """Return the request's files. Of a file, only the first bytes are read.

    Raise InvalidRequestError with every file that cannot be sent, or for an unknown operation.
    """
    picture, others, problems = None, dict[str, Sources](), list[Problem]()
    for each in operation_of(request).inputs:
        value: Any = getattr(request, each.name)
        try:
            if each.is_inline:
                picture = _inline(each, value, getattr(request, "base64", None), deployment)
            elif value is not None or each.is_required:
                others[each.name] = _other(each, value)
        except InvalidRequestError as error:
            problems += error.problems
    if problems:
        raise InvalidRequestError(problems)
    return Media(picture, others)


def _inline(each: Input, value: Any, is_base64: bool | None, deployment: Deployment) -> Source:
    source = _recognise(each, value, is_base64=is_base64 is True)
    if isinstance(source, Url):
        if is_base64:
            raise refusal(each.name, value, "must be base64, not a URL", "omit base64")
        return source
    if is_base64 is False:
        raise refusal("base64", False, "must be True for a local picture", "omit base64, or pass a URL")
    if deployment is Deployment.ENTERPRISE:
        hint = "pass the URL that `await client.upload(picture)` of a client for the public API returns"
        raise refusal(each.name, value, "must be a URL for an enterprise server", hint)
    _check(each.name, each.kind, source, *_head(each, source))
    return source


def _other(each: Input, value: Any) -> Sources:
    if each.is_list and isinstance(value, list | tuple) and value:
        return [_one(each, item) for item in value]
    return _one(each, value)


def _one(each: Input, value: Any) -> Source:
    source = _recognise(each, value, is_base64=False)
    if not isinstance(source, Url):
        if each.kind not in _UPLOADED:
            raise refusal(each.name, _named(value), "must be a URL: the service has no upload for it", "pass its URL")
        _check(each.name, each.kind, source, *_head(each, source))
    return source


def load_upload(value: Any) -> tuple[bytes, str]:
    """Return the bytes and the MIME type of a picture or an mp4 to upload. A file is read, so call this in a thread.

    Raise InvalidRequestError if it cannot be uploaded.
    """
    anything = Input("file")
    source = _recognise(anything, value, is_base64=False)
    if isinstance(source, Url):
        raise refusal("file", value, "cannot be uploaded: it is a URL already", "pass the URL in the request")
    head, size_bytes = _head(anything, source)
    kind: InputKind = "video" if (sniff_media(head) or "").startswith("video/") else "image"
    _check("file", kind, source, head, size_bytes)
    data = load(source._replace(kind=kind) if isinstance(source, File) else source)
    assert isinstance(data, bytes)  # noqa: S101 - it is no URL
    return data, type_of(data) or ""


def type_of(data: bytes) -> str | None:
    """Return the MIME type of a file, or None if it is none that can be sent."""
    return sniff(data[:HEAD_BYTES]) or sniff_media(data[:HEAD_BYTES])


def is_file(path: str) -> bool:
    """Return whether there is a file at *path* on this machine."""
    return Path(path).is_file()


def load(source: Source) -> str | bytes:
    """Return the file's URL or its bytes. A file is read whole, so call this in a thread.

    Raise InvalidRequestError if the file is gone, or was replaced by something that cannot be sent.
    """
    if isinstance(source, Url):
        return source.url
    if isinstance(source, Bytes):
        return source.data
    try:
        with source.path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as error:
        raise _unreadable(source.field, source.path, error) from error
    _check(source.field, source.kind, source, data[:HEAD_BYTES], len(data))
    return data


def stored(media: Media) -> dict[str, Any]:
    """Return the inputs as the journal keeps them: URLs, absolute paths, and digests in place of bytes.

    A picture that was passed as bytes, and travels inside the request, is omitted: the row has its facts.
    """
    where = origin(media.picture).get("where") if media.picture else None
    kept: dict[str, Any] = {
        name: [_stored(each) for each in value] if isinstance(value, list) else _stored(value)
        for name, value in media.others.items()
    }
    return {**kept, **({"init_image": where} if where else {})}


def _stored(source: Source) -> str:
    known = known_facts(source)
    return str(known.get("where") or f"sha256:{known['sha256']}")


def origin(image: Source) -> dict[str, str | int]:
    """Return the source of a file ("url", "path" or "bytes"), and the URL or the absolute path as "where"."""
    match image:
        case Url(url=url):
            return {"source": "url", "where": url}
        case File(path=path):
            return {"source": "path", "where": str(path.absolute())}
        case Bytes():
            return {"source": "bytes"}


def known_facts(image: Source) -> dict[str, str | int]:
    """Return what is known of a file before it is read: its origin, and the facts of bytes in memory."""
    return facts(image, image.data) if isinstance(image, Bytes) else origin(image)


def facts(image: Source, loaded: str | bytes) -> dict[str, str | int]:
    """Return what the journal keeps of a picture: its origin, and the length and SHA-256 of its bytes if it has any."""
    if isinstance(loaded, str):
        return origin(image)
    return {**origin(image), "length_bytes": len(loaded), "sha256": hashlib.sha256(loaded).hexdigest()}


def has_inputs(request: Request) -> bool:
    """Return whether a request has files."""
    return next(inputs_of(request), None) is not None


def label_of(request: Request | None) -> str | os.PathLike[str] | None:
    """Return the path or URL of the request's first file that has one; None if none has."""
    for _, value in inputs_of(request) if request else ():
        first = value[0] if isinstance(value, list | tuple) and value else value
        if isinstance(first, str | os.PathLike) and not (isinstance(first, str) and is_data_uri(first)):
            return first
    return None


def is_large(request: Request | None) -> bool:
    """Return whether a request holds a file itself, as bytes or as a text longer than a URL."""
    return request is not None and any(_is_long(value) for _, value in inputs_of(request))


def without_bytes(request: Request) -> Request:
    """Return the request without the files that it holds itself, for a job that is paid for already."""
    large = {each.name: "" for each, value in inputs_of(request) if _is_long(value)}
    return evolved(request, **large) if large else request


def _is_long(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_is_long, value))
    return isinstance(value, bytes | bytearray | memoryview) or (isinstance(value, str) and len(value) >= _LONG_URL)


def with_absolute_paths(request: Request, media: Media) -> Request:
    """Return the request with the paths of its files made absolute, apart from the picture inside the request."""
    found = {
        name: [_absolute(item) for item in value] if isinstance(value, list) else _absolute(value)
        for name, value in media.others.items()
    }
    return evolved(request, **found)


def _absolute(source: Source) -> str | bytes:
    match source:
        case Url(url=url):
            return url
        case File(path=path):
            return str(path.absolute())
        case Bytes(data=data):
            return data


def _recognise(each: Input, value: object, *, is_base64: bool) -> Source:
    field, what = each.name, "a picture" if each.kind == "image" else f"a {_KINDS[each.kind]}"
    match value:
        case str() if is_base64 or is_data_uri(value):
            return _decode(field, value)
        case str() if is_http_url(value):
            return Url(value)
        case str() if _DIGEST.fullmatch(value):
            requirement = "cannot be sent: it was passed as bytes, which the journal does not keep"
            raise refusal(field, value, requirement, "submit the request again, with its files")
        case str() if "://" in value:
            hint = "pass an http(s) URL, a path or bytes"
            raise refusal(field, value, "must be a URL that the service can fetch", hint)
        case str() | os.PathLike() if str(value).strip():
            return File(Path(value), field, each.kind)
        case bytes() | bytearray() | memoryview():
            return Bytes(bytes(value))
        case _:
            raise refusal(field, value, f"must be {what}", "pass an http(s) URL, a path, bytes or a data URI")


def _decode(field: str, text: str) -> Source:
    """Decode a data URI or raw base64, in every form that tools write.

    There may be line breaks, the URL-safe alphabet, escapes with %, and no padding.
    """
    data = text
    if is_data_uri(text):
        head, _, data = text.partition(",")
        if "base64" not in [parameter.strip().lower() for parameter in head.split(";")[1:]]:
            hint = "pass data:image/...;base64,... or the bytes themselves"
            raise refusal(field, text, "must be a data URI in base64", hint)
    data = unquote(data).strip()
    digits = "".join(data.split())
    if " " in data and len(digits) % 4:
        hint = "pass the bytes themselves: a form may have turned + into spaces"
        raise refusal(field, text, "must be complete base64", hint)
    digits = digits.translate(_URL_SAFE).rstrip("=")
    try:
        return Bytes(base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True))
    except ValueError:
        raise refusal(field, text, "must be base64", "pass the bytes themselves") from None


def _head(each: Input, source: File | Bytes) -> tuple[bytes, int]:
    """Return the first bytes of a file, and its size in bytes."""
    if isinstance(source, Bytes):
        return source.data[:HEAD_BYTES], len(source.data)
    try:
        status = source.path.stat()
        if stat.S_ISREG(status.st_mode):
            with source.path.open("rb") as file:
                return file.read(HEAD_BYTES), status.st_size
    except (OSError, ValueError) as error:
        raise _unreadable(each.name, source.path, error) from error
    what = "picture" if each.kind == "image" else _KINDS[each.kind]
    raise refusal(each.name, _named(source.path), "must be a file", f"pass the path of a {what}")


def _check(field: str, kind: InputKind, source: File | Bytes, head: bytes, size_bytes: int) -> None:
    value = _named(source.path) if isinstance(source, File) else source.data
    if not size_bytes:
        raise refusal(field, value, "cannot be empty", f"pass a {_KINDS[kind]}")
    if size_bytes > MAX_IMAGE_BYTES:
        smaller = "make it smaller, or pass its URL"
        raise refusal(field, value, f"cannot have more than {MAX_IMAGE_BYTES} bytes", smaller)
    if kind == "image" and sniff(head) is None:
        raise refusal(field, value, "cannot be sent: it is not a picture", f"pass a {_KINDS[kind]}")
    if kind == "video" and (found := sniff_media(head)) != "video/mp4":
        requirement = "cannot be sent: it is not a video"
        if found and found.startswith("video/"):
            requirement = f"must be a URL: the service takes uploads of mp4 only, and this is {found}"
        raise refusal(field, value, requirement, "pass an mp4, or the video's URL")


def _unreadable(field: str, path: Path, error: OSError | ValueError) -> InvalidRequestError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return refusal(field, _named(path), f"cannot be read: {reason}", "check the path and its permissions")


def _named(value: object) -> object:
    """Return a path as text, because an error shows file names and not Python objects."""
    return str(value) if isinstance(value, os.PathLike) else value
