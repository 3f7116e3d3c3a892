"""Find the links to files in a reply, in every shape that a person would read as a link.

The documentation page shows a list of strings. Similar services also send a single string, an object or a list of
objects with the link in a field, lists within lists, and several links in one string. Unlike a URL that a user passes,
a link may hold blanks and other characters that the transport has to escape. A link keeps every character as the
service wrote it, because a signature may cover it.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

_FIELDS = ("url", "link", "href", "video", "video_url", "file", "file_url", "download_url", "src", "uri")
"""Fields of an object that usually hold its link. The other fields are searched only if these hold no link."""
_MAX_LINKS = 10
_MAX_CANDIDATES = 100
_MAX_CHARACTERS = 8192
"""Most servers accept no longer URL (nginx: large_client_header_buffers)."""
_BEFORE = r"""\s,;|"'<>"""
_SLASHES = re.compile(
    rf"""//(?=[^\s/])
    (?<=[:{_BEFORE}]//)  # rejects most slashes at once
    (?:(?<=[{_BEFORE}]https://) | (?<=[{_BEFORE}]http://) | (?<=[{_BEFORE}]//))""",
    re.IGNORECASE | re.VERBOSE,
)
"""The slashes of a link. The pattern starts with literal slashes, which makes the search ten times as fast, and then
looks back for the scheme.
"""
_URL = re.compile(
    r"""https?://
    (?:[^/?#\s@]{0,255}@)?                           # a user
    (?:\[[\da-f:.]+\] | [^/?#\s@:\[\]]{1,255})       # a host
    (?::0*[1-9]\d{0,4})?                             # a port
    (?:[/?\#] | $)""",
    re.IGNORECASE | re.VERBOSE,
)
"""The beginning of a link. `urlsplit` is not used, because it is slow for a host of thousands of characters."""
_WRAPPING = " '"
_SEPARATING = " '],;|"
_END = re.compile(r'[\x00-\x1f\x7f"<>]')


def links_in(value: Any) -> tuple[str, ...]:
    """Return the links in a JSON value of bounded depth, in order and without duplicates."""
    tried = islice(_candidates(value), _MAX_CANDIDATES)
    return tuple(islice(dict.fromkeys(filter(_is_link, tried)), _MAX_LINKS))


def _candidates(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield from _in_text(value)
        case list():
            for item in value:
                yield from _candidates(item)
        case dict():
            named = [value[name] for name in _FIELDS if name in value]
            others = [item for name, item in value.items() if name not in _FIELDS]
            yield from list(islice(_candidates(named), _MAX_CANDIDATES)) or _candidates(others)
        case _:
            pass


def _in_text(text: str) -> Iterator[str]:
    """Yield the links in *text*, which is cut wherever a link begins. Blanks and commas within a link stay in it."""
    text = f" {text}"
    slashes = _SLASHES.search(text)
    begin = slashes and _begin(text, slashes.start())
    while slashes and begin:
        slashes = _SLASHES.search(text, slashes.end())
        following = slashes and _begin(text, slashes.start())
        is_alone = begin == 1 and not following  # if so, a comma at the end may belong to the link
        link = _END.split(text[begin:following], maxsplit=1)[0].rstrip(_WRAPPING if is_alone else _SEPARATING)
        yield f"https:{link}" if link.startswith("//") else link
        begin = following


def _begin(text: str, slashes: int) -> int:
    """Return the position at which the link with these slashes begins."""
    scheme = text[max(slashes - 6, 0) : slashes].lower()
    return slashes - (6 if scheme == "https:" else 5 if scheme.endswith("http:") else 0)


def _is_link(link: str) -> bool:
    return len(link) <= _MAX_CHARACTERS and _URL.match(link) is not None
