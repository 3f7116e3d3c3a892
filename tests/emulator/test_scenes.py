"""What the emulator shows for operations without a picture: title cards, and the videos that were sent."""

from __future__ import annotations

import io
from typing import Any

import av
import pytest
from PIL import ImageChops, ImageStat
from PIL.Image import Image

from modelslab_async.emulator.job import Work
from modelslab_async.emulator.render import render
from modelslab_async.emulator.scenes import UnreadableVideoError

SIZE: dict[str, Any] = {"width": 160, "height": 96, "fps": 8}


def frames_of(video: bytes) -> list[Image]:
    """Return the frames of a video."""
    with av.open(io.BytesIO(video), "r") as container:
        return [frame.to_image() for frame in container.decode(video=0)]  # type: ignore[no-untyped-call]


def difference(one: Image, other: Image) -> float:
    """Return how much two frames differ: 0 if they are equal, 255 if one is black and the other white."""
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


def a_title(prompt: str = "a castle by night", seed: int = 1) -> bytes:
    """Return the video of an operation without files."""
    return render(Work(picture=b"", prompt=prompt, seed=seed, frames=12, operation="text2video_ultra", **SIZE))


def a_copy(video: bytes, operation: str, frames: int = 12) -> bytes:
    """Return the video of an operation that takes a video."""
    return render(Work(picture=video, prompt="p", seed=1, frames=frames, operation=operation, **SIZE))


def test_a_prompt_is_shown_on_a_moving_ground() -> None:
    """The card has the length that was asked for, moves, and depends on the prompt and the seed alone."""
    shown = frames_of(a_title())
    assert len(shown) == 12
    assert shown[0].size == (160, 96)
    assert difference(shown[0], shown[6]) > 5
    assert a_title() == a_title()
    for other in (a_title(prompt="a bridge at noon"), a_title(seed=2)):
        assert difference(shown[0], frames_of(other)[0]) > 0.5


@pytest.mark.parametrize("prompt", ["", "日本語", "word " * 200, "x" * 5000, "\udcff"])
def test_any_prompt_can_be_shown(prompt: str) -> None:
    """No letter and no length makes the renderer fail."""
    assert len(frames_of(a_title(prompt))) == 12


def test_a_video_comes_back_encoded_anew() -> None:
    """The frames are those that were sent. If there are too few, the video begins anew."""
    source = a_title()
    sent, copied = frames_of(source), frames_of(a_copy(source, "video-to-video", frames=20))
    assert len(copied) == 20
    for index in range(20):
        same, other = sent[index % 12], sent[(index + 6) % 12]
        assert difference(same, copied[index]) < difference(other, copied[index]) / 2
    assert a_copy(source, "video-to-video") != source


def test_lip_sync_has_a_marker() -> None:
    """A mark opens and closes where a mouth may be; elsewhere the video is as it was sent."""
    source = a_title()
    plain, marked = frames_of(a_copy(source, "video-to-video")), frames_of(a_copy(source, "lip-sync"))
    mouth, top = (70, 62, 90, 82), (0, 0, 160, 48)
    changes = [difference(one.crop(mouth), other.crop(mouth)) for one, other in zip(plain, marked, strict=True)]
    assert max(changes) > 15
    assert max(changes) > 2 * min(changes)
    assert difference(plain[3].crop(top), marked[3].crop(top)) < 3


@pytest.mark.parametrize("cut", [40, 400])
def test_a_video_that_cannot_be_decoded(cut: int) -> None:
    """A cut video fails the job."""
    with pytest.raises(UnreadableVideoError):
        a_copy(a_title()[:cut], "video-to-video")
