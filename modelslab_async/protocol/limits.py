"""Check requests against the documented limits and the type of each parameter.

The limits are those of the operation's row. The service does not enforce all of them: the page of Image to Video Ultra
sends 30 and 31 steps in its examples, although it allows 25. So a user may override the problem of a value beyond a
limit. A value that cannot be right is always refused.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from operator import attrgetter
from typing import Any, NamedTuple

from modelslab_async.errors import InvalidRequestError, Problem
from modelslab_async.protocol.operations import Endpoint, Operation, Range, operation_of
from modelslab_async.protocol.problems import shown, wrong
from modelslab_async.protocol.request import (
    Deployment,
    Request,
    VideoFusion,
    is_http_url,
)

_NUMBER = (int, float)
_MAX_INTEGER = 2**63
_MAX_FLOAT = 1e308
_JSON_HINT = "pass text, finite numbers, lists or dicts"
_OVERRIDE = 'or pass Client(limits="warn") to send the value anyway'


def check(request: Request, deployment: Deployment = Deployment.V6) -> list[Problem]:
    """Return every problem of *request*, except those of its inputs, which `media.inputs` checks.

    An unknown operation, or one that this deployment does not serve, is the only problem.
    """
    try:
        operation = operation_of(request)
    except InvalidRequestError as error:
        return list(error.problems)
    endpoint = operation.endpoints.get(deployment)
    if endpoint is None:
        hint = "use a client of the public API, which is Client(enterprise=False)"
        return [Problem("operation", shown(operation.name), "cannot be sent to a dedicated server", hint)]
    model = request.model_id if isinstance(request.model_id, str) else None
    ranges = endpoint.limits.get(model) or endpoint.limits[None]
    problems = _wrong_values(request, _table_of(operation), ranges)
    for contradiction in _contradictions(request, endpoint, deployment):
        # it replaces a documented limit's problem
        problems = [*(problem for problem in problems if problem.field != contradiction.field), contradiction]
    if request.extra != {}:
        problems += _wrong_extra(request, operation.reserved)
    if operation.models:
        fields = [problem.field for problem in problems]
        undocumented = _undocumented(request, model, operation)
        problems += [problem for problem in undocumented if problem.field not in fields]
    return problems


def _wrong_values(request: Request, table: "_Table", ranges: Mapping[str, Range]) -> list[Problem]:
    problems = []
    for (name, problem_with), value in zip(table.checks, table.values(request), strict=True):
        if value is not None or name in table.required:
            problem = problem_with(name, value)
            if problem is None and isinstance(value, str):
                problem = unwritable(name, value)
            elif problem is None and name in ranges:
                problem = _out_of_range(name, value, ranges[name])
            if problem:
                problems.append(problem)
    return problems


_Check = Callable[[str, Any], Problem | None]
"""Return the problem with the value of a parameter, or None."""


def _must_be(is_right: Callable[[Any], bool], requirement: str, hint: str) -> _Check:
    return lambda name, value: None if is_right(value) else wrong(name, value, requirement, hint)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_finite(value: object) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and abs(value) < _MAX_FLOAT


_word = partial(_must_be, _is_word, "must be non-empty text")
_prompt, _name = _word("describe the video"), _word("pass a str, or omit it")
_text = _must_be(lambda value: isinstance(value, str), "must be text", "pass a str, or omit it")
_webhook = _must_be(is_http_url, "must be an http(s) URL", "pass the whole URL, or omit it")
_flag = _must_be(lambda value: isinstance(value, bool), "must be a boolean", "pass True or False")
_finite = _must_be(_is_finite, "must be a finite number", "pass a float")


def unwritable(name: str, value: str) -> Problem | None:
    """Return the problem with a text that UTF-8 cannot encode, or None.

    Such a text holds a lone surrogate, which JSON or a locale can produce.
    """
    if value == value.encode(errors="replace").decode():
        return None
    return wrong(name, value, "must be text that UTF-8 can encode", "pass text without lone surrogates")


def _integer(name: str, value: object, minimum: int = -_MAX_INTEGER + 1) -> Problem | None:
    if type(value) is int and minimum <= value < _MAX_INTEGER:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        return wrong(name, value, "must be an integer", "pass an int")
    if abs(value) >= _MAX_INTEGER:
        return wrong(name, value, "must be an integer of 64 bits", "pass a smaller number")
    if value < minimum:
        return wrong(name, value, f"must be at least {minimum}", f"pass {minimum} or more, or omit it")
    return None  # such as a value of an IntEnum


_count = partial(_integer, minimum=1)
_natural = partial(_integer, minimum=0)


def _text_or_count(name: str, value: object) -> Problem | None:
    return _name(name, value) if isinstance(value, str) else _count(name, value)


def _duration(name: str, value: object) -> Problem | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", value):
        return None
    return wrong(name, value, "must be a number of seconds, as text", 'pass "5"')


def _container(name: str, value: object) -> Problem | None:
    return None if value in ("mp4", "gif") else wrong(name, value, 'must be "mp4" or "gif"', "omit it for mp4")


def _json(name: str, value: object) -> Problem | None:
    return None if _is_json(value) else wrong(name, value, "must be JSON, at most 20 levels deep", _JSON_HINT)


def _resolution(name: str, value: object) -> Problem | None:
    if not isinstance(value, str):
        return _count(name, value)
    if re.fullmatch(r"[1-9]\d*:[1-9]\d*", value):
        return None
    return wrong(name, value, "must be pixels or a ratio", 'pass 480, or "16:9" for ltx-2.3')


_CHECKS: Mapping[str, _Check] = {
    "prompt": _prompt,
    "negative_prompt": _text,
    "seed": _integer,
    "resolution": _resolution,
    "num_frames": _count,
    "num_inference_steps": _count,
    "guidance_scale": _finite,
    "fps": _count,
    "portrait": _flag,
    "sample_shift": _natural,
    "base64": _flag,
    "temp": _flag,
    "webhook": _webhook,
    "track_id": _name,
    "model_id": _name,
    "duration": _duration,
    "aspect_ratio": _name,
    "width": _count,
    "height": _count,
    "generate_audio": _flag,
    "clip_skip": _natural,
    "upscale_height": _count,
    "upscale_width": _count,
    "upscale_strength": _finite,
    "upscale_guidance_scale": _finite,
    "upscale_num_inference_steps": _count,
    "use_improved_sampling": _flag,
    "improved_sampling_seed": _integer,
    "min_guidance_scale": _finite,
    "max_guidance_scale": _finite,
    "motion_bucket_id": _natural,
    "noise_aug_strength": _finite,
    "output_type": _container,
    "instant_response": _flag,
}
"""The check of each parameter, whatever the limits. Another parameter may be any JSON value."""
_CHECKS_OF: Mapping[type[Request], Mapping[str, _Check]] = {
    VideoFusion: {"prompt": _text, "resolution": _text_or_count},
}
"""The checks of a class of requests in which a parameter is another thing."""


class _Table(NamedTuple):
    """The checks of a type of request. A value that is None is checked only if the parameter is required."""

    checks: Sequence[tuple[str, _Check]]
    required: frozenset[str]
    values: Callable[[Request], tuple[Any, ...]]


@cache
def _table_of(operation: Operation) -> _Table:
    files = {each.name for each in operation.inputs}
    names = [name for name in operation.parameters if name not in files]
    own = {**_CHECKS, **_CHECKS_OF.get(operation.request_type, {})}
    checks = [(name, own.get(name, _json)) for name in sorted(names, key=_place_of)]
    return _Table(checks, frozenset(operation.required), attrgetter(*(name for name, _ in checks)))


def _place_of(name: str) -> int:
    return [*_CHECKS].index(name) if name in _CHECKS else len(_CHECKS)


def _contradictions(request: Request, endpoint: Endpoint, deployment: Deployment) -> Iterator[Problem]:
    fps: object = getattr(request, "fps", None)
    if isinstance(fps, int) and endpoint.is_fps_below_num_frames:
        given: object = getattr(request, "num_frames", None)
        frames: object = endpoint.defaults.get("num_frames") if given is None else given
        if isinstance(frames, int) and fps >= frames > 0:
            yield wrong("fps", fps, f"must be less than num_frames ({frames})", "pass fewer fps or more num_frames")
    if deployment is Deployment.ENTERPRISE and getattr(request, "base64", None):
        hint = "pass the URL of await upload(image) as init_image"
        yield Problem("base64", "True", "cannot be used with an enterprise server", hint)


def _wrong_extra(request: Request, reserved: frozenset[str]) -> Iterator[Problem]:
    extra: object = request.extra
    if not isinstance(extra, Mapping):
        yield wrong("extra", extra, "must be a mapping of names to JSON values", "pass a dict")
        return
    for name, value in extra.items():
        if name == "key":
            yield Problem("extra", _entry("key"), "cannot hold the API key", "pass it as Client(api_key=...)")
        elif not isinstance(name, str):
            yield Problem("extra", _entry(name), "must have text as names", "pass a str as the name")
        elif name in reserved:
            yield Problem("extra", _entry(name), "cannot hold a documented parameter", f"pass it as {name}=")
        elif not _is_json({name: value}):
            yield wrong("extra", {name: value}, "must be JSON, at most 20 levels deep", _JSON_HINT)


def _entry(name: object) -> str:
    return f"{{{shown(name)}: ...}}"


def _is_json(value: object, depth: int = 21) -> bool:
    match value:
        case None | bool():
            return True
        case str():
            return not unwritable("", value)
        case int() | float():
            return _is_finite(value)
        case list() if depth:
            return all(_is_json(item, depth - 1) for item in value)
        case dict() if depth:
            names = all(isinstance(name, str) and _is_json(name) for name in value)
            return names and _is_json([*value.values()], depth)
        case _:
            return False


def _out_of_range(name: str, value: Any, limit: Range) -> Problem | None:
    """Return the problem with a value beyond a documented limit, or None."""
    requirement = limit.requirement(value)
    if requirement is None:
        return None
    return wrong(name, value, requirement, f"stay within the documented limit, {_OVERRIDE}", overridable=True)


def _undocumented(request: Request, model: str | None, operation: Operation) -> Iterator[Problem]:
    """Yield the problems with values that no page of the documentation names."""
    resolution: object = getattr(request, "resolution", None)
    if isinstance(resolution, str) and model != "ltx-2.3":
        hint = f'pass pixels, or model_id="ltx-2.3", {_OVERRIDE}'
        yield wrong("resolution", resolution, "must be pixels, except for ltx-2.3", hint, overridable=True)
    if model is not None and model not in operation.models:
        requirement = f"is an unknown model, for which the service would silently use {operation.models[0]}"
        hint = f"pass one of {', '.join(operation.models)}, {_OVERRIDE}"
        yield wrong("model_id", model, requirement, hint, overridable=True)
