"""The pages of the project: the files, pages and headings to which they lead exist."""

from __future__ import annotations

import ast
import re

import pytest
from helpers.pages import DOCS, PAGES, ROOT, text_of

from modelslab_async import JobState

BASES = (ROOT, ROOT / "modelslab_async")
"""Folders at which a path in a page may begin."""


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """Each `path/to/file.py` in a page exists, from the project's root or from the package."""
    text = text_of(page)
    named = set(re.findall(r"(?<![\w/.])[a-z_]+(?:/\w+)*/\w+\.py\b", text))
    assert {path for path in named if not any((base / path).is_file() for base in BASES)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    """Each relative link in a page leads to a file, and each anchor to a heading."""
    text = text_of(page)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


@pytest.mark.parametrize("page", DOCS)
def test_pages_of_the_site_lead_to_the_site(page: str) -> None:
    """A relative link in a page of `docs/` leads to a file in `docs/`, because the site has no other file."""
    text = text_of("ARCHITECTURE.md") if page == "docs/architecture.md" else text_of(page)
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / page).parent.joinpath(link).resolve().is_relative_to(ROOT / "docs"), link


def test_the_site_and_its_indexes_have_every_page() -> None:
    """The navigation, `llms.txt` and the README each list every page of `docs/`, once."""
    pages = [page.removeprefix("docs/") for page in DOCS]
    navigation = re.findall(r'= "(\w+\.md)"', text_of("zensical.toml"))
    assert sorted(navigation) == pages
    assert sorted(re.findall(r"\]\((\w+\.md)\): ", text_of("docs/llms.txt"))) == pages
    table = text_of("README.md").split("## Pages")[1]
    assert {*re.findall(r"\]\(docs/(\w+\.md)\)", table)} == {*pages} - {"architecture.md"}


def test_llms_txt_has_the_titles_of_the_pages() -> None:
    """Each link of `llms.txt` has the page's title as its text."""
    for title, page in re.findall(r"\[([^]]+)\]\((\w+\.md)\)", text_of("docs/llms.txt")):
        text = text_of("ARCHITECTURE.md" if page == "architecture.md" else f"docs/{page}")
        assert text.startswith(f"# {title}\n"), page


@pytest.mark.parametrize("module", ["", ".batch", ".cluster", ".emulator", ".web"])
def test_the_reference_has_every_public_name(module: str) -> None:
    """The API reference shows each name in `__all__` of the public modules, and no other name of theirs."""
    path = "modelslab_async/" + (f"{module[1:]}/" if module else "") + "__init__.py"
    (names,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(text_of(path)).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    shown = re.findall(rf"^::: modelslab_async{re.escape(module)}\.(\w+)$", text_of("docs/api.md"), re.MULTILINE)
    assert sorted(shown) == sorted({*names} - {"__version__"})


def test_the_page_on_jobs_has_every_state() -> None:
    """The table of states has each state of a job once."""
    table = text_of("docs/jobs.md").split("| state |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| ([A-Z_]+) \|", table, re.MULTILINE)) == sorted(JobState.__members__)
