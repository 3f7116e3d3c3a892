"""The operations that the emulated service knows: their paths, and what their requests may contain.

They follow from the rows of `protocol.operations`. So a row that is added there is emulated too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import cache

import attrs

from modelslab_async.emulator.faults import Occasion
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS, Container, Endpoint, Input, Range
from modelslab_async.protocol.operations import Operation as Row
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.wire import (
    ASSETS_PATH,
    BALANCE_PATH,
    QUEUE_DEPTH_PATH,
    UPLOAD_PATH,
    VIDEO_UPLOAD_PATH,
)


@attrs.frozen
class Number:
    """A number of a request, which may come as a string.

    limits: least and most that the emulator can render; other values are refused in every profile. None: not checked.
    documented: the documented range. Only the profile "strict" enforces it, because the documentation's own examples
        exceed it. None: the documentation names no range.
    """

    default: int | None
    limits: tuple[int, int] | None
    documented: tuple[int, int] | None = None
    is_whole: bool = True


@attrs.frozen(kw_only=True)
class Operation:
    """A paid call: where it is submitted and fetched, and what its request may contain.

    fetch_folders: paths at which its jobs are fetched, without the id. The first is the one that replies name.
    required: the parameters that must be there. files: the parameters that are files.
    main_file: the file from which the video is made; None if there is none.
    containers: what its videos may be. If a gif is possible, it is the service's default.
    models: the models that the service knows; it replaces any other by the first. Empty: it takes any.
    """

    name: str
    submit_path: str
    fetch_folders: tuple[str, ...]
    price_usd: Decimal
    numbers: Mapping[str, Number]
    required: tuple[str, ...]
    files: tuple[str, ...]
    main_file: Input | None
    models: tuple[str, ...]
    containers: tuple[Container, ...]
    has_inline_pictures: bool
    """Whether `base64` makes `init_image` the picture itself."""


_SDK_FOLDER = "/api/v1/enterprise/video"
"""Where modelslab-py 0.2.3 fetches jobs of a dedicated server, and commands the server."""
_PRICE_USD = Decimal("0.20")
"""Price of a submit, from the endpoint's documentation page. It is made up for an operation without a known price."""
_LIMITS: Mapping[str, tuple[int, int] | None] = {
    "num_frames": (1, 1000),
    "num_inference_steps": (1, 100),
    "fps": (1, 60),
    "resolution": (1, 1080),
    "width": (16, 1920),
    "height": (16, 1080),
    "guidance_scale": None,
    "sample_shift": None,
    "seed": (-(2**63), 2**63),
}
"""What the emulator can render, of the parameters that are numbers."""
_NOT_WHOLE = ("guidance_scale", "sample_shift")
_DEFAULTS: Mapping[str, int] = {"num_frames": 81, "num_inference_steps": 20, "fps": 16, "resolution": 480}
"""What the emulator uses if the documentation names no default."""


def _emulated(row: Row, deployment: Deployment) -> Operation:
    endpoint, is_dedicated = row.endpoints[deployment], deployment is Deployment.ENTERPRISE
    folders = (endpoint.fetch.rstrip("/"), *([f"{_SDK_FOLDER}/fetch"] if is_dedicated else []))
    documented = [name for name in row.required if name not in ("operation", "model_id")]  # it has a default model
    files = tuple(each.name for each in row.inputs)
    needed = [each.name for each in row.inputs if each.is_required]
    return Operation(
        name=row.name,
        submit_path=endpoint.submit,
        fetch_folders=folders,
        price_usd=_PRICE_USD if row.price is None else row.price.quantize(_PRICE_USD),
        numbers={name: _number(row, endpoint, name) for name in _LIMITS},
        required=tuple(dict.fromkeys((*documented, *needed))),
        files=files,
        main_file=row.inputs[0] if row.inputs else None,
        models=row.models,
        containers=row.containers,
        has_inline_pictures=row.inline_input is not None and not is_dedicated,
    )


def _number(row: Row, endpoint: Endpoint, name: str) -> Number:
    limit = endpoint.limits[None].get(name)
    is_whole = name not in _NOT_WHOLE
    documented = _documented(limit, least=int(is_whole)) if limit else None
    default = endpoint.defaults.get(name, _DEFAULTS[name]) if name in _DEFAULTS else None
    is_taken = name == "seed" or (name in row.parameters and (name != "resolution" or name in row.typical))
    return Number(default, _LIMITS[name] if is_taken else None, documented, is_whole)


def _documented(limit: Range, least: int) -> tuple[int, int] | None:
    if limit.maximum is None:
        return None
    return least if limit.minimum is None else int(limit.minimum), int(limit.maximum)


@cache
def _emulated_once(row: Row, deployment: Deployment) -> Operation:
    return _emulated(row, deployment)


def operations() -> Iterator[Operation]:
    """Yield all operations, of the public API and of dedicated servers."""
    for row in OPERATIONS.values():
        for deployment in row.endpoints:
            yield _emulated_once(row, deployment)


def submitted_at(path: str) -> Operation | None:
    """Return the operation that is submitted at this path, or None."""
    return next((each for each in operations() if each.submit_path == path), None)


def is_fetch_folder(path: str) -> bool:
    """Return whether jobs are fetched in this folder."""
    return any(path in each.fetch_folders for each in operations())


UPLOAD_PATHS = (UPLOAD_PATH, "/api/v6/image_editing/base64_to_url", VIDEO_UPLOAD_PATH)
COUNT_PATH, WALLET_PATH, LIST_PATH = QUEUE_DEPTH_PATH, BALANCE_PATH, ASSETS_PATH
_SERVER_FOLDER = OPERATIONS[DEFAULT_OPERATION].endpoints[Deployment.ENTERPRISE].submit.rpartition("/")[0]
SERVER_FOLDERS = (_SERVER_FOLDER, _SDK_FOLDER)
"""Where a dedicated server takes commands."""
SERVER_COMMANDS = ("restart_server", "update_server", "clear_cache", "clear_queue", "system_details")


def occasion_of(path: str) -> Occasion:
    """Return at which occasion a fault can hit a POST to *path*."""
    if submitted_at(path):
        return "submit"
    return "fetch" if is_fetch_folder(path) or is_fetch_folder(path.rpartition("/")[0]) else "call"
