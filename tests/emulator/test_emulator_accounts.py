"""Accounts of the emulated service: ledger, wallet, lists of jobs, and commands to a dedicated server."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from helpers.emulated_service import (
    ASSETS,
    BALANCE,
    COUNT,
    DAY,
    ENTERPRISE,
    FETCH,
    KEY,
    OTHER_KEY,
    UPLOAD,
    emulated_service,
    json_of,
)


def test_the_ledger_lists_accepted_submits() -> None:
    """Each accepted submit costs $0.20 under its track_id and account, in order; refusals cost nothing."""
    emulated = emulated_service(queue_limit=3)
    for number in range(5):
        emulated.submit(float(number), track_id=f"t{number}")
    emulated.submit(3.0, key=OTHER_KEY, track_id="o")
    emulated.submit(4.0, key=OTHER_KEY, prompt=...)
    ledger = emulated.service.ledger
    assert ledger.track_ids() == ["t0", "t1", "t2", "o"]
    assert [charge.at for charge in ledger.charges] == [0.0, 1.0, 2.0, 3.0]
    assert [ledger.total(KEY), ledger.total(OTHER_KEY), ledger.total()] == [
        Decimal("0.60"),
        Decimal("0.20"),
        Decimal("0.80"),
    ]
    assert [charge.job_id for charge in ledger.charges] == list(emulated.service.jobs)


def test_a_wallet_limits_the_submits_of_each_key() -> None:
    """A wallet of $0.50 pays two jobs of each key. The third is refused with 402, and the balance says what remains."""
    emulated = emulated_service(wallet=Decimal("0.50"))
    assert [emulated.submit().status for _ in range(4)] == [200, 200, 402, 402]
    assert json_of(emulated.post(BALANCE)) == {"status": "success", "data": {"balance": 0.1, "currency": "USD"}}
    assert json_of(emulated.post(BALANCE, key=OTHER_KEY))["data"]["balance"] == 0.5
    assert emulated.submit(key=OTHER_KEY).status == 200


def test_the_wallet_can_be_changed() -> None:
    """A new value of `wallet` applies to the next submit."""
    emulated = emulated_service(wallet=Decimal(0))
    assert emulated.submit().status == 402
    emulated.service.wallet = Decimal(1)
    assert emulated.submit().status == 200


def test_only_submits_are_charged() -> None:
    """Fetches, uploads, counts, lists, balances and server commands cost nothing."""
    emulated = emulated_service()
    for path in (FETCH + "100000", UPLOAD, COUNT, ASSETS, BALANCE, ENTERPRISE + "system_details"):
        emulated.post(path)
    assert emulated.charged == 0


def test_request_count() -> None:
    """The key's queued and processing jobs are counted. After 30 calls a minute the next is refused with 429."""
    emulated = emulated_service(workers=1)
    for _ in range(3):
        emulated.submit()
    emulated.submit(key=OTHER_KEY)
    answers = [emulated.post(COUNT, now=0.5) for _ in range(31)]
    assert [answer.status for answer in answers] == [200] * 30 + [429]
    assert json_of(answers[0]) == {"status": "success", "processing_count": 3}
    assert json_of(emulated.post(COUNT, now=0.5, key=OTHER_KEY))["processing_count"] == 1
    assert emulated.post(COUNT, now=60.4).status == 429
    assert emulated.post(COUNT, now=60.6).status == 200
    assert json_of(emulated.post(COUNT, now=1000.0))["processing_count"] == 0


def test_assets_are_paged() -> None:
    """The key's finished jobs come page by page, newest first, each once, with the total on every page."""
    emulated = emulated_service(queue_limit=40)
    ids = [json_of(emulated.submit())["id"] for _ in range(12)]
    emulated.submit(key=OTHER_KEY)
    failed = ids[4]
    emulated.service.jobs[failed].failure = "for some reason"
    later = 1000.0
    emulated.submit(later)
    pages = [json_of(emulated.post(ASSETS, later, type="video", page=number, per_page=5)) for number in (1, 2, 3, 4)]
    listed = [row["id"] for one in pages for row in one["data"]]
    assert listed == [job_id for job_id in reversed(ids) if job_id != failed]
    assert [len(one["data"]) for one in pages] == [5, 5, 1, 0]
    assert [one["pagination"] for one in pages] == [
        {"current_page": number, "per_page": 5, "total": 11} for number in (1, 2, 3, 4)
    ]
    row = pages[0]["data"][0]
    assert set(row) == {"id", "output"}
    assert row["output"] == [emulated.service.jobs[row["id"]].link(emulated.service.origin)]


@pytest.mark.parametrize(
    ("params", "page_number", "per_page"),
    [
        ({}, 1, 10),
        ({"per_page": 99}, 1, 30),
        ({"per_page": "7", "page": "2"}, 2, 7),
        ({"per_page": 0, "page": -1}, 1, 10),
        ({"per_page": "9" * 5000, "page": []}, 1, 10),
        ({"page": 10**17}, 10**17, 10),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_page_size_of_assets(params: dict[str, Any], page_number: int, per_page: int) -> None:
    """A page has 10 rows by default and 30 at most; a value that is no positive number is replaced by the default."""
    pagination = json_of(emulated_service().post(ASSETS, **params))["pagination"]
    assert pagination == {"current_page": page_number, "per_page": per_page, "total": 0}


def test_clear_queue_fails_unfinished_jobs() -> None:
    """clear_queue fails every unfinished job on the server, of any key. Finished jobs stay finished."""
    emulated = emulated_service(workers=1)
    done = json_of(emulated.submit())["id"]
    now = emulated.service.jobs[done].done_at + 1
    unfinished = [(json_of(emulated.submit(now, key=key))["id"], key) for key in (KEY, KEY, OTHER_KEY)]
    answer = emulated.post(ENTERPRISE + "clear_queue", now + 1)
    assert (answer.status, json_of(answer)["status"]) == (200, "success")
    for job_id, key in unfinished:
        assert emulated.fetch(job_id, now + 1, key=key) == {
            "status": "failed",
            "id": job_id,
            "message": "The queue was cleared.",
            "output": "",
        }
        assert emulated.service.file(now + DAY, emulated.service.jobs[job_id].file_name).status == 404
    assert emulated.fetch(done, now + 1)["status"] == "success"
    assert emulated.service.unfinished_jobs(KEY, now + 1) == emulated.service.unfinished_jobs(OTHER_KEY, now + 1) == []


@pytest.mark.parametrize("command", ["restart_server", "update_server", "clear_cache", "system_details"])
def test_the_other_server_commands_change_no_job(command: str) -> None:
    """The other commands to a dedicated server answer success and change no job."""
    emulated = emulated_service()
    job_id = json_of(emulated.submit())["id"]
    assert json_of(emulated.post(ENTERPRISE + command, 1.0))["status"] == "success"
    assert emulated.fetch(job_id, 1.0)["status"] == "processing"
