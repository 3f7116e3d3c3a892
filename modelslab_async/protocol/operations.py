"""The service's operations: one row for each, from which the rest of the package takes paths, limits, price and inputs.

The facts come from the documentation at https://docs.modelslab.com/video-api, unless a comment names another source.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import attrs

from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.protocol.problems import shown
from modelslab_async.protocol.request import (
    Deployment,
    ImageToVideo,
    ImageToVideoUltra,
    Request,
    TextToVideo,
    TextToVideoUltra,
    VideoFusion,
)

InputKind = Literal["image", "video", "audio"]
Container = Literal["mp4", "gif"]
DEFAULT_OPERATION = "img2video_ultra"
"""The operation of keywords, mappings and journal rows that name none."""


class Range(NamedTuple):
    """A documented range. Both ends are allowed values; None means that the range has no limit on that side."""

    minimum: float | None = None
    maximum: float | None = None

    def requirement(self, value: float) -> str | None:
        """Return the requirement that *value* breaks, or None if it is within the range."""
        if self.maximum is not None and value > self.maximum:
            return f"must be at most {self.maximum:g}"
        if self.minimum is not None and value < self.minimum:
            return f"must be at least {self.minimum:g}"
        return None


Limits = Mapping[str | None, Mapping[str, Range]]
"""The documented ranges of parameters, by model. The row None holds for all other models."""


@attrs.frozen
class Endpoint:
    """Where a deployment serves an operation, and what differs there.

    submit: the path of the paid request. fetch: the path before a job's id.
    limits: the documented limits.
    defaults: the documented values that the service uses for parameters that it does not receive.
    is_fps_below_num_frames: whether the documentation says that fps must be less than num_frames.
    """

    submit: str
    fetch: str
    limits: Limits = attrs.field(factory=lambda: {None: {}})
    defaults: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    is_fps_below_num_frames: bool = False


@attrs.frozen
class Input:
    """A parameter of an operation that is a file.

    name: the parameter. kind: what the file is.
    is_required: whether the operation needs it.
    is_list: whether it may be a list of files.
    is_inline: whether a local file travels inside the request, as base64. Otherwise it is uploaded first. Only the
        picture `init_image` can travel inside.
    """

    name: str
    kind: InputKind = "image"
    is_required: bool = True
    is_list: bool = False
    is_inline: bool = False


def _parameters(row: "Operation") -> tuple[str, ...]:
    return tuple(name for name in attrs.fields_dict(row.request_type) if name not in ("operation", "extra"))


def _required(row: "Operation") -> tuple[str, ...]:
    fields = attrs.fields_dict(row.request_type)
    return tuple(name for name in row.parameters if fields[name].default is attrs.NOTHING)


def _reserved(row: "Operation") -> frozenset[str]:
    return frozenset({*row.parameters, "key", "operation", "shift_sample"})


@attrs.frozen(kw_only=True, eq=False)
class Operation:
    """One operation of the service.

    name: its name here, in a journal, in manifests and on the command line.
    request_type: the class of its requests.
    endpoints: where each deployment serves it.
    summary: what it does, in one line.
    confidence: how well its parameters are known, in one line.
    price: USD of a call; None if no page documents it.
    inputs: the parameters that are files.
    models: the documented models. The service silently replaces any other. Empty if any may be right.
    sent: parameters that are sent if the request has None.
    typical: usual values of the parameters to which a job's duration is proportional.
    containers: what a result may be.
    parameters: the names of the parameters. required: those that a request must have.
    reserved: the names that `extra` may not contain.
    """

    name: str
    request_type: type[Request]
    endpoints: Mapping[Deployment, Endpoint]
    summary: str
    confidence: str
    price: Decimal | None = None
    inputs: tuple[Input, ...] = ()
    models: tuple[str, ...] = ()
    sent: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    typical: Mapping[str, float] = attrs.field(factory=dict[str, float])
    containers: tuple[Container, ...] = ("mp4",)
    parameters: tuple[str, ...] = attrs.field(init=False, default=attrs.Factory(_parameters, takes_self=True))
    required: tuple[str, ...] = attrs.field(init=False, default=attrs.Factory(_required, takes_self=True))
    reserved: frozenset[str] = attrs.field(init=False, default=attrs.Factory(_reserved, takes_self=True))

    @property
    def default_model(self) -> str | None:
        """The model of a request that names none: the one that is sent then, or the first documented one, or None."""
        sent = self.sent.get("model_id")
        return sent if isinstance(sent, str) else self.models[0] if self.models else None

    @property
    def inline_input(self) -> Input | None:
        """The input that travels inside the request; None if there is none."""
        return next((each for each in self.inputs if each.is_inline), None)

    def request(self, params: Mapping[str, Any]) -> Request:
        """Return a request with these fields. `operation` among them is ignored."""
        takes_name = attrs.fields_dict(self.request_type)["operation"].init
        named = {"operation": self.name} if takes_name else {}
        return self.request_type(**{**{name: params[name] for name in params if name != "operation"}, **named})


_PAGE = {
    "resolution": Range(maximum=480),
    "num_inference_steps": Range(maximum=25),
    "guidance_scale": Range(0.0, 8.0),
    "fps": Range(maximum=16),
    "sample_shift": Range(maximum=10),
}
_DEDICATED = {
    **_PAGE,
    "num_inference_steps": Range(maximum=8),
    "guidance_scale": Range(1.0, 2.0),
    "fps": Range(maximum=18),
}
_DEFAULTS = {
    "num_frames": 81,
    "num_inference_steps": 20,
    "portrait": False,
    "sample_shift": 5,
    "base64": False,
    "temp": False,
    "model_id": "wan2.2",  # from a later page
}
_DEDICATED_DEFAULTS = {
    "num_frames": 92,
    "num_inference_steps": 8,
    "portrait": False,
    "sample_shift": 3,
    "temp": False,
}
_V6_FETCH = "/api/v6/video/fetch/"
_FUSION = "/api/v7/video-fusion/"
_ULTRA_SIZE = {"num_frames": 81, "resolution": 480, "num_inference_steps": 20}

_ROWS = (
    Operation(
        name=DEFAULT_OPERATION,
        request_type=ImageToVideoUltra,
        endpoints={
            Deployment.V6: Endpoint(
                "/api/v6/video/img2video_ultra",
                _V6_FETCH,
                {None: _PAGE, "wan2.2": {**_PAGE, "resolution": Range(maximum=720)}},  # the model's own, later page
                _DEFAULTS,
                is_fps_below_num_frames=True,
            ),
            Deployment.ENTERPRISE: Endpoint(
                "/api/v1/enterprise/image_to_video_ultra/img2video",
                "/api/v1/enterprise/image_to_video_ultra/fetch/",
                {None: _DEDICATED},
                _DEDICATED_DEFAULTS,
                is_fps_below_num_frames=True,
            ),
        },
        summary="a picture and a prompt become a video",
        confidence="documented, many users",
        price=Decimal("0.2"),
        inputs=(Input("init_image", is_inline=True),),
        models=("wan2.2", "ltx-2.3", "wan2.1", "cogvideox"),
        typical=_ULTRA_SIZE,
    ),
    Operation(
        name="text2video_ultra",
        request_type=TextToVideoUltra,
        endpoints={
            Deployment.V6: Endpoint(
                "/api/v6/video/text2video_ultra",
                _V6_FETCH,
                {None: {**_PAGE, "num_inference_steps": Range(maximum=30)}},
                {"num_frames": 81, "num_inference_steps": 25, "portrait": False, "sample_shift": 5, "temp": False},
                is_fps_below_num_frames=True,
            ),
        },
        summary="a prompt becomes a video",
        confidence="documented, many users",
        price=Decimal("0.2"),
        models=("wan2.2", "ltx-2.3"),
        sent={"model_id": "wan2.2"},  # the schema requires a model, and names this default
        typical={**_ULTRA_SIZE, "num_inference_steps": 25},
    ),
)
_SMALL = {
    "height": Range(maximum=512),
    "width": Range(maximum=512),
    "num_frames": Range(maximum=25),
    "num_inference_steps": Range(maximum=50),
    "fps": Range(maximum=16),
}
_SMALL_ROWS = (
    Operation(
        name="text2video",
        request_type=TextToVideo,
        endpoints={
            Deployment.V6: Endpoint(
                "/api/v6/video/text2video",
                _V6_FETCH,
                {
                    None: {
                        **_SMALL,
                        "guidance_scale": Range(0.0, 8.0),
                        "clip_skip": Range(maximum=2),
                        "upscale_height": Range(maximum=1024),
                        "upscale_width": Range(maximum=1024),
                        "upscale_strength": Range(0.0, 1.0),
                        "upscale_guidance_scale": Range(0.0, 8.0),
                        "upscale_num_inference_steps": Range(maximum=50),
                    }
                },
                {
                    "height": 512,
                    "width": 512,
                    "num_frames": 25,
                    "num_inference_steps": 20,
                    "guidance_scale": 7,
                    "upscale_height": 640,
                    "upscale_width": 1024,
                    "upscale_strength": 0.6,
                    "upscale_guidance_scale": 12,  # the page names 8 as the maximum
                    "upscale_num_inference_steps": 20,
                    "use_improved_sampling": False,
                    "output_type": "gif",
                    "instant_response": False,
                    "temp": False,
                },
            )
        },
        summary="a prompt becomes a short video or gif",
        confidence="documented, with contradictions; many users",
        sent={"output_type": "mp4"},  # the service's own default is a gif
        typical={"num_frames": 25, "num_inference_steps": 20, "width": 512, "height": 512},
        containers=("mp4", "gif"),
    ),
    Operation(
        name="img2video",
        request_type=ImageToVideo,
        endpoints={
            Deployment.V6: Endpoint(
                "/api/v6/video/img2video",
                _V6_FETCH,
                {
                    None: {
                        **_SMALL,
                        "min_guidance_scale": Range(1.0, 8.0),
                        "max_guidance_scale": Range(1.0, 8.0),
                        "noise_aug_strength": Range(0.0, 1.0),
                    }
                },
                {
                    "num_frames": 16,
                    "num_inference_steps": 20,
                    "min_guidance_scale": 1,
                    "max_guidance_scale": 3,
                    "motion_bucket_id": 127,
                    "temp": False,
                },
            )
        },
        summary="a picture becomes a short video or gif",
        confidence="documented, with contradictions; many users",
        inputs=(Input("init_image"),),
        sent={"output_type": "mp4"},
        typical={"num_frames": 16, "num_inference_steps": 20, "width": 512, "height": 512},
        containers=("mp4", "gif"),
    ),
)


def _fusion(name: str, summary: str, confidence: str, *inputs: Input) -> Operation:
    """Return the row of a v7 operation. Each model has its own limits and price, which no documentation names."""
    return Operation(
        name=name,
        request_type=VideoFusion,
        endpoints={Deployment.V6: Endpoint(f"{_FUSION}{name}", f"{_FUSION}fetch/")},
        summary=summary,
        confidence=confidence,
        inputs=inputs,
        typical={"duration": 5},
    )


def _files(kind: InputKind, *, is_required: bool) -> Input:
    return Input(f"init_{kind}", kind, is_required=is_required, is_list=True)


_PICTURE, _VIDEO, _SOUND = (_files(kind, is_required=True) for kind in ("image", "video", "audio"))
_MAYBE_PICTURE, _MAYBE_VIDEO, _MAYBE_SOUND = (_files(kind, is_required=False) for kind in ("image", "video", "audio"))
_FUSION_ROWS = (
    _fusion(
        "image-to-video",
        "a picture becomes a video",
        "path certain, models' parameters reported by users",
        _PICTURE,
        _MAYBE_VIDEO,
        _MAYBE_SOUND,
    ),
    _fusion(
        "text-to-video",
        "a prompt becomes a video",
        "path certain, models' parameters reported by users",
        _MAYBE_PICTURE,
        _MAYBE_VIDEO,
        _MAYBE_SOUND,
    ),
    _fusion(
        "video-to-video",
        "a video becomes another video",
        "one official source, few users",
        _VIDEO,
        _MAYBE_PICTURE,
        _MAYBE_SOUND,
    ),
    _fusion(
        "lip-sync",
        "the lips in a video follow a sound",
        "official client and skill agree",
        _VIDEO,
        _SOUND,
        _MAYBE_PICTURE,
    ),
    _fusion(
        "motion-control",
        "a figure in a picture moves as in a video",
        "one official source, few users",
        _PICTURE,
        _VIDEO,
        _MAYBE_SOUND,
    ),
)
"""From the v7 pages of ModelsLab's own command line and skills, and the schemas of modelslab-py."""
OPERATIONS: dict[str, Operation] = {row.name: row for row in (*_ROWS, *_FUSION_ROWS, *_SMALL_ROWS)}
"""All operations, by name. A row that is added is an operation like the others."""


def operation_named(name: object) -> Operation:
    """Return the operation with this name. Raise InvalidRequestError if there is none."""
    found = OPERATIONS.get(name) if isinstance(name, str) else None
    if found is None:
        hint = f"pass one of {', '.join(OPERATIONS)}"
        raise InvalidRequestError([Problem("operation", shown(name), "is an unknown operation", hint)])
    return found


def endpoint_of(operation: str, deployment: Deployment) -> Endpoint:
    """Return where a deployment serves an operation. Raise InvalidRequestError if it does not, or if there is none."""
    endpoint = operation_named(operation).endpoints.get(deployment)
    if endpoint is None:
        hint = "use a Client without enterprise=True"
        raise InvalidRequestError([Problem("operation", shown(operation), "is not served by a dedicated server", hint)])
    return endpoint


def operation_of(request: Request) -> Operation:
    """Return the request's operation. Raise InvalidRequestError if there is none, or if it takes other requests."""
    found = operation_named(request.operation)
    if not isinstance(request, found.request_type):
        known = [row.name for row in OPERATIONS.values() if row.request_type is type(request)]
        requirement = f"cannot take a {type(request).__name__}"
        hint = f"pass a {found.request_type.__name__}, or one of {', '.join(known)}"
        raise InvalidRequestError([Problem("operation", shown(found.name), requirement, hint)])
    return found


def operation_at(path: str) -> tuple[Operation, Deployment] | None:
    """Return the operation and the deployment whose requests are submitted at this path; None if there is none."""
    places = ((row, deployment) for row in OPERATIONS.values() for deployment in row.endpoints)
    return next(((row, where) for row, where in places if row.endpoints[where].submit == path), None)


def inputs_of(request: Request) -> Iterator[tuple[Input, Any]]:
    """Yield the inputs that a request has, with their values."""
    row = OPERATIONS.get(request.operation)
    for each in row.inputs if row else ():
        if (value := getattr(request, each.name, None)) is not None:
            yield each, value
