"""What saving a video gives and tells; how it is done is in `download`."""

from pathlib import Path
from typing import NamedTuple, Protocol


class Progress(Protocol):
    """Called as bytes arrive."""

    def __call__(self, received_bytes: int, total_bytes: int | None, /) -> object:
        """`total_bytes` is None where the server does not tell."""
        ...


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
