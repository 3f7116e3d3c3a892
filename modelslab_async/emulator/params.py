"""The parameters of a request as the service reads them: leniently, and numbers also as strings. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
from typing import Any

from modelslab_async.emulator.job import Work, video_size
from modelslab_async.media.images import MAX_IMAGE_BYTES, sniff
from modelslab_async.protocol.operations import Operation

_MAX_FRAMES, _MAX_LINES = 1000, 1080
_MAX_NESTING = 40
_MAX_ASPECT_RATIO = 4


class Refusal(Exception):  # noqa: N818 - it never leaves the service
    """The service refuses a request, with an HTTP status, a message and further fields of the reply."""

    def __init__(self, status: int, message: Any, **fields: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.fields = status, message, fields


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object in *body*, or {} if there is none, or if it nests too deeply to be echoed."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and _nests_within(value, _MAX_NESTING) else {}


def _nests_within(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_nests_within(item, levels - 1) for item in items)


def parse_positive(value: Any, default: int) -> int:
    """Return an integer above 0, which may come as a string. Return *default* for anything else."""
    return int(value) if re.fullmatch(r"0*[1-9][0-9]{0,17}", str(value)) else default


def parse_bool(value: Any) -> bool:
    """Return a boolean, which may come as a string."""
    return value is True or str(value).lower() in ("true", "yes", "1")


def has_inline_picture(params: dict[str, Any], operation: Operation, *, enterprise: bool) -> bool:
    """Return whether init_image is the picture itself. A dedicated server ignores `base64`."""
    return operation.inline_input is not None and parse_bool(params.get("base64")) and not enterprise


def main_file(params: dict[str, Any], operation: Operation) -> Any:
    """Return the value of the operation's first file, from which the video is made; None if it takes no files."""
    value = params.get(operation.inputs[0].name) if operation.inputs else None
    return value[0] if isinstance(value, list) and value else value


def decode_base64(data: Any) -> bytes | None:
    """Return the bytes that *data* encodes, or None if it is not valid base64."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return None


def read_work(
    operation: Operation, params: dict[str, Any], picture: bytes | None, rng: random.Random, *, enterprise: bool
) -> tuple[Work, int]:
    """Return what a submit asks to render, and its number of steps. Raise Refusal if a parameter is wrong.

    Numbers may come as strings. The maxima of the documentation page are not enforced, because the page's own examples
    exceed them.
    """
    problems: dict[str, list[str]] = {}
    texts = {"prompt", *(each.name for each in operation.inputs)}
    for name in _required_of(operation):
        value = params.get(name)
        if value in (None, []) or not str(value).strip() or (name in texts and not isinstance(value, str | list)):
            problems[name] = [f"The {name.replace('_', ' ')} field is required."]

    def number(name: str, default: int, most: int, least: int = 1) -> int:
        value = params.get(name)
        try:
            read = default if value is None else int(value)
        except (TypeError, ValueError, OverflowError):
            read = most + 1
        if not least <= read <= most:
            problems[name] = [f"The {name.replace('_', ' ')} must be an integer between {least} and {most}."]
        return read

    frames = number("num_frames", 92 if enterprise else 81, _MAX_FRAMES)
    steps = number("num_inference_steps", 8 if enterprise else 20, 100)
    seed = rng.getrandbits(32) if params.get("seed") is None else number("seed", 0, 2**63, least=-(2**63))
    fps = number("fps", 16, 60)
    ratio = params.get("resolution")
    resolution: int | str = str(ratio) if _is_ratio(ratio) else number("resolution", 480, _MAX_LINES)
    if has_inline_picture(params, operation, enterprise=enterprise):
        picture = decode_base64(params.get("init_image"))
    for each in operation.inputs[:1]:
        is_wrong = picture is None or (each.kind == "image" and sniff(picture) is None)
        if not problems and is_wrong and (each.is_required or main_file(params, operation)):
            what = each.name.replace("_", " ")
            problems[each.name] = [f"The {what} could not be fetched, or is not a valid {each.kind}."]
    if problems:
        raise Refusal(400, problems)
    width, height = video_size(resolution, portrait=parse_bool(params.get("portrait")))
    return (
        Work(
            picture=picture or b"",
            prompt=str(params.get("prompt") or ""),
            operation=operation.name,
            seed=seed,
            width=width,
            height=height,
            frames=frames,
            fps=fps,
        ),
        steps,
    )


def _required_of(operation: Operation) -> list[str]:
    """Return the parameters without which the service refuses a request. It has defaults for the model."""
    documented = [name for name in operation.required if name not in ("operation", "model_id")]
    files = [each.name for each in operation.inputs if each.is_required]
    return list(dict.fromkeys((*documented, *files)))


def _is_ratio(value: Any) -> bool:
    """Return whether *value* is a ratio such as "16:9", which ltx-2.3 accepts, of at most 4:1 and at least 1:4."""
    parts = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", value) if isinstance(value, str) else None
    return parts is not None and 1 / _MAX_ASPECT_RATIO <= int(parts[1]) / int(parts[2]) <= _MAX_ASPECT_RATIO


def read_upload(params: dict[str, Any]) -> tuple[bytes, str]:
    """Return an uploaded picture, and the file extension of its content. Raise Refusal if there is no valid picture."""
    text = params.get("base64_string")
    head, _, data = (text if isinstance(text, str) else "").partition(",")
    picture = decode_base64(data)
    kind = sniff(picture) if picture else None
    if not head.startswith("data:image/") or picture is None or kind is None:
        raise Refusal(400, {"base64_string": ["The base64 string must be a data URI of an image."]})
    if len(picture) > MAX_IMAGE_BYTES:
        raise Refusal(400, {"base64_string": ["The image may not be greater than 5 MB."]})
    return picture, kind.removeprefix("image/")
