"""What each fault does to the emulated service's answers, jobs and files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import attrs
import pytest
from helpers.emulated_service import DAY, NOT_FOUND, SHORT_JOB, emulated_service, json_of

from modelslab_async import InvalidRequestError
from modelslab_async.emulator import Fault, Rule, skeleton
from modelslab_async.emulator.files import FileResponse, file_response
from modelslab_async.emulator.replies import Action, Answer


@attrs.frozen
class Effect:
    """The effect of a fault on a submit: whether the job is charged, and what the answer shows."""

    charged: bool
    shows: Callable[[Answer], bool]


def is_page(code: int) -> Callable[[Answer], bool]:
    return lambda answer: (answer.status, answer.content_type, answer.body[:6]) == (code, "text/html", b"<html>")


def is_cut(answer: Answer) -> bool:
    with pytest.raises(ValueError, match=r"."):
        json.loads(answer.body)
    return answer.body.startswith(b'{"status": "processing"')


def is_error(status: int, message: str) -> Callable[[Answer], bool]:
    return lambda answer: (
        (answer.status, json_of(answer)["status"]) == (status, "error") and message in str(json_of(answer))
    )


ON_SUBMIT: Mapping[Fault, Effect] = {
    Fault.REFUSED: Effect(False, lambda answer: (answer.action, answer.delay) == (Action.REFUSE, 15.0)),
    Fault.RESET_BEFORE: Effect(False, lambda answer: answer.action is Action.RESET),
    Fault.RESET_AFTER: Effect(True, lambda answer: answer.action is Action.RESET),
    Fault.SLOW: Effect(True, lambda answer: answer.delay == 15.0 and json_of(answer)["status"] == "processing"),
    Fault.STALL: Effect(True, lambda answer: answer.action is Action.STALL),
    Fault.HTML_502: Effect(True, is_page(502)),
    Fault.HTML_503: Effect(True, is_page(503)),
    Fault.HTML_504: Effect(True, is_page(504)),
    Fault.HTML_520: Effect(True, is_page(520)),
    Fault.HTML_522: Effect(True, is_page(522)),
    Fault.HTML_524: Effect(True, is_page(524)),
    Fault.TRUNCATED_JSON: Effect(True, is_cut),
    Fault.RATE_LIMIT: Effect(False, is_error(429, "Maximum 5 queued")),
    Fault.TRY_LATER: Effect(False, is_error(429, "try again in 1 minute.")),
    Fault.ERROR_500: Effect(False, is_error(500, "Server Error")),
    Fault.UNAVAILABLE_503: Effect(False, is_error(503, "unavailable")),
    Fault.JOB_FAILS: Effect(True, lambda answer: json_of(answer)["status"] == "processing"),
    Fault.EARLY_LINK: Effect(True, lambda answer: json_of(answer)["status"] == "processing"),
    Fault.LATE_LINK: Effect(True, lambda answer: json_of(answer)["status"] == "processing"),
}
ON_FETCH = {Fault.EMPTY_OUTPUT, Fault.TRY_AGAIN}
ON_FILE = {Fault.CUT_MP4, Fault.BROKEN_DOWNLOAD, Fault.WRONG_TYPE, Fault.FILE_429, Fault.HTML_AS_MP4}
ON_WEBHOOK = {fault for fault in Fault if fault.name.startswith("WEBHOOK_")}


def test_every_fault_is_tested_on_its_occasion() -> None:
    """Each fault belongs to one occasion by default, and is tested there."""
    tested = {"submit": set(ON_SUBMIT), "fetch": ON_FETCH, "file": ON_FILE, "webhook": ON_WEBHOOK}
    for occasion, faults in tested.items():
        assert {fault for fault in Fault if Rule(fault).occasion == occasion} == faults
    assert set().union(*tested.values()) == set(Fault)


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name)
@pytest.mark.parametrize("on", ["submit", "fetch", "call", "file", "webhook"])
def test_a_rule_is_refused_where_its_fault_has_no_effect(fault: Fault, on: Any) -> None:
    """A rule whose fault would change nothing on that occasion is refused, as a test with it would test nothing."""
    reply_faults = set(ON_SUBMIT) - {Fault.JOB_FAILS, Fault.EARLY_LINK, Fault.LATE_LINK}
    effective = {"submit": set(ON_SUBMIT), "fetch": reply_faults | ON_FETCH, "call": reply_faults}
    if fault in {**effective, "file": ON_FILE, "webhook": ON_WEBHOOK}[on]:
        assert Rule(fault, on=on).occasion == on
    else:
        with pytest.raises(InvalidRequestError, match=f"on='{on}'"):
            Rule(fault, on=on)


@pytest.mark.parametrize("fault", ON_SUBMIT, ids=lambda fault: fault.name)
def test_submit_faults(fault: Fault) -> None:
    """Each fault has its effect once, with its seconds divided by speed. A job is charged if it was accepted."""
    emulated = emulated_service(faults=[Rule(fault, seconds=30.0, times=1)], speed=2.0)
    assert ON_SUBMIT[fault].shows(emulated.submit())
    assert emulated.charged == (Decimal("0.20") if ON_SUBMIT[fault].charged else 0)
    assert len(emulated.service.jobs) == ON_SUBMIT[fault].charged
    again = emulated.submit()
    assert (again.action, json_of(again)["status"]) == (Action.REPLY, "processing")


def test_a_job_fails_at_its_end() -> None:
    """JOB_FAILS: the job is accepted and charged, is processing until its end, then fails; its file never appears.

    The same holds for a short job.
    """
    emulated = emulated_service(faults=[Rule(Fault.JOB_FAILS)])
    usual: dict[str, Any] = {}
    for params in (usual, SHORT_JOB):
        reply = json_of(emulated.submit(**params))
        job = emulated.service.jobs[reply["id"]]
        assert emulated.fetch(job.id, job.done_at - 0.001)["status"] == "processing"
        end = emulated.fetch(job.id, job.done_at)
        assert (end["status"], end["id"], end["output"], bool(end["message"])) == ("failed", job.id, "", True)
        assert emulated.service.file(job.done_at + DAY, job.file_name).status == 404
    assert emulated.charged == Decimal("0.40")


@pytest.mark.parametrize("params", [{}, SHORT_JOB], ids=["usual", "at once"])
@pytest.mark.parametrize("fault", [Fault.EARLY_LINK, Fault.LATE_LINK])
def test_early_and_late_links(fault: Fault, params: dict[str, Any]) -> None:
    """The file appears the rule's seconds before or after the job is done, and never before the submit."""
    emulated = emulated_service(faults=[Rule(fault, seconds=20.0)])
    emulated.submit(3.0, **params)
    job = emulated.first_job
    due = job.done_at + 20.0 if fault is Fault.LATE_LINK else max(3.0, job.done_at - 20.0)
    assert job.file_at == pytest.approx(due)
    assert emulated.service.file(job.file_at, job.file_name).status == 200
    assert emulated.service.file(job.file_at - 0.001, job.file_name).status in (403, 404)


def test_empty_output() -> None:
    """EMPTY_OUTPUT: one fetch says success without a link; the next has the link."""
    emulated = emulated_service(faults=[Rule(Fault.EMPTY_OUTPUT, times=1)])
    reply = json_of(emulated.submit())
    now = emulated.service.jobs[reply["id"]].done_at
    first, second = emulated.fetch(reply["id"], now), emulated.fetch(reply["id"], now)
    assert (first["status"], first["output"]) == ("success", [])
    assert (second["status"], second["output"]) == ("success", reply["future_links"])


def test_try_again_under_failed() -> None:
    """TRY_AGAIN: one fetch of a sound job says failed, with the message "Try Again"."""
    emulated = emulated_service(faults=[Rule(Fault.TRY_AGAIN, times=1)])
    job_id = json_of(emulated.submit())["id"]
    assert emulated.fetch(job_id) == {"status": "failed", "message": "Try Again", "output": ""}
    assert emulated.fetch(job_id)["status"] == "processing"


def read_file(*faults: Fault) -> tuple[bytes, FileResponse]:
    """Submit a job, and return its file's content and the response to a request for it."""
    emulated = emulated_service(faults=[Rule(fault) for fault in faults])
    emulated.submit()
    job = emulated.first_job
    content = skeleton(job.work)
    return content, file_response(emulated.service.file(job.file_at, job.file_name), content, {})


def test_file_faults() -> None:
    """A file is halved, broken off in the middle, served as text/html, or replaced by a page."""
    whole, (status, headers, body, breaks_off) = read_file()
    assert (status, headers["Content-Type"], body, breaks_off) == (200, "video/mp4", whole, False)

    _, (_, headers, body, breaks_off) = read_file(Fault.CUT_MP4)
    half = len(whole) // 2
    assert (body, headers["Content-Length"], breaks_off) == (whole[:half], str(half), False)

    _, (_, headers, body, breaks_off) = read_file(Fault.BROKEN_DOWNLOAD)
    assert (body, headers["Content-Length"], breaks_off) == (whole[:half], str(len(whole)), True)

    _, (_, headers, body, breaks_off) = read_file(Fault.WRONG_TYPE)
    assert (body, headers["Content-Type"], breaks_off) == (whole, "text/html", False)

    _, (status, headers, body, breaks_off) = read_file(Fault.FILE_429)
    assert (status, body[:9], breaks_off) == (429, b"<!doctype", False)

    _, (status, headers, body, breaks_off) = read_file(Fault.HTML_AS_MP4)
    assert (status, headers["Content-Type"], body[:9], breaks_off) == (200, "video/mp4", b"<!doctype", False)


def test_a_fault_counts_only_if_it_has_an_effect() -> None:
    """A fault of a job, a result or a file's end is not used up by a request that has none of these."""
    faults = (Fault.JOB_FAILS, Fault.EMPTY_OUTPUT, Fault.CUT_MP4)
    emulated = emulated_service(faults=[Rule(fault, times=1) for fault in faults], queue_limit=1)
    assert emulated.submit(prompt="").status == 400
    failing = json_of(emulated.submit())["id"]
    job = emulated.service.jobs[failing]
    assert emulated.submit().status == 429
    assert emulated.fetch(failing, job.done_at)["status"] == "failed"
    assert emulated.fetch("1", job.done_at) == NOT_FOUND
    reply = json_of(emulated.submit(job.done_at))
    job = emulated.service.jobs[reply["id"]]
    assert emulated.fetch(job.id, job.done_at - 0.001)["status"] == "processing"
    assert [emulated.fetch(job.id, job.done_at)["output"] for _ in range(2)] == [[], reply["future_links"]]
    heads = [emulated.service.file(job.file_at, job.file_name, "bytes=0-1023") for _ in range(3)]
    whole = [emulated.service.file(job.file_at, job.file_name) for _ in range(2)]
    assert [answer.fault for answer in (*heads, *whole)] == [None, None, None, Fault.CUT_MP4, None]


def test_two_equal_rules_hit_twice() -> None:
    """Two equal rules each count for themselves, even if a hit is counted later than it is drawn."""
    rules = [Rule(Fault.JOB_FAILS, times=1), Rule(Fault.JOB_FAILS, times=1)]
    for equal_rules in (rules, rules[:1] * 2):
        emulated = emulated_service(faults=equal_rules)
        for _ in range(3):
            emulated.submit()
        assert [bool(job.failure) for job in emulated.service.jobs.values()] == [True, True, False]


def test_faults_can_be_replaced() -> None:
    """`set_faults` replaces the rules, and their counts begin anew. Something other than rules is refused."""
    emulated = emulated_service(faults=[Rule(Fault.ERROR_500)])
    assert emulated.submit().status == 500
    rule = Rule(Fault.UNAVAILABLE_503, times=1)
    for _ in range(2):
        emulated.service.set_faults([rule])
        assert [emulated.submit().status for _ in range(2)] == [503, 200]
    not_rules: Any = ["ERROR_500"]
    with pytest.raises(InvalidRequestError, match="faults"):
        emulated.service.set_faults(not_rules)


def test_replaced_faults_have_a_seed() -> None:
    """The same seed draws the same faults; by default it is the service's own."""
    rules = [Rule(Fault.ERROR_500, rate=0.5)]

    def statuses(service_seed: int, seed: int | None) -> list[int]:
        emulated = emulated_service(seed=service_seed, queue_limit=50)
        emulated.service.set_faults(rules, seed=seed)
        return [emulated.submit().status for _ in range(40)]

    assert statuses(1, 7) == statuses(2, 7)
    assert statuses(7, None) == statuses(1, 7) != statuses(1, None)
