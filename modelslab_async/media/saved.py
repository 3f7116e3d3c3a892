"""What saving a video returns and reports. The saving itself is in `download`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

DEFAULT_MAX_BYTES = 2**31
"""The longest file that is saved: 2 GiB, far more than any clip. An endless file must not fill the disk."""
Progress = Callable[[int, int | None], object]
"""Callback for a download: called with the bytes received so far, and the total, which is None if it is unknown."""


class SavedVideo(NamedTuple):
    """A whole video on disk: an mp4, or a gif if the operation gives one.

    width, height: pixels. frames: their number. fps: frames per second. duration: seconds.
    Each of these is None if the file does not say it.
    """

    path: Path
    size_bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    duration: float | None = None
