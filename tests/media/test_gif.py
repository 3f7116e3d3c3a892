"""A gif is whole once its trailer came after an image, in whichever pieces its bytes arrive."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from pathlib import Path

import pytest
from helpers.operations import a_request_for
from helpers.world import MakeWorld
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from modelslab_async.media import gif, mp4
from modelslab_async.media.containers import Parser, container_of
from modelslab_async.media.gif import Verdict
from modelslab_async.protocol.operations import Container


def a_gif(frames: int = 3, size: tuple[int, int] = (16, 8)) -> bytes:
    """Return a gif that Pillow wrote, with frames of a tenth of a second."""
    images = [Image.new("RGB", size, (40 * number, 0, 90)) for number in range(frames)]
    file = io.BytesIO()
    images[0].save(file, "GIF", save_all=True, append_images=images[1:], duration=100, loop=0)
    return file.getvalue()


WHOLE = a_gif()
HEADER = b"GIF89a\1\0\1\0\0\0\0"


def verdict_of(data: bytes, *, at_once: int = 2**20) -> Verdict:
    """Return the verdict on a file that is fed in chunks."""
    parser = gif.Parser()
    for start in range(0, len(data), at_once):
        parser.feed(data[start : start + at_once])
    return parser.verdict()


@pytest.mark.parametrize("at_once", [1, 2, 7, 100, 2**20])
def test_a_whole_gif(at_once: int) -> None:
    """The pieces do not matter, nor do bytes after the trailer."""
    assert verdict_of(WHOLE, at_once=at_once) is Verdict.WHOLE
    assert verdict_of(WHOLE + b"\0 more", at_once=at_once) is Verdict.WHOLE


def test_each_cut_is_seen() -> None:
    """A gif that lacks any number of bytes at its end is cut short."""
    assert {verdict_of(WHOLE[:length]) for length in range(len(WHOLE))} == {Verdict.CUT_SHORT}


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (HEADER + b";", Verdict.NO_IMAGE),
        (HEADER + b"!\xfe\x02ab\0;", Verdict.NO_IMAGE),
        (HEADER + b"?", Verdict.NOT_GIF),
        (b"GIF90a\1\0\1\0\0\0\0", Verdict.NOT_GIF),
        (b"<html><body>...", Verdict.NOT_GIF),
    ],
)
def test_what_is_no_gif(data: bytes, verdict: Verdict) -> None:
    """A file of unknown blocks, or without an image, is no whole gif."""
    assert verdict_of(data) is verdict


def test_the_facts() -> None:
    """The size, the number of frames and the duration are those that were written."""
    parser = gif.Parser()
    parser.feed(WHOLE)
    facts = parser.facts()
    assert (facts.width, facts.height, facts.frames) == (16, 8, 3)
    assert facts.duration == pytest.approx(0.3)
    assert facts.fps == pytest.approx(10)
    assert gif.Parser().facts() == mp4.Facts()


@given(st.binary(max_size=300), st.integers(1, 50))
def test_garbage_raises_nothing(data: bytes, at_once: int) -> None:
    """Any bytes have a verdict, the same in any pieces."""
    assert verdict_of(HEADER + data, at_once=at_once) is verdict_of(HEADER + data)


@pytest.mark.parametrize("at_once", [1, 5, 2**20])
def test_the_first_bytes_decide_the_container(at_once: int) -> None:
    """A gif is parsed as a gif if it is allowed, and is otherwise no mp4."""
    cases: list[tuple[tuple[Container, ...], bool]] = [(("mp4", "gif"), True), (("mp4",), False)]
    for allowed, is_whole in cases:
        parser = Parser(allowed)
        for start in range(0, len(WHOLE), at_once):
            parser.feed(WHOLE[start : start + at_once])
        assert (parser.is_whole, parser.is_wrong) == (is_whole, not is_whole)
    assert container_of(WHOLE[:64]) == "gif"
    assert container_of(WHOLE[:64], ["mp4"]) is None
    assert container_of(b"\0\0\0\x18ftypisom") == "mp4"
    assert container_of(b"<html>") is None
    assert not Parser().is_whole


@pytest.mark.looptime
async def test_a_file_of_tiny_blocks_leaves_the_loop_to_others(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a megabyte of the smallest blocks is parsed, other tasks have their turns, every 32 KiB at the latest."""
    tiny = HEADER + b"," + bytes(9) + b"\2" + b"\1A" * 2**19 + b"\0;"
    turns, parsed = [0], Counter[int]()

    class Counted(gif.Parser):
        def feed(self, chunk: bytes) -> None:
            parsed[turns[0]] += len(chunk)
            super().feed(chunk)

    async def take_turns() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(gif, "Parser", Counted)
    world = make_world()
    world.transport.render = lambda _: tiny
    async with world.client() as client:
        job = client.submit(a_request_for("text2video", output_type="gif"))
        await job
        others = asyncio.create_task(take_turns())
        await job.save(tmp_path / "a.gif")
        others.cancel()
    assert parsed.total() == len(tiny)
    assert max(parsed.values()) <= 2**15
