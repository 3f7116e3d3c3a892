"""Tests that no decoded reply holds the key."""

from __future__ import annotations

import json

import pytest
from helpers.replies import FIELDS, OTHER_FIELDS, STATUS, fetched, submitted
from helpers.world import KEY
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol import wire
from modelslab_async.protocol.reply import HttpReply
from modelslab_async.protocol.secret import ApiKey


@given(
    before=st.text(max_size=20), after=st.text(max_size=20), field=st.sampled_from(FIELDS + OTHER_FIELDS), status=STATUS
)
def test_the_key_is_redacted_in_every_field(before: str, after: str, field: str, status: str) -> None:
    """The key is redacted in any field, as text, link, name, nested value or JSON in a text, and in a page."""
    echo = before + KEY + after
    link = f"https://files.invalid/{KEY}"
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in link)
    for value in (echo, [echo], {echo: [echo]}, link, json.dumps([echo, link]), f'{{"url": "{escaped}"}}'):
        body = {"status": status, "id": 1, field: value}
        for answer in (submitted(body), fetched(body), submitted(echo.encode(errors="replace"), 502)):
            assert KEY not in repr(answer)


def legible(answer: object) -> str:
    """Return the repr of *answer* without backslashes and zeros, so that a key in UTF-16 becomes readable."""
    return repr(answer).replace("\\", "").replace("x00", "")


@given(
    key=st.text("abcXYZ019", min_size=8, max_size=20) | st.just(KEY),
    escaped=st.sets(st.integers(0, 19)),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]),
)
def test_the_key_is_redacted_in_every_json_encoding(key: str, escaped: set[int], encoding: str) -> None:
    """The key is redacted if its letters are JSON escapes, and in every encoding that a JSON parser detects."""
    letters = (f"\\u{ord(letter):04X}" if at in escaped else letter for at, letter in enumerate(key))
    body = f'{{"status": "processing", "id": 1, "message": "{"".join(letters)}"}}'.encode(encoding)
    for decode in (wire.decode_submit, wire.decode_fetch):
        assert key not in legible(decode(HttpReply(200, body), ApiKey(key)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
def test_the_key_is_redacted_in_a_page_in_utf_16_or_utf_32(encoding: str) -> None:
    """The key is redacted in a gateway's page, also between the zeros of UTF-16 and UTF-32."""
    page = f"<html>bad gateway: {KEY}</html>".encode(encoding)
    assert KEY not in legible(submitted(page, 502))
