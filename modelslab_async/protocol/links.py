"""Links to files in a reply, in every shape that was seen, or that a person would read as a link.

Documented is a list of strings. Other services of this kind were seen to send one string, one object or a list of
objects with the link in a field, lists within lists, and several links in one string. Here, unlike for a URL that a
user gives, a link may hold blanks and other letters that the transport has to escape. A link keeps every character as
the service wrote it, because a signature may cover it.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

_FIELDS = ("url", "link", "href", "video", "video_url", "file", "file_url", "download_url", "src", "uri")
"""Where an object has its link. Its other fields are searched only if there is no link in these."""
_MAX_LINKS = 10
_MAX_TRIED = 100
_MAX_CHARACTERS = 8192
"""Servers take no longer URL as a rule (nginx: large_client_header_buffers)."""
_BEFORE = r"""\s,;|"'<>"""
_SLASHES = re.compile(
    rf"""//(?=[^\s/])
    (?<=[:{_BEFORE}]//)  # most slashes fail here at once
    (?:(?<=[{_BEFORE}]https://) | (?<=[{_BEFORE}]http://) | (?<=[{_BEFORE}]//))""",
    re.IGNORECASE | re.VERBOSE,
)
"""Looks back from the slashes: a pattern that begins with letters is searched ten times as fast."""
_URL = re.compile(
    r"""https?://
    (?:[^/?#\s@]{0,255}@)?                           # a user
    (?:\[[\da-f:.]+\] | [^/?#\s@:\[\]]{1,255})       # a host
    (?::0*[1-9]\d{0,4})?                             # a port
    (?:[/?\#] | $)""",
    re.IGNORECASE | re.VERBOSE,
)
"""Only the beginning is held to a form. `urlsplit` takes long for a host of thousands of letters."""
_WRAPPING = " '"
_SEPARATING = " '],;|"
_END = re.compile(r'[\x00-\x1f\x7f"<>]')


def links_in(value: Any) -> tuple[str, ...]:
    """Return the links in a JSON value of bounded depth, in order and once each."""
    tried = islice(_candidates(value), _MAX_TRIED)
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
            yield from list(islice(_candidates(named), _MAX_TRIED)) or _candidates(others)
        case _:
            pass


def _in_text(text: str) -> Iterator[str]:
    """Cut a text wherever a link begins. Blanks and commas within a link stay in it."""
    text = f" {text}"
    slashes = _SLASHES.search(text)
    begin = slashes and _begin(text, slashes.start())
    while slashes and begin:
        slashes = _SLASHES.search(text, slashes.end())
        following = slashes and _begin(text, slashes.start())
        is_alone = begin == 1 and not following  # then a comma at its end may belong to it
        link = _END.split(text[begin:following], maxsplit=1)[0].rstrip(_WRAPPING if is_alone else _SEPARATING)
        yield f"https:{link}" if link.startswith("//") else link
        begin = following


def _begin(text: str, slashes: int) -> int:
    """Return where the link with these slashes begins."""
    scheme = text[max(slashes - 6, 0) : slashes].lower()
    return slashes - (6 if scheme == "https:" else 5 if scheme.endswith("http:") else 0)


def _is_link(link: str) -> bool:
    return len(link) <= _MAX_CHARACTERS and _URL.match(link) is not None
