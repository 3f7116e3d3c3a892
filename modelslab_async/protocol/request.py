"""Define the requests, with the parameters of each operation's documentation page ("the page" below)."""

import os
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal, TypedDict, cast
from urllib.parse import urlsplit

import attrs

from modelslab_async.protocol.problems import shown

ImageInput = str | os.PathLike[str] | bytes
MediaInput = ImageInput | Sequence[ImageInput]
LimitsMode = Literal["refuse", "warn"] | None


class Deployment(Enum):
    """The public API (v6) or a dedicated server (enterprise). They differ in paths and limits."""

    V6 = "v6"
    ENTERPRISE = "enterprise"


@attrs.frozen(kw_only=True)
class Request:
    """What the requests of all operations have. A parameter that is None is not sent.

    Nothing is checked before the request is submitted.

    operation: the name of the operation, see `modelslab_async.OPERATIONS`. A class for one operation fixes it.
    prompt: description of the video.
    seed: the same seed gives the same video. If it is None, the service chooses a seed, which `Video.seed` names.
    webhook: an http(s) URL to which the service reports the end of the job.
    track_id: the job's `ref`, which the service sends with the webhook. If it is None, the client makes one.
    model_id: the service's name of the model.
    extra: parameters that the page does not document, which are sent unchanged.
    """

    operation: str
    prompt: str | None = None
    seed: int | None = None
    webhook: str | None = None
    track_id: str | None = None
    model_id: str | None = None
    extra: Mapping[str, Any] = attrs.field(factory=dict[str, Any], hash=False)


@attrs.frozen(kw_only=True)
class ImageToVideoUltra(Request):
    """A request for a video. A parameter that is None is not sent, so the service's default applies.

    Nothing is checked before the request is submitted. A default is named here if the page documents it.

    prompt: description of the video; not empty.
    init_image: the picture to start from: an http(s) URL, a path, bytes, or a data URI. Local pictures are sent inside
        the request. They may be PNG, JPEG, WebP, GIF, AVIF or HEIC, of at most 5 MB.
    negative_prompt: description of what the video should not show.
    seed: the same seed gives the same video. If it is None, the service chooses a seed, which `Video.seed` names.
    resolution: pixels of the shorter side, or a ratio such as "16:9" for ltx-2.3. At most 480 (wan2.2: 720).
    num_frames: frames of the video, which lasts num_frames / fps seconds. Default 81 (enterprise: 92), no documented
        maximum.
    num_inference_steps: denoising steps. Default 20, at most 25 (enterprise: default 8, at most 8).
    guidance_scale: how closely the video follows the prompt. 0 to 8 (enterprise: 1 to 2).
    fps: frames per second. At most 16 (enterprise: 18), and less than num_frames.
    portrait: whether the video is taller than wide. Default False.
    sample_shift: shift of the sampling. Default 5, at most 10 (enterprise: default 3).
    base64: whether init_image is a text of raw base64; the client sends True with a local picture. Default False.
    temp: whether the service deletes the file within 24 hours. Default False.
    webhook: an http(s) URL to which the service reports the end of the job.
    track_id: the job's `ref`, which the service sends with the webhook. If it is None, the client makes one.
    model_id: the service's name of the model. Default "wan2.2"; also "ltx-2.3", "wan2.1" and "cogvideox". The names are
        from later documentation pages.
    extra: parameters that the page does not document, which are sent unchanged.
    """

    operation: str = attrs.field(default="img2video_ultra", init=False, repr=False)
    prompt: str = attrs.field()
    init_image: ImageInput = attrs.field(repr=shown)
    negative_prompt: str | None = None
    resolution: int | str | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    fps: int | None = None
    portrait: bool | None = None
    sample_shift: int | None = None
    base64: bool | None = None
    temp: bool | None = None


@attrs.frozen(kw_only=True)
class TextToVideoUltra(Request):
    """A request for a video from a prompt alone. A parameter that is None is not sent.

    Nothing is checked before the request is submitted. The parameters are those of `ImageToVideoUltra`, without the
    picture.

    prompt: description of the video; not empty.
    negative_prompt: description of what the video should not show.
    resolution: pixels of the shorter side, or a ratio such as "16:9" for ltx-2.3. At most 480.
    num_frames: frames of the video, which lasts num_frames / fps seconds. Default 81, no documented maximum.
    num_inference_steps: denoising steps. Default 25, at most 30.
    guidance_scale: how closely the video follows the prompt. 0 to 8.
    fps: frames per second. At most 16, and less than num_frames.
    portrait: whether the video is taller than wide. Default False.
    sample_shift: shift of the sampling. Default 5, at most 10.
    temp: whether the service deletes the file within 24 hours. Default False.
    model_id: the service's name of the model. "wan2.2", which is sent if it is None, or "ltx-2.3".
    """

    operation: str = attrs.field(default="text2video_ultra", init=False, repr=False)
    prompt: str = attrs.field()
    negative_prompt: str | None = None
    resolution: int | str | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    fps: int | None = None
    portrait: bool | None = None
    sample_shift: int | None = None
    temp: bool | None = None


_LONG_NUMBER = 10**9
"""More seconds than any duration has. Python refuses to convert a number of more than 4,300 digits to text."""


def _text_of_number(value: str | int | None) -> str | None:
    """Return a whole number as text, because the service documents strings such as "5". The rest is checked later."""
    is_short = isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LONG_NUMBER
    return str(value) if is_short else cast("str | None", value)


@attrs.frozen(kw_only=True)
class VideoFusion(Request):
    """A request to one of the many models behind the v7 API. Each model has different parameters.

    Only types and the required files are checked, because the documentation names no limits of the models. A parameter
    that is None is not sent. Parameters that only some models have go into `extra`.

    operation: "image-to-video", "text-to-video", "video-to-video", "lip-sync" or "motion-control".
    model_id: the model, such as "seedance-i2v", "kling-v2-1-i2v", "lipsync-2" or "kling-motion-control".
    prompt: description of the video; most models need it.
    negative_prompt: description of what the video should not show.
    init_image, init_video, init_audio: the files to start from: http(s) URLs, or lists of them for models that take
        several. A local picture, or a local mp4 of at most 5 MB, is uploaded first. A sound must be a URL.
        "image-to-video" and "motion-control" need init_image; "video-to-video", "lip-sync" and "motion-control" need
        init_video; "lip-sync" needs init_audio.
    duration: seconds, such as "5". A whole number is sent as text.
    aspect_ratio: width to height, such as "16:9", "9:16" or "1:1".
    resolution: the size of the video, such as "480p", "720p" or "1920x1080".
    width, height: pixels, 512 to 1024 for most models that have them.
    generate_audio: whether the video has sound, for models that make sound.
    """

    operation: str
    model_id: str = attrs.field()
    prompt: str | None = None
    negative_prompt: str | None = None
    init_image: MediaInput | None = attrs.field(default=None, repr=shown)
    init_video: MediaInput | None = attrs.field(default=None, repr=shown)
    init_audio: MediaInput | None = attrs.field(default=None, repr=shown)
    duration: str | None = attrs.field(default=None, converter=_text_of_number)
    aspect_ratio: str | None = None
    resolution: str | int | None = None
    width: int | None = None
    height: int | None = None
    generate_audio: bool | None = None


@attrs.frozen(kw_only=True)
class TextToVideo(Request):
    """A request for a short video of at most 512 pixels from a prompt. A parameter that is None is not sent.

    model_id: the page's schema names "cogvideox" and "wanx", its text "wan2.2" and "ltx-2.3".
    prompt: description of the video; not empty.
    negative_prompt: description of what the video should not show.
    height, width: pixels. Default 512, at most 512.
    num_frames: frames of the video. Default 25, at most 25.
    num_inference_steps: denoising steps. Default 20, at most 50.
    guidance_scale: how closely the video follows the prompt. Default 7, 0 to 8.
    clip_skip: layers of CLIP to skip. At most 2.
    upscale_height: pixels after upscaling. Default 640, at most 1024.
    upscale_width: pixels after upscaling. Default 1024, at most 1024.
    upscale_strength: how much upscaling changes. Default 0.6, 0 to 1.
    upscale_guidance_scale: guidance of upscaling; the page's default is above its own maximum. Default 12, 0 to 8.
    upscale_num_inference_steps: denoising steps of upscaling. Default 20, at most 50.
    use_improved_sampling: whether to use a sampling that is more consistent over time. Default False.
    improved_sampling_seed: the seed of the improved sampling.
    fps: frames per second. At most 16.
    output_type: the format of the file. "mp4", which is sent if it is None, or "gif", which is the service's default.
    instant_response: whether the service replies to the submit at once, with the links to come. Default False.
    temp: whether the service deletes the file within 24 hours. Default False.
    """

    operation: str = attrs.field(default="text2video", init=False, repr=False)
    model_id: str = attrs.field()
    prompt: str = attrs.field()
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    clip_skip: int | None = None
    upscale_height: int | None = None
    upscale_width: int | None = None
    upscale_strength: float | None = None
    upscale_guidance_scale: float | None = None
    upscale_num_inference_steps: int | None = None
    use_improved_sampling: bool | None = None
    improved_sampling_seed: int | None = None
    fps: int | None = None
    output_type: str | None = None
    instant_response: bool | None = None
    temp: bool | None = None


@attrs.frozen(kw_only=True)
class ImageToVideo(Request):
    """A request for a short video of at most 512 pixels from a picture. A parameter that is None is not sent.

    model_id: the page's schema names "svd", its text "wan2.2" and "ltx-2.3".
    init_image: the picture to start from: an http(s) URL, a path, bytes, or a data URI. A local picture of at most 5 MB
        is uploaded first.
    prompt: description of the video.
    negative_prompt: description of what the video should not show.
    height, width: pixels. At most 512.
    num_frames: frames of the video. Default 16, at most 25.
    num_inference_steps: denoising steps. Default 20, at most 50.
    min_guidance_scale: the start value of the guidance scale. Default 1, 1 to 8.
    max_guidance_scale: the end value of the guidance scale. Default 3, 1 to 8.
    motion_bucket_id: how much the video moves. Default 127.
    noise_aug_strength: strength of the noise that is added to the picture. 0 to 1.
    fps: frames per second. At most 16.
    output_type: the format of the file. "mp4", which is sent if it is None, or "gif".
    temp: whether the service deletes the file within 24 hours. Default False.
    """

    operation: str = attrs.field(default="img2video", init=False, repr=False)
    model_id: str = attrs.field()
    init_image: ImageInput = attrs.field(repr=shown)
    negative_prompt: str | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    num_inference_steps: int | None = None
    min_guidance_scale: float | None = None
    max_guidance_scale: float | None = None
    motion_bucket_id: int | None = None
    noise_aug_strength: float | None = None
    fps: int | None = None
    output_type: str | None = None
    temp: bool | None = None


class _OptionalParams(TypedDict, total=False):
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


class RequestParams(_OptionalParams, total=False):
    """The fields of `ImageToVideoUltra`, as a mapping or as keywords that change another request.

    `shift_sample` is the documentation page's other name of `sample_shift`.
    """

    prompt: str
    init_image: ImageInput


class NewRequestParams(_OptionalParams):
    """The fields of `ImageToVideoUltra` as keywords for a new request."""

    prompt: str
    init_image: ImageInput


_PLAIN_URL = re.compile(r"https?://[a-z\d.-]*[a-z\d](:([1-5]\d{4}|[1-9]\d{0,3}))?/[\w./-]*", re.ASCII)
"""Matches nearly all links, so that `urlsplit` is rarely needed."""


def evolved(request: Request, **changes: Any) -> Request:
    """Return the request with these fields changed, which its type has and `Request` need not have."""
    return attrs.evolve(request, **changes)


def is_http_url(value: object) -> bool:
    """Return whether *value* is a complete http or https URL, with a host."""
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
    """Return whether *host* names this machine's loopback, by name or by address."""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d{1,3}){3}", host or "") is not None
