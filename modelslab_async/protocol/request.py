"""What is asked for: the request, and the documented limits as a table.

Facts come from the endpoint's documentation page ("page" below) unless said otherwise. The page's limits are not always
the service's: its own examples send 30 and 31 steps where it allows 25. So a value beyond them is a problem that a user
may choose to overrule, while a value that cannot be right at all is always refused.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

import attrs

from modelslab_async.errors import Problem

ImageInput = str | os.PathLike[str] | bytes
LimitsMode = Literal["refuse", "warn"] | None


class Endpoint(Enum):
    """The public API (v6), or a dedicated server (enterprise): other paths, other limits."""

    V6 = "v6"
    ENTERPRISE = "enterprise"


_SHOWN_CHARACTERS = 60


def shown(value: object) -> str:
    """A value as an error shows it: short, and never the bytes of a picture."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


@attrs.frozen(kw_only=True)
class ImageToVideoUltra:
    """A request. None means: not sent, the service's default holds. Nothing is checked until it is submitted.

    Where no default is told here, none is documented.

    prompt: what should be seen; not empty.
    init_image: the picture to start from: an http(s) URL, a path, bytes, or a data URI. Local pictures travel inside
        the request and may be PNG, JPEG, WebP, GIF, AVIF or HEIC, 5 MB at most.
    negative_prompt: what should not be seen.
    seed: the same seed gives the same video; None lets the service choose, and `Video.seed` tells what it chose.
    resolution: pixels of the shorter side; at most 480 (wan2.2: 720). ltx-2.3 takes a ratio like "16:9".
    num_frames: default 81 (enterprise: 92), no documented maximum. The clip lasts num_frames / fps seconds.
    num_inference_steps: denoising steps; default 20, at most 25 (enterprise: default 8, at most 8).
    guidance_scale: 0.0 to 8.0 (enterprise: 1.0 to 2.0).
    fps: frames per second, at most 16 (enterprise: 18), and less than num_frames.
    portrait: True for a video that is taller than wide; default False.
    sample_shift: default 5, at most 10 (enterprise: default 3).
    base64: leave it out: it follows from init_image. True says that init_image is a string of raw base64.
    temp: True has the file deleted within 24 hours; default False.
    webhook: an http(s) URL that is told of the end.
    track_id: comes back with the webhook, and is the job's `ref`; None has one made.
    model_id: "wan2.2" (the service's default), "ltx-2.3", "wan2.1" or "cogvideox"; of later pages.
    extra: parameters that the page does not know, sent as they are.
    """

    prompt: str
    init_image: ImageInput = attrs.field(repr=shown)
    negative_prompt: str | None = None
    seed: int | None = None
    resolution: int | str | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    fps: int | None = None
    portrait: bool | None = None
    sample_shift: int | None = None
    base64: bool | None = None
    temp: bool | None = None
    webhook: str | None = None
    track_id: str | None = None
    model_id: str | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False)


class RequestParams(TypedDict, total=False):
    """The keywords of `Client.submit`: the fields of `ImageToVideoUltra`, and the page's other spelling of one."""

    prompt: str
    init_image: ImageInput
    negative_prompt: str | None
    seed: int | None
    resolution: int | str | None
    num_frames: int | None
    num_inference_steps: int | None
    guidance_scale: float | None
    fps: int | None
    portrait: bool | None
    sample_shift: int | None
    shift_sample: int | None
    base64: bool | None
    temp: bool | None
    webhook: str | None
    track_id: str | None
    model_id: str | None
    extra: Mapping[str, Any]


PARAMETERS = tuple(field.name for field in attrs.fields(ImageToVideoUltra) if field.name != "extra")
RESERVED = frozenset({*PARAMETERS, "key", "shift_sample"})
"""Names that `extra` may not shadow."""


@attrs.frozen
class Range:
    """A documented range, both ends included; None is no limit on that side."""

    minimum: float | None = None
    maximum: float | None = None

    def rule(self, value: float) -> str | None:
        """The rule that the value breaks, or None."""
        if self.maximum is not None and value > self.maximum:
            return f"at most {self.maximum:g}"
        if self.minimum is not None and value < self.minimum:
            return f"at least {self.minimum:g}"
        return None


_PAGE: Mapping[str, Range] = {
    "resolution": Range(maximum=480),
    "num_inference_steps": Range(maximum=25),
    "guidance_scale": Range(0.0, 8.0),
    "fps": Range(maximum=16),
    "sample_shift": Range(maximum=10),
}
_DEDICATED: Mapping[str, Range] = {
    **_PAGE,
    "num_inference_steps": Range(maximum=8),
    "guidance_scale": Range(1.0, 2.0),
    "fps": Range(maximum=18),
}
MODELS = ("wan2.2", "ltx-2.3", "wan2.1", "cogvideox")
LIMITS: Mapping[tuple[Endpoint, str | None], Mapping[str, Range]] = {
    (Endpoint.V6, None): _PAGE,
    (Endpoint.V6, "wan2.2"): {**_PAGE, "resolution": Range(maximum=720)},  # the model's own, later page
    (Endpoint.ENTERPRISE, None): _DEDICATED,
}
"""The documented limits of each endpoint and model; a model without a row has those of its endpoint's None."""
DEFAULT_NUM_FRAMES = {Endpoint.V6: 81, Endpoint.ENTERPRISE: 92}

_COUNTS = ("num_frames", "num_inference_steps", "fps")
_FLAGS = ("portrait", "base64", "temp")
_TEXTS = ("negative_prompt", "track_id", "model_id")
_OVERRULE = 'or pass Client(limits="warn") to send it all the same'


def check(request: ImageToVideoUltra, endpoint: Endpoint = Endpoint.V6) -> list[Problem]:
    """All that is wrong with a request, but for its picture, which `images` checks."""
    wrong = list(_impossible(request, endpoint))
    broken = {problem.field for problem in wrong}
    return wrong + [problem for problem in _beyond(request, endpoint) if problem.field not in broken]


def _impossible(request: ImageToVideoUltra, endpoint: Endpoint) -> Iterator[Problem]:
    """What cannot be right under any limits."""
    yield from _wrong_texts(request)
    yield from _wrong_numbers(request, endpoint)
    for name in _FLAGS:
        value = getattr(request, name)
        if value is not None and not isinstance(value, bool):
            yield Problem(name, shown(value), "a boolean", "pass True or False")
    if request.base64 and endpoint is Endpoint.ENTERPRISE:
        yield Problem("base64", "True", "an enterprise server takes no base64", "pass the URL of await upload(image)")
    yield from _wrong_extra(request)


def _wrong_texts(request: ImageToVideoUltra) -> Iterator[Problem]:
    if not isinstance(request.prompt, str) or not request.prompt.strip():
        yield Problem("prompt", shown(request.prompt), "a text that is not empty", "describe what should be seen")
    for name in _TEXTS:
        value = getattr(request, name)
        if value is None:
            continue
        if not isinstance(value, str):
            yield Problem(name, shown(value), "a text", "pass a str, or leave it out")
        elif name != "negative_prompt" and not value.strip():
            yield Problem(name, shown(value), "a text that is not empty", "leave it out")
        elif name == "track_id" and (problem := unwritable(value)):
            yield problem
    if request.webhook is not None and not is_http_url(request.webhook):
        yield Problem("webhook", shown(request.webhook), "an http(s) URL", "pass the whole URL, or leave it out")


def unwritable(track_id: str) -> Problem | None:
    """What is wrong with a track_id that is half of a surrogate pair, as JSON can say it; None for any other."""
    if track_id == track_id.encode(errors="replace").decode():
        return None
    return Problem("track_id", shown(track_id), "a text that UTF-8 can write", "pass plain letters and digits")


def _wrong_numbers(request: ImageToVideoUltra, endpoint: Endpoint) -> Iterator[Problem]:
    for name in _COUNTS:
        yield from _wrong_int(name, getattr(request, name), minimum=1)
    yield from _wrong_int("sample_shift", request.sample_shift, minimum=0)
    yield from _wrong_int("seed", request.seed, minimum=None)
    if isinstance(request.resolution, str):
        if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", request.resolution):
            way_out = 'pass 480, or "16:9" to ltx-2.3'
            yield Problem("resolution", shown(request.resolution), "pixels, or a ratio", way_out)
    else:
        yield from _wrong_int("resolution", request.resolution, minimum=1)
    scale = request.guidance_scale
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if scale is not None and not (is_number and math.isfinite(scale)):
        yield Problem("guidance_scale", shown(scale), "a finite number", "pass a float")
    yield from _fps_not_below_frames(request, endpoint)


def _wrong_int(name: str, value: object, minimum: int | None) -> Iterator[Problem]:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        yield Problem(name, shown(value), "an integer", "pass an int")
    elif minimum is not None and value < minimum:
        yield Problem(name, shown(value), f"at least {minimum}", "pass more, or leave it out")
    elif abs(value) >= 2**63:
        yield Problem(name, "a huge number", "an integer of 64 bits", "pass one of ordinary size")


def _fps_not_below_frames(request: ImageToVideoUltra, endpoint: Endpoint) -> Iterator[Problem]:
    frames = DEFAULT_NUM_FRAMES[endpoint] if request.num_frames is None else request.num_frames
    fps = request.fps
    if isinstance(fps, int) and isinstance(frames, int) and fps >= frames > 0:
        yield Problem("fps", shown(fps), f"less than num_frames ({frames})", "ask for fewer fps or more frames")


def _wrong_extra(request: ImageToVideoUltra) -> Iterator[Problem]:
    extra: object = request.extra
    if not isinstance(extra, Mapping):
        yield Problem("extra", shown(extra), "a mapping of names to JSON values", "pass a dict")
        return
    for name, value in extra.items():
        if name == "key":
            yield Problem("extra", "{'key': ...}", "the key is no parameter", "pass it as Client(api_key=...)")
        elif not isinstance(name, str) or name in RESERVED:
            yield Problem("extra", shown(name), "a name that no parameter has", "pass it as the parameter itself")
        elif not _is_json(value):
            yield Problem("extra", shown({name: value}), "a JSON value", "pass text, finite numbers, lists or dicts")


def _is_json(value: object) -> bool:
    match value:
        case float():
            return math.isfinite(value)
        case None | bool() | int() | str():
            return True
        case list():
            return all(_is_json(item) for item in value)
        case dict():
            return all(isinstance(name, str) and _is_json(item) for name, item in value.items())
        case _:
            return False


def _beyond(request: ImageToVideoUltra, endpoint: Endpoint) -> Iterator[Problem]:
    """What the documentation does not allow."""
    model = request.model_id if isinstance(request.model_id, str) else None
    for name, limit in LIMITS.get((endpoint, model), LIMITS[endpoint, None]).items():
        value = getattr(request, name)
        if isinstance(value, int | float) and (rule := limit.rule(value)):
            way_out = f"stay within the documented limit, {_OVERRULE}"
            yield Problem(name, shown(value), rule, way_out, beyond_documentation=True)
    if isinstance(request.resolution, str) and model != "ltx-2.3":
        way_out = f'pass pixels, or model_id="ltx-2.3", {_OVERRULE}'
        yield Problem("resolution", shown(request.resolution), "only ltx-2.3 takes a ratio", way_out, True)
    if model is not None and model not in MODELS:
        rule = "not a known model: the service would silently use wan2.2"
        yield Problem("model_id", shown(model), rule, f"pass one of {', '.join(MODELS)}, {_OVERRULE}", True)


def is_http_url(value: object) -> bool:
    """Whether this is a whole http or https URL, with a host."""
    if not isinstance(value, str) or re.search(r"[\s\x00-\x1f]", value):
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
