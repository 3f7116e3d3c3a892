"""What the emulated service says of a job: to a fetch, and at once to the submit of a short job."""

from __future__ import annotations

from decimal import Decimal

import pytest
from helpers.emulated_service import DAY, NOT_FOUND, OTHER_KEY, SHORT_JOB, emulated_service, file_name_of, json_of


def test_a_fetch_of_an_unfinished_job() -> None:
    """An unfinished job has a status, one of two messages and an empty output; no id and no eta."""
    emulated = emulated_service(workers=1)
    ids = [json_of(emulated.submit())["id"] for _ in range(2)]
    replies = [emulated.fetch(job_id, now=1.0) for job_id in ids for _ in range(20)]
    assert {tuple(sorted(reply)) for reply in replies} == {("message", "output", "status")}
    assert {(reply["status"], reply["output"]) for reply in replies} == {("processing", "")}
    assert {reply["message"] for reply in replies} == {"Try Again", "try again later."}


def test_a_fetch_of_a_finished_job() -> None:
    """A finished job has status, id, output and proxy_links with the announced link, at every fetch."""
    emulated = emulated_service()
    reply = json_of(emulated.submit())
    done_at = emulated.service.jobs[reply["id"]].done_at
    ready = {
        "status": "success",
        "id": reply["id"],
        "output": reply["future_links"],
        "proxy_links": reply["future_links"],
    }
    assert emulated.fetch(reply["id"], now=done_at - 0.001)["status"] == "processing"
    assert [emulated.fetch(reply["id"], now=done_at + later) for later in (0.0, 1.0, DAY)] == [ready] * 3


@pytest.mark.parametrize("job_id", ["1", "100001", "abc", "", "²", "-1", "100000.0", "9" * 5000, "1e5"], ids=ascii)
def test_an_unknown_id_is_not_found(job_id: str) -> None:
    """An id that no job has is answered with "Request not found", also if it is no number."""
    emulated = emulated_service()
    assert json_of(emulated.submit())["id"] == 100_000
    assert emulated.fetch(job_id) == NOT_FOUND


def test_a_job_is_found_only_with_its_own_key() -> None:
    """A job is found with the key that submitted it, and with no other key."""
    emulated = emulated_service()
    job_id = json_of(emulated.submit())["id"]
    for now in (0.0, 1000.0):
        assert emulated.fetch(job_id, now, key=OTHER_KEY) == NOT_FOUND
        assert emulated.fetch(job_id, now) != NOT_FOUND


def test_a_short_job_is_answered_with_success() -> None:
    """The reply to a short job comes when the job is done, and says success.

    Its future_links name another file than output; that file never appears.
    """
    emulated = emulated_service()
    answer = emulated.submit(10.0, **SHORT_JOB)
    reply = json_of(answer)
    fields = {"status", "generationTime", "id", "output", "proxy_links", "meta", "future_links"}
    assert (reply["status"], set(reply)) == ("success", fields)
    assert reply["output"] == reply["proxy_links"]
    assert set(reply["future_links"]).isdisjoint(reply["output"])
    assert reply["generationTime"] == pytest.approx(answer.delay, abs=0.01)
    arrived = 10.0 + answer.delay
    assert emulated.service.file(arrived, file_name_of(reply["output"][0])).status == 200
    assert emulated.service.file(arrived + DAY / 2, file_name_of(reply["future_links"][0])).status == 404
    assert emulated.fetch(reply["id"], arrived)["output"] == reply["output"]
    assert emulated.charged == Decimal("0.20")


def test_a_short_job_that_must_queue_is_answered_with_processing() -> None:
    """Only a job that starts at once is answered with success."""
    emulated = emulated_service(workers=1)
    emulated.submit()
    assert json_of(emulated.submit(**SHORT_JOB))["status"] == "processing"
