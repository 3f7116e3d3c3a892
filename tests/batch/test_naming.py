"""Names of video files: inside the folder, and fit for any file system."""

from __future__ import annotations

import ntpath
from collections.abc import Callable
from itertools import islice
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.batch.naming import DEFAULT_NAME, names, pattern_problem, stem_of

is_reserved: Callable[[str], bool] = getattr(
    ntpath, "isreserved", lambda name: PureWindowsPath(name).is_reserved() or name != name.rstrip(". ")
)
"""Python's own check of Windows' names; in ntpath from 3.13 on."""


def named(pattern: str, **values: str | int) -> str:
    """Return the best name for a pattern."""
    return next(names(pattern, values))


@pytest.mark.parametrize(
    "pattern",
    ["../{stem}.mp4", "/{stem}.mp4", "{stem}.txt", "{stem", "{nobody}.mp4", "{stem.__class__}.mp4", "{seed:04d}.mp4",
     "{stem!r}.mp4", "a\\{stem}.mp4", "{}.mp4", "{0}.mp4"],
)  # fmt: skip
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str) -> None:
    """A pattern that leaves the folder, does not end in .mp4, or has an unknown field is one problem with a hint."""
    problem = pattern_problem(pattern)
    assert problem is not None
    assert problem.requirement.startswith(("must ", "cannot "))
    assert "{stem}" in problem.hint


PATTERNS = [
    DEFAULT_NAME,
    "{stem}.mp4",
    "{line:04}/{prompt}.mp4",
    "{stem}{stem}{prompt}{ref}{ref}.mp4",
    "{stem}{ref}/{prompt}{stem}{ref}/{ref}.tar.mp4",
    "a. /{stem} .mp4",
    ".. /... /{stem}..mp4",
    "con/nul.{stem}/{ref}: <\n>?*|{prompt}.mp4",
    "a//{stem}//. .mp4",
]
DEVICES = ["con", "PRN", "Aux", "nul", "com1", "COM9", "com²", "lpt3", "LPT¹", "conin$", "CONOUT$"]
TEXTS = (
    st.text()
    | st.sampled_from(DEVICES)
    | st.sampled_from(["CON.tar", "nul ", "co", "n", "lpt", "1", "com1 .x", "..", ". "])
)


@given(TEXTS, TEXTS, st.sampled_from(PATTERNS))
def test_any_name_stays_in_the_folder_on_any_file_system(text: str, other: str, pattern: str) -> None:
    """Any prompt and picture give a plain relative path, which is not hidden and which Windows takes as it is."""
    assert pattern_problem(pattern) is None
    values: dict[str, str | int] = {"stem": stem_of(text), "seed": other, "prompt": text, "ref": other, "line": 3}
    first, second = islice(names(pattern, values), 2)
    assert first != second
    for name in (first, second):
        assert name.endswith(".mp4")
        assert not PurePosixPath(name).is_absolute()
        for part in name.split("/"):
            assert part not in ("", ".", "..")
            assert not part.startswith(".")
            assert len(part.encode()) <= 255
            assert not set(part) & set('\0\n<>:"\\|?*')
            assert not is_reserved(part)


@pytest.mark.parametrize("device", DEVICES)
def test_no_name_is_a_device_of_windows(device: str) -> None:
    """Windows reserves such a name with any suffix, in any part of a path: it gets another beginning."""
    assert named("{stem}.mp4", stem=device) == f"_{device}.mp4"
    assert named("{stem}.mp4", stem=f"{device}.tar") == f"_{device}.tar.mp4"
    assert named("{stem} .mp4", stem=device) == f"_{device}.mp4"
    assert named(f"{device}/{device}.x/{{stem}}.mp4", stem="a") == f"_{device}/_{device}.x/a.mp4"
    assert named("{stem}-{seed}.mp4", stem=device, seed="1") == f"{device}-1.mp4"


def test_an_ordinary_name_is_left_as_it_is() -> None:
    """Dots, blanks and other letters inside a name stay, and so do names that only begin like a device's."""
    names_given = ["console", "com10", "com", "lpt0", "nul-1", "a.con", "Ärger im Schloß", "a b.c"]
    assert [named(f"{name}/{name}.mp4") for name in names_given] == [f"{name}/{name}.mp4" for name in names_given]


def test_parts_lose_the_dots_and_blanks_at_their_end() -> None:
    """Windows drops dots and blanks at the end of a part, so a file would not be found under its name."""
    assert named("shots. /day 1 ./{stem}. .mp4", stem="a") == "shots/day 1/a.mp4"


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
    """The stem of a path or a URL is its last part without the suffix."""
    assert stem_of(where) == stem
