"""Render an mp4 in which a camera moves over the submitted picture: H.264, yuv420p, fast start, for any browser.

Without a picture, it shows what `scenes` draws.

Seed and prompt choose the camera's path. Equal work gives equal bytes. A small label says that an emulator made the
video. The renderer needs the extra `emulator` (PyAV, Pillow), and imports it when the first video is rendered.
"""

from __future__ import annotations

import io
import math
import random
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from modelslab_async.emulator import scenes
from modelslab_async.emulator.job import Work
from modelslab_async.emulator.params import kind_of
from modelslab_async.protocol.operations import OPERATIONS

if TYPE_CHECKING:
    from PIL.Image import Image

_LABEL = "modelslab_async emulator"
_OPTIONS = {
    "preset": "veryfast",
    "crf": "28",
    "x264-params": "cpu-independent=1",  # equal bytes on every machine
}
_MAX_PIXELS = 50_000_000
MISSING = (
    "the emulator cannot render videos: PyAV or Pillow is missing (hint: python -m pip install "
    "'modelslab_async[emulator]'; without them, render=skeleton makes files that no player shows)"
)
_ZOOM = 0.78
"""The share of the picture that is visible at the narrow end of a zoom or pan."""


class UnreadablePictureError(Exception):
    """The picture cannot be decoded, or has too many pixels."""


class UnwantedError(Exception):
    """`is_wanted` returned False: the emulator is closing, and the video is not needed."""


def render(work: Work, *, is_wanted: Callable[[], bool] = lambda: True) -> bytes:
    """Return the video, an mp4 or a gif: exactly `frames` frames at `fps`, of `width` × `height`.

    Call it in a thread: it takes about a second. *is_wanted* is called before each frame.

    Raises UnreadablePictureError if the picture cannot be decoded, UnwantedError if *is_wanted* returns False, and
    ImportError without the extra `emulator`.
    """
    import av  # noqa: PLC0415 - an optional dependency

    frames = _frames(_open_picture(work), work) if _shows_picture(work) else scenes.frames_of(work)
    if work.container == "gif":
        return _gif(frames, work, is_wanted)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"  # fast start rewrites the output, which must therefore be a file
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(path), "w", options=options) as container:
            container.metadata["comment"] = _LABEL
            stream = container.add_stream("libx264", rate=Fraction(work.fps), options=dict(_OPTIONS))
            stream.width, stream.height, stream.pix_fmt = work.width, work.height, "yuv420p"
            stream.codec_context.thread_count = 1  # the number of threads changes the bytes
            for image in frames:
                if not is_wanted():
                    raise UnwantedError
                _draw_label(image)
                frame = av.VideoFrame.from_image(image)  # type: ignore[no-untyped-call]
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path.read_bytes()


def is_available() -> bool:
    """Return whether the packages of the extra `emulator` are installed."""
    return find_spec("av") is not None and find_spec("PIL") is not None


def picture_problem(content: bytes) -> str:
    """Return why a picture cannot be rendered, as a sentence of the service's kind; "" if it can.

    Call it in a thread: it decodes the picture.
    """
    try:
        _decode(content)
    except UnreadablePictureError as error:
        return str(error)
    return ""


def _gif(frames: Iterator[Image], work: Work, is_wanted: Callable[[], bool]) -> bytes:
    """Return the frames as a gif that repeats."""
    shown = []
    for image in frames:
        if not is_wanted():
            raise UnwantedError
        _draw_label(image)
        shown.append(image)
    file, first, others = io.BytesIO(), shown[0], shown[1:]
    first.save(file, "GIF", save_all=True, append_images=others, duration=round(1000 / work.fps), loop=0)
    return file.getvalue()


def _shows_picture(work: Work) -> bool:
    """Return whether the video is made from a picture. An operation without files shows its prompt."""
    if scenes.is_video(work):
        return False
    row = OPERATIONS.get(work.operation)
    return work.picture != b"" or (row is not None and any(each.is_required for each in row.inputs[:1]))


def _open_picture(work: Work) -> Image:
    """Return the picture, upright and cropped to the video's shape, half as large again as the video."""
    from PIL import ImageOps  # noqa: PLC0415 - an optional dependency

    return ImageOps.fit(_decode(work.picture), (work.width * 3 // 2, work.height * 3 // 2))


def _decode(content: bytes) -> Image:
    """Return the picture, upright, in colours of 8 bits, on white where it is transparent."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415 - an optional dependency

    with suppress(ImportError):  # an optional dependency of the user
        from pillow_heif import register_heif_opener  # type: ignore[import-not-found]  # noqa: PLC0415

        register_heif_opener()
    kind = kind_of(content)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise UnreadablePictureError(f"The init image has more than {_MAX_PIXELS:,} pixels.")
            picture = _in_8_bits(ImageOps.exif_transpose(opened))
            if picture.has_transparency_data:
                picture = picture.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
            return picture.convert("RGB")
    except UnidentifiedImageError as error:
        reason = "The init image is not a valid image."
        if kind == "heic":
            reason = "The init image is HEIC, which this emulator reads only if pillow-heif is installed."
        raise UnreadablePictureError(reason) from error
    except Image.DecompressionBombError as error:
        raise UnreadablePictureError(f"The init image has more than {_MAX_PIXELS:,} pixels.") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise UnreadablePictureError("The init image is damaged.") from error


def _in_8_bits(picture: Image) -> Image:
    """Scale a grey picture of 16 or 32 bits a pixel to 8 bits. Pillow's own conversion clips values above 255."""
    if picture.mode[0] not in "IF":
        return picture
    grey = picture.convert("F")
    extrema: Any = grey.getextrema()  # two floats: the picture has one band
    black, white = min(extrema[0], 0.0), max(extrema[1], 1.0 if picture.mode == "F" else 255.0)
    scale = 255 / (white - black)
    return grey.point(lambda value: value * scale - black * scale).convert("L")


@attrs.frozen
class _View:
    """A part of the picture: its center and its size, as shares of the whole."""

    x: float
    y: float
    size: float


def _camera_path(work: Work) -> tuple[_View, _View]:
    """Return the first and the last view. The prompt may name a move: zoom in, zoom out, left, right, up, down."""
    rng = random.Random(f"{work.seed} {work.prompt}".encode(errors="surrogatepass"))
    wide = _View(0.5, 0.5, 1.0)
    reach = (1 - _ZOOM) / 2
    directions = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
    words = set(re.findall(r"[a-z]+", work.prompt.lower()))
    named = [step for word, step in directions.items() if word in words]
    angle = rng.uniform(0, 2 * math.pi)
    across, down = named[0] if named else (math.cos(angle), math.sin(angle))
    far = _View(0.5 + reach * across, 0.5 + reach * down, _ZOOM)
    if named:
        return _View(1 - far.x, 1 - far.y, _ZOOM), far
    outwards = "out" in words or ("in" not in words and rng.random() < 0.5)
    return (far, wide) if outwards else (wide, far)


def _frames(picture: Image, work: Work) -> Iterator[Image]:
    from PIL.Image import Resampling  # noqa: PLC0415 - an optional dependency

    start, end = _camera_path(work)
    for index in range(work.frames):
        time = index / max(work.frames - 1, 1)
        eased = (1 - math.cos(math.pi * time)) / 2
        view = _View(*(a + (b - a) * eased for a, b in zip(attrs.astuple(start), attrs.astuple(end), strict=True)))
        box = (
            max(0.0, (view.x - view.size / 2) * picture.width),
            max(0.0, (view.y - view.size / 2) * picture.height),
            min(float(picture.width), (view.x + view.size / 2) * picture.width),
            min(float(picture.height), (view.y + view.size / 2) * picture.height),
        )
        yield picture.resize((work.width, work.height), Resampling.BILINEAR, box=box)


def _draw_label(frame: Image) -> None:
    from PIL import ImageDraw  # noqa: PLC0415 - an optional dependency

    draw = ImageDraw.Draw(frame, "RGBA")
    left, top, right, bottom = draw.textbbox((0, 0), _LABEL)
    x, y = frame.width - (right - left) - 10, frame.height - (bottom - top) - 12
    draw.rectangle((x - 5, y - 2, frame.width, frame.height), fill=(0, 0, 0, 110))
    draw.text((x, y), _LABEL, fill=(255, 255, 255, 220))
