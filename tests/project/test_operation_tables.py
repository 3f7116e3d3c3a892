"""The tables of operations in the documentation: they are what the code's rows say."""

from __future__ import annotations

import inspect
import re
from decimal import Decimal

import attrs
import operation_tables
import pytest
from helpers.pages import text_of

from modelslab_async import OPERATIONS, Operation, Request
from modelslab_async.protocol.operations import Endpoint, Input, Range
from modelslab_async.protocol.request import Deployment

ROWS = [*OPERATIONS.values()]


@attrs.frozen(kw_only=True)
class Slideshow(Request):
    """A request for slides.

    pace, rhythm: seconds of a slide. The service
        rounds them.
    init_video: the video to show.
    """

    operation: str = attrs.field(default="slideshow", init=False)
    pace: int
    rhythm: float | str | None = None
    init_video: str | None = None


SLIDESHOW = Operation(
    name="slideshow",
    request_type=Slideshow,
    endpoints={
        Deployment.V6: Endpoint(
            "/slides", "/slides/fetch/", {None: {"pace": Range(1, 9)}, "fast": {"pace": Range(maximum=30)}}
        ),
        Deployment.ENTERPRISE: Endpoint("/own/slides", "/own/fetch/", {None: {"pace": Range(2)}}, {"rhythm": 0.5}),
    },
    summary="slides",
    confidence="made up",
    price=Decimal("0.1"),
    inputs=(Input("init_video", "video", is_required=False),),
    sent={"seed": 7},
)


@pytest.fixture
def slideshow(monkeypatch: pytest.MonkeyPatch) -> Operation:
    """A made-up operation, which the client knows."""
    monkeypatch.setitem(OPERATIONS, "slideshow", SLIDESHOW)
    return SLIDESHOW


def tables_of(*rows: Operation) -> dict[str, str]:
    """Return each table that the generator makes of these rows."""
    return {name: table(rows) for name, table in operation_tables.TABLES.items()}


@pytest.mark.parametrize("page", operation_tables.PAGES)
def test_the_pages_are_what_the_code_says(page: str) -> None:
    """Writing the tables again changes nothing."""
    text = text_of(page)
    assert operation_tables.updated(text, ROWS) == text, f"run: {operation_tables.COMMAND}"


def test_the_pages_have_each_table() -> None:
    """Each table has its place in one page."""
    marked = re.findall(r"<!-- begin (\w+)", "".join(map(text_of, operation_tables.PAGES)))
    assert sorted(marked) == sorted(operation_tables.TABLES)


def test_a_new_row_appears(slideshow: Operation) -> None:
    """The tables of all rows and a made-up one have its summary, price, paths, files and parameters."""
    tables = tables_of(*ROWS, slideshow)
    link = "[`Slideshow`](parameters.md#slideshow)"
    assert f"| `slideshow` | {link} | slides | $0.10 | made up |" in tables["overview"].splitlines()
    section = tables["parameters"].split("## Slideshow\n")[1]
    assert "- `slideshow`: slides. Documented price: $0.10." in section
    assert "- public API: submitted at `/slides`, fetched at `/slides/fetch/ID`" in section
    assert "- dedicated server: submitted at `/own/slides`, fetched at `/own/fetch/ID`" in section
    assert {
        "| `pace` | int | 1 to 9; fast: at most 30; dedicated server: at least 2 | **required** | seconds of a slide |",
        "| `rhythm` | float or str | | dedicated server: `0.5` | seconds of a slide |",
        "| `init_video` | video | URL, or mp4 of at most 5 MB | – | the video to show |",
    } <= {*section.splitlines()}


def test_what_the_client_sends_of_itself_is_said(slideshow: Operation) -> None:
    """A parameter that the client sends on its own says so, and the client's value stands above the service's."""
    assert "| `seed` | int | | the client sends `7` |" in tables_of(slideshow)["parameters"]
    assert "| `seed` | int | | the client sends `7` for `slideshow` |" in tables_of(*ROWS, slideshow)["parameters"]
    assert '| `output_type` | str | `"mp4"` or `"gif"` | the client sends `"mp4"` |' in text_of("docs/parameters.md")


def test_the_files_of_a_row_appear() -> None:
    """The table of files has each kind of file that the rows take, and each input that travels inside the request."""
    assert "every video" in operation_tables.TABLES["files"]([SLIDESHOW])
    assert "picture" not in operation_tables.TABLES["files"]([SLIDESHOW])
    inline = attrs.evolve(
        SLIDESHOW, inputs=(Input("init_image", is_inline=True), Input("still"), Input("song", "audio"))
    )
    names = re.findall(r"^\| (.+?) \|", operation_tables.TABLES["files"]([inline]), re.MULTILINE)
    assert names == ["input", "`init_image` of `slideshow`", "every other picture", "every sound"]


def test_a_class_of_several_operations_has_one_table() -> None:
    """Operations that share a class share its table, which names those that need a file."""
    _, section = tables_of(*ROWS)["parameters"].split("## VideoFusion\n")
    section = section.split("\n## ")[0]
    assert section.count("| parameter |") == 1
    for name, row in OPERATIONS.items():
        assert (f"- `{name}`: " in section) == (row.request_type.__name__ == "VideoFusion")
    (sound,) = [line for line in section.splitlines() if line.startswith("| `init_audio`")]
    assert "**required** for `lip-sync` |" in sound


def test_a_cell_cannot_end_early() -> None:
    """A vertical bar in a text does not begin another cell."""
    row = attrs.evolve(SLIDESHOW, summary="slides | frames")
    assert r"| slides \| frames |" in operation_tables.TABLES["overview"]([row])


def test_text_outside_the_marks_is_kept() -> None:
    """Only the text between the marks of a table changes. An unknown table is an error."""
    page = "before\n<!-- begin overview -->\nold\n<!-- end overview -->\nafter"
    written = operation_tables.updated(page, ROWS)
    assert written.startswith("before\n<!-- begin overview")
    assert written.endswith("<!-- end overview -->\nafter")
    assert "old" not in written
    with pytest.raises(KeyError, match="prices"):
        operation_tables.updated("<!-- begin prices --><!-- end prices -->", ROWS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_parameter_is_explained(name: str) -> None:
    """The last cell of each row of a parameter has a text."""
    lines = re.findall(r"^\| `\w+` .*$", tables_of(OPERATIONS[name])["parameters"], re.MULTILINE)
    assert len(lines) == len(OPERATIONS[name].parameters) + 1  # extra
    assert [line for line in lines if line.endswith("| |")] == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_docstrings_name_the_limits_and_defaults_of_the_rows(name: str) -> None:
    """The docstring of a class names each documented limit and default of its parameters."""
    row = OPERATIONS[name]
    docstring = re.sub(r"\n {4,}", " ", inspect.getdoc(row.request_type) or "")
    entries = {
        each: text
        for names, text in re.findall(r"^([\w, ]+): (.*)$", docstring, re.MULTILINE)
        for each in names.split(", ")
    }
    for endpoint in row.endpoints.values():
        for parameter, limit in endpoint.limits[None].items():
            if limit.minimum is not None:
                assert f"{limit.minimum:g} to {limit.maximum:g}" in entries[parameter]
            else:
                assert re.search(rf"\b(at most|enterprise:) {limit.maximum:g}\b", entries[parameter], re.IGNORECASE)
        for parameter, value in endpoint.defaults.items():
            shown = f'"{value}"' if isinstance(value, str) else str(value)
            assert re.search(rf"\b(default|enterprise:|or) {re.escape(shown)}(?!\w)", entries[parameter], re.IGNORECASE)
