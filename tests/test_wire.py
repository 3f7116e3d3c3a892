"""Every reply that the service is known to give, and every one that it is not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from conftest import KEY
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import errors
from modelslab_async.protocol import wire
from modelslab_async.protocol.body import HttpReply, Malformed, Refused
from modelslab_async.protocol.request import Endpoint
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import Accepted, Failed, NotReady, Ready, UnknownId

A_KEY = ApiKey(KEY)
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
    ({"status": "success", "id": 1, "output": []}, NotReady()),
    ({"status": "success", "id": 1, "output": "", "proxy_links": None}, NotReady()),
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


@pytest.mark.parametrize("job_id", ["..", ".", "a/b", "a\nb", "x" * 200, "\ud800", "", True, 1.5, [1]])
def test_an_id_that_can_be_none(job_id: object) -> None:
    """Ids are of ordinary characters; with any other, nobody knows what was taken."""
    assert isinstance(submitted({"status": "processing", "id": job_id}), Malformed)


def test_words_nested_too_deep() -> None:
    """A message of objects within objects does not raise."""
    message: object = "why"
    for _ in range(480):
        message = {"a": message}
    assert isinstance(submitted({"status": "error", "message": message}), CLOSED)


def test_links_are_bounded() -> None:
    """A reply with thousands of links is not followed through all of them."""
    answer = fetched({"status": "success", "output": [f"{LINK}?{number}" for number in range(5000)]})
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
BODIES = st.one_of(
    st.binary(), JSON.map(lambda value: json.dumps(value).encode()), OBJECTS.map(lambda v: json.dumps(v).encode())
)
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


@pytest.mark.parametrize("depth", [900, 100_000])
def test_deep_json_does_not_raise(depth: int) -> None:
    """Brackets without end are no JSON object."""
    body = b'{"status": "processing", "id": 1, "meta": ' + b"[" * depth + b"]" * depth + b"}"
    assert isinstance(submitted(body), CLOSED)


@given(before=st.text(max_size=20), after=st.text(max_size=20), field=st.sampled_from(FIELDS + MORE), status=STATUS)
def test_the_key_is_redacted_wherever_it_stands(before: str, after: str, field: str, status: str) -> None:
    """In any field, as text, link, name or nested, and in what is no JSON."""
    echo = before + KEY + after
    for value in (echo, [echo], {echo: [echo]}, f"https://files.invalid/{KEY}"):
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
    for endpoint in Endpoint:
        path = wire.fetch_path(endpoint, job_id)
        folder, _, last = path.rpartition("/")
        assert folder == wire.fetch_path(endpoint, "").rstrip("/")
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
