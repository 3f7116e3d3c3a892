"""What the emulator shows for operations without a picture: the prompt on a moving ground, or the video that was sent.

It needs the extra `emulator`, which is imported when the first video is rendered.
"""

from __future__ import annotations

import io
import math
import random
import textwrap
from collections.abc import Iterator
from itertools import cycle
from typing import TYPE_CHECKING

from modelslab_async.emulator.job import Work
from modelslab_async.media.images import sniff_media

if TYPE_CHECKING:
    from PIL.Image import Image

_LETTERS_A_LINE = 32
_MOST_LETTERS = 320
_GROUND_PIXELS = 8
"""The ground is drawn this small, and scaled: its colours change slowly."""
_MOST_KEPT_FRAMES = 400
_MARKER_SHARE = 24
"""The width of a video divided by that of its marker."""


class UnreadableVideoError(Exception):
    """The video cannot be decoded."""


def is_video(work: Work) -> bool:
    """Return whether the work's file is a video."""
    return (sniff_media(work.picture[:64]) or "").startswith("video/")


def frames_of(work: Work) -> Iterator[Image]:
    """Yield the frames of work without a picture. Raises UnreadableVideoError."""
    return video_frames(work) if is_video(work) else title_frames(work)


def title_frames(work: Work) -> Iterator[Image]:
    """Yield the frames of a title card: the prompt on a ground whose colours move. Seed and prompt choose them."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415 - an optional dependency

    rng = random.Random(f"{work.seed} {work.prompt}".encode(errors="surrogatepass"))
    phases = [rng.uniform(0, 2 * math.pi) for _ in range(3)]
    shown = work.prompt.encode("latin-1", "replace").decode("latin-1")[:_MOST_LETTERS]  # the built-in font's letters
    text = "\n".join(textwrap.wrap(shown, _LETTERS_A_LINE)) or work.operation
    font = ImageFont.load_default(size=max(work.width // _LETTERS_A_LINE, 8))
    for index in range(work.frames):
        turn = 2 * math.pi * index / max(work.frames, 1)
        ground = Image.new("RGB", (_GROUND_PIXELS, _GROUND_PIXELS))
        for x in range(_GROUND_PIXELS):
            for y in range(_GROUND_PIXELS):
                waves = (math.sin(turn + phase + (x + y * (1 + band)) / 6) for band, phase in enumerate(phases))
                ground.putpixel((x, y), tuple(round(70 + 55 * wave) for wave in waves))
        frame = ground.resize((work.width, work.height), Image.Resampling.BICUBIC)
        middle = (work.width / 2, work.height / 2)
        ImageDraw.Draw(frame).multiline_text(middle, text, (255, 255, 255), font, anchor="mm", align="center")
        yield frame


def video_frames(work: Work) -> Iterator[Image]:
    """Yield the frames of the video that was sent, in the size of the work. A short video begins anew.

    Lip-sync gets a marker that opens and closes. Raises UnreadableVideoError if the video cannot be decoded.
    """
    from PIL import ImageDraw, ImageOps  # noqa: PLC0415 - an optional dependency

    frames = _decoded(work.picture)
    for index, image in zip(range(work.frames), cycle(frames), strict=False):
        frame = ImageOps.fit(image, (work.width, work.height))
        if work.operation == "lip-sync":
            size = max(work.width // _MARKER_SHARE, 4)
            opening = round(size / 4 * (1 + math.sin(index)))
            x, y = work.width // 2, work.height * 3 // 4
            ImageDraw.Draw(frame).ellipse((x - size, y - opening, x + size, y + opening), fill=(200, 40, 60))
        yield frame


def _decoded(video: bytes) -> list[Image]:
    import av  # noqa: PLC0415 - an optional dependency
    from av.error import FFmpegError  # noqa: PLC0415

    frames: list[Image] = []
    try:
        with av.open(io.BytesIO(video), "r") as container:
            for frame in container.decode(video=0):
                frames.append(frame.to_image())  # type: ignore[no-untyped-call]
                if len(frames) == _MOST_KEPT_FRAMES:
                    break
    except (FFmpegError, OSError, ValueError, IndexError) as error:
        raise UnreadableVideoError(str(error)) from error
    if not frames:
        raise UnreadableVideoError("no frames")
    return frames
