"""The package's metadata: one version, and a description that stands alone."""

from __future__ import annotations

import re
import tomllib

from helpers.pages import ROOT, text_of

import modelslab_async

PROJECT = tomllib.loads(text_of("pyproject.toml"))


def test_there_is_one_version() -> None:
    """The version is written in the package, and the changelog's newest entry is about it."""
    assert "version" in PROJECT["project"]["dynamic"]
    assert (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).samefile(modelslab_async.__file__)
    newest = re.findall(r"^## \[(.+?)]", text_of("CHANGELOG.md"), re.MULTILINE)
    assert modelslab_async.__version__ in newest[:2]


def test_every_extra_is_explained() -> None:
    """The first page explains each extra, or says that it is for contributors."""
    text = text_of("docs/index.md")
    install = text[text.index("## Install") : text.index("## A program")]
    assert {name for name in PROJECT["project"]["optional-dependencies"] if f"`{name}`" not in install} == set()


def test_the_description_leads_to_no_file() -> None:
    """On the package's own page, no link and no picture is relative, because no file of the project is beside it."""
    text = text_of("README.md")
    for change in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    assert "The money contract (`docs/money.md`)" in text
    assert re.findall(r"\]\((?!https:)[^)]*\)", text) == []


def test_the_sdist_has_every_file_that_the_readme_names() -> None:
    """The source distribution has each file to which the README leads."""
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["only-include"]
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text_of("README.md")):
        assert any(link == path or link.startswith(f"{path}/") for path in included), link
