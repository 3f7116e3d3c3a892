"""Tests of decoding any bytes that a server may send."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from helpers.replies import A_KEY, DECODERS, FIELDS, JSON, LINK, OTHER_FIELDS, STATUS, fetched, is_decoded, submitted
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile import bodies, use
from modelslab_async.protocol import wire
from modelslab_async.protocol.decoding import MAX_REPLY_BYTES
from modelslab_async.protocol.reply import HttpReply, Malformed, Refused
from modelslab_async.protocol.wire import Accepted

HOSTILE_BODIES = bodies()
OBJECTS = st.builds(
    lambda fields, status: {**fields, **({"status": status} if status else {})},
    st.dictionaries(st.sampled_from(FIELDS + OTHER_FIELDS), JSON),
    st.none() | STATUS,
)
ENCODED_JSON = st.builds(
    lambda value, ascii_only, encoding: json.dumps(value, ensure_ascii=ascii_only).encode(encoding, errors="replace"),
    JSON | OBJECTS | OBJECTS.map(lambda value: {**value, "output": json.dumps(value)}),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1"]),
)
AROUND = st.binary(max_size=8) | st.sampled_from([b"<br />", b"\0", b'{"', b"[", b"\xef\xbb\xbf"])
BODIES = st.one_of(st.binary(), ENCODED_JSON, st.tuples(AROUND, ENCODED_JSON, AROUND).map(b"".join))


@given(body=BODIES, status=st.integers(100, 599), header=st.none() | st.text())
def test_no_body_makes_a_decoder_raise(body: bytes, status: int, header: str | None) -> None:
    """Arbitrary bytes, JSON, and objects with known field names give a value of a known type."""
    for decode in DECODERS:
        answer = decode(HttpReply(status, body, header), A_KEY)
        assert is_decoded(answer)


PROCESSING = '{"status": "processing", "id": 7, "message": "clé € 日本"}'
TEXT_BEFORE: dict[str, bytes] = {
    "a notice before": b"<br />\n<b>Warning</b>:  Undefined variable $x in {closure}() on line <b>7</b><br />\n",
    "a notice with an object": b'Notice: {"retries": 1} ',
    "a line break before": b"\r\n",
    "a prefix against hijacking": b")]}',\n",
    "a function's call": b"callback(",
    "a BOM": "\ufeff".encode(),
    "two BOMs": "\ufeff\ufeff".encode(),
    "a list": b"[",
    "letters of Latin-1": b"\xe9\xff ",
}
TEXT_AFTER = ["", "\n", "0", " OK", "\0\0\0", "<!-- 12 ms -->", "null", "]", ");", '{"status": "error"}', "{", '{"a"']


@pytest.mark.parametrize("after", TEXT_AFTER)
@pytest.mark.parametrize("before", TEXT_BEFORE)
def test_json_between_other_text_is_read(before: str, after: str) -> None:
    """Text that a gateway, PHP or a debugger puts around the JSON does not hide the id of a paid job."""
    answer = submitted(TEXT_BEFORE[before] + PROCESSING.encode() + after.encode())
    assert isinstance(answer, Accepted)
    assert answer.id == "7"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("after", TEXT_AFTER)
def test_json_in_every_encoding(encoding: str, after: str) -> None:
    """JSON is read in each encoding that a JSON parser detects, and with a Latin-1 letter in a string."""
    answer = submitted((PROCESSING.replace(" € 日本", "") + after).encode(encoding))
    assert isinstance(answer, Accepted)
    assert answer.id == "7"


ODD_VALUES = {
    "a raw line break": '"a\nb"',
    "control characters": '"a\x01\x1b[0m\tb"',
    "NaN": "NaN",
    "an infinite number": "-Infinity",
    "a huge float": "1e999",
    "very many digits": "1" * 100_000,
    "very many digits of a fraction": "0." + "1" * 100_000,
    "half of a pair": '"\\ud800"',
    "a zero": '"\\u0000"',
    "the id twice": '0, "id": 7',
}


@pytest.mark.parametrize("name", ODD_VALUES)
def test_json_with_an_odd_value(name: str) -> None:
    """A value that strict JSON or Python refuses does not hide the other fields."""
    for field in ("meta", "tip", "eta", "generationTime", "retry_after"):
        answer = submitted(f'{{"status": "processing", "{field}": {ODD_VALUES[name]}, "id": 7}}'.encode())
        assert isinstance(answer, Accepted)
        assert answer.id == "7"
        assert answer.eta is None or math.isfinite(answer.eta)
        json.dumps(repr(answer), allow_nan=False).encode()


@given(meta=JSON)
def test_the_echo_can_be_encoded_again(meta: Any) -> None:
    """The echo holds no infinite number and no lone surrogate, so a journal can write it."""
    body = {"status": "processing", "id": 1, "meta": {"a": meta, "\ud800": "\udfff"}}
    answer = submitted(json.dumps(body).encode())
    assert isinstance(answer, Accepted)
    assert json.dumps(dict(answer.meta), allow_nan=False, ensure_ascii=False).encode()


REPLIES = st.builds(
    lambda fields, inner, status: {"meta": {"a": 1}, **fields, "last": inner, "status": status, "id": 7},
    st.dictionaries(st.sampled_from(FIELDS), JSON),
    st.sampled_from(
        [
            {"status": "processing", "id": 9},
            {"status": "success", "id": 9, "output": LINK},
            [{"status": "error", "message": "no"}],
            {"a": {"status": "failed", "message": "no", "id": 9}},
            json.dumps({"status": "processing", "id": 9}),
        ]
    ),
    STATUS,
)


@given(body=REPLIES, notice=st.sampled_from(["", "Warning: x<br>", "\ufeff"]), data=st.data())
def test_a_cut_reply_is_malformed(body: dict[str, Any], notice: str, data: st.DataObject) -> None:
    """A reply that was cut anywhere is malformed, even if it contains an object that looks like a reply."""
    whole = notice + json.dumps(body, ensure_ascii=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(whole) - 1))
    for decode in (wire.decode_submit, wire.decode_fetch):
        answer = decode(HttpReply(200, whole[:cut].encode(errors="surrogatepass")), A_KEY)
        assert isinstance(answer, Malformed)


def test_an_object_in_the_script_of_a_page_is_ignored() -> None:
    """A page is malformed even if its script holds an object with a status."""
    page = '<html><script type="application/json">{"status": "processing", "id": 9}</script></html>'
    assert isinstance(submitted(page.encode()), Malformed)


@pytest.mark.parametrize(
    "page",
    [
        "<!doctype html><title>502</title><style>p > a {color: red}</style></head><h1>Bad gateway</h1></html>",
        "<SCRIPT>if (a < b && '</p>') {}</SCRIPT><!-- <b> --><h1 class=\"a\">502 <i>Bad</i></h1>gateway<div id='cut",
        "502 Bad&nbsp;gateway<script>never ends",
        "502 Bad\n\n  gateway<style>",
    ],
)
def test_a_page_is_quoted_without_markup(page: str) -> None:
    """The error quotes the text of a gateway's page, without its markup, styles and scripts."""
    answer = submitted(page.encode(), 502)
    assert isinstance(answer, Malformed)
    assert answer.reason == "not a JSON object: '502 Bad gateway'"


@given(words=st.text(min_size=1) | st.sampled_from(["a " * 9000, "\u202e" * 900, "\U000e0001" * 900]), status=STATUS)
def test_errors_are_short_and_printable(words: str, status: str) -> None:
    """The text of an error is one printable line of less than 1,000 characters, whatever the service sends."""
    for body in ({"status": status, "message": 50 * [words], "tip": words, "output": words}, words.encode()):
        for code in (200, 308, 400, 502):
            for answer in (submitted(body, code), fetched(body, code)):
                text = str(wire.error_of(answer)) if isinstance(answer, Refused | Malformed) else ""
                text = text or getattr(answer, "message", None) or getattr(answer, "success_without_link", None) or "-"
                assert len(text) < 1000
                assert text.isprintable()


@pytest.mark.parametrize("name", HOSTILE_BODIES)
def test_hostile_bodies_are_decoded_in_time(name: str) -> None:
    """A body of the maximum size is decoded in linear time; quadratic time would take hours."""
    body = HOSTILE_BODIES[name]()
    assert 0.9 * MAX_REPLY_BYTES < len(body) <= MAX_REPLY_BYTES
    for decode in DECODERS:
        answer = decode(HttpReply(200, body), A_KEY)
        assert is_decoded(answer)
        assert len(str(use(answer))) < 2**20


def test_a_body_is_read_up_to_its_bound() -> None:
    """Bytes after the maximum size are ignored, so JSON that reaches beyond it is cut and malformed."""
    long = json.dumps({"status": "processing", "id": 7, "message": "a" * MAX_REPLY_BYTES}).encode()
    assert isinstance(submitted(long), Malformed)
    assert submitted(PROCESSING.encode() + bytes(4 * MAX_REPLY_BYTES)) == Accepted(id="7")


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_json_does_not_raise(depth: int) -> None:
    """JSON of any depth is decoded without an exception."""
    body = b'{"status": "processing", "id": 1, "meta": ' + b"[" * depth + b"]" * depth + b"}"
    assert is_decoded(submitted(body))
