"""Faults that a job's own track_id orders, so that parallel tests share one emulator."""

from __future__ import annotations

import pytest
from helpers.emulated_service import NOT_FOUND, emulated_service, file_name_of, json_of

from modelslab_async.emulator import Fault
from modelslab_async.emulator.replies import Action, Answer

HOOK = "https://hooks.invalid/done"


def shows_fault(answer: Answer) -> bool:
    """Return whether the answer is another one than that to a usual submit."""
    is_plain = (answer.action, answer.status, answer.delay) == (Action.REPLY, 200, 0.0)
    return not (is_plain and answer.body.startswith(b'{"status": "processing"') and answer.body.endswith(b"}"))


_ON_REPLY = [
    *(Fault.RESET_BEFORE, Fault.RESET_AFTER, Fault.SLOW, Fault.STALL, Fault.HTML_502, Fault.HTML_503, Fault.HTML_504),
    *(Fault.HTML_520, Fault.HTML_522, Fault.HTML_524, Fault.TRUNCATED_JSON, Fault.RATE_LIMIT, Fault.TRY_LATER),
    *(Fault.ERROR_500, Fault.UNAVAILABLE_503),
]


@pytest.mark.parametrize("fault", _ON_REPLY, ids=lambda fault: fault.name)
def test_a_fault_of_the_reply_hits_its_track_id_once(fault: Fault) -> None:
    """The first submit with the track_id gets the fault; a repeated one, another one and another key's do not."""
    emulated = emulated_service()
    track_id = f"fault:{fault.name.lower()}:1"
    assert shows_fault(emulated.submit(track_id=track_id))
    assert not shows_fault(emulated.submit(track_id=track_id))
    assert not shows_fault(emulated.submit(track_id="mine"))
    assert shows_fault(emulated.submit(track_id=track_id, key="the key of another test"))


def test_a_fault_of_the_job_hits_each_job() -> None:
    """JOB_FAILS, EARLY_LINK and LATE_LINK change every job with such a track_id."""
    emulated = emulated_service()
    for _ in range(2):
        assert emulated.submit(track_id="fault:job-fails:a").job.failure  # type: ignore[union-attr]
    late = emulated.submit(track_id="fault:LATE_LINK:a").job
    assert late is not None
    assert late.file_at == pytest.approx(late.done_at + 30)


def test_a_fault_of_a_fetch_hits_its_job_once() -> None:
    """EMPTY_OUTPUT changes the first fetch of the finished job, TRY_AGAIN the first fetch at all."""
    emulated = emulated_service()
    ids = {
        name: json_of(emulated.submit(track_id=name))["id"]
        for name in ("fault:empty_output:x", "fault:try_again:x", "x")
    }
    done = {job.track_id: job.done_at for job in emulated.service.jobs.values()}
    empty, again = "fault:empty_output:x", "fault:try_again:x"
    assert emulated.fetch(ids[empty])["status"] == "processing"
    assert [emulated.fetch(ids[empty], done[empty])["output"] == [] for _ in range(2)] == [True, False]
    assert [emulated.fetch(ids[again])["status"] for _ in range(2)] == ["failed", "processing"]
    assert emulated.fetch(ids["x"])["status"] == "processing"
    assert emulated.fetch("1") == NOT_FOUND


def test_a_fault_of_the_file_hits_its_job_once() -> None:
    """The first whole download has the fault. Reading the head does not use up a cut."""
    emulated = emulated_service()
    for name in ("cut_mp4", "file_429", "wrong_type"):
        reply = json_of(emulated.submit(track_id=f"fault:{name}:x"))
        job = emulated.service.jobs[reply["id"]]
        file_name = file_name_of(reply["future_links"][0])
        if name == "cut_mp4":
            assert emulated.service.file(job.file_at, file_name, "bytes=0-10").fault is None
        faults = [emulated.service.file(job.file_at, file_name).fault for _ in range(2)]
        assert faults == [Fault[name.upper()], None]


def test_a_fault_of_the_webhook_hits_its_job() -> None:
    """The job's webhook is delivered as the fault says."""
    emulated = emulated_service()
    job = emulated.submit(track_id="fault:webhook_twice:x", webhook=HOOK).job
    assert job is not None
    assert len(emulated.service.deliveries(job)) == 2


@pytest.mark.parametrize("name", ["no_such", "refused", ""])
def test_an_impossible_fault_is_refused(name: str) -> None:
    """A name that is no fault, or one that would hit other tests, is refused with the reason. Nothing is charged."""
    emulated = emulated_service()
    answer = emulated.submit(track_id=f"fault:{name}:x")
    if name:
        assert (answer.status, set(json_of(answer)["message"])) == (400, {"track_id"})
        assert not emulated.charged
    else:
        assert answer.status == 200


@pytest.mark.parametrize(
    "track_id", ["fault", "fault:slow", "fault:slow:", "default:slow:x", None, 5, ["fault:slow:x"]]
)
def test_other_track_ids_order_nothing(track_id: object) -> None:
    """Only a text of the form fault:NAME:ANYTHING orders a fault."""
    assert not shows_fault(emulated_service().submit(track_id=track_id))
