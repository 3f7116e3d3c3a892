"""A job of the emulated service: what it renders, how long it takes, and which eta the service announces. Pure."""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from typing import Any, Literal

import attrs

from modelslab_async.emulator.operations import Operation
from modelslab_async.protocol.operations import DEFAULT_OPERATION, Container

BASE_SECONDS = 40.0
"""Processing time of 81 frames of 832x480 in 20 steps: the service was measured at 34 to 44 s."""
DAY_SECONDS = 86400.0
_NOISE_SIGMA = 0.15
_BASE_WORK = 81 * 832 * 480 * 20

EtaKind = Literal["good", "absent", "zero", "ten times", "a tenth", "float"]
DEFAULT_ETA: Mapping[EtaKind, float] = {
    "good": 0.8,
    "absent": 0.05,
    "zero": 0.05,
    "ten times": 0.05,
    "a tenth": 0.05,
}
"""Default weights of the kinds of eta. "float" is not among them: the schema of later pages says integer."""


@attrs.frozen(kw_only=True)
class Work:
    """What a renderer needs to make a job's video. Equal values give equal videos.

    picture: the content of the picture. The work that a job keeps has none: see `EmulatedJob.picture`.
    """

    picture: bytes = attrs.field(repr=False)
    prompt: str
    seed: int
    width: int
    height: int
    frames: int
    fps: int
    operation: str = DEFAULT_OPERATION
    container: Container = "mp4"


@attrs.define(kw_only=True)
class EmulatedJob:
    """A job that the emulated service accepted. Times are seconds on the emulator's clock."""

    id: int
    account: str
    """Fingerprint of the key that submitted the job."""
    params: dict[str, Any]
    """Parameters of the request, without the key and the files."""
    path: str
    """Path of the request."""
    operation: Operation
    source: str
    """The first file as the request names it: its URL, or the length and digest of an inline picture."""
    picture: str
    """The name of the picture in the service's store; "" if it is not kept any more."""
    work: Work
    origin: str
    """Scheme and host of the API's links in the job's webhook deliveries."""
    file_origin: str
    """Scheme and host of the links to its file in its webhook deliveries."""
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
    """Whether the video is not rendered yet. Such a job is processing even after `done_at`: it may yet fail."""
    polls: int = 0
    """How often the job was fetched."""
    faults_used: bool = False
    """Whether the fault that its track_id requests has hit."""

    @property
    def track_id(self) -> Any:
        """The track_id of the request, or None."""
        return self.params.get("track_id")

    @property
    def is_temporary(self) -> bool:
        """Whether the service deletes the file 24 hours after it was made."""
        return parse_bool(self.params.get("temp"))

    def link(self, origin: str) -> str:
        """Return the URL at which the file appears."""
        return f"{origin}/{'temp' if self.is_temporary else 'generations'}/{self.file_name}"

    def state(self, now: float) -> str:
        """Return "queued", "processing", "success" or "failed"."""
        if now < self.starts_at:
            return "queued"
        if now < self.done_at or (self.is_rendering and not self.failure):
            return "processing"
        return "failed" if self.failure else "success"


def parse_bool(value: Any) -> bool:
    """Return a boolean, which may come as a string."""
    return value is True or str(value).lower() in ("true", "yes", "1")


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
