"""What is wrong with a request: the documented limits as a table, and what each parameter must be.

Facts come from the endpoint's documentation page unless said otherwise. Its limits are not always the service's: its
own examples send 30 and 31 steps where it allows 25. So a value beyond them is a problem that a user may choose to
overrule, while a value that cannot be right at all is always refused.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

from modelslab_async.errors import Problem
from modelslab_async.protocol.problems import wrong
from modelslab_async.protocol.request import RESERVED, Deployment, ImageToVideoUltra, is_http_url


class Range(NamedTuple):
    """A documented range, both ends included; None is no limit on that side."""

    minimum: float | None = None
    maximum: float | None = None

    def requirement(self, value: float) -> str | None:
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
LIMITS: Mapping[Deployment, Mapping[str | None, Mapping[str, Range]]] = {
    Deployment.V6: {
        None: _PAGE,
        "wan2.2": {**_PAGE, "resolution": Range(maximum=720)},  # the model's own, later page
    },
    Deployment.ENTERPRISE: {None: _DEDICATED},
}
"""The documented limits of each endpoint and model; a model without a row has those of its endpoint's None."""
DEFAULT_NUM_FRAMES = {Deployment.V6: 81, Deployment.ENTERPRISE: 92}

_NUMBER = (int, float)
_HUGE = 2**63
_HUGEST = 1e308
_OVERRULE = 'or pass Client(limits="warn") to send it all the same'


def check(request: ImageToVideoUltra, deployment: Deployment = Deployment.V6) -> list[Problem]:
    """All that is wrong with a request, but for its picture, which `images` checks."""
    limits = LIMITS[deployment]
    model = request.model_id if isinstance(request.model_id, str) else None
    ranges = limits.get(model) or limits[None]
    problems = []
    for (name, judge), value in zip(_CHECKS, _values(request), strict=True):
        if value is not None or name == "prompt":
            problem = judge(name, value)
            if problem is None and isinstance(value, str):
                problem = unwritable(name, value)
            elif problem is None and name in ranges:
                problem = _beyond(name, value, ranges[name])
            if problem:
                problems.append(problem)
    if request.fps is not None or deployment is Deployment.ENTERPRISE:
        for worse in _contradictions(request, deployment):  # than to be beyond a limit
            problems = [*(problem for problem in problems if problem.field != worse.field), worse]
    if request.extra != {}:
        problems += _wrong_extra(request)
    if model is not None or isinstance(request.resolution, str):
        broken = [problem.field for problem in problems]
        problems += [problem for problem in _strange(request, model) if problem.field not in broken]
    return problems


_Check = Callable[[str, Any], Problem | None]
"""Gives what is wrong with the value of a name."""


def _must_be(is_right: Callable[[Any], bool], requirement: str, hint: str) -> _Check:
    return lambda name, value: None if is_right(value) else wrong(name, value, requirement, hint)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.strip() != ""


def _is_finite(value: object) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and abs(value) < _HUGEST


_word = partial(_must_be, _is_word, "a text that is not empty")
_prompt, _name = _word("describe what should be seen"), _word("pass a str, or leave it out")
_text = _must_be(lambda value: isinstance(value, str), "a text", "pass a str, or leave it out")
_webhook = _must_be(is_http_url, "an http(s) URL", "pass the whole URL, or leave it out")
_flag = _must_be(lambda value: isinstance(value, bool), "a boolean", "pass True or False")
_finite = _must_be(_is_finite, "a finite number", "pass a float")


def unwritable(name: str, value: str) -> Problem | None:
    """What is wrong with a text that holds half of a surrogate pair, as JSON or a locale can make one."""
    if value == value.encode(errors="replace").decode():
        return None
    return wrong(name, value, "a text that UTF-8 can write", "pass plain letters, in a UTF-8 locale")


def _integer(name: str, value: object, minimum: int = -_HUGE + 1) -> Problem | None:
    if type(value) is int and minimum <= value < _HUGE:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        return wrong(name, value, "an integer", "pass an int")
    if abs(value) >= _HUGE:
        return wrong(name, value, "an integer of 64 bits", "pass one of ordinary size")
    return wrong(name, value, f"at least {minimum}", "pass more, or leave it out") if value < minimum else None


_count = partial(_integer, minimum=1)
_natural = partial(_integer, minimum=0)


def _resolution(name: str, value: object) -> Problem | None:
    if not isinstance(value, str):
        return _count(name, value)
    if re.fullmatch(r"[1-9]\d*:[1-9]\d*", value):
        return None
    return wrong(name, value, "pixels, or a ratio", 'pass 480, or "16:9" to ltx-2.3')


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
"""What a value of each parameter must be under any limits; None is right for all but the prompt."""
_values = attrgetter(*(name for name, _ in _CHECKS))


def _contradictions(request: ImageToVideoUltra, deployment: Deployment) -> Iterator[Problem]:
    fps: object = request.fps
    frames: object = DEFAULT_NUM_FRAMES[deployment] if request.num_frames is None else request.num_frames
    if isinstance(fps, int) and isinstance(frames, int) and fps >= frames > 0:
        yield wrong("fps", fps, f"less than num_frames ({frames})", "ask for fewer fps or more frames")
    if deployment is Deployment.ENTERPRISE and request.base64:
        yield Problem("base64", "True", "an enterprise server takes no base64", "pass the URL of await upload(image)")


def _wrong_extra(request: ImageToVideoUltra) -> Iterator[Problem]:
    extra: object = request.extra
    if not isinstance(extra, Mapping):
        yield wrong("extra", extra, "a mapping of names to JSON values", "pass a dict")
        return
    for name, value in extra.items():
        if name == "key":
            yield Problem("extra", "{'key': ...}", "the key is no parameter", "pass it as Client(api_key=...)")
        elif not isinstance(name, str) or name in RESERVED:
            yield wrong("extra", name, "a name that no parameter has", "pass it as the parameter itself")
        elif not _is_json({name: value}):
            yield wrong("extra", {name: value}, "JSON, at most 20 deep", "pass text, finite numbers, lists or dicts")


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


def _beyond(name: str, value: Any, limit: Range) -> Problem | None:
    """What the documentation does not allow."""
    requirement = limit.requirement(value)
    if requirement is None:
        return None
    return wrong(name, value, requirement, f"stay within the documented limit, {_OVERRULE}", overridable=True)


def _strange(request: ImageToVideoUltra, model: str | None) -> Iterator[Problem]:
    """What no page of the documentation knows."""
    if isinstance(request.resolution, str) and model != "ltx-2.3":
        hint = f'pass pixels, or model_id="ltx-2.3", {_OVERRULE}'
        yield wrong("resolution", request.resolution, "only ltx-2.3 takes a ratio", hint, overridable=True)
    if model is not None and model not in MODELS:
        requirement = "not a known model: the service would silently use wan2.2"
        yield wrong("model_id", model, requirement, f"pass one of {', '.join(MODELS)}, {_OVERRULE}", overridable=True)
