"""What is asked for: the request, as the endpoint's documentation page ("page" below) has it."""

import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

import attrs

from modelslab_async.protocol.problems import shown

ImageInput = str | os.PathLike[str] | bytes
LimitsMode = Literal["refuse", "warn"] | None


class Deployment(Enum):
    """The public API (v6), or a dedicated server (enterprise): other paths, other limits."""

    V6 = "v6"
    ENTERPRISE = "enterprise"


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


_PLAIN_URL = re.compile(r"https?://[a-z\d.-]*[a-z\d](:([1-5]\d{4}|[1-9]\d{0,3}))?/[\w./-]*", re.ASCII)
"""What nearly all links look like."""


def is_http_url(value: object) -> bool:
    """Whether this is a whole http or https URL, with a host."""
    if isinstance(value, str) and _PLAIN_URL.fullmatch(value):
        return True
    if not isinstance(value, str) or " " in value or not value.isprintable():
        return False
    try:
        parts = urlsplit(value)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def is_loopback(host: str | None) -> bool:
    """Return whether *host* is this machine's loopback, by its name or number."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host or "") is not None
