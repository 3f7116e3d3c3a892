"""Every reply that the service is known to give, and every one that it is not."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from helpers.world import KEY
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile import bodies, use
from modelslab_async import errors
from modelslab_async.protocol import wire
from modelslab_async.protocol.decoding import MAX_REPLY_BYTES
from modelslab_async.protocol.reply import HttpReply, Malformed, Refused
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import Accepted, Failed, NotReady, Ready, UnknownId

A_KEY = ApiKey(KEY)
HOSTILE = bodies()
LINK, OTHER = "https://files.invalid/a.mp4", "https://files.invalid/b.mp4"
PAGE_SAMPLE = """{"status": "success", "generationTime": 4.49, "id": 147, "output": [
"https:\\/\\/modelslab-bom.s3.amazonaws.com\\/generations\\/9faea114-b3e5-4960-b0de-cc27b8f2efa0.mp4"], "proxy_links": [
"https://modelslab-bom.s3.amazonaws.com/generations/9faea114-b3e5-4960-b0de-cc27b8f2efa0.mp4"], "meta": {
"base64": "no", "file_prefix": "a51498bf-0eee-44c5-a473-81cc867b288a", "fps": 16, "guidance_scale": 5, "id": null,
"instant_response": "no", "negative_prompt": "low quality", "num_frames": 81, "num_inference_steps": 30,
"portrait": "no", "prompt": "Space Station in space", "resolution": 480, "sample_shift": 3, "seed": 3644269522,
"temp": "no", "track_id": null, "webhook": null}, "future_links": [
"https://modelslab-bom.s3.amazonaws.com/generations/09e6f35f-2a47-4271-82a5-9cfff8bbc43a.mp4"]}"""


def reply(body: Any, status: int = 200, retry_after: str | None = None) -> HttpReply:
    return HttpReply(
        status, body if isinstance(body, bytes) else json.dumps(body).encode(), retry_after, is_on_own_connection=True
    )


def submitted(body: Any, status: int = 200, retry_after: str | None = None) -> wire.SubmitReply:
    return wire.decode_submit(reply(body, status, retry_after), A_KEY)


def fetched(body: Any, status: int = 200) -> wire.FetchReply:
    return wire.decode_fetch(reply(body, status), A_KEY)


def test_the_sample_of_the_documentation_page() -> None:
    """Success at once, escaped slashes, a seed above 2^31, meta.id that is not the id."""
    host = "https://modelslab-bom.s3.amazonaws.com/generations/"
    answer = submitted(PAGE_SAMPLE.encode())
    assert isinstance(answer, Ready)
    assert (answer.id, answer.generation_time, answer.meta["seed"]) == ("147", 4.49, 3644269522)
    assert answer.links == (f"{host}9faea114-b3e5-4960-b0de-cc27b8f2efa0.mp4",)
    assert answer.future_links == (f"{host}09e6f35f-2a47-4271-82a5-9cfff8bbc43a.mp4",)


@pytest.mark.parametrize(
    ("eta", "expected"),
    [
        (20, 20.0),
        (12.5, 12.5),
        ("30", 30.0),
        (0, 0.0),
        (None, None),
        (-5, None),
        ("soon", None),
        (True, None),
        ([], None),
    ],
)
def test_accepted_with_any_eta(eta: object, expected: float | None) -> None:
    """An eta is seconds or nothing; ids may be strings; links may be announced."""
    body = {"status": "processing", "id": "a1", "eta": eta, "output": [], "future_links": [LINK], "messege": "wait"}
    assert submitted(body) == Accepted(id="a1", eta=expected, future_links=(LINK,))


@pytest.mark.parametrize("body", [b'{"status":"processing","id":1,"eta":NaN}', b'{"status":"processing","id":1}'])
def test_accepted_without_an_eta(body: bytes) -> None:
    """NaN is no number of seconds, and absent is absent."""
    assert submitted(body) == Accepted(id="1")


def test_oddities_are_noted() -> None:
    """An unknown status is taken as processing, and a fetch_result with another id is not followed."""
    answer = submitted({"status": "Queued", "id": 5, "fetch_result": "https://modelslab.com/api/v6/video/fetch/6"})
    assert isinstance(answer, Accepted)
    assert answer.id == "5"
    assert [word for note in answer.notes for word in ("queued", "fetch_result") if word in note] == [
        "queued",
        "fetch_result",
    ]


@pytest.mark.parametrize(
    "body", [{"status": "processing"}, {"status": "success", "id": "", "output": []}, {"status": 3}]
)
def test_a_submit_reply_without_an_id_says_nothing(body: object) -> None:
    """Taken or not, nobody knows."""
    assert isinstance(submitted(body), Malformed)


NOT_READY = [
    ({"status": "processing", "message": "Try Again", "output": ""}, NotReady()),
    ({"status": "processing", "message": "try again later."}, NotReady()),
    ({"status": "success", "id": 1, "output": []}, NotReady(success_without_link="[]")),
    ({"status": "success", "id": 1, "output": "", "proxy_links": None}, NotReady(success_without_link='""')),
    ({"status": "success", "id": 1}, NotReady(success_without_link="null")),
    ({"status": "success", "id": 1, "output": 7}, NotReady(success_without_link="7")),
    ({"status": "success", "id": 1, "output": [{"url": None}]}, NotReady(success_without_link='[{"url": null}]')),
    ({"status": "failed", "message": "Try Again", "output": ""}, NotReady(under_failed=True)),
    (
        {"status": "failed", "id": "", "message": "Request not found", "output": ""},
        UnknownId(message="Request not found"),
    ),
    ({"status": "failed", "message": "no faces", "id": 1}, Failed(message="no faces", id="1")),
    ({"status": "success", "id": 1, "output": LINK}, Ready(id="1", links=(LINK,))),
    ({"status": "success", "links": [LINK], "proxy_links": OTHER}, Ready(links=(LINK, OTHER))),
    ({"status": "success", "output": [LINK, 3, None, "not a link"]}, Ready(links=(LINK,))),
]


@pytest.mark.parametrize(("body", "expected"), NOT_READY)
def test_fetch(body: object, expected: wire.FetchReply) -> None:
    """Each documented answer to a fetch, with the shapes that links come in."""
    assert fetched(body) == expected


REFUSALS: list[tuple[Any, int, type[errors.APIError]]] = [
    ({"status": "error", "message": {"prompt": ["The prompt field is required."]}}, 200, errors.BadRequestError),
    ({"status": "error", "messege": "Bad picture"}, 400, errors.BadRequestError),
    ({"status": "error", "error": "Invalid API Key"}, 200, errors.AuthenticationError),
    ({"status": "error", "message": "no", "tip": "check your API key"}, 401, errors.AuthenticationError),
    ({"status": "error", "message": "You have insufficient credits"}, 200, errors.InsufficientCreditsError),
    ({"status": "error", "message": "pay"}, 402, errors.InsufficientCreditsError),
    ({"status": "error", "message": "Not found"}, 404, errors.NotFoundError),
    ({"status": "error", "message": "Server Error"}, 500, errors.ServerError),
    ({"status": "error", "message": "down"}, 503, errors.ServerError),
    (b"<html>403</html>", 403, errors.BadRequestError),
    ({"message": "Unauthenticated."}, 401, errors.AuthenticationError),
    ({"message": "Too Many Attempts."}, 429, errors.RateLimitError),
    (b"", 308, errors.BadRequestError),
]


@pytest.mark.parametrize(("body", "status", "kind"), REFUSALS)
def test_refusals(body: Any, status: int, kind: type[errors.APIError]) -> None:
    """At HTTP 200 the words tell the kind, else the code; a submit and a fetch read alike."""
    for answer in (submitted(body, status), fetched(body, status)):
        assert isinstance(answer, Refused)
        assert (answer.kind, answer.http_status) == (kind, status)
        assert isinstance(wire.error_of(answer), kind)


@pytest.mark.parametrize("status", [308, 400, 401, 403, 404, 429])
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b'{"message": "no"}'])
def test_a_refusal_on_a_shared_connection(status: int, body: bytes) -> None:
    """It may be the reply to another request: unless it is the service's own JSON, the outcome is unknown."""
    assert isinstance(wire.decode_submit(HttpReply(status, body), A_KEY), Malformed)
    assert isinstance(wire.decode_submit(HttpReply(status, b'{"status": "error"}'), A_KEY), Refused)


@pytest.mark.parametrize("job_id", [7, "7", " 7 ", 7.0])
def test_an_id_in_every_form(job_id: object) -> None:
    """An id is an integer; a string of its digits, or a float without a fraction, is the same id."""
    assert submitted({"status": "processing", "id": job_id}) == Accepted(id="7")


@pytest.mark.parametrize(
    "job_id", ["..", ".", "a/b", "a\nb", "x" * 200, "\ud800", "", True, 1.5, 1e30, 10**200, math.nan, [1]]
)
def test_an_id_that_can_be_none(job_id: object) -> None:
    """Ids are of ordinary characters; with any other, nobody knows what was taken."""
    assert isinstance(submitted({"status": "processing", "id": job_id}), Malformed)


def test_words_nested_too_deep() -> None:
    """A message of objects within objects does not raise."""
    message: object = "why"
    for _ in range(480):
        message = {"a": message}
    assert isinstance(submitted({"status": "error", "message": message}), CLOSED)


SHAPES: list[tuple[Any, tuple[str, ...]]] = [
    (LINK, (LINK,)),
    (f" {LINK}\n", (LINK,)),
    (f'"{LINK}"', (LINK,)),
    (f"'{LINK}'", (LINK,)),
    ([{"url": LINK}, {"url": OTHER}], (LINK, OTHER)),
    *[([{name: LINK}], (LINK,)) for name in ("link", "href", "video", "video_url", "file", "file_url", "src", "uri")],
    ({"url": LINK, "thumbnail": OTHER}, (LINK,)),
    ({"video": {"url": LINK, "size": 7}}, (LINK,)),
    ({"0": LINK, "2": OTHER}, (LINK, OTHER)),
    ({"url": None, "mp4": LINK}, (LINK,)),
    ([[LINK], [[OTHER]]], (LINK, OTHER)),
    (json.dumps([LINK, OTHER]), (LINK, OTHER)),
    (json.dumps({"url": LINK}), (LINK,)),
    ([json.dumps(json.dumps({"url": LINK}))], (LINK,)),
    ("//files.invalid/a.mp4", (LINK,)),
    (LINK.replace("/", "\\/"), (LINK,)),
    (f"{LINK},{OTHER}", (LINK, OTHER)),
    (f"{LINK} {OTHER}", (LINK, OTHER)),
    (f"{LINK}\r\n{OTHER}\r\n", (LINK, OTHER)),
    (f"{LINK}, {OTHER},", (LINK, OTHER)),
    (f"['{LINK}', '{OTHER}']", (LINK, OTHER)),
    (f'<a href="{LINK}">video</a>', (LINK,)),
    (f"Your video: {LINK}", (LINK,)),
    ("https://files.invalid/my video, the last.mp4", ("https://files.invalid/my video, the last.mp4",)),
    ("https://files.invalid/a?next=https://b.invalid/c", ("https://files.invalid/a?next=https://b.invalid/c",)),
    ("HTTPS://FILES.invalid/a.mp4", ("HTTPS://FILES.invalid/a.mp4",)),
    ([LINK, LINK], (LINK,)),
]


@pytest.mark.parametrize(("output", "links"), SHAPES, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("field", ["output", "links", "proxy_links"])
def test_links_in_every_shape(field: str, output: object, links: tuple[str, ...]) -> None:
    """Each shape in which a person would see a link, in each field where the service names some."""
    assert fetched({"status": "success", field: output}) == Ready(links=links)
    accepted = submitted({"status": "processing", "id": 1, "future_links": output})
    assert accepted == Accepted(id="1", future_links=links)


NO_LINKS: list[Any] = ["pending", "/files/a.mp4", "ftp://files.invalid/a", "https://", "https:// a/b", "http://h:0/a"]
NO_LINKS += ["http://my host/a", f"https://{9000 * 'a'}", 0, True, {}, {"url": 7}, [[[]]], "[", '{"url"', "// not yet"]


@pytest.mark.parametrize("output", NO_LINKS)
def test_what_is_no_link(output: object) -> None:
    """Words, paths without a host and broken URLs are no links: the output is told instead."""
    answer = fetched({"status": "success", "output": output})
    assert isinstance(answer, NotReady)
    assert answer.success_without_link


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters='"<>\\/'), min_size=1))
def test_links_keep_every_character(name: str) -> None:
    """A link may be signed: percent-escapes, blanks and letters of the world stay as the service wrote them."""
    link = f"https://files.invalid/%2Fa%20b+c/{name}.mp4?X-Signature=%2B%7e&x=1;y='2'#z"
    assert fetched({"status": "success", "output": [link]}) == Ready(links=(link,))


def test_links_are_bounded() -> None:
    """A reply with thousands of links is not followed through all of them."""
    many = [f"{LINK}?{number}" for number in range(1500)]
    in_objects = [{"url": each} for each in many]
    for output in (many, [many, many], {"url": many}, ", ".join(many), json.dumps(many), in_objects):
        answer = fetched({"status": "success", "output": output, "links": output, "proxy_links": many})
        assert isinstance(answer, Ready)
        assert 1 <= len(answer.links) <= 30


def test_a_word_is_no_rate_limit() -> None:
    """Only what names a limit is put back and sent again; a refusal of the prompt is final."""
    answer = submitted({"status": "error", "message": "Your prompt was flagged as spam"})
    assert isinstance(answer, Refused)
    assert answer.kind is errors.BadRequestError


LIMITS: list[tuple[Any, int, str | None, float | None, int | None]] = [
    ({"message": "Rate limit exceeded. Maximum 5 queued requests allowed.", "retry_after": 30}, 429, None, 30.0, 5),
    ({"message": "Rate limit exceeded. Maximum 15 queued requests allowed.", "retry_after": "7"}, 200, None, 7.0, 15),
    ({"message": "Rate limit exceeded. Maximum 3 requests per minute."}, 429, None, None, None),
    ({"message": "Too many requests, try again in 30 minutes"}, 429, None, 1800.0, None),
    ({"message": "Please try again in 45 seconds."}, 200, None, 45.0, None),
    ({"message": "rate limit, try again in 3 hours"}, 429, None, 3600.0, None),
    ({"message": "Rate limit exceeded."}, 429, "12", 12.0, None),
    ({"message": "Rate limit exceeded."}, 429, "Wed, 21 Oct 2026 07:28:00 GMT", None, None),
    ({"message": "Rate limit exceeded.", "retry_after": -1}, 429, None, None, None),
]


@pytest.mark.parametrize(("body", "status", "header", "wait", "maximum"), LIMITS)
def test_every_form_of_a_rate_limit(
    body: Any, status: int, header: str | None, wait: float | None, maximum: int | None
) -> None:
    """The wait from the body, the words or the header, at most an hour; the maximum where it is named."""
    answer = submitted({"status": "error", **body}, status, header)
    assert isinstance(answer, Refused)
    assert (answer.kind, answer.retry_after, answer.maximum) == (errors.RateLimitError, wait, maximum)


@pytest.mark.parametrize("status", [200, 302, 303, 408, 500, 502, 503, 504, 520, 522, 524])
@pytest.mark.parametrize("body", [b"<html><h1>Bad gateway</h1></html>", b'{"status": "proc', b"", b"[]", b'{"a": 1}'])
def test_what_is_not_the_protocol(body: bytes, status: int) -> None:
    """A gateway's page, cut JSON, nothing at all: malformed, with a word on what came."""
    for answer in (submitted(body, status), fetched(body, status)):
        assert isinstance(answer, Malformed)
        assert answer.reason


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
FIELDS = ("status", "id", "eta", "output", "proxy_links", "links", "future_links", "fetch_result", "meta", "message")
MORE = ("messege", "error", "tip", "tips", "retry_after", "generationTime", "data", "processing_count")
STATUS = st.sampled_from(["success", "processing", "error", "failed", "other"])
OBJECTS = st.builds(
    lambda fields, status: {**fields, **({"status": status} if status else {})},
    st.dictionaries(st.sampled_from(FIELDS + MORE), JSON),
    st.none() | STATUS,
)
WRITTEN = st.builds(
    lambda value, ascii_only, encoding: json.dumps(value, ensure_ascii=ascii_only).encode(encoding, errors="replace"),
    JSON | OBJECTS | OBJECTS.map(lambda value: {**value, "output": json.dumps(value)}),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1"]),
)
AROUND = st.binary(max_size=8) | st.sampled_from([b"<br />", b"\0", b'{"', b"[", b"\xef\xbb\xbf"])
BODIES = st.one_of(st.binary(), WRITTEN, st.tuples(AROUND, WRITTEN, AROUND).map(b"".join))
Decode = Callable[[HttpReply, ApiKey], object]
PICKS: tuple[Any, ...] = (wire.upload, wire.queue_depth, wire.balance, wire.assets)
CALLS: list[Decode] = [partial(wire.decode, pick=pick) for pick in PICKS]
DECODERS: tuple[Decode, ...] = (wire.decode_submit, wire.decode_fetch, *CALLS)
CLOSED = (Accepted, NotReady, Ready, Refused, Failed, UnknownId, Malformed, wire.Balance, str, int)


@given(body=BODIES, status=st.integers(100, 599), header=st.none() | st.text())
def test_nothing_that_a_server_says_raises(body: bytes, status: int, header: str | None) -> None:
    """Arbitrary bytes, JSON and objects with the known names decode into the closed set."""
    for decode in DECODERS:
        answer = decode(HttpReply(status, body, header), A_KEY)
        assert isinstance(answer, CLOSED) or type(answer) is tuple


TAKEN = '{"status": "processing", "id": 7, "message": "clé € 日本"}'
ODD_JSON: dict[str, bytes] = {
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
AFTER = ["", "\n", "0", " OK", "\0\0\0", "<!-- 12 ms -->", "null", "]", ");", '{"status": "error"}', "{", '{"a"']


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("before", ODD_JSON)
def test_json_between_other_words(before: str, after: str) -> None:
    """What a gateway, PHP or a debugger puts around the JSON does not hide it: the id of a paid job is read."""
    answer = submitted(ODD_JSON[before] + TAKEN.encode() + after.encode())
    assert isinstance(answer, Accepted)
    assert answer.id == "7"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
@pytest.mark.parametrize("after", AFTER)
def test_json_in_every_encoding(encoding: str, after: str) -> None:
    """The encodings that a JSON parser detects, and one letter of Latin-1 in a string."""
    answer = submitted((TAKEN.replace(" € 日本", "") + after).encode(encoding))
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
    """One value that strict JSON or Python refuses does not hide the others, wherever it stands."""
    for field in ("meta", "tip", "eta", "generationTime", "retry_after"):
        answer = submitted(f'{{"status": "processing", "{field}": {ODD_VALUES[name]}, "id": 7}}'.encode())
        assert isinstance(answer, Accepted)
        assert answer.id == "7"
        assert answer.eta is None or math.isfinite(answer.eta)
        json.dumps(repr(answer), allow_nan=False).encode()


@given(meta=JSON)
def test_an_echo_can_be_written(meta: Any) -> None:
    """What is kept of a reply holds no number without end and no half of a pair: a journal can write it."""
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
def test_a_part_is_never_taken_for_the_reply(body: dict[str, Any], notice: str, data: st.DataObject) -> None:
    """No beginning of a reply says anything: least of all an object within it that looks like a reply itself."""
    whole = notice + json.dumps(body, ensure_ascii=data.draw(st.booleans()))
    cut = data.draw(st.integers(0, len(whole) - 1))
    for decode in (wire.decode_submit, wire.decode_fetch):
        answer = decode(HttpReply(200, whole[:cut].encode(errors="surrogatepass")), A_KEY)
        assert isinstance(answer, Malformed)


def test_the_script_of_a_page_is_no_reply() -> None:
    """A page may hold objects with a status of their own."""
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
def test_a_page_is_told_in_plain_words(page: str) -> None:
    """The words of a gateway's page, without its markup, styles and scripts."""
    answer = submitted(page.encode(), 502)
    assert isinstance(answer, Malformed)
    assert answer.reason == "not a JSON object: '502 Bad gateway'"


@given(words=st.text(min_size=1) | st.sampled_from(["a " * 9000, "\u202e" * 900, "\U000e0001" * 900]), status=STATUS)
def test_errors_are_short(words: str, status: str) -> None:
    """The text of an error is one printable line of less than 1,000 characters, whatever the service says."""
    for body in ({"status": status, "message": 50 * [words], "tip": words, "output": words}, words.encode()):
        for code in (200, 308, 400, 502):
            for answer in (submitted(body, code), fetched(body, code)):
                text = str(wire.error_of(answer)) if isinstance(answer, Refused | Malformed) else ""
                text = text or getattr(answer, "message", None) or getattr(answer, "success_without_link", None) or "-"
                assert len(text) < 1000
                assert text.isprintable()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bodies_are_decoded_in_time(name: str) -> None:
    """A body of the longest size is read in a few passes: a quadratic one over any of them takes hours."""
    body = HOSTILE[name]()
    assert 0.9 * MAX_REPLY_BYTES < len(body) <= MAX_REPLY_BYTES
    for decode in DECODERS:
        answer = decode(HttpReply(200, body), A_KEY)
        assert isinstance(answer, CLOSED) or type(answer) is tuple
        assert len(str(use(answer))) < 2**20


def test_a_body_is_read_up_to_its_bound() -> None:
    """What comes behind the longest size is not there: a reply that reaches beyond it is cut, and says nothing."""
    long = json.dumps({"status": "processing", "id": 7, "message": "a" * MAX_REPLY_BYTES}).encode()
    assert isinstance(submitted(long), Malformed)
    assert submitted(TAKEN.encode() + bytes(4 * MAX_REPLY_BYTES)) == Accepted(id="7")


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_json_does_not_raise(depth: int) -> None:
    """Brackets without end are no JSON object."""
    body = b'{"status": "processing", "id": 1, "meta": ' + b"[" * depth + b"]" * depth + b"}"
    assert isinstance(submitted(body), CLOSED)


@given(before=st.text(max_size=20), after=st.text(max_size=20), field=st.sampled_from(FIELDS + MORE), status=STATUS)
def test_the_key_is_redacted_wherever_it_stands(before: str, after: str, field: str, status: str) -> None:
    """In any field, as text, link, name, nested or as JSON in a text, and in what is no JSON."""
    echo = before + KEY + after
    link = f"https://files.invalid/{KEY}"
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in link)
    for value in (echo, [echo], {echo: [echo]}, link, json.dumps([echo, link]), f'{{"url": "{escaped}"}}'):
        body = {"status": status, "id": 1, field: value}
        for answer in (submitted(body), fetched(body), submitted(echo.encode(errors="replace"), 502)):
            assert KEY not in repr(answer)


def legible(answer: object) -> str:
    """What a person reads in it, who looks past zeros."""
    return repr(answer).replace("\\", "").replace("x00", "")


@given(
    key=st.text("abcXYZ019", min_size=8, max_size=20) | st.just(KEY),
    escaped=st.sets(st.integers(0, 19)),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"]),
)
def test_the_key_is_redacted_however_it_is_written(key: str, escaped: set[int], encoding: str) -> None:
    """Letters as JSON escapes, and every encoding that a JSON parser takes for one."""
    letters = (f"\\u{ord(letter):04X}" if at in escaped else letter for at, letter in enumerate(key))
    body = f'{{"status": "processing", "id": 1, "message": "{"".join(letters)}"}}'.encode(encoding)
    for decode in (wire.decode_submit, wire.decode_fetch):
        assert key not in legible(decode(HttpReply(200, body), ApiKey(key)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-be", "utf-32"])
def test_the_key_is_redacted_in_a_page_of_wide_letters(encoding: str) -> None:
    """Nobody reads the key between the zeros of a gateway's page."""
    page = f"<html>bad gateway: {KEY}</html>".encode(encoding)
    assert KEY not in legible(submitted(page, 502))


@given(params=st.dictionaries(st.text(), JSON, max_size=5), picture=st.binary())
def test_a_body_is_plain_json(params: dict[str, Any], picture: bytes) -> None:
    """The picture that is spliced in reads back as if it had been dumped with the rest."""
    params = {name: value for name, value in params.items() if name not in ("key", "base64", "init_image")}
    read = json.loads(wire.encode_body(params, A_KEY, picture=picture))
    encoded = {"base64": True, "init_image": base64.b64encode(picture).decode()}
    assert json.dumps(read, sort_keys=True) == json.dumps({"key": KEY, **params, **encoded}, sort_keys=True)


@pytest.mark.parametrize("job_id", ["1", "../../admin", "a/b?c#d", "ü %"])
def test_ids_stay_in_their_place_of_the_path(job_id: str) -> None:
    """An id that a server made up leads to no other path."""
    for deployment in Deployment:
        path = wire.fetch_path(deployment, job_id)
        folder, _, last = path.rpartition("/")
        assert folder == wire.fetch_path(deployment, "").rstrip("/")
        assert not set("/?# ") & set(last)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://modelslab.com", True),
        ("http://127.0.0.1:8787", True),
        ("http://localhost:1/", True),
        ("http://[::1]:80", True),
        ("http://modelslab.com", False),
        ("http://127.0.0.1.evil.example", False),
        ("http://localhost.evil.example", False),
        ("https://user:word@modelslab.com", False),
        ("https://modelslab.com?x=1", False),
        ("modelslab.com", False),
        ("", False),
    ],
)
def test_where_a_key_may_go(url: str, safe: bool) -> None:
    """https, or http to this machine; nothing with credentials or a query."""
    assert wire.is_safe_base_url(url) is safe


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("43.6", "43.6"),
        ('"43.60"', "43.60"),
        ("-5", "-5"),
        ("0", "0"),
        ("1e2", "100"),
        ("1E-7", "1E-7"),
        ('" 7 "', "7"),
    ],
)
def test_a_balance(written: str, amount: str) -> None:
    """A finite number, perhaps as a string; an overdrawn wallet has one too."""
    body = f'{{"status": "success", "data": {{"balance": {written}, "currency": "USD"}}}}'
    assert wire.decode(reply(body.encode()), A_KEY, wire.balance) == wire.Balance(Decimal(amount), "USD")


NO_NUMBERS = ["NaN", '"NaN"', '"sNaN"', "Infinity", "-Infinity", '"inf"', "1e400", '"1e999999"', '"1e-999999"', "true"]
NO_NUMBERS += ["false", "null", "[]", "{}", '""', '"1_000"', '"1,5"', '"7 USD"', "1" * 5000, f'"{"1" * 5000}"']


@pytest.mark.parametrize("written", [*NO_NUMBERS, "1e13", '"-1e99"'])
def test_what_is_no_balance(written: str) -> None:
    """NaN, numbers without end and booleans are no amounts of money: nothing that Decimal would stumble over later."""
    body = f'{{"status": "success", "data": {{"balance": {written}, "currency": "USD"}}}}'
    assert isinstance(wire.decode(reply(body.encode()), A_KEY, wire.balance), Malformed)


@pytest.mark.parametrize(("written", "depth"), [("0", 0), ("3", 3), ('"3"', 3), ("3.0", 3)])
def test_a_queue_depth(written: str, depth: int) -> None:
    """A number of jobs, perhaps as a string or with an empty fraction."""
    body = f'{{"status": "success", "processing_count": {written}}}'
    assert wire.decode(reply(body.encode()), A_KEY, wire.queue_depth) == depth


@pytest.mark.parametrize("written", [*NO_NUMBERS, "-1", "-1.0", '"-1"', "2.5", '"2.5"', "1e300"])
def test_what_is_no_queue_depth(written: str) -> None:
    """Booleans, fractions and numbers below 0 are no number of jobs."""
    body = f'{{"status": "success", "processing_count": {written}}}'
    assert isinstance(wire.decode(reply(body.encode()), A_KEY, wire.queue_depth), Malformed)


def test_the_calls_around_it() -> None:
    """Upload, queue depth, balance and videos: the value, a refusal, or malformed."""
    assert wire.decode(reply({"status": "success", "output": [LINK]}), A_KEY, wire.upload) == LINK
    assert wire.decode(reply({"status": "success", "processing_count": 3}), A_KEY, wire.queue_depth) == 3
    rows = [{"id": 7, "output": LINK}, {"output": LINK}]
    assert wire.decode(reply({"status": "success", "data": rows}), A_KEY, wire.assets) == (wire.Asset("7", (LINK,)),)
    wallet = {"balance": 43.6, "currency": "USD"}
    balance = wire.decode(reply({"status": "success", "data": wallet}), A_KEY, wire.balance)
    assert isinstance(balance, wire.Balance)
    assert (str(balance.amount), balance.currency) == ("43.6", "USD")
    for decode in CALLS:
        assert isinstance(decode(reply({"status": "error", "message": "no"}), A_KEY), Refused)
        assert isinstance(decode(reply({"status": "success"}), A_KEY), Malformed)
