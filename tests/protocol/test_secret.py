"""The key in an encoding that a reply may repeat it in: base64, or URL encoding."""

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


WAYS: list[Callable[[str], str]] = [
    lambda character: character,
    lambda character: f"%{ord(character):02X}",
    lambda character: f"%{ord(character):02x}",
]


def percent(text: str, choices: list[int]) -> str:
    """Percent-encode some characters, with letters of either case."""
    return "".join(WAYS[choice](character) for character, choice in zip(text, choices, strict=True))


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
    """At each position within base64, and in URL encoding, nothing of what is left decodes to the key."""
    api_key, text = ApiKey(key), ENCODINGS[encoding](before, key, after)
    body = json.dumps({"message": f"no account has {text}"}).replace("/", "\\/").encode()
    assert api_key.may_be_in(body)
    assert not can_be_read(key, api_key.redact(json.loads(body))["message"])
    assert not can_be_read(key, api_key.redact(body.decode()))


@given(KEYS, st.data())
def test_a_key_of_which_some_characters_are_quoted_is_redacted(key: str, data: st.DataObject) -> None:
    """A URL may have any of them percent-encoded, with letters of either case."""
    choices = data.draw(st.lists(st.integers(0, 2), min_size=len(key), max_size=len(key)))
    assert key not in unquote(ApiKey(key).redact(f"https://a.invalid/{percent(key, choices)}"))


@given(SERVICE_KEYS, st.text(max_size=30), st.sampled_from([*ENCODINGS]), st.integers(12, 60))
def test_a_key_that_was_cut_short_is_redacted(key: str, before: str, encoding: str, length: int) -> None:
    """An excerpt ends anywhere: at most 7 characters of the key are left of one that it cut."""
    whole = ENCODINGS[encoding]("", key, "") if encoding.startswith("base64") else ENCODINGS[encoding](before, key, "")
    api_key = ApiKey(key)
    assert not can_be_read(key[:8], api_key.cut(api_key.redact(whole[:length])))


@given(
    SERVICE_KEYS,
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ),
)
def test_what_has_no_key_stays_as_it_is(key: str, value: Any) -> None:
    """Only a key is taken out."""
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
def test_a_key_behind_much_that_resembles_it_is_found(piece: str) -> None:
    """After a mebibyte of pieces that begin like the key, or like an encoding of it, the key is still taken out."""
    api_key = ApiKey(secret())
    text = piece * (2**20 // len(piece))
    found = api_key.may_be_in(text.encode())
    rest = api_key.cut(api_key.redact(text + secret()))
    assert (found, secret() in rest) == (False, False)


def test_an_error_that_quotes_a_body_shows_no_encoded_key() -> None:
    """What is no JSON is quoted in an error: neither base64 nor URL encoding brings the key there, whole or cut."""
    api_key = ApiKey(secret())
    for encode in ENCODINGS.values():
        for page in (f"<h1>{encode('user:', secret(), '')}</h1>", encode("us", secret(), "")[:-10]):
            body = read(HttpReply(502, page.encode()), api_key)
            assert isinstance(body, Malformed)
            assert not can_be_read(secret()[:8], body.reason)
