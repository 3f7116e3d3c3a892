"""The parameters of a request as options of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import reduce, wraps
from typing import Any

import click

from modelslab_async.batch.manifest import value_of
from modelslab_async.cli.help import REQUEST, option
from modelslab_async.protocol.operations import OPERATIONS

_WORDS = {"image": "the picture", "video": "the video", "audio": "the sound"}
_OPTIONS = {
    "negative_prompt": ("TEXT", "what to avoid in the video"),
    "seed": ("INT", "the same seed gives the same video"),
    "resolution": ("PIXELS", "length of the shorter side, at most 480; 720p for v7"),
    "num_frames": ("INT", "frames of the video; default 81"),
    "num_inference_steps": ("INT", "steps of the model; default 20, at most 25"),
    "guidance_scale": ("FLOAT", "how closely to follow the prompt, 0 to 8"),
    "fps": ("INT", "frames per second, at most 16, and less than num-frames"),
    "sample_shift": ("INT", "shift of the sampler; default 5, at most 10"),
    "portrait": ("yes|no", "whether the video is taller than wide"),
    "duration": ("SECONDS", "length of the video, for a v7 operation"),
    "aspect_ratio": ("W:H", "shape of the video, for a v7 operation"),
    "generate_audio": ("yes|no", "make sound too, for a v7 operation"),
    "temp": ("yes|no", "delete the file within 24 hours"),
    "webhook": ("URL", "URL that the service calls at the end"),
    "track_id": ("TEXT", "the job's ref; a new one pays for another video"),
    "model_id": ("TEXT", "the model; default wan2.2. v7 operations need one"),
}


def parameter_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each parameter. The command receives the given ones as the mapping `params`."""

    @wraps(command)
    def with_params(**options: Any) -> Any:
        given = {name: options.pop(name) for name in _OPTIONS}
        params = {name: value_of(name, text) for name, text in given.items() if text is not None}
        extra = dict(options.pop("extra"))
        return command(params={**params, **({"extra": extra} if extra else {})}, **options)

    options = [
        option(f"--{name.replace('_', '-')}", name, group=REQUEST, metavar=kind, help=help_text)
        for name, (kind, help_text) in _OPTIONS.items()
    ]
    extra = option(
        "--extra",
        group=REQUEST,
        metavar="NAME=JSON",
        multiple=True,
        callback=_parse_extra,
        help="a parameter that has no option here, documented or not",
    )
    return reduce(lambda decorated, each: each(decorated), reversed([*options, extra]), with_params)


def input_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option for each input. The command receives the given files as the mapping `files`."""
    names = {each.name: each for row in OPERATIONS.values() for each in row.inputs}

    @wraps(command)
    def with_files(**options: Any) -> Any:
        given = {name: options.pop(name) for name in names}
        files = {name: paths[0] if len(paths) == 1 else list(paths) for name, paths in given.items() if paths}
        return command(files=files, **options)

    options = [
        option(
            f"--{name.replace('_', '-')}",
            name,
            group=REQUEST,
            metavar="FILE|URL",
            multiple=True,
            help=f"{_WORDS[each.kind]} that the operation takes; repeat it for a list",
        )
        for name, each in names.items()
    ]
    return reduce(lambda decorated, each: each(decorated), reversed(options), with_files)


def parse_defaults(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> Mapping[str, Any]:
    """Return the values of `--set NAME=VALUE`. A click callback."""
    pairs = [_pair(each) for each in given]
    known = dict.fromkeys(name for row in OPERATIONS.values() for name in row.parameters)
    for name, _value in pairs:
        if name not in (*known, "operation"):
            raise click.BadParameter(f"{name}: unknown parameter (hint: pass one of {', '.join(known)})")
    return {name: value_of(name, value) for name, value in pairs}


def _parse_extra(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        return {name: json.loads(value) for name, value in map(_pair, given)}
    except ValueError as error:
        hint = """put text in quotes: --extra 'NAME="text"'"""
        raise click.BadParameter(f"the value must be JSON (hint: {hint})") from error


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name.strip() and sign):
        raise click.BadParameter(f"{text}: must be NAME=VALUE")
    return name.strip().replace("-", "_"), value
