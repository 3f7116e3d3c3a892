"""Tests of redacting the key, also in the encodings in which a reply may repeat it: base64 and URL encoding."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

import pytest
from helpers.secret import can_be_read, secret
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol.reply import HttpReply, Malformed, read
from modelslab_async.protocol.secret import ApiKey

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=70)
SERVICE_KEYS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=70)


SPELLINGS: list[Callable[[str], str]] = [
    lambda character: character,
    lambda character: f"%{ord(character):02X}",
    lambda character: f"%{ord(character):02x}",
]


def percent(text: str, choices: list[int]) -> str:
    """Percent-encode some characters, in upper or lower case."""
    return "".join(SPELLINGS[choice](character) for character, choice in zip(text, choices, strict=True))


ENCODINGS: dict[str, Callable[[str, str, str], str]] = {
    "base64": lambda before, key, after: b64encode(f"{before}{key}{after}".encode()).decode(),
    "base64 for URLs": lambda before, key, after: (
        urlsafe_b64encode(f"{before}{key}{after}".encode()).decode().strip("=")
    ),
    "base64 in a URL": lambda before, key, after: quote(b64encode(f"{before}{key}{after}".encode()), safe=""),
    "quoted": lambda before, key, after: f"{quote(before)}{quote(key, safe='')}{quote(after)}",
    "all of it quoted": lambda before, key, after: before + percent(key, [1] * len(key)) + after,
    "in lower case": lambda before, key, after: before + percent(key, [2] * len(key)) + after,
}


@given(KEYS, st.text(max_size=4), st.text(max_size=4), st.sampled_from([*ENCODINGS]))
def test_an_encoded_key_is_redacted(key: str, before: str, after: str, encoding: str) -> None:
    """In base64, at each position, and in URL encoding, the rest of the text does not decode to the key."""
    api_key, text = ApiKey(key), ENCODINGS[encoding](before, key, after)
    body = json.dumps({"message": f"no account has {text}"}).replace("/", "\\/").encode()
    assert api_key.may_be_in(body)
    assert not can_be_read(key, api_key.redact(json.loads(body))["message"])
    assert not can_be_read(key, api_key.redact(body.decode()))


@given(KEYS, st.data())
def test_a_partly_quoted_key_is_redacted(key: str, data: st.DataObject) -> None:
    """A key is redacted whichever of its characters are percent-encoded, in upper or lower case."""
    choices = data.draw(st.lists(st.integers(0, 2), min_size=len(key), max_size=len(key)))
    assert key not in unquote(ApiKey(key).redact(f"https://a.invalid/{percent(key, choices)}"))


@given(SERVICE_KEYS, st.text(max_size=30), st.sampled_from([*ENCODINGS]), st.integers(12, 60))
def test_a_key_that_was_cut_short_is_redacted(key: str, before: str, encoding: str, length: int) -> None:
    """An excerpt that ends within the key keeps at most 7 characters of the key."""
    whole = ENCODINGS[encoding]("", key, "") if encoding.startswith("base64") else ENCODINGS[encoding](before, key, "")
    api_key = ApiKey(key)
    assert not can_be_read(key[:8], api_key.cut(api_key.redact(whole[:length])))


@given(
    SERVICE_KEYS,
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ),
)
def test_a_value_without_the_key_is_unchanged(key: str, value: Any) -> None:
    """Redaction changes only a value that holds the key, and ignores a key of fewer than 8 characters."""
    text = json.dumps(value, ensure_ascii=False)
    api_key = ApiKey(key)
    assert api_key.is_in(text) or api_key.redact(value) == value
    assert ApiKey(key[:7]).redact({"message": key[:7]}) == {"message": key[:7]}


@pytest.mark.parametrize(
    "piece",
    [
        "a", "%", "%25", "%61", "%6", "xGsN7d4E", "%78", "x%47s", "Z" * 79 + "=",
        '"%61a",', "eEdzTjdkNEV3cVQyYjhySjBwTGtWbTVjWnlIZkExdVE5b0llWG5SdFNnS2pEdldoTWFCaVVs", "\\/",
    ],
)  # fmt: skip
def test_a_key_behind_text_that_resembles_it_is_redacted(piece: str) -> None:
    """After a mebibyte of pieces that begin like the key, or like its encodings, the key is still redacted."""
    api_key = ApiKey(secret())
    text = piece * (2**20 // len(piece))
    found = api_key.may_be_in(text.encode())
    rest = api_key.cut(api_key.redact(text + secret()))
    assert (found, secret() in rest) == (False, False)


def test_an_error_that_quotes_a_body_shows_no_encoded_key() -> None:
    """An error that quotes a page shows no key, whole or cut, in base64 or URL encoding."""
    api_key = ApiKey(secret())
    for encode in ENCODINGS.values():
        for page in (f"<h1>{encode('user:', secret(), '')}</h1>", encode("us", secret(), "")[:-10]):
            body = read(HttpReply(502, page.encode()), api_key)
            assert isinstance(body, Malformed)
            assert not can_be_read(secret()[:8], body.reason)
