"""The pages of the project: the files that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md"),
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
)
BASES = (ROOT, ROOT / "modelslab_async")
"""Folders at which a path in a page may begin."""


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """Each `path/to/file.py` in a page exists, from the project's root or from the package."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.])[a-z_]+(?:/\w+)*/\w+\.py\b", text))
    assert {path for path in named if not any((base / path).is_file() for base in BASES)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page: str) -> None:
    """Each relative link in a page leads to a file, and each anchor to a heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.is_file(), link
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, link
