"""The operations that the emulated service knows: their paths, and what their requests may contain.

To add an operation, add a row to `OPERATIONS`. Every other module reads this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import attrs

from modelslab_async.emulator.faults import Occasion
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.wire import (
    ASSETS_PATH,
    BALANCE_PATH,
    QUEUE_DEPTH_PATH,
    SUBMIT_PATHS,
    UPLOAD_PATH,
    fetch_path,
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
    required: the parameters that must be texts.
    """

    submit_path: str
    fetch_folders: tuple[str, ...]
    price_usd: Decimal
    numbers: Mapping[str, Number]
    required: tuple[str, ...] = ("prompt", "init_image")
    has_inline_pictures: bool = True
    """Whether `base64` makes `init_image` the picture itself."""


_STEPS, _SEED = "num_inference_steps", Number(None, (-(2**63), 2**63))
_V6_FOLDER = fetch_path(Deployment.V6, "").rstrip("/")
_ENTERPRISE_FOLDER = fetch_path(Deployment.ENTERPRISE, "").rstrip("/")
_SDK_FOLDER = "/api/v1/enterprise/video"
"""Where modelslab-py 0.2.3 fetches jobs of a dedicated server, and commands the server."""
_PRICE_USD = Decimal("0.20")
"""Price of a submit, from the endpoint's documentation page."""
OPERATIONS = (
    Operation(
        submit_path=SUBMIT_PATHS[Deployment.V6],
        fetch_folders=(_V6_FOLDER,),
        price_usd=_PRICE_USD,
        numbers={  # documented ranges: the endpoint's documentation page
            "num_frames": Number(81, (1, 1000)),
            _STEPS: Number(20, (1, 100), (1, 25)),
            "fps": Number(16, (1, 60), (1, 16)),
            "resolution": Number(480, (1, 1080), (1, 480)),
            "guidance_scale": Number(None, None, (0, 8), is_whole=False),
            "sample_shift": Number(None, None, (0, 10), is_whole=False),
            "seed": _SEED,
        },
    ),
    Operation(
        submit_path=SUBMIT_PATHS[Deployment.ENTERPRISE],
        fetch_folders=(_ENTERPRISE_FOLDER, f"{_SDK_FOLDER}/fetch"),
        price_usd=_PRICE_USD,
        has_inline_pictures=False,
        numbers={  # documented ranges: the page of the enterprise endpoint
            "num_frames": Number(92, (1, 1000)),
            _STEPS: Number(8, (1, 100), (1, 8)),
            "fps": Number(16, (1, 60), (1, 18)),
            "resolution": Number(480, (1, 1080), (1, 480)),
            "guidance_scale": Number(None, None, (1, 2), is_whole=False),
            "sample_shift": Number(None, None, (0, 10), is_whole=False),
            "seed": _SEED,
        },
    ),
)
BY_SUBMIT_PATH = {operation.submit_path: operation for operation in OPERATIONS}
FETCH_FOLDERS = {folder: operation for operation in OPERATIONS for folder in operation.fetch_folders}
UPLOAD_PATHS = (UPLOAD_PATH, "/api/v6/image_editing/base64_to_url")
COUNT_PATH, WALLET_PATH, LIST_PATH = QUEUE_DEPTH_PATH, BALANCE_PATH, ASSETS_PATH
SERVER_FOLDERS = (SUBMIT_PATHS[Deployment.ENTERPRISE].rpartition("/")[0], _SDK_FOLDER)
"""Where a dedicated server takes commands."""
SERVER_COMMANDS = ("restart_server", "update_server", "clear_cache", "clear_queue", "system_details")


def occasion_of(path: str) -> Occasion:
    """Return at which occasion a fault can hit a POST to *path*."""
    if path in BY_SUBMIT_PATH:
        return "submit"
    return "fetch" if path in FETCH_FOLDERS or path.rpartition("/")[0] in FETCH_FOLDERS else "call"
