"""The parameters of a request as the service reads them: leniently, and numbers also as strings. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import random
import re
from typing import Any

import attrs

from modelslab_async.emulator.job import Work, parse_bool, video_size
from modelslab_async.emulator.operations import Number, Operation
from modelslab_async.media.images import MAX_IMAGE_BYTES, sniff, sniff_media

_MAX_NESTING = 40
_MAX_ASPECT_RATIO = 4
_PICTURES = ("init_image", "base64_string")
_SHOWN_CHARACTERS, _KEPT_CHARACTERS = 300, 10_000
"""How many characters of a picture, and of any other text, are shown."""
_UNREADABLE = "The init image could not be fetched, or is not a valid image."


class Refusal(Exception):  # noqa: N818 - it never leaves the service
    """The service refuses a request, with an HTTP status, a message and further fields of the reply."""

    def __init__(self, status: int, message: Any, **fields: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.fields = status, message, fields


def parse_body(body: bytes) -> dict[str, Any] | None:
    """Return the JSON object in *body*. Return None if there is none, or if it nests too deeply to be echoed."""
    try:
        value = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _nests_within(value, _MAX_NESTING) else None


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which are not JSON."""
    raise ValueError(name)


def _nests_within(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_nests_within(item, levels - 1) for item in items)


def parse_positive(value: Any, default: int) -> int:
    """Return an integer above 0, which may come as a string. Return *default* for anything else."""
    return int(value) if re.fullmatch(r"0*[1-9][0-9]{0,17}", str(value)) else default


def decode_base64(data: Any) -> bytes | None:
    """Return the bytes that *data* encodes, or None if it is not valid base64."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return None


@attrs.frozen
class Picture:
    """The picture of a request: its content, or the reason why there is none."""

    content: bytes = attrs.field(default=b"", repr=False)
    problem: str = ""


def check_file(content: bytes | None, operation: Operation | None) -> Picture:
    """Return the file from which the video is made. A video is judged when it is decoded."""
    main = operation.main_file if operation else None
    if main is None or main.kind == "image":
        return check_picture(content)
    problem = f"The {main.name.replace('_', ' ')} could not be fetched, or is not a valid {main.kind}."
    return Picture(content) if content else Picture(problem=problem)


def check_picture(content: bytes | None) -> Picture:
    """Return the picture of this content, judged by its first bytes only. None for content: it could not be fetched."""
    if content is None or kind_of(content) is None:
        return Picture(problem=_UNREADABLE)
    return Picture(content)


def kind_of(content: bytes) -> str | None:
    """Return the type of a picture, such as "png", or None if it is none. BMP and TIFF are pictures, too."""
    if content.startswith((b"II*\0", b"MM\0*")):
        return "tiff"
    if content.startswith(b"BM") and content[6:10] == bytes(4):
        return "bmp"
    kind = sniff(content)
    return kind.removeprefix("image/") if kind else None


def inline_picture(params: dict[str, Any], operation: Operation) -> bytes | None:
    """Return the picture that *params* contain in base64. Return None if init_image is no inline picture.

    Return b"" if it should be an inline picture, but is not valid base64.
    """
    if not operation.has_inline_pictures or not parse_bool(params.get("base64")):
        return None
    return decode_base64(params.get("init_image")) or b""


def main_file(params: dict[str, Any], operation: Operation) -> Any:
    """Return the value of the file from which the video is made; None if there is none."""
    value = params.get(operation.main_file.name) if operation.main_file else None
    return value[0] if isinstance(value, list) and value else value


def shown_params(params: dict[str, Any]) -> dict[str, Any]:
    """Return the request's parameters as they came, without the key. A picture is replaced by length and digest."""
    return {name: _shortened(name, value) for name, value in params.items() if name != "key"}


def _shortened(name: str, value: Any) -> Any:
    most = _SHOWN_CHARACTERS if name in _PICTURES else _KEPT_CHARACTERS
    if not isinstance(value, str) or len(value) <= most:
        return value
    digest = hashlib.sha256(value.encode(errors="surrogatepass")).hexdigest()
    return f"{value[:40]}... ({len(value)} characters, SHA-256 {digest})"


def read_work(
    params: dict[str, Any], operation: Operation, picture: Picture | None, rng: random.Random, *, is_strict: bool
) -> tuple[Work, int]:
    """Return what a submit asks to render, without its picture, and its number of steps.

    is_strict: enforce the documented limits. The documentation's own examples exceed them.

    Raises Refusal with every parameter that is wrong.
    """
    problems: dict[str, list[str]] = {}
    texts = {"prompt", *operation.files}
    for name in operation.required:
        value = params.get(name)
        if value in (None, []) or not str(value).strip() or (name in texts and not isinstance(value, str | list)):
            problems[name] = [f"The {name.replace('_', ' ')} field is required."]
    ratio = params.get("resolution")
    read: dict[str, Any] = {}
    for name, number in operation.numbers.items():
        if name == "resolution" and (_is_ratio(ratio) or number.limits is None):
            continue
        try:
            read[name] = _read_number(params.get(name), name, number, is_strict=is_strict)
        except ValueError as error:
            problems[name] = [str(error)]
    if is_strict and not problems and read["fps"] >= read["num_frames"]:
        problems["fps"] = ["The fps must be less than num frames."]
    main = operation.main_file
    is_needed = main is not None and (main.name in operation.required or bool(main_file(params, operation)))
    if main and is_needed and not problems and (picture is None or picture.problem):
        problems[main.name] = [(picture.problem if picture else _UNREADABLE).replace("init image", _words(main.name))]
    if problems:
        raise Refusal(400, problems)
    drawn_seed = rng.getrandbits(32)
    width, height = _size(params, read)
    work = Work(
        picture=b"",
        prompt=str(params.get("prompt") or ""),
        seed=drawn_seed if read["seed"] is None else read["seed"],
        width=width,
        height=height,
        frames=_frames(params, read),
        fps=read["fps"],
        operation=operation.name,
        container="gif" if "gif" in operation.containers and params.get("output_type") != "mp4" else "mp4",
    )
    return work, read["num_inference_steps"]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _size(params: dict[str, Any], read: dict[str, Any]) -> tuple[int, int]:
    """Return the width and height of the video, by whichever parameters the operation has."""
    resolution, shape = str(params.get("resolution") or ""), params.get("aspect_ratio")
    if read["width"] and read["height"]:
        return read["width"] // 2 * 2, read["height"] // 2 * 2
    if exact := re.fullmatch(r"([0-9]{2,4})x([0-9]{2,4})", resolution):
        return int(exact[1]) // 2 * 2, int(exact[2]) // 2 * 2
    if "resolution" in read:
        return video_size(read["resolution"], portrait=parse_bool(params.get("portrait")))
    if _is_ratio(resolution):
        return video_size(resolution, portrait=parse_bool(params.get("portrait")))
    if _is_ratio(shape):
        return video_size(str(shape), portrait=False)
    lines = re.fullmatch(r"([0-9]{3,4})[pP]?", resolution)
    return video_size(min(int(lines[1]), 1080) if lines else 480, portrait=False)


def _frames(params: dict[str, Any], read: dict[str, Any]) -> int:
    """Return the number of frames. A duration, which may come as a string, counts in seconds."""
    seconds = params.get("duration")
    if re.fullmatch(r"[1-9][0-9]?", str(seconds)):
        return int(str(seconds)) * int(read["fps"])
    return int(read["num_frames"])


def _read_number(value: Any, name: str, number: Number, *, is_strict: bool) -> int | float | None:
    """Return a number of a request, or its default. Raise ValueError with the sentence that refuses it."""
    limits = number.documented if is_strict and number.documented else number.limits
    if value is None or limits is None:
        return number.default
    least, most = limits
    kind = "an integer" if number.is_whole else "a number"
    try:
        read = int(value) if number.is_whole else float(value)
    except (TypeError, ValueError, OverflowError):
        read = math.nan
    if not least <= read <= most:
        raise ValueError(f"The {name.replace('_', ' ')} must be {kind} between {least} and {most}.")
    return read


def _is_ratio(value: Any) -> bool:
    """Return whether *value* is a ratio such as "16:9", which ltx-2.3 accepts, of at most 4:1 and at least 1:4."""
    parts = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", value) if isinstance(value, str) else None
    return parts is not None and 1 / _MAX_ASPECT_RATIO <= int(parts[1]) / int(parts[2]) <= _MAX_ASPECT_RATIO


def read_upload(params: dict[str, Any]) -> tuple[bytes, str]:
    """Return an uploaded picture or mp4, and the file extension of its content. Raise Refusal if there is none."""
    if "init_obj" in params:
        return _read_video(params["init_obj"])
    text = params.get("base64_string")
    head, _, data = (text if isinstance(text, str) else "").partition(",")
    picture = decode_base64(data)
    kind = kind_of(picture) if picture else None
    if not head.startswith("data:image/") or picture is None or kind is None:
        raise Refusal(400, {"base64_string": ["The base64 string must be a data URI of an image."]})
    if len(picture) > MAX_IMAGE_BYTES:
        raise Refusal(400, {"base64_string": ["The image may not be greater than 5 MB."]})
    return picture, kind


def _read_video(text: Any) -> tuple[bytes, str]:
    head, _, data = (text if isinstance(text, str) else "").partition(",")
    video = decode_base64(data)
    if not head.startswith("data:video/mp4") or not video or sniff_media(video[:64]) != "video/mp4":
        raise Refusal(400, {"init_obj": ["The init obj must be a data URI of an mp4."]})
    if len(video) > MAX_IMAGE_BYTES:
        raise Refusal(400, {"init_obj": ["The video may not be greater than 5 MB."]})
    return video, "mp4"
