"""Check requests against the documented limits and the type of each parameter.

The limits come from the endpoint's documentation page, unless a comment names another source. The service does not
enforce all of them: the page's own examples send 30 and 31 steps, although the page allows 25. So a user may override
the problem of a value beyond a limit. A value that cannot be right is always refused.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from modelslab_async.errors import Problem
from modelslab_async.protocol.problems import shown, wrong
from modelslab_async.protocol.request import RESERVED, Deployment, ImageToVideoUltra, is_http_url


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
LIMITS: Mapping[Deployment, Mapping[str | None, Mapping[str, Range]]] = {
    Deployment.V6: {
        None: _PAGE,
        "wan2.2": {**_PAGE, "resolution": Range(maximum=720)},  # the model's own, later page
    },
    Deployment.ENTERPRISE: {None: _DEDICATED},
}
"""The documented limits of each deployment and model. The row None holds for all models without a row of their own."""
DEFAULT_NUM_FRAMES = {Deployment.V6: 81, Deployment.ENTERPRISE: 92}

_NUMBER = (int, float)
_MAX_INTEGER = 2**63
_MAX_FLOAT = 1e308
_OVERRIDE = 'or pass Client(limits="warn") to send the value anyway'


def check(request: ImageToVideoUltra, deployment: Deployment = Deployment.V6) -> list[Problem]:
    """Return every problem of *request*, except those of its picture, which `media.images` checks."""
    limits = LIMITS[deployment]
    model = request.model_id if isinstance(request.model_id, str) else None
    ranges = limits.get(model) or limits[None]
    problems = []
    for (name, problem_with), value in zip(_CHECKS, _values(request), strict=True):
        if value is not None or name == "prompt":
            problem = problem_with(name, value)
            if problem is None and isinstance(value, str):
                problem = unwritable(name, value)
            elif problem is None and name in ranges:
                problem = _out_of_range(name, value, ranges[name])
            if problem:
                problems.append(problem)
    if request.fps is not None or deployment is Deployment.ENTERPRISE:
        for contradiction in _contradictions(request, deployment):  # it replaces a documented limit's problem
            problems = [*(problem for problem in problems if problem.field != contradiction.field), contradiction]
    if request.extra != {}:
        problems += _wrong_extra(request)
    if model is not None or isinstance(request.resolution, str):
        fields = [problem.field for problem in problems]
        problems += [problem for problem in _undocumented(request, model) if problem.field not in fields]
    return problems


_Check = Callable[[str, Any], Problem | None]
"""Return the problem with the value of a parameter, or None."""


def _must_be(is_right: Callable[[Any], bool], requirement: str, hint: str) -> _Check:
    return lambda name, value: None if is_right(value) else wrong(name, value, requirement, hint)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_finite(value: object) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and abs(value) < _MAX_FLOAT


_word = partial(_must_be, _is_word, "must be a text that is not empty")
_prompt, _name = _word("describe the video"), _word("pass a str, or omit it")
_text = _must_be(lambda value: isinstance(value, str), "must be a text", "pass a str, or omit it")
_webhook = _must_be(is_http_url, "must be an http(s) URL", "pass the whole URL, or omit it")
_flag = _must_be(lambda value: isinstance(value, bool), "must be a boolean", "pass True or False")
_finite = _must_be(_is_finite, "must be a finite number", "pass a float")


def unwritable(name: str, value: str) -> Problem | None:
    """Return the problem with a text that UTF-8 cannot encode, or None.

    Such a text holds a lone surrogate, which JSON or a locale can produce.
    """
    if value == value.encode(errors="replace").decode():
        return None
    return wrong(name, value, "must be a text that UTF-8 can encode", "pass a text without lone surrogates")


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


def _resolution(name: str, value: object) -> Problem | None:
    if not isinstance(value, str):
        return _count(name, value)
    if re.fullmatch(r"[1-9]\d*:[1-9]\d*", value):
        return None
    return wrong(name, value, "must be pixels or a ratio", 'pass 480, or "16:9" for ltx-2.3')


_CHECKS: Sequence[tuple[str, _Check]] = (
    ("prompt", _prompt),
    ("negative_prompt", _text),
    ("seed", _integer),
    ("resolution", _resolution),
    ("num_frames", _count),
    ("num_inference_steps", _count),
    ("guidance_scale", _finite),
    ("fps", _count),
    ("portrait", _flag),
    ("sample_shift", _natural),
    ("base64", _flag),
    ("temp", _flag),
    ("webhook", _webhook),
    ("track_id", _name),
    ("model_id", _name),
)
"""The check of each parameter, whatever the limits. None is allowed for every parameter except the prompt."""
_values = attrgetter(*(name for name, _ in _CHECKS))


def _contradictions(request: ImageToVideoUltra, deployment: Deployment) -> Iterator[Problem]:
    fps: object = request.fps
    frames: object = DEFAULT_NUM_FRAMES[deployment] if request.num_frames is None else request.num_frames
    if isinstance(fps, int) and isinstance(frames, int) and fps >= frames > 0:
        yield wrong("fps", fps, f"must be less than num_frames ({frames})", "pass fewer fps or more num_frames")
    if deployment is Deployment.ENTERPRISE and request.base64:
        hint = "pass the URL of await upload(image) as init_image"
        yield Problem("base64", "True", "cannot be used with an enterprise server", hint)


def _wrong_extra(request: ImageToVideoUltra) -> Iterator[Problem]:
    extra: object = request.extra
    if not isinstance(extra, Mapping):
        yield wrong("extra", extra, "must be a mapping of names to JSON values", "pass a dict")
        return
    for name, value in extra.items():
        if name == "key":
            yield Problem("extra", _entry("key"), "cannot hold the API key", "pass it as Client(api_key=...)")
        elif not isinstance(name, str):
            yield Problem("extra", _entry(name), "must have names that are texts", "pass a str as the name")
        elif name in RESERVED:
            yield Problem("extra", _entry(name), "cannot hold a documented parameter", f"pass it as {name}=")
        elif not _is_json({name: value}):
            hint = "pass texts, finite numbers, lists or dicts"
            yield wrong("extra", {name: value}, "must be JSON, at most 20 levels deep", hint)


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


def _undocumented(request: ImageToVideoUltra, model: str | None) -> Iterator[Problem]:
    """Yield the problems with values that no page of the documentation names."""
    if isinstance(request.resolution, str) and model != "ltx-2.3":
        hint = f'pass pixels, or model_id="ltx-2.3", {_OVERRIDE}'
        yield wrong("resolution", request.resolution, "must be pixels, except for ltx-2.3", hint, overridable=True)
    if model is not None and model not in MODELS:
        requirement = "is an unknown model, for which the service would silently use wan2.2"
        yield wrong("model_id", model, requirement, f"pass one of {', '.join(MODELS)}, {_OVERRIDE}", overridable=True)
