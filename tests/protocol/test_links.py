"""Tests of finding links in a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from helpers.replies import LINK, OTHER_LINK, fetched, submitted
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol.wire import Accepted, NotReady, Ready

LINK_SHAPES: list[tuple[Any, tuple[str, ...]]] = [
    (LINK, (LINK,)),
    (f" {LINK}\n", (LINK,)),
    (f'"{LINK}"', (LINK,)),
    (f"'{LINK}'", (LINK,)),
    ([{"url": LINK}, {"url": OTHER_LINK}], (LINK, OTHER_LINK)),
    *[([{name: LINK}], (LINK,)) for name in ("link", "href", "video", "video_url", "file", "file_url", "src", "uri")],
    ({"url": LINK, "thumbnail": OTHER_LINK}, (LINK,)),
    ({"video": {"url": LINK, "size": 7}}, (LINK,)),
    ({"0": LINK, "2": OTHER_LINK}, (LINK, OTHER_LINK)),
    ({"url": None, "mp4": LINK}, (LINK,)),
    ([[LINK], [[OTHER_LINK]]], (LINK, OTHER_LINK)),
    (json.dumps([LINK, OTHER_LINK]), (LINK, OTHER_LINK)),
    (json.dumps({"url": LINK}), (LINK,)),
    ([json.dumps(json.dumps({"url": LINK}))], (LINK,)),
    ("//files.invalid/a.mp4", (LINK,)),
    (LINK.replace("/", "\\/"), (LINK,)),
    (f"{LINK},{OTHER_LINK}", (LINK, OTHER_LINK)),
    (f"{LINK} {OTHER_LINK}", (LINK, OTHER_LINK)),
    (f"{LINK}\r\n{OTHER_LINK}\r\n", (LINK, OTHER_LINK)),
    (f"{LINK}, {OTHER_LINK},", (LINK, OTHER_LINK)),
    (f"['{LINK}', '{OTHER_LINK}']", (LINK, OTHER_LINK)),
    (f'<a href="{LINK}">video</a>', (LINK,)),
    (f"Your video: {LINK}", (LINK,)),
    ("https://files.invalid/my video, the last.mp4", ("https://files.invalid/my video, the last.mp4",)),
    ("https://files.invalid/a?next=https://b.invalid/c", ("https://files.invalid/a?next=https://b.invalid/c",)),
    ("HTTPS://FILES.invalid/a.mp4", ("HTTPS://FILES.invalid/a.mp4",)),
    ([LINK, LINK], (LINK,)),
]


@pytest.mark.parametrize(("output", "links"), LINK_SHAPES, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("field", ["output", "links", "proxy_links"])
def test_links_in_every_shape(field: str, output: object, links: tuple[str, ...]) -> None:
    """Each shape in which a person would see a link is read, in each field in which the service names links."""
    assert fetched({"status": "success", field: output}) == Ready(links=links)
    accepted = submitted({"status": "processing", "id": 1, "future_links": output})
    assert accepted == Accepted(id="1", future_links=links)


NO_LINKS: list[Any] = ["pending", "/files/a.mp4", "ftp://files.invalid/a", "https://", "https:// a/b", "http://h:0/a"]
NO_LINKS += ["http://my host/a", f"https://{9000 * 'a'}", 0, True, {}, {"url": 7}, [[[]]], "[", '{"url"', "// not yet"]


@pytest.mark.parametrize("output", NO_LINKS)
def test_an_output_without_a_link(output: object) -> None:
    """Words, paths without a host and broken URLs are not links, so the job is not ready and the output is kept."""
    answer = fetched({"status": "success", "output": output})
    assert isinstance(answer, NotReady)
    assert answer.success_without_link


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters='"<>\\/'), min_size=1))
def test_links_keep_every_character(name: str) -> None:
    """Percent-escapes, blanks and non-ASCII letters stay as the service wrote them, since a link may be signed."""
    link = f"https://files.invalid/%2Fa%20b+c/{name}.mp4?X-Signature=%2B%7e&x=1;y='2'#z"
    assert fetched({"status": "success", "output": [link]}) == Ready(links=(link,))


def test_the_number_of_links_is_bounded() -> None:
    """At most 30 links are read from a reply with thousands of links."""
    many = [f"{LINK}?{number}" for number in range(1500)]
    in_objects = [{"url": each} for each in many]
    for output in (many, [many, many], {"url": many}, ", ".join(many), json.dumps(many), in_objects):
        answer = fetched({"status": "success", "output": output, "links": output, "proxy_links": many})
        assert isinstance(answer, Ready)
        assert 1 <= len(answer.links) <= 30
