"""One job at the emulator, and how long it takes."""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import attrs

BASE_SECONDS = 40.0
"""For 81 frames of 832x480 in 20 steps: the service was measured at 34 to 44 s."""
PRICE_USD = Decimal("0.20")
"""Of a call, on the endpoint's documentation page."""
DAY = 86400.0
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
"""How often an eta is which; weights."""


@attrs.frozen(kw_only=True)
class Work:
    """What is to be rendered. Equal values give equal videos."""

    picture: bytes = attrs.field(repr=False)
    prompt: str
    seed: int
    width: int
    height: int
    frames: int
    fps: int


@attrs.define(kw_only=True)
class Order:
    """A job that was taken. Times are instants of the emulator's clock, in seconds."""

    id: int
    account: str
    params: dict[str, Any]
    work: Work
    name: str
    taken_at: float
    starts_at: float
    done_at: float
    file_at: float
    failed: str = ""
    """Why it fails, or ""."""
    is_rendering: bool = False
    """Its file is being made, and may prove impossible: until then it is not at its end, whatever the time."""

    def link(self, origin: str) -> str:
        """Where its file appears."""
        return f"{origin}/generations/{self.name}"

    def state(self, now: float) -> str:
        """queued, processing, success or failed."""
        if now < self.starts_at:
            return "queued"
        if now < self.done_at or (self.is_rendering and not self.failed):
            return "processing"
        return "failed" if self.failed else "success"


def account_fingerprint(key: str) -> str:
    """What a ledger shows of a key: enough to tell accounts apart, and no more."""
    return hashlib.sha256(f"emulator {key}".encode(errors="surrogatepass")).hexdigest()[:10]


def size_of(resolution: int | str, *, portrait: bool) -> tuple[int, int]:
    """Width and height, even: 832x480 for 480, and a ratio like "16:9" on 480 lines."""
    if isinstance(resolution, str):
        across, _, down = resolution.partition(":")
        width, height = round(480 * int(across) / int(down) / 16) * 16, 480
    else:
        width, height = round(resolution * 26 / 15 / 16) * 16, resolution // 2 * 2
    width, height = max(width, 16), max(height, 16)
    return (height, width) if portrait else (width, height)


def processing_seconds(work: Work, steps: int, rng: random.Random) -> float:
    """Grows with frames × pixels × steps, with lognormal noise."""
    share = work.frames * work.width * work.height * steps / _BASE_WORK
    return BASE_SECONDS * share * rng.lognormvariate(0, _NOISE_SIGMA)


def draw_eta(expected: float, weights: Mapping[EtaKind, float], rng: random.Random) -> float | int | None:
    """What the service would say of a job that takes about so many seconds."""
    kinds = list(weights)
    match rng.choices(kinds, [weights[kind] for kind in kinds])[0]:
        case "good":
            return max(1, round(expected * rng.lognormvariate(0, 0.1)))
        case "float":
            return round(expected * rng.lognormvariate(0, 0.1), 4)
        case "ten times":
            return max(1, round(expected * 10))
        case "a tenth":
            return max(1, round(expected / 10))
        case "zero":
            return 0
        case _:
            return None


def file_name(rng: random.Random) -> str:
    """As the service names files."""
    return f"{uuid.UUID(int=rng.getrandbits(128), version=4)}.mp4"


@attrs.frozen
class Charge:
    """One accepted submit."""

    account: str
    job_id: int
    track_id: str | None
    usd: Decimal
    at: float


@attrs.define
class Ledger:
    """What was paid. Accounts are told apart by a digest of the key."""

    charges: list[Charge] = attrs.field(factory=list[Charge])

    def total(self, key: str | None = None) -> Decimal:
        """USD, of one key or of all."""
        wanted = [charge for charge in self.charges if key is None or charge.account == account_fingerprint(key)]
        return sum((charge.usd for charge in wanted), Decimal(0))

    def track_ids(self) -> list[str | None]:
        """The track_id of each charge, in order."""
        return [charge.track_id for charge in self.charges]


def skeleton(work: Work) -> bytes:
    """The bare boxes of a whole mp4, without a picture in it: for tests that look at everything but the video."""
    content = f"{work.seed} {work.prompt}".encode(errors="surrogatepass")
    boxes = ((b"ftyp", b"isom\0\0\2\0isommp41"), (b"moov", b""), (b"mdat", content))
    return b"".join((8 + len(data)).to_bytes(4) + kind + data for kind, data in boxes)
