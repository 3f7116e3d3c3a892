"""Pictures: recognised by their content, and refused before any request."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from helpers.world import PNG, a_request
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError, Problem
from modelslab_async.media.images import MAX_IMAGE_BYTES, sniff
from modelslab_async.media.inputs import Bytes, File, Url, examine, load
from modelslab_async.protocol.request import Deployment

HEADS = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "image/gif": b"GIF89a" + bytes(20),
    "image/webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "image/avif": b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf",
    "image/heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
}


def examined(source: Any, deployment: Deployment = Deployment.V6, **more: Any) -> Any:
    """Return the picture, or the problem with it."""
    try:
        return examine(a_request(init_image=source, **more), deployment).picture
    except InvalidRequestError as error:
        (problem,) = error.problems
        return problem


@pytest.mark.parametrize("kind", HEADS)
def test_the_content_decides_the_type_not_the_name(kind: str, tmp_path: Path) -> None:
    """Each type is recognised by its first bytes, whatever the name of the file."""
    path = tmp_path / "picture.txt"
    path.write_bytes(HEADS[kind])
    assert sniff(HEADS[kind]) == kind
    for source in (path, str(path)):
        assert load(examined(source)) == HEADS[kind]


@pytest.mark.parametrize("content", [b"<html>", b"\0\0\0\x18ftypisom\0\0\0\0mp41", b"%PDF-1.7", b"x"])
def test_other_content_is_no_picture(content: bytes, tmp_path: Path) -> None:
    """A page, a video and a document are refused, in a file and in memory."""
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    for source in (path, content):
        problem = examined(source)
        assert isinstance(problem, Problem)
        assert (problem.field, problem.requirement) == ("init_image", "cannot be sent: it is not a picture")


def test_files_that_cannot_be_sent(tmp_path: Path) -> None:
    """The problem says whether a file is missing, a folder, a pipe, empty or too large."""
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "large").write_bytes(PNG + bytes(MAX_IMAGE_BYTES))
    os.mkfifo(tmp_path / "pipe")
    requirements = {name: examined(tmp_path / name).requirement for name in ("missing", ".", "pipe", "empty", "large")}
    assert "No such file" in requirements.pop("missing")
    assert requirements.pop("large") == "cannot have more than 5000000 bytes"
    assert requirements == {".": "must be a file", "pipe": "must be a file", "empty": "cannot be empty"}
    assert "cannot be read" in examined("no\0name").requirement


def test_the_limit_is_exact() -> None:
    """5 MB are sent; one byte more is refused."""
    most = PNG + bytes(MAX_IMAGE_BYTES - len(PNG))
    assert isinstance(examined(most), Bytes)
    assert isinstance(examined(most + b"\0"), Problem)


def test_ways_to_give_a_picture(tmp_path: Path) -> None:
    """A URL, a path, bytes, a data URI and raw base64 are each recognised."""
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    text = base64.b64encode(PNG).decode()
    assert examined("https://example.com/a") == Url("https://example.com/a")
    assert examined(str(path)) == File(path)
    for same in (examined(PNG), examined(f"data:image/png;base64,{text}"), examined(text, base64=True)):
        assert same == Bytes(PNG)


DATA_URI_HEADS = [
    "data:image/png;base64,",
    "DATA:IMAGE/PNG;BASE64,",
    "data:;base64,",
    "data:image/png;charset=x;base64,",
    "data:image/png;name=a.png; base64 ,",
    "data:image/png;base64;charset=utf-8,",
    "data:image/png;base64, ",
    "data:image/png;base64,\r\n",
    "\n  data:image/png;base64,",
]
ENCODERS: dict[str, Callable[[bytes], str]] = {
    "plain": lambda data: base64.b64encode(data).decode(),
    "without padding": lambda data: base64.b64encode(data).decode().rstrip("="),
    "lines": lambda data: base64.encodebytes(data).decode(),
    "Windows lines": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "indented lines": lambda data: base64.encodebytes(data).decode().replace("\n", "\n\t  "),
    "folded lines": lambda data: base64.encodebytes(data).decode().replace("\n", " "),
    "lines without padding": lambda data: base64.encodebytes(data).decode().replace("=", ""),
    "blanks around it": lambda data: f"  {base64.b64encode(data).decode()} \t",
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "URL-safe without padding": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "escaped": lambda data: quote(base64.b64encode(data), safe=""),
    "escaped lines": lambda data: quote(base64.encodebytes(data).replace(b"\n", b"\r\n"), safe=""),
}


@pytest.mark.parametrize("encoder", ENCODERS)
@given(st.binary(max_size=150), st.sampled_from(DATA_URI_HEADS))
def test_base64_as_tools_write_it(encoder: str, more: bytes, head: str) -> None:
    """However a tool writes base64, raw or in a data URI, the picture is the same."""
    picture = PNG + more
    text = ENCODERS[encoder](picture)
    assert examined(head + text) == examined(text, base64=True) == Bytes(picture)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_base64_that_lost_its_plus_signs_is_refused(count: int) -> None:
    """A form turns + into spaces. Decoded without them, another picture would be paid for."""
    text = base64.b64encode(PNG + b"\0" + b"\xfb\xef\xbe" + bytes(3)).decode()
    assert text.endswith("++++AAAA")
    problem = examined("data:image/png;base64," + text.replace("+", " ", count))
    assert isinstance(problem, Problem)
    assert "spaces" in problem.hint


@given(st.text(max_size=60), st.sampled_from(["", "data:", *DATA_URI_HEADS]))
def test_any_text_is_a_picture_or_a_problem(text: str, head: str) -> None:
    """Any text in place of base64 is a picture or one problem, and nothing else is raised."""
    assert isinstance(examined(head + text, base64=True), Problem | Bytes)


@pytest.mark.parametrize(
    ("source", "more"),
    [
        ("ftp://example.com/a.png", {}),
        ("https://", {}),
        ("", {}),
        (None, {}),
        (7, {}),
        ("data:image/png,abc", {}),
        ("data:image/png,%89PNG", {}),
        ("data:image/png;base64,???", {}),
        ("data:image/png;base64", {}),
        ("data:image/png;base64,iVBORw0KGgo=iVBORw0KGgo=", {}),
        ("data:image/png;base64,iVBORw0KG", {}),
        ("data:image/png;base64,%FF%FE", {}),
        ("not base64!", {"base64": True}),
        ("ïVBORw0KGgo=", {"base64": True}),
        ("", {"base64": True}),
        ("https://example.com/a.png", {"base64": True}),
        (PNG, {"base64": False}),
    ],
)
def test_anything_else_is_refused(source: object, more: dict[str, Any]) -> None:
    """The error has one problem, with a hint."""
    problem = examined(source, **more)
    assert isinstance(problem, Problem)
    assert problem.hint


def test_an_enterprise_server_takes_only_urls() -> None:
    """A local picture has to be uploaded first, and the hint says how."""
    assert "upload" in examined(PNG, Deployment.ENTERPRISE).hint
    assert isinstance(examined("https://example.com/a", Deployment.ENTERPRISE), Url)


def test_a_file_that_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    """A file is checked again when it is loaded."""
    path = tmp_path / "a.png"
    path.write_bytes(PNG)
    image = examined(path)
    path.write_bytes(b"<html>")
    with pytest.raises(InvalidRequestError, match="not a picture"):
        load(image)
    path.unlink()
    with pytest.raises(InvalidRequestError, match="No such file"):
        load(image)


def test_a_picture_in_memory_is_not_shown() -> None:
    """The bytes of a picture appear in no repr."""
    assert "PNG" not in repr(a_request(init_image=PNG))
    assert "PNG" not in repr(examined(PNG))
