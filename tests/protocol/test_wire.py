"""Tests of decoding the replies to a submit and to a fetch."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.replies import A_KEY, LINK, OTHER_LINK, fetched, is_decoded, submitted

from modelslab_async import errors
from modelslab_async.protocol import wire
from modelslab_async.protocol.reply import HttpReply, Malformed, Refused
from modelslab_async.protocol.wire import Accepted, Failed, NotReady, Ready, UnknownId

PAGE_SAMPLE = """{"status": "success", "generationTime": 4.49, "id": 147, "output": [
"https:\\/\\/modelslab-bom.s3.amazonaws.com\\/generations\\/9faea114-b3e5-4960-b0de-cc27b8f2efa0.mp4"], "proxy_links": [
"https://modelslab-bom.s3.amazonaws.com/generations/9faea114-b3e5-4960-b0de-cc27b8f2efa0.mp4"], "meta": {
"base64": "no", "file_prefix": "a51498bf-0eee-44c5-a473-81cc867b288a", "fps": 16, "guidance_scale": 5, "id": null,
"instant_response": "no", "negative_prompt": "low quality", "num_frames": 81, "num_inference_steps": 30,
"portrait": "no", "prompt": "Space Station in space", "resolution": 480, "sample_shift": 3, "seed": 3644269522,
"temp": "no", "track_id": null, "webhook": null}, "future_links": [
"https://modelslab-bom.s3.amazonaws.com/generations/09e6f35f-2a47-4271-82a5-9cfff8bbc43a.mp4"]}"""


def test_the_sample_of_the_documentation_page() -> None:
    """Success at once, escaped slashes, a seed above 2^31 and a meta.id that is not the id are decoded."""
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
    """An eta is a number of seconds, or else None. Ids may be strings, and links may be announced."""
    body = {"status": "processing", "id": "a1", "eta": eta, "output": [], "future_links": [LINK], "messege": "wait"}
    assert submitted(body) == Accepted(id="a1", eta=expected, future_links=(LINK,))


@pytest.mark.parametrize("body", [b'{"status":"processing","id":1,"eta":NaN}', b'{"status":"processing","id":1}'])
def test_accepted_without_an_eta(body: bytes) -> None:
    """An eta that is NaN or absent is None."""
    assert submitted(body) == Accepted(id="1")


def test_oddities_are_in_the_notes() -> None:
    """An unknown status counts as processing, and another id in fetch_result is ignored; both give a note."""
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
def test_a_submit_reply_without_an_id_is_malformed(body: object) -> None:
    """Without an id, it is unknown whether the service accepted the job."""
    assert isinstance(submitted(body), Malformed)


FETCH_REPLIES: list[tuple[Any, wire.FetchReply]] = [
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
    ({"status": "success", "links": [LINK], "proxy_links": OTHER_LINK}, Ready(links=(LINK, OTHER_LINK))),
    ({"status": "success", "output": [LINK, 3, None, "not a link"]}, Ready(links=(LINK,))),
]


@pytest.mark.parametrize(("body", "expected"), FETCH_REPLIES)
def test_every_reply_to_a_fetch(body: object, expected: wire.FetchReply) -> None:
    """Each reply that the documentation or users report is decoded."""
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
def test_every_kind_of_refusal(body: Any, status: int, kind: type[errors.APIError]) -> None:
    """The kind follows from an HTTP error status, else from the words, for a submit and a fetch alike."""
    for answer in (submitted(body, status), fetched(body, status)):
        assert isinstance(answer, Refused)
        assert (answer.kind, answer.http_status) == (kind, status)
        assert isinstance(wire.error_of(answer), kind)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"message": "Invalid API Key", "tip": "Pass your key."}, "Invalid API Key. Pass your key."),
        ({"message": "Wait!", "tips": "Or not"}, "Wait! Or not"),
        ({"message": "no", "error": "no"}, "no"),
    ],
)
def test_the_fields_of_a_message_are_sentences(body: dict[str, Any], message: str) -> None:
    """A message and its tip are joined as two sentences. A text that is there twice counts once."""
    answer = submitted({"status": "error", **body}, 200)
    assert isinstance(answer, Refused)
    assert answer.message == message


@pytest.mark.parametrize("status", [308, 400, 401, 403, 404, 429])
@pytest.mark.parametrize("body", [b"", b"<html>no</html>", b'{"message": "no"}'])
def test_a_refusal_on_a_shared_connection(status: int, body: bytes) -> None:
    """Only the service's own JSON counts, because any other page may be the reply to another request."""
    assert isinstance(wire.decode_submit(HttpReply(status, body), A_KEY), Malformed)
    assert isinstance(wire.decode_submit(HttpReply(status, b'{"status": "error"}'), A_KEY), Refused)


@pytest.mark.parametrize("job_id", [7, "7", " 7 ", 7.0])
def test_an_id_in_every_form(job_id: object) -> None:
    """An integer, a string of its digits and a float without a fraction give the same id."""
    assert submitted({"status": "processing", "id": job_id}) == Accepted(id="7")


@pytest.mark.parametrize(
    "job_id", ["..", ".", "a/b", "a\nb", "x" * 200, "\ud800", "", True, 1.5, 1e30, 10**200, math.nan, [1]]
)
def test_an_id_that_cannot_be_used(job_id: object) -> None:
    """A reply whose id has other than ordinary characters is malformed."""
    assert isinstance(submitted({"status": "processing", "id": job_id}), Malformed)


def test_a_deeply_nested_message_does_not_raise() -> None:
    """A message of 480 objects within each other is decoded."""
    message: object = "why"
    for _ in range(480):
        message = {"a": message}
    assert is_decoded(submitted({"status": "error", "message": message}))


def test_a_refusal_of_the_prompt_is_no_rate_limit() -> None:
    """Only a message that names a limit is a RateLimitError; a refusal of the prompt is final."""
    answer = submitted({"status": "error", "message": "Your prompt was flagged as spam"})
    assert isinstance(answer, Refused)
    assert answer.kind is errors.BadRequestError


RATE_LIMITS: list[tuple[Any, int, str | None, float | None, int | None]] = [
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


@pytest.mark.parametrize(("body", "status", "header", "wait", "maximum"), RATE_LIMITS)
def test_every_form_of_a_rate_limit(
    body: Any, status: int, header: str | None, wait: float | None, maximum: int | None
) -> None:
    """The wait, at most an hour, comes from the body, the words or the header; the maximum from the words."""
    answer = submitted({"status": "error", **body}, status, header)
    assert isinstance(answer, Refused)
    assert (answer.kind, answer.retry_after, answer.maximum) == (errors.RateLimitError, wait, maximum)


@pytest.mark.parametrize("status", [200, 302, 303, 408, 500, 502, 503, 504, 520, 522, 524])
@pytest.mark.parametrize("body", [b"<html><h1>Bad gateway</h1></html>", b'{"status": "proc', b"", b"[]", b'{"a": 1}'])
def test_a_body_that_is_not_the_protocol_is_malformed(body: bytes, status: int) -> None:
    """A gateway's page, cut JSON and an empty body are malformed, with a reason."""
    for answer in (submitted(body, status), fetched(body, status)):
        assert isinstance(answer, Malformed)
        assert answer.reason
