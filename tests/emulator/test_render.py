"""What the renderer makes of a picture. The videos are small, so that the tests are quick."""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import av
import pytest
from PIL import Image, ImageChops, ImageStat

from modelslab_async.emulator import Work
from modelslab_async.emulator.job import video_size
from modelslab_async.emulator.render import UnreadablePictureError, picture_problem, render

ROCKET = (Path(__file__).parents[2] / "examples" / "rocket.jpg").read_bytes()


def a_work(**changes: Any) -> Work:
    """Return the work of a small video, with *changes*."""
    usual = {"picture": ROCKET, "prompt": "moving", "seed": 1, "width": 160, "height": 96, "frames": 10, "fps": 16}
    return Work(**{**usual, **changes})


@attrs.frozen
class Decoded:
    """A decoded video. `seconds` is its duration."""

    codec: str
    pixels: str
    size: tuple[int, int]
    rate: Fraction
    seconds: float
    frames: list[Image.Image]


def decode(content: bytes) -> Decoded:
    """Decode a video that has no other streams."""
    with av.open(io.BytesIO(content), "r") as container:
        (stream,) = container.streams
        video = container.streams.video[0]
        assert stream is video
        frames = [frame.to_image() for frame in container.decode(video)]  # type: ignore[no-untyped-call]
        assert video.average_rate is not None
        assert container.duration is not None
        return Decoded(
            video.codec_context.name,
            video.codec_context.pix_fmt or "",
            (video.width, video.height),
            Fraction(video.average_rate.numerator, video.average_rate.denominator),
            container.duration / 1_000_000,
            frames,
        )


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return the mean absolute difference of two pictures, from 0 to 255."""
    means = ImageStat.Stat(ImageChops.difference(one, other)).mean
    return sum(means) / len(means)


def boxes(content: bytes) -> list[str]:
    """Return the names of an mp4's outer boxes, in order."""
    names, at = [], 0
    while at < len(content):
        names.append(content[at + 4 : at + 8].decode())
        at += int.from_bytes(content[at : at + 4])
    assert at == len(content)
    return names


@pytest.mark.parametrize(
    ("size", "frames", "fps"),
    [((160, 96), 17, 16), ((96, 160), 8, 8), ((112, 64), 1, 1), ((16, 16), 5, 12), ((64, 64), 30, 60)],
)
def test_a_video_has_the_requested_size_frames_and_rate(size: tuple[int, int], frames: int, fps: int) -> None:
    """A video has exactly the requested frames, rate and size, lasts frames / fps seconds, and is H.264 in yuv420p."""
    video = decode(render(a_work(width=size[0], height=size[1], frames=frames, fps=fps)))
    assert (video.codec, video.pixels, video.size) == ("h264", "yuv420p", size)
    assert len(video.frames) == frames
    assert video.rate == fps
    assert video.seconds == pytest.approx(frames / fps, abs=0.01)


@pytest.mark.parametrize("portrait", [True, False])
@pytest.mark.parametrize("resolution", [64, 100, "1:1", "21:9", "9:16"])
def test_any_size_of_a_request_can_be_rendered(resolution: int | str, portrait: bool) -> None:
    """A video can have any size that a resolution, a ratio and an orientation give."""
    size = video_size(resolution, portrait=portrait)
    assert decode(render(a_work(width=size[0], height=size[1], frames=2))).size == size


def test_a_video_starts_at_once_in_a_browser() -> None:
    """The index that a player needs first precedes the frames (fast start)."""
    names = boxes(render(a_work()))
    assert names[0] == "ftyp"
    assert names.index("moov") < names.index("mdat")


def test_equal_work_gives_equal_bytes() -> None:
    """Equal work gives equal bytes. Another seed, prompt or picture gives other bytes."""
    usual = render(a_work())
    assert render(a_work()) == usual
    others = [render(a_work(seed=2)), render(a_work(prompt="zoom out")), render(a_work(picture=a_picture("PNG")))]
    assert len({usual, *others}) == 4


MOVES = ["zoom in", "zoom out", "pan left", "pan right", "go up", "go down", "dancing"]


@pytest.mark.parametrize("prompt", MOVES)
def test_the_motion_is_visible_and_smooth(prompt: str) -> None:
    """Each frame differs from the previous frame, by less than a third of the difference between first and last."""
    frames = decode(render(a_work(prompt=prompt, frames=40))).frames
    steps = [difference(one, other) for one, other in itertools.pairwise(frames)]
    whole = difference(frames[0], frames[-1])
    middle = steps[4:-4]  # the camera starts and stops slowly
    assert min(middle) > 0
    assert max(steps) < whole / 3
    assert whole > 3


def test_the_video_shows_the_picture() -> None:
    """The widest view is the picture itself, cropped to the video's shape. Only the label covers it."""
    frame = decode(render(a_work(prompt="zoom in", frames=2, width=208, height=120))).frames[0]
    with Image.open(io.BytesIO(ROCKET)) as opened:
        whole = opened.convert("RGB")
    shape = min(whole.width / 208, whole.height / 120)
    left, top = (whole.width - 208 * shape) / 2, (whole.height - 120 * shape) / 2
    expected = whole.resize((208, 120), box=(left, top, whole.width - left, whole.height - top))
    above_the_label = (0, 0, 208, 90)
    assert difference(frame.crop(above_the_label), expected.crop(above_the_label)) < 8


def a_picture(kind: str, mode: str = "RGB") -> bytes:
    """Return a picture file of this format and mode."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((70, 50)).convert(mode).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "LA"), ("PNG", "I;16")),
        *(("JPEG", "L"), ("JPEG", "CMYK"), ("GIF", "P"), ("WEBP", "RGBA")),
    ],
)
def test_pictures_of_many_kinds(kind: str, mode: str) -> None:
    """A picture may be a PNG, JPEG, GIF or WebP, and grey, paletted, transparent or in CMYK."""
    assert len(decode(render(a_work(picture=a_picture(kind, mode), frames=2))).frames) == 2


def a_gradient(mode: str, brightness: Callable[[float], float]) -> Image.Image:
    """Return a picture whose columns have the *brightness* of their position, which runs from 0 to 1."""
    picture = Image.new(mode, (64, 48))
    for x in range(64):
        picture.paste(Image.new(mode, (1, 48), brightness(x / 63)), (x, 0))
    return picture


def a_png(color_type: int, *samples: Callable[[int], int]) -> bytes:
    """Return a PNG of 64 pixels a row with 16 bits a sample. Each of *samples* maps a column to a sample."""
    row = b"\0" + b"".join(struct.pack(">H", sample(x)) for x in range(64) for sample in samples)
    head = struct.pack(">IIBBBBB", 64, 48, 16, color_type, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(row * 48)), (b"IEND", b"")]
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the file of a picture in this format."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


BRIGHTER: Callable[[int], int] = lambda x: x * 65535 // 63  # noqa: E731
FULL: Callable[[int], int] = lambda _: 65535  # noqa: E731
GRADIENTS = {
    "8 bits": encode(a_gradient("L", lambda share: round(share * 255)), "PNG"),
    "grey of 16 bits": a_png(0, BRIGHTER),
    "grey of 16 bits, 12 of them used": a_png(0, lambda x: BRIGHTER(x) // 16),
    "grey of 16 bits, 8 of them used": a_png(0, lambda x: x * 255 // 63),
    "grey of 16 bits with transparency": a_png(4, BRIGHTER, FULL),
    "colours of 16 bits": a_png(2, BRIGHTER, BRIGHTER, BRIGHTER),
    "colours of 16 bits with transparency": a_png(6, BRIGHTER, BRIGHTER, BRIGHTER, FULL),
    "I;16, big end first": encode(a_gradient("I;16B", lambda share: round(share * 65535)), "TIFF"),
    "I": encode(a_gradient("I", lambda share: round(share * 2**31 - 1)), "TIFF"),
    "I, with negative values": encode(a_gradient("I", lambda share: round(share * 60000 - 30000)), "TIFF"),
    "F, up to 1": encode(a_gradient("F", lambda share: share), "TIFF"),
    "F, up to 255": encode(a_gradient("F", lambda share: share * 255), "TIFF"),
    "F, up to 65535": encode(a_gradient("F", lambda share: share * 65535), "TIFF"),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_a_picture_of_any_depth_keeps_its_contrast(name: str) -> None:
    """A gradient from black to white stays a gradient, whatever the number of bits a sample."""
    pictures = (GRADIENTS[name], GRADIENTS["8 bits"])
    works = [a_work(picture=picture, prompt="zoom in", frames=1, width=128, height=96) for picture in pictures]
    frame, plain = (decode(render(work)).frames[0] for work in works)
    row: list[Any] = [frame.convert("L").getpixel((x, 40)) for x in range(4, 128, 20)]
    assert row == sorted({*row})
    assert difference(frame, plain) < 3


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (200, 200), (65535, 255)])
def test_a_picture_of_one_grey_is_not_stretched(value: int, expected: int) -> None:
    """Black stays black, white stays white, and a value of 8 bits stays the same."""
    frame = decode(render(a_work(picture=a_png(0, lambda _: value), frames=1))).frames[0]
    assert frame.convert("L").getpixel((40, 20)) == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_a_picture_is_shown_upright(mode: str) -> None:
    """The orientation in the picture's EXIF data is applied."""
    upright = a_gradient(mode, lambda share: round(share * 255))
    exif = Image.Exif()
    exif[0x0112] = 8  # viewers turn it left
    turned = encode(upright.transpose(Image.Transpose.ROTATE_270), "PNG", exif=exif)
    frames = [decode(render(a_work(picture=each, frames=1))).frames[0] for each in (encode(upright, "PNG"), turned)]
    assert difference(*frames) < 3


@pytest.mark.parametrize(
    "picture",
    [b"", b"no picture", ROCKET[:100], ROCKET[: len(ROCKET) // 2], b"\x89PNG\r\n\x1a\n" + bytes(24)],
    ids=["empty", "text", "head", "half", "signature"],
)
def test_a_picture_that_cannot_be_decoded(picture: bytes) -> None:
    """A picture that cannot be decoded raises UnreadablePictureError."""
    with pytest.raises(UnreadablePictureError, match=r"."):
        render(a_work(picture=picture))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "PA"])
def test_a_transparent_picture_is_shown_on_white(mode: str) -> None:
    """What is transparent becomes white, not the colour that happens to be stored there."""
    picture = Image.new("RGBA", (64, 48), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": 0} if mode == "P" else {}
    frame = decode(
        render(a_work(picture=encode(picture, "TIFF" if mode == "PA" else "PNG", **options), frames=1))
    ).frames[0]
    assert ImageStat.Stat(frame.crop((0, 0, 100, 60))).mean == pytest.approx([255, 255, 255], abs=4)


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "AVIF", "PPM"])
def test_other_formats(kind: str) -> None:
    """A picture of another format that Pillow reads is rendered, too."""
    assert picture_problem(a_picture(kind)) == ""
    assert len(decode(render(a_work(picture=a_picture(kind), frames=2))).frames) == 2


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="pillow-heif is installed")
def test_a_heic_picture_is_refused_with_the_way_out() -> None:
    """Without pillow-heif the refusal names it."""
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    assert "pillow-heif" in picture_problem(heic)


@pytest.mark.parametrize("picture", [b"no picture", ROCKET[:100], ROCKET[: len(ROCKET) // 2], b"BM" + bytes(40), b""])
def test_a_problem_is_a_sentence_without_addresses(picture: bytes) -> None:
    """The reason is one sentence, with no address in memory and no name of a Python class."""
    problem = picture_problem(picture)
    assert problem.startswith("The init image ")
    assert problem.endswith(".")
    assert not {"0x", "<", "BytesIO"} & {word for word in ("0x", "<", "BytesIO") if word in problem}


def test_a_picture_with_too_many_pixels() -> None:
    """A small file with very many pixels is refused before it is decoded."""
    file = io.BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG")
    with pytest.raises(UnreadablePictureError, match="pixels"):
        render(a_work(picture=file.getvalue()))


@pytest.mark.parametrize("prompt", ["\ud800", "", "\x00", "zoom " * 10_000, "左"], ids=ascii)
def test_any_prompt_can_be_rendered(prompt: str) -> None:
    """Any text that JSON can hold is accepted as a prompt, even half of a surrogate pair."""
    assert boxes(render(a_work(prompt=prompt[:20], frames=2)))[0] == "ftyp"
