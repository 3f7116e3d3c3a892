"""A job of the emulated service: what it renders, how long it takes, and which eta the service announces. Pure."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import attrs

from modelslab_async.protocol.operations import DEFAULT_OPERATION, Endpoint, Operation

BASE_SECONDS = 40.0
"""Processing time of 81 frames of 832x480 in 20 steps: the service was measured at 34 to 44 s."""
PRICE_USD = Decimal("0.20")
"""Price of a submit, from the endpoint's documentation page. It is made up for an operation without a known price."""
DAY_SECONDS = 86400.0
_NOISE_SIGMA = 0.15
_BASE_WORK = 81 * 832 * 480 * 20

EtaKind = Literal["good", "absent", "zero", "ten times", "a tenth", "float"]
DEFAULT_ETA: Mapping[EtaKind, float] = {
    "good": 0.7,
    "float": 0.1,
    "absent": 0.05,
    "zero": 0.05,
    "ten times": 0.05,
    "a tenth": 0.05,
}
"""Default weights of the kinds of eta."""


@attrs.frozen(kw_only=True)
class Work:
    """What a renderer needs to make a job's video. Equal values give equal videos.

    picture: the content of the request's first file; empty if the operation has no files.
    """

    picture: bytes = attrs.field(repr=False)
    prompt: str
    seed: int
    width: int
    height: int
    frames: int
    fps: int
    operation: str = DEFAULT_OPERATION


@attrs.define(kw_only=True)
class EmulatedJob:
    """A job that the emulated service accepted. Times are seconds on the emulator's clock."""

    id: int
    operation: Operation
    endpoint: Endpoint
    """Where the job was submitted, and is fetched."""
    account: str
    """Fingerprint of the key that submitted the job."""
    params: dict[str, Any]
    """Parameters of the request, without the key and the files."""
    work: Work
    origin: str
    """Scheme and host of the link in the job's webhook deliveries."""
    file_name: str
    accepted_at: float
    starts_at: float
    """When a worker begins to process the job."""
    done_at: float
    """When the job succeeds or fails."""
    file_at: float
    """When the file appears at its link."""
    failure: str = ""
    """Why the job fails, or "" if it succeeds."""
    is_rendering: bool = False
    """Whether the renderer still works on the file. Such a job is processing even after `done_at`: it may yet fail."""

    def link(self, origin: str) -> str:
        """Return the URL at which the file appears."""
        return f"{origin}/generations/{self.file_name}"

    def state(self, now: float) -> str:
        """Return "queued", "processing", "success" or "failed"."""
        if now < self.starts_at:
            return "queued"
        if now < self.done_at or (self.is_rendering and not self.failure):
            return "processing"
        return "failed" if self.failure else "success"


def video_size(resolution: int | str, *, portrait: bool) -> tuple[int, int]:
    """Return an even width and height: 832x480 for 480, and 480 lines for a ratio like "16:9"."""
    if isinstance(resolution, str):
        across, _, down = resolution.partition(":")
        width, height = round(480 * int(across) / int(down) / 16) * 16, 480
    else:
        width, height = round(resolution * 26 / 15 / 16) * 16, resolution // 2 * 2
    width, height = max(width, 16), max(height, 16)
    return (height, width) if portrait else (width, height)


def processing_seconds(work: Work, steps: int, rng: random.Random) -> float:
    """Return a processing time that is proportional to frames × pixels × steps, with lognormal noise."""
    share = work.frames * work.width * work.height * steps / _BASE_WORK
    return BASE_SECONDS * share * rng.lognormvariate(0, _NOISE_SIGMA)


def draw_eta(seconds: float, weights: Mapping[EtaKind, float], rng: random.Random) -> float | int | None:
    """Draw the eta that the service announces for a job that takes about *seconds*. Return None for an absent eta."""
    kinds = list(weights)
    match rng.choices(kinds, [weights[kind] for kind in kinds])[0]:
        case "good":
            return max(1, round(seconds * rng.lognormvariate(0, 0.1)))
        case "float":
            return round(seconds * rng.lognormvariate(0, 0.1), 4)
        case "ten times":
            return max(1, round(seconds * 10))
        case "a tenth":
            return max(1, round(seconds / 10))
        case "zero":
            return 0
        case _:
            return None


def draw_file_name(rng: random.Random) -> str:
    """Draw a file name of the service's form: a UUID and `.mp4`."""
    return f"{uuid.UUID(int=rng.getrandbits(128), version=4)}.mp4"
