"""What a batch is made of, and what its files are called."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from conftest import PNG
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError
from modelslab_async.batch import Entry, read_manifest
from modelslab_async.batch.manifest import value_of
from modelslab_async.batch.naming import DEFAULT_NAME, names, pattern_problem, stem_of


def lines(*objects: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def read(path: Path, text: str | bytes, **defaults: Any) -> list[Entry]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_manifest(path, defaults))


def asked(entry: Entry) -> Any:
    assert entry.request is not None, entry.problems
    return entry.request


def test_json_lines(tmp_path: Path) -> None:
    """An object a line; empty lines count and give nothing; a relative picture is meant from the manifest's folder."""
    text = (
        lines({"prompt": "a", "init_image": "a.png"}) + "\n" + lines({"prompt": "b", "init_image": "https://x.org/b"})
    )
    first, second = read(tmp_path / "shots.jsonl", "\ufeff" + text)
    assert (first.line, asked(first).prompt, asked(first).init_image) == (1, "a", tmp_path / "a.png")
    assert (second.line, asked(second).init_image) == (3, "https://x.org/b")


def test_a_table(tmp_path: Path) -> None:
    """The head names the parameters; cells become what the parameter is; an empty cell is not given."""
    text = 'prompt,init_image,seed,guidance_scale,portrait,fps\n"a, b",a.png,7,1.5,yes,\n'
    [entry] = read(tmp_path / "shots.CSV", text)
    request = asked(entry)
    assert (request.prompt, request.seed, request.guidance_scale, request.portrait) == ("a, b", 7, 1.5, True)
    assert request.fps is None


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    """Each picture by name or content, in the order of names; other and hidden files are passed over."""
    for name, content in {"b.png": PNG, "a": PNG, "fake.jpg": b"text", "notes.txt": b"text", ".c.png": PNG}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    found = list(read_manifest(tmp_path, {"prompt": "zoom"}))
    assert [asked(entry).init_image.name for entry in found] == ["a", "b.png", "fake.jpg"]
    assert {asked(entry).prompt for entry in found} == {"zoom"}


def test_defaults_are_overruled(tmp_path: Path) -> None:
    """What a line says wins."""
    text = lines({"init_image": "a.png"}, {"init_image": "b.png", "fps": 8})
    assert [asked(entry).fps for entry in read(tmp_path / "m", text, prompt="p", fps=12)] == [12, 8]


def test_an_item_has_the_same_name_in_each_run(tmp_path: Path) -> None:
    """Whatever the order of its parameters and wherever the folder was moved; another one if anything differs."""
    (tmp_path / "moved").mkdir()
    before = read(tmp_path / "m", lines({"prompt": "a", "init_image": "a.png"}, {"prompt": "b", "init_image": "a.png"}))
    after = read(tmp_path / "moved" / "m", lines({"init_image": "a.png", "prompt": "a", "seed": None}))
    assert before[0].item == after[0].item != before[1].item
    named = read(tmp_path / "m", lines({"prompt": "a", "init_image": "a.png", "track_id": "mine"}))
    assert named[0].item == "mine"


@pytest.mark.parametrize(
    ("text", "field", "rule"),
    [
        ('{"prompt": "a"', "line", "not JSON"),
        ('["prompt"]', "line", "not an object"),
        (b'{"prompt": "\xff"}', "line", "not JSON"),
        ("[" * 100_000, "line", "not JSON"),
        ('{"key": "secret", "prompt": "a",}', "line", "not JSON"),
        ('["secret"]', "line", "not an object"),
        ('{"prompt": "a"}', "init_image", "required"),
        ('{"init_image": "a.png"}', "prompt", "required"),
        ('{"prompt": "a", "init_image": "a.png", "promt": "b"}', "'promt'", "no such parameter"),
        ('{"prompt": "a", "init_image": "a.png", "key": "secret"}', "key", "no parameter"),
    ],
)
def test_a_wrong_line_is_told_and_the_others_are_read(tmp_path: Path, text: str | bytes, field: str, rule: str) -> None:
    """What is wrong with a line is part of its entry."""
    raw = text if isinstance(text, bytes) else text.encode()
    wrong, right = read(tmp_path / "m", raw + b"\n" + lines({"prompt": "a", "init_image": "a.png"}).encode())
    assert wrong.request is None
    assert [problem.field for problem in wrong.problems] == [field]
    assert rule in wrong.problems[0].rule
    assert "secret" not in str(wrong)  # a key in the service's own samples
    assert asked(right).prompt == "a"


def test_a_row_with_too_many_cells(tmp_path: Path) -> None:
    """A comma without quotes is told."""
    [entry] = read(tmp_path / "m.csv", "prompt,init_image\na,secret,c.png\n")
    assert [problem.rule for problem in entry.problems] == ["3 cells, and the head has 2"]
    assert "secret" not in str(entry)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.png,zoom\nb.png,zoom\n", "no column has the name of a parameter"),
        ("prompt;init_image\na;a.png\n", "not separated by commas"),
        ("prompt,init_image,prompt\na,a.png,b\n", "two columns 'prompt'"),
        ('prompt,init_image\na,a.png\n"b,b.png\nc,c.png\n', "line 3: .* a quote may be open"),
        ('prompt,init_image\n"a" b,a.png\n', "line 2: .* a quote may be open"),
    ],
)
def test_a_table_that_is_none_is_told_once(tmp_path: Path, text: str, told: str) -> None:
    """Not line by line, and not as a table of one long cell."""
    with pytest.raises(InvalidRequestError, match=told) as caught:
        read(tmp_path / "m.csv", text)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.csv", "binary.csv"])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """One clear error, with the path."""
    (tmp_path / "binary.csv").write_bytes(b"prompt\n\xff\xfe")
    with pytest.raises(InvalidRequestError, match=name):
        list(read_manifest(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "7", 7),
        ("seed", "x", "x"),
        ("resolution", "16:9", "16:9"),
        ("guidance_scale", "1.5", 1.5),
        ("portrait", "No", False),
        ("temp", "maybe", "maybe"),
        ("prompt", "7", "7"),
    ],
)
def test_values_as_people_write_them(name: str, text: str, value: object) -> None:
    """By the parameter's kind; what cannot be read stays text, and the request's check tells it."""
    assert value_of(name, text) == value


@pytest.mark.parametrize(
    "pattern",
    ["../{stem}.mp4", "/{stem}.mp4", "{stem}.txt", "{stem", "{nobody}.mp4", "{stem.__class__}.mp4", "{seed:04d}.mp4",
     "{stem!r}.mp4", "a\\{stem}.mp4", "{}.mp4", "{0}.mp4"],
)  # fmt: skip
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str) -> None:
    """It leaves the folder, is no mp4, or asks for what is not known."""
    problem = pattern_problem(pattern)
    assert problem is not None
    assert "{stem}" in problem.way_out


@given(st.text(), st.text(), st.sampled_from([DEFAULT_NAME, "{line:04}/{prompt}.mp4", "{stem}{stem}{prompt}{ref}.mp4"]))
def test_no_name_leaves_the_folder(text: str, other: str, pattern: str) -> None:
    """Whatever prompts and pictures are called: a plain relative path, not hidden, that any file system takes."""
    assert pattern_problem(pattern) is None
    values: dict[str, str | int] = {"stem": stem_of(text), "seed": other, "prompt": text, "ref": other, "line": 3}
    each = names(pattern, values)
    first, second = next(each), next(each)
    assert first != second
    for name in (first, second):
        path = PurePosixPath(name)
        assert not path.is_absolute()
        assert len(path.parts) == 1 + pattern.count("/")
        assert all(part not in ("", ".", "..") and not part.startswith(".") for part in path.parts)
        assert all(len(part.encode()) <= 255 for part in path.parts)
        assert not set(name) & set('\0\n<>:"\\|?*')


@pytest.mark.parametrize(
    ("where", "stem"),
    [
        ("/pictures/castle.jpg", "castle"),
        ("https://x.org/a/b%20c.png?size=1", "b c"),
        ("C:\\pictures\\castle.jpg", "castle"),
        (None, "picture"),
        ("https://x.org/", "picture"),
    ],
)
def test_a_picture_gives_its_name(where: str | None, stem: str) -> None:
    """Of a path or a URL, without folder and suffix."""
    assert stem_of(where) == stem
