"""When the emulated service's files exist, and how they are served."""

from __future__ import annotations

import pytest
from helpers.emulated_service import DAY, emulated_service, file_name_of, json_of

from modelslab_async.emulator.files import FileAnswer, file_response


def test_a_link_works_only_after_its_job_is_done() -> None:
    """A link answers 404 or 403 until its file is written, with success or up to 40 s later."""
    emulated = emulated_service(queue_limit=40)
    early = set()
    for _ in range(40):
        reply = json_of(emulated.submit())
        job, name = emulated.service.jobs[reply["id"]], file_name_of(reply["future_links"][0])
        early |= {emulated.service.file(now, name).status for now in (0.0, job.done_at - 1, job.file_at - 0.001)}
        assert emulated.service.file(job.file_at, name).status == 200
        assert job.done_at <= job.file_at <= job.done_at + 40
    assert early == {403, 404}


@pytest.mark.parametrize(("temp", "after_a_day"), [(True, 404), ("true", 404), (False, 200), (None, 200)])
def test_temporary_files_expire(temp: object, after_a_day: int) -> None:
    """With temp, the file is gone 24 hours after success; other files stay."""
    emulated = emulated_service()
    reply = json_of(emulated.submit(temp=temp))
    done_at, name = emulated.service.jobs[reply["id"]].done_at, file_name_of(reply["future_links"][0])
    assert emulated.service.file(done_at + DAY - 1, name).status == 200
    assert emulated.service.file(done_at + DAY, name).status == after_a_day


@pytest.mark.parametrize("name", ["", "x.mp4", "../x", "\x00"])
def test_an_unknown_file_name_is_not_found(name: str) -> None:
    """A name that no file has is answered with 404."""
    assert emulated_service().service.file(0.0, name).status == 404


CONTENT = bytes(range(256))


def get_content(value: str | None, etag: str | None = None) -> tuple[int, dict[str, str], bytes]:
    """Request a range of `CONTENT`; return status, headers and body."""
    requested = {name: text for name, text in {"Range": value, "If-Range": etag}.items() if text}
    status, headers, body, breaks_off = file_response(FileAnswer(200, upload=CONTENT), CONTENT, requested)
    assert not breaks_off
    assert headers["Content-Length"] == str(len(body))
    return status, headers, body


@pytest.mark.parametrize(
    ("value", "status", "body", "content_range"),
    [
        (None, 200, CONTENT, None),
        ("bytes=0-", 206, CONTENT, "bytes 0-255/256"),
        ("bytes=100-", 206, CONTENT[100:], "bytes 100-255/256"),
        ("bytes=10-19", 206, CONTENT[10:20], "bytes 10-19/256"),
        ("bytes=250-999", 206, CONTENT[250:], "bytes 250-255/256"),
        ("bytes=256-", 416, b"", "bytes */256"),
        ("bytes=9999-", 416, b"", "bytes */256"),
        ("lines=1-2", 200, CONTENT, None),
        ("bytes=0-" + "9" * 5000, 200, CONTENT, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_ranges(value: str | None, status: int, body: bytes, content_range: str | None) -> None:
    """A range gives that part of the file, a range beyond the end gives 416, and anything else the whole file."""
    received_status, headers, received = get_content(value)
    assert (received_status, received, headers.get("Content-Range")) == (status, body, content_range)
    assert headers["Accept-Ranges"] == "bytes"


def test_if_range() -> None:
    """If-Range with the file's ETag gives the range; with another ETag it gives the whole file."""
    etag = get_content(None)[1]["ETag"]
    assert etag == get_content("bytes=5-9")[1]["ETag"]
    assert get_content("bytes=5-", etag)[0] == 206
    assert get_content("bytes=5-", '"another"')[::2] == (200, CONTENT)
