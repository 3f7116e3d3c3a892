"""The parameters of a request as the service reads them: leniently, numbers perhaps as strings. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
from typing import Any

from modelslab_async.emulator.order import Work, size_of
from modelslab_async.media.images import MAX_IMAGE_BYTES, sniff

_MOST_FRAMES, _MOST_PIXELS = 1000, 1080
_DEEPEST = 40
_MOST_STRETCHED = 4


class Refusal(Exception):  # noqa: N818 - it never leaves the service
    """What the service says no with: an HTTP code and words."""

    def __init__(self, status: int, message: Any, **more: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.more = status, message, more


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object of a body, or an empty one; what nests too deeply to be echoed is empty too."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and _nests_within(value, _DEEPEST) else {}


def _nests_within(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels > 0 and all(_nests_within(item, levels - 1) for item in items)


def positive(value: Any, default: int) -> int:
    """A number above 0, also as a string; the default for all else."""
    return int(value) if re.fullmatch(r"0*[1-9][0-9]{0,17}", str(value)) else default


def truth(value: Any) -> bool:
    """A boolean, also as a string."""
    return value is True or str(value).lower() in ("true", "yes", "1")


def is_inline(params: dict[str, Any], *, enterprise: bool) -> bool:
    """Whether init_image is the picture itself; a dedicated server knows no `base64`."""
    return truth(params.get("base64")) and not enterprise


def decoded(data: Any) -> bytes | None:
    """What base64 stands for, or None."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, TypeError, ValueError):
        return None


def read_work(
    params: dict[str, Any], picture: bytes | None, rng: random.Random, *, enterprise: bool
) -> tuple[Work, int]:
    """What to render, and in how many steps. Numbers may come as strings, and maxima of the page are not enforced."""
    wrong: dict[str, list[str]] = {}
    for name in ("prompt", "init_image"):
        if not isinstance(params.get(name), str) or not params[name].strip():
            wrong[name] = [f"The {name.replace('_', ' ')} field is required."]

    def number(name: str, default: int, most: int, least: int = 1) -> int:
        value = params.get(name)
        try:
            read = default if value is None else int(value)
        except (TypeError, ValueError, OverflowError):
            read = most + 1
        if not least <= read <= most:
            wrong[name] = [f"The {name.replace('_', ' ')} must be an integer between {least} and {most}."]
        return read

    frames = number("num_frames", 92 if enterprise else 81, _MOST_FRAMES)
    steps = number("num_inference_steps", 8 if enterprise else 20, 100)
    seed = rng.getrandbits(32) if params.get("seed") is None else number("seed", 0, 2**63, least=-(2**63))
    fps = number("fps", 16, 60)
    ratio = params.get("resolution")
    resolution: int | str = str(ratio) if _is_ratio(ratio) else number("resolution", 480, _MOST_PIXELS)
    if is_inline(params, enterprise=enterprise):
        picture = decoded(params.get("init_image"))
    if not wrong and (picture is None or sniff(picture) is None):
        wrong["init_image"] = ["The init image could not be fetched, or is not a valid image."]
    if wrong:
        raise Refusal(400, wrong)
    width, height = size_of(resolution, portrait=truth(params.get("portrait")))
    return (
        Work(
            picture=picture or b"",
            prompt=str(params["prompt"]),
            seed=seed,
            width=width,
            height=height,
            frames=frames,
            fps=fps,
        ),
        steps,
    )


def _is_ratio(value: Any) -> bool:
    """As ltx-2.3 takes it; a shape that somebody would look at."""
    parts = re.fullmatch(r"([1-9][0-9]?):([1-9][0-9]?)", value) if isinstance(value, str) else None
    return parts is not None and 1 / _MOST_STRETCHED <= int(parts[1]) / int(parts[2]) <= _MOST_STRETCHED


def read_upload(params: dict[str, Any]) -> tuple[bytes, str]:
    """An uploaded picture, and the extension that its content deserves."""
    text = params.get("base64_string")
    head, _, data = (text if isinstance(text, str) else "").partition(",")
    picture = decoded(data)
    kind = sniff(picture) if picture else None
    if not head.startswith("data:image/") or picture is None or kind is None:
        raise Refusal(400, {"base64_string": ["The base64 string must be a data URI of an image."]})
    if len(picture) > MAX_IMAGE_BYTES:
        raise Refusal(400, {"base64_string": ["The image may not be greater than 5 MB."]})
    return picture, kind.removeprefix("image/")
