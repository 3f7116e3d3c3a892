"""Manifests: JSON Lines, tables and folders, as people and their tools write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.world import PNG
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError
from modelslab_async.batch import Entry, read_manifest
from modelslab_async.batch.manifest import value_of
from modelslab_async.protocol.limits import check

A_LINE = {"prompt": "a", "init_image": "a.png"}


def lines(*objects: Any) -> str:
    return "".join(json.dumps(each) + "\n" for each in objects)


def read(path: Path, text: str | bytes, **defaults: Any) -> list[Entry]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_manifest(path, defaults))


def request_of(entry: Entry) -> Any:
    assert entry.request is not None, entry.problems
    return entry.request


def test_json_lines(tmp_path: Path) -> None:
    """A line is an object; empty lines count but have no entry; relative paths start at the manifest's folder."""
    text = (
        lines({"prompt": "a", "init_image": "a.png"}) + "\n" + lines({"prompt": "b", "init_image": "https://x.org/b"})
    )
    first, second = read(tmp_path / "shots.jsonl", "\ufeff" + text)
    assert (first.line, request_of(first).prompt, request_of(first).init_image) == (1, "a", tmp_path / "a.png")
    assert (second.line, request_of(second).init_image) == (3, "https://x.org/b")


def test_a_table(tmp_path: Path) -> None:
    """The first row names the parameters; a cell is read by its parameter's kind; an empty cell is not given."""
    text = 'prompt,init_image,seed,guidance_scale,portrait,fps\n"a, b",a.png,7,1.5,yes,\n'
    [entry] = read(tmp_path / "shots.CSV", text)
    request = request_of(entry)
    assert (request.prompt, request.seed, request.guidance_scale, request.portrait) == ("a, b", 7, 1.5, True)
    assert request.fps is None


def test_a_table_may_have_more_parameters(tmp_path: Path) -> None:
    """A cell of the column `extra` is a JSON object. Anything else is refused."""
    head = "prompt,init_image,extra\n"
    good, *bad = read(tmp_path / "a.csv", head + 'a,a.png,"{""loop"": true}"\nb,b.png,loop\nc,c.png,[1]\nd,d.png,[[[\n')
    assert request_of(good).extra == {"loop": True}
    for entry in bad:
        assert "extra" in {problem.field for problem in (*entry.problems, *check(request_of(entry)))}


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    """Each picture, by its name or its content, is an entry, in the order of names; hidden files are left out."""
    for name, content in {"b.png": PNG, "a": PNG, "fake.jpg": b"text", "notes.txt": b"text", ".c.png": PNG}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.png").mkdir()
    found = list(read_manifest(tmp_path, {"prompt": "zoom"}))
    assert [request_of(entry).init_image.name for entry in found] == ["a", "b.png", "fake.jpg"]
    assert {request_of(entry).prompt for entry in found} == {"zoom"}


def test_lines_override_defaults(tmp_path: Path) -> None:
    """A default holds only for a line that does not have the parameter."""
    text = lines({"init_image": "a.png"}, {"init_image": "b.png", "fps": 8})
    assert [request_of(entry).fps for entry in read(tmp_path / "m", text, prompt="p", fps=12)] == [12, 8]


def test_an_item_has_the_same_name_in_each_run(tmp_path: Path) -> None:
    """Neither the order of parameters nor the path of the folder changes a name; another value does."""
    (tmp_path / "moved").mkdir()
    before = read(tmp_path / "m", lines({"prompt": "a", "init_image": "a.png"}, {"prompt": "b", "init_image": "a.png"}))
    after = read(tmp_path / "moved" / "m", lines({"init_image": "a.png", "prompt": "a", "seed": None}))
    assert before[0].item == after[0].item != before[1].item
    named = read(tmp_path / "m", lines({"prompt": "a", "init_image": "a.png", "track_id": "mine"}))
    assert named[0].item == "mine"


@pytest.mark.parametrize(
    ("text", "field", "requirement"),
    [
        ('{"prompt": "a"', "line", "not JSON"),
        ('["prompt"]', "line", "not an object"),
        (b'{"prompt": "\xff"}', "line", "must be UTF-8"),
        (b'{"key": "secret", "prompt": "\xe4"}', "line", "must be UTF-8"),
        ('{"key": "secret", "prompt": "\0"}', "line", "cannot hold a NUL character"),
        (f'{{"key": "secret", "seed": {"1" * 5000}}}', "line", "not JSON"),
        ("[" * 100_000, "line", "not JSON"),
        ('{"key": "secret", "prompt": "a",}', "line", "not JSON"),
        ('["secret"]', "line", "not an object"),
        ('{"prompt": "a"}', "init_image", "required"),
        ('{"init_image": "a.png"}', "prompt", "required"),
        ('{"prompt": "a", "init_image": "a.png", "promt": "b"}', "promt", "unknown parameter"),
        ('{"prompt": "a", "init_image": "a.png", "key": "secret"}', "key", "cannot be a parameter"),
    ],
)
def test_a_wrong_line_is_reported_and_the_others_are_read(
    tmp_path: Path, text: str | bytes, field: str, requirement: str
) -> None:
    """An entry says what is wrong with its line, and never shows a line that cannot be parsed."""
    raw = text if isinstance(text, bytes) else text.encode()
    wrong, right = read(tmp_path / "m", raw + b"\n" + lines({"prompt": "a", "init_image": "a.png"}).encode())
    assert wrong.request is None
    assert [problem.field for problem in wrong.problems] == [field]
    assert requirement in wrong.problems[0].requirement
    assert "secret" not in str(wrong)  # a key in the service's own samples
    assert request_of(right).prompt == "a"


@pytest.mark.parametrize(
    ("text", "requirement"),
    [
        ("prompt,init_image\na,secret,c.png\n", "cannot have 3 cells: the header has 2"),
        ("prompt,init_image\na,b.png,,,secret\n", "cannot have 5 cells: the header has 2"),
        ("prompt,,init_image\na,secret,c.png\n", "cannot have a cell in column 2, which has no name"),
        ("prompt,init_image,\na,b.png,7\n", "cannot have a cell in column 3, which has no name"),
        (",prompt,init_image\nsecret,a,b.png\n", "cannot have a cell in column 1, which has no name"),
    ],
)
def test_a_cell_without_a_column_is_refused(tmp_path: Path, text: str, requirement: str) -> None:
    """A separator without quotes, or a column without a name, is one problem, and the cell is not shown."""
    [entry] = read(tmp_path / "m.csv", text)
    assert [problem.requirement for problem in entry.problems] == [requirement]
    assert "secret" not in str(entry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,zoom\nb.png,zoom\n", "must begin with the names of its columns"),
        ("prompt|init_image\na|a.png\n", "must begin with the names of its columns"),
        ("prompt,init_image,prompt\na,a.png,b\n", "two columns 'prompt'"),
        ("prompt,init_image,Prompt \na,a.png,b\n", "two columns 'prompt'"),
        ('prompt,init_image\na,a.png\n"b,b.png\nc,c.png\n', "line 3 cannot be read: .* a quote may be open"),
        ('prompt,init_image\n"a" b,a.png\n', "line 2 cannot be read: .* a quote may be open"),
        ('sep=;\nprompt;init_image\n"a\nb";a.png\n"a" b;a.png\n', "line 5 cannot be read"),
        ("prompt,init_image\na,b\0.png\n", "line 2 cannot hold a NUL character"),
        (b"prompt,init_image\n\xe4,a.png\n", "line 2 must be UTF-8"),
        ("prompt,init_image\na,a.png\n".encode("utf-16-le"), "line 1 cannot hold a NUL character"),
        ("prompt,init_image\na,a.png\n".encode("utf-16")[:-1], "truncated data"),
    ],
)
def test_a_table_that_cannot_be_read_is_reported_once(tmp_path: Path, text: str | bytes, message: str) -> None:
    """One problem says what is wrong with the whole table, rather than one for each line."""
    with pytest.raises(InvalidRequestError, match=message) as caught:
        read(tmp_path / "m.csv", text)
    assert len(caught.value.problems) == 1


ROWS = [("zoom, slowly", "a.png", 42), ("pan", "b.png", None)]
PLAIN = 'prompt,init_image,seed\n"zoom, slowly",a.png,42\npan,b.png,\n'
SEMICOLONS = "prompt;init_image;seed\r\nzoom, slowly;a.png;42\r\npan;b.png;\r\n"
TABLES: dict[str, str | bytes] = {
    "plain": PLAIN,
    "rows of commas only": PLAIN.replace("pan", ",,\r\n , ,\n\n,,,,\npan") + ",,\n\n\n",
    "a head after rows of commas": f',,,\n\n"",""\n{PLAIN}',
    "empty columns at the end": 'prompt,init_image,seed,,\n"zoom, slowly",a.png,42,,\npan,b.png,,,\n',
    "an empty column in the middle": 'prompt,,init_image,"",seed\n"zoom, slowly",,a.png,,42\npan,,b.png, ,\n',
    "an empty column as pandas names it": 'prompt,Unnamed: 1,init_image,seed\n"zoom, slowly",,a.png,42\npan,,b.png,\n',
    "commas too many": 'prompt,init_image,seed\n"zoom, slowly",a.png,42,\npan,b.png,,,\n',
    "cells too few": 'prompt,init_image,seed\n"zoom, slowly",a.png,42\npan,b.png\n',
    "index of pandas": ',prompt,init_image,seed\n0,"zoom, slowly",a.png,42.0\n1,pan,b.png,\n2,,,\n',
    "index of R": '"","prompt","init_image","seed"\n"1","zoom, slowly","a.png",42\n"2","pan","b.png",\n',
    "two indexes": 'Unnamed: 0.1,Unnamed: 0,prompt,init_image,seed\n0,5,"zoom, slowly",a.png,42\n1,6.0,pan,b.png,\n',
    "blanks": ' prompt , init_image,\tseed \n"zoom, slowly" , "a.png" , 42 \n  pan  ,  b.png  ,  \n',
    "blanks at the end of a line": '"prompt","init_image" ,"seed"  \n"zoom, slowly",a.png,"42" \r\npan,"b.png", \n',
    "names in other letters": PLAIN.replace("prompt,init_image,seed", "Prompt,Init Image,SEED"),
    "semicolons": SEMICOLONS,
    "semicolons, as Excel declares them": f"sep=;\r\n{SEMICOLONS}",
    "tabs": SEMICOLONS.replace(";", "\t"),
    "tabs, as Excel declares them": "sep=\t\n" + SEMICOLONS.replace(";", "\t"),
    "another separator, declared": '"SEP=|"\n' + SEMICOLONS.replace(";", "|"),
    "ends of lines of an old Mac": PLAIN.replace("\n", "\r"),
    "no end of the last line": PLAIN.removesuffix("\n"),
    "UTF-8 with a mark": f"\ufeff{PLAIN}",
    "UTF-8 with two marks and quotes": "\ufeff\ufeff" + PLAIN.replace("prompt", '"prompt"'),
    "UTF-16, little end first": f"\ufeff{PLAIN}".encode("utf-16-le"),
    "UTF-16, big end first": f"\ufeff{SEMICOLONS}".encode("utf-16-be"),
    "Unicode text of Excel": f"\ufeff{SEMICOLONS}".replace(";", "\t").encode("utf-16-le"),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_tables_as_tools_write_them(tmp_path: Path, name: str, suffix: str) -> None:
    """However a tool writes a table, its rows are the same requests, under the same names."""
    found = read(tmp_path / f"m.{suffix}", TABLES[name])
    rows = [(request_of(entry).prompt, request_of(entry).init_image, request_of(entry).seed) for entry in found]
    assert rows == [(prompt, tmp_path / picture, seed) for prompt, picture, seed in ROWS]
    assert [entry.item for entry in found] == [entry.item for entry in read(tmp_path / "plain.csv", PLAIN)]


@pytest.mark.parametrize(
    "text", ["", "\ufeff", "\n\n", ",,\n,,\n", "sep=;\n", "prompt,init_image\n", "prompt,init_image\n,"]
)
def test_a_table_without_rows_has_no_entries(tmp_path: Path, text: str) -> None:
    """An empty table is not an error."""
    assert read(tmp_path / "m.csv", text) == []


def test_rows_are_counted_by_the_line_in_which_they_begin(tmp_path: Path) -> None:
    """Every line counts, also one that is no row, or is inside a quoted cell."""
    text = 'sep=,\n\nprompt,init_image\n"a\nb\r\nc",a.png\n,\nd,d.png\n'
    found = read(tmp_path / "m.csv", text)
    assert [(entry.line, request_of(entry).prompt) for entry in found] == [(4, "a\nb\r\nc"), (8, "d")]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0")).map(str.strip)


@given(
    prompt=CELL.filter(bool), negative=CELL, separator=st.sampled_from(",;\t"), blank=st.sampled_from(["", " ", "   "])
)
def test_any_cell_of_a_quoted_table_is_read_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, negative: str, separator: str, blank: str
) -> None:
    """The value of a quoted cell is any text in its quotes, without the blanks around it or around the quotes."""
    cells = [f'{blank}"{text.replace(chr(34), chr(34) * 2)}"{blank}' for text in (prompt, negative, "a.png")]
    head = separator.join(["prompt", "negative_prompt", "init_image"])
    path = tmp_path_factory.getbasetemp() / "quoted.csv"
    [entry] = read(path, f"{head}\n{separator.join(cells)}\n")
    assert (request_of(entry).prompt, request_of(entry).negative_prompt or "") == (prompt, negative)


@given(st.binary(max_size=200), st.sampled_from(["m.csv", "m.jsonl"]))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    """Any file gives entries, each with a request or with problems, or one InvalidRequestError."""
    path = tmp_path_factory.getbasetemp() / name
    for text in (content, b"prompt,init_image\n" + content, b'{"prompt":' + content + b"}", b"\xff\xfe" + content):
        try:
            found = read(path, text)
        except InvalidRequestError as error:
            found = [Entry(1, "none", None, error.problems)]
        assert all((entry.request is None) == bool(entry.problems) for entry in found)


JSON_LINES = '{"prompt": "zöom", "init_image": "a.png", "seed": 42}\n{"prompt": "pan", "init_image": "b.png"}\n'


@pytest.mark.parametrize(
    "text",
    [
        JSON_LINES,
        JSON_LINES.replace("\n", "\r\n"),
        JSON_LINES.replace("\n", "\r"),
        JSON_LINES.replace("\n", "\n\n \n"),
        JSON_LINES.replace("42", "42.0"),
        JSON_LINES.replace("42", '"42"'),
        f"\ufeff{JSON_LINES}",
        f"\ufeff{JSON_LINES}".replace("\n", "\n\ufeff"),
        f"\ufeff{JSON_LINES}".encode("utf-16-le"),
        f"\ufeff{JSON_LINES}".encode("utf-16-be"),
    ],
)
def test_json_lines_as_tools_write_them(tmp_path: Path, text: str | bytes) -> None:
    """However a tool writes JSON Lines, they are the same requests, under the same names."""
    found, plain = read(tmp_path / "m.jsonl", text), read(tmp_path / "plain.jsonl", JSON_LINES)
    assert [(request_of(entry).prompt, request_of(entry).seed) for entry in found] == [("zöom", 42), ("pan", None)]
    assert [entry.item for entry in found] == [entry.item for entry in plain]


@pytest.mark.parametrize("value", ["42.5", "3.64E+09", "1e3", "81,0", ".0", "nan", "inf", "42.0.0", "seven"])
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_number_that_is_not_whole_is_refused(tmp_path: Path, name: str, value: str) -> None:
    """A whole number with decimals, with an exponent that hides digits, or with a comma is one clear problem."""
    table = f'prompt,init_image,seed\na,a.png,"{value}"\n'
    [entry] = read(tmp_path / name, table if name == "m.csv" else lines({**A_LINE, "seed": value}))
    assert [problem.field for problem in check(request_of(entry))] == ["seed"]


@pytest.mark.parametrize("value", [42.5, 1e300, float("nan"), float("inf")])
def test_a_json_number_that_is_not_whole_is_refused(tmp_path: Path, value: float) -> None:
    """Only an exactly whole number of an ordinary size is taken for an integer."""
    [entry] = read(tmp_path / "m.jsonl", lines({**A_LINE, "seed": value}))
    assert [problem.field for problem in check(request_of(entry))] == ["seed"]


def test_base64_in_a_manifest_is_no_path(tmp_path: Path) -> None:
    """A picture inside a line is neither looked for beside the manifest nor changed."""
    text = lines({**A_LINE, "init_image": "iVBORw0KGgo=", "base64": True}, {**A_LINE, "init_image": "\n data:,x"})
    assert [request_of(entry).init_image for entry in read(tmp_path / "m", text)] == ["iVBORw0KGgo=", "\n data:,x"]


@pytest.mark.parametrize("name", ["gone.jsonl", "gone.csv", "binary.csv"])
def test_a_manifest_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    """The error names the path."""
    (tmp_path / "binary.csv").write_bytes(b"prompt\n\xff\xfe")
    with pytest.raises(InvalidRequestError, match=name):
        list(read_manifest(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "7", 7),
        ("seed", "x", "x"),
        ("seed", "42.0", 42),
        ("seed", " -7.00 ", -7),
        ("seed", "9007199254740993.0", 9007199254740993),
        ("seed", "42.01", "42.01"),
        ("seed", "4e1", "4e1"),
        ("resolution", "480.0", 480),
        ("resolution", "16:9", "16:9"),
        ("guidance_scale", "1.5", 1.5),
        ("portrait", "No", False),
        ("portrait", "TRUE", True),
        ("portrait", "1.0", True),
        ("temp", "maybe", "maybe"),
        ("prompt", "7", "7"),
    ],
)
def test_values_as_people_write_them(name: str, text: str, value: object) -> None:
    """A value is read by its parameter's kind; if that fails it stays text, which the request's check refuses."""
    assert value_of(name, text) == value
