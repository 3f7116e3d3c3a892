"""The files of requests for several operations: which may be local, and what is uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.operations import CLIP, a_request_for
from helpers.world import PNG

from modelslab_async import InvalidRequestError
from modelslab_async.media.images import MAX_IMAGE_BYTES, sniff, sniff_media
from modelslab_async.media.inputs import Bytes, File, Url, examine, load_upload, stored

MP4 = b"\0\0\0\x18ftypisom\0\0\2\0isommp41" + bytes(16)
HEADS = {
    "video/mp4": MP4,
    "video/quicktime": b"\0\0\0\x14ftypqt  \0\0\2\0qt  " + bytes(16),
    "video/webm": b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01",
    "audio/mpeg": b"ID3\x04\0\0\0\0\0\0",
    "audio/wav": b"RIFF\x24\0\0\0WAVEfmt ",
}
PICTURE_HEADS = {"png": PNG, "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "webp": b"RIFF\x24\0\0\0WEBPVP8 "}


@pytest.mark.parametrize("kind", HEADS)
def test_a_video_or_a_sound_is_recognised_by_its_content(kind: str) -> None:
    """Each type has its first bytes, and none is taken for a picture."""
    assert sniff_media(HEADS[kind]) == kind
    assert sniff(HEADS[kind]) is None


@pytest.mark.parametrize("head", [b"\xff\xfb\x90\x64", b"\xff\xf3\x40\xc4", b"\xff\xfa\x90\x00"])
def test_an_mp3_may_begin_with_a_frame(head: bytes) -> None:
    """Without tags, an mp3 begins with the head of a frame."""
    assert sniff_media(head) == "audio/mpeg"


@pytest.mark.parametrize("head", [*PICTURE_HEADS.values(), b"", b"<html>", b"\xff\xd8\xff\xe0", b"\xff"])
def test_pictures_and_pages_are_neither_videos_nor_sounds(head: bytes) -> None:
    """A JPEG begins nearly as an mp3, and an HEIC as an mp4."""
    assert sniff_media(head) is None


def problem_with(name: str, **files: Any) -> tuple[str, str]:
    """Return the field and the requirement of the only problem with a request's files."""
    with pytest.raises(InvalidRequestError) as caught:
        examine(a_request_for(name, **files))
    (problem,) = caught.value.problems
    return problem.field, problem.requirement


def test_files_as_the_operations_take_them(tmp_path: Path) -> None:
    """A picture or an mp4 may be local, and a list stays a list. The journal keeps URLs, absolute paths and digests."""
    (tmp_path / "a.mp4").write_bytes(MP4)
    found = examine(a_request_for("video-to-video", init_video=[CLIP, tmp_path / "a.mp4"], init_image=PNG))
    assert found.picture is None
    assert found.others == {
        "init_video": [Url(CLIP), File(tmp_path / "a.mp4", "init_video", "video")],
        "init_image": Bytes(PNG),
    }
    kept = stored(found)
    assert kept["init_video"] == [CLIP, str(tmp_path / "a.mp4")]
    assert kept["init_image"].startswith("sha256:")
    assert problem_with("image-to-video", init_image=kept["init_image"])[1].startswith("cannot be sent: it was passed")


@pytest.mark.parametrize(
    ("name", "files", "field", "requirement"),
    [
        ("lip-sync", {"init_audio": HEADS["audio/wav"]}, "init_audio", "must be a URL: the service has no upload"),
        ("lip-sync", {"init_video": HEADS["video/webm"]}, "init_video", "must be a URL: the service takes uploads of"),
        ("lip-sync", {"init_video": PNG}, "init_video", "cannot be sent: it is not a video"),
        ("lip-sync", {"init_video": MP4 + bytes(MAX_IMAGE_BYTES)}, "init_video", "cannot have more than 5000000"),
        ("lip-sync", {"init_video": b""}, "init_video", "cannot be empty"),
        ("lip-sync", {"init_video": []}, "init_video", "must be a video"),
        ("lip-sync", {"init_video": None}, "init_video", "must be a video"),
        ("lip-sync", {"init_audio": "missing.mp3"}, "init_audio", "must be a URL"),
        ("image-to-video", {"init_image": MP4}, "init_image", "cannot be sent: it is not a picture"),
        ("image-to-video", {"init_image": ["ftp://a.example/b"]}, "init_image", "must be a URL that the service can"),
        ("motion-control", {"init_image": "missing.png"}, "init_image", "cannot be read"),
    ],
)
def test_files_that_cannot_be_sent(name: str, files: dict[str, Any], field: str, requirement: str) -> None:
    """The problem names the parameter, and what the service would take."""
    found = problem_with(name, **files)
    assert found[0] == field
    assert found[1].startswith(requirement)


def test_all_files_are_examined() -> None:
    """Each file that cannot be sent is a problem of its own."""
    with pytest.raises(InvalidRequestError) as caught:
        examine(a_request_for("motion-control", init_image=b"x", init_video=b"y"))
    assert [problem.field for problem in caught.value.problems] == ["init_image", "init_video"]


def test_what_can_be_uploaded(tmp_path: Path) -> None:
    """A picture and an mp4 can; a sound and a film of another format cannot."""
    (tmp_path / "a").write_bytes(MP4)
    assert load_upload(tmp_path / "a") == (MP4, "video/mp4")
    assert load_upload(PNG) == (PNG, "image/png")
    for wrong in (HEADS["audio/wav"], HEADS["video/webm"], CLIP, b"", None):
        with pytest.raises(InvalidRequestError):
            load_upload(wrong)
