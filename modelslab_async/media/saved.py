"""What saving a video gives and tells; how it is done is in `download`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

DEFAULT_MAX_BYTES = 2**31
"""The longest file that is saved: 2 GiB, far more than any clip. An endless one must not fill the disk."""
Progress = Callable[[int, int | None], object]
"""Called as bytes arrive, with how many came, and of how many: None where the server does not tell."""


class SavedVideo(NamedTuple):
    """A whole mp4 at `path`. What the file does not tell is None: pixels, frames, frames per second, seconds."""

    path: Path
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
